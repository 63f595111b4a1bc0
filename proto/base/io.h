/* io.h - files and descriptors: whole reads, exact transfers with deadlines, monotonic time; words.
 * Layer: proto. */
#ifndef PROTO_IO_H
#define PROTO_IO_H

#include "proto/base/alloc.h"

typedef int64_t px_time_us;                  /* CLOCK_MONOTONIC, microseconds */
px_time_us px_now_us(void);
#define PX_NEVER INT64_MAX                   /* a deadline that does not come */

/* Read a whole regular file of at most cap bytes; *bytes excludes the terminating NUL that is added.
 * Put with px_alloc_put(a, data, bytes + 1, 1).
 * Errors (e->file is the path): PX_ENOTFOUND, PX_EIO (also: not a regular file), PX_ERANGE (larger than cap),
 * PX_ENOMEM. */
px_code px_read_file(px_alloc *a, const char *path, size_t cap, char **data, size_t *bytes, px_err *e);

/* Exactly n bytes; EINTR and short transfers are handled; deadline is absolute: what is ready is still taken when it
 * has passed, nothing is waited for.  Works on sockets (no SIGPIPE), pipes and files, blocking or not.
 * Errors: PX_EPEER (end of file, reset), PX_ETIMEOUT, PX_EIO (also a full disk); e->found says how many bytes had
 * gone over. */
px_code px_read_exact(int fd, void *buf, size_t n, px_time_us deadline, px_err *e);
px_code px_write_exact(int fd, const void *buf, size_t n, px_time_us deadline, px_err *e);
/* n bytes at offset of a file.  Errors: PX_EIO, PX_ERANGE (the end is no file offset). */
px_code px_pwrite_exact(int fd, const void *buf, size_t n, uint64_t offset, px_err *e);

/* Write a whole file (mode 0644), fsync it when `sync`.  A file that could not be written is removed.
 * Errors (e->file is the path): PX_ENOTFOUND (the folder), PX_EIO. */
px_code px_write_file(const char *path, const void *data, size_t n, bool sync, px_err *e);
px_code px_fsync_path(const char *path, px_err *e);               /* file or folder; PX_ENOTFOUND, PX_EIO */
/* Removes a file, a link or a folder with all in it; no error if absent; does not follow links.
 * Errors: PX_EIO, PX_ERANGE (more than 64 folders deep). */
px_code px_remove_tree(const char *path, px_err *e);
/* "dir/name" into out; dir "" gives name.  Only joins: a name from outside is checked by the caller.
 * Errors: PX_ERANGE (does not fit; out is then ""). */
px_code px_path_join(char *out, size_t cap, const char *dir, const char *name, px_err *e);

/* Send/receive n (at most 253) descriptors (SCM_RIGHTS) with one byte of payload on a Unix socket.
 * px_recv_fds gives exactly n, close-on-exec, owned by the caller; on failure all are -1 and none stays open.
 * Errors: PX_EPEER, PX_ETIMEOUT, PX_EIO, PX_ERANGE (n), PX_EMISMATCH (another number came), PX_ECORRUPT (truncated). */
px_code px_send_fds(int sock, const int *fds, size_t n, px_time_us deadline, px_err *e);
px_code px_recv_fds(int sock, int *fds, size_t n, px_time_us deadline, px_err *e);

/* Anonymous memory file of `bytes` zeros (memfd), close-on-exec, sealed against shrinking and growing.
 * Errors (e->field is the name): PX_ERANGE, PX_EIO, PX_ENOMEM; *fd is then -1. */
px_code px_memfd(const char *name, size_t bytes, int *fd, px_err *e);
/* Map the first `bytes` of fd, shared; PROT_READ, or read-write when `write`.  populate: MAP_POPULATE.  munmap it.
 * Errors (e->field is the name): PX_EINVAL (0 bytes), PX_ERANGE (the file is shorter: found, expected), PX_EIO, PX_ENOMEM. */
px_code px_map_fd(const char *name, int fd, size_t bytes, bool write, bool populate, void **out, px_err *e);

/* True if n bytes at s are valid UTF-8 (no surrogates, no overlong forms). */
bool px_utf8_valid(const char *s, size_t n);
/* Levenshtein-nearest of `words` to `word`, or NULL when none is near (distance > max(2, len/3)).
 * Words longer than 64 bytes are not near. */
const char *px_nearest(const char *word, const char *const *words, size_t n);

#endif
