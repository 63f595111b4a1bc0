/* rankfile.h - a rank's shard file while it is written, front to back.
 * Layer: shard/store. */
#ifndef SHARD_RANKFILE_H
#define SHARD_RANKFILE_H

#include "shard/store/writer.h"

typedef struct shard_rankfile {
    shard_target  to;                        /* to.fd -1: not open */
    char          path[4096];
    shard_writer *w;                         /* NULL: sparse, nothing is appended */
    uint8_t      *block;                     /* (SHARD_BLOCK_BYTES) the writer's; NULL: none yet */
    size_t        n;                         /* bytes in it */
    uint64_t      at;                        /* where it begins; the next byte goes to at + n */
} shard_rankfile;

/* Make the file, `bytes` long: with room on the disk, or (w NULL) a hole.  Errors (field "out", with the path): PX_EIO. */
px_code shard_rankfile_open(shard_rankfile *f, shard_writer *w, const char *folder, const char *name, uint64_t bytes, px_err *e);
void    shard_rankfile_deinit(shard_rankfile *f);          /* idempotent; after the writer's close or wait */
/* The next n bytes.  Errors: those of the writer, also of other files' blocks. */
px_code shard_rankfile_append(shard_rankfile *f, const void *data, size_t n, px_err *e);
/* The rest, then the header at the front, to the disk; closed. */
px_code shard_rankfile_finish(shard_rankfile *f, const void *header, size_t n, px_err *e);

#endif
