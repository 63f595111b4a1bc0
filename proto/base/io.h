/* io.h - files and descriptors: whole reads, exact writes with deadlines, atomic folders, monotonic time.
 * Layer: proto. */
#ifndef PROTO_IO_H
#define PROTO_IO_H

#include "proto/base/alloc.h"

typedef int64_t px_time_us;                  /* CLOCK_MONOTONIC, microseconds */
px_time_us px_now_us(void);
#define PX_NEVER INT64_MAX                   /* a deadline that does not come */

/* Read a whole regular file of at most cap bytes; *bytes excludes the terminating NUL that is added.
 * Errors: PX_ENOTFOUND, PX_EIO, PX_ERANGE (larger than cap), PX_ENOMEM.  Put with px_put(a, data, bytes + 1). */
px_code px_read_file(px_alloc *a, const char *path, size_t cap, char **data, size_t *bytes, px_err *e);

/* Exactly n bytes; EINTR and short transfers are handled; deadline is absolute.  Works on non-blocking descriptors.
 * Errors: PX_EPEER (end of file; e->found says how many bytes had come), PX_ETIMEOUT, PX_EIO. */
px_code px_read_exact(int fd, void *buf, size_t n, px_time_us deadline, px_err *e);
px_code px_write_exact(int fd, const void *buf, size_t n, px_time_us deadline, px_err *e);
px_code px_pwrite_exact(int fd, const void *buf, size_t n, uint64_t offset, px_err *e);

px_code px_write_file(const char *path, const void *data, size_t n, bool sync, px_err *e);
px_code px_fsync_path(const char *path, px_err *e);               /* file or folder */
px_code px_remove_tree(const char *path, px_err *e);              /* no error if absent; does not follow links */
px_code px_path_join(char *out, size_t cap, const char *dir, const char *name, px_err *e);

/* Send/receive descriptors (SCM_RIGHTS) with one byte of payload on a Unix socket. */
px_code px_send_fds(int sock, const int *fds, size_t n, px_time_us deadline, px_err *e);
px_code px_recv_fds(int sock, int *fds, size_t n, px_time_us deadline, px_err *e);

/* Anonymous memory file of `bytes` (memfd), sealed against shrinking. */
px_code px_memfd(const char *name, size_t bytes, int *fd, px_err *e);
/* Map fd whole; PROT_READ, or read-write when `write`.  populate: MAP_POPULATE. */
px_code px_map_fd(int fd, size_t bytes, bool write, bool populate, void **out, px_err *e);

/* True if n bytes at s are valid UTF-8 (no surrogates, no overlong forms). */
bool px_utf8_valid(const char *s, size_t n);
/* Levenshtein-nearest of `words` to `word`, or NULL when none is near (distance > max(2, len/3)). */
const char *px_nearest(const char *word, const char *const *words, size_t n);

#endif
