/* rankfile.h - a rank's shard file while it is written, front to back, in whole huge pages of the cache.
 * Layer: shard/store. */
#ifndef SHARD_RANKFILE_H
#define SHARD_RANKFILE_H

#include "proto/base/alloc.h"
#include "proto/base/err.h"

#include <stdint.h>

#define SHARD_STAGE_BYTES (2u << 20)         /* a huge page: one fault maps it, where 512 small ones would take 32 */

typedef struct shard_rankfile {
    px_alloc *a;
    int       fd;                            /* -1: not open */
    char      path[4096];
    uint8_t  *stage;                         /* (SHARD_STAGE_BYTES) owned; NULL: sparse, nothing is appended */
    size_t    staged;
    uint64_t  at;                            /* where the stage begins; the next byte goes to at + staged */
} shard_rankfile;

/* A stage that is full, taken out of its file to be written later: appending goes on meanwhile.  Zeroed, it owns nothing. */
typedef struct shard_full_stage {
    const shard_rankfile *to;                /* NULL: none, and `stage` is empty or not there yet */
    uint8_t  *stage;                         /* owned */
    uint64_t  at;
} shard_full_stage;

/* Make the file, `bytes` long: with room on the disk, or (sparse) a hole.  Errors (field "out", with the path): PX_EIO, PX_ENOMEM. */
px_code shard_rankfile_open(shard_rankfile *f, px_alloc *a, const char *folder, const char *name, uint64_t bytes, bool sparse, px_err *e);
void    shard_rankfile_deinit(shard_rankfile *f);          /* idempotent */

/* The next n bytes.  A stage that they fill goes to *full, if that is empty, else it is written before this returns.
 * NULL: always the latter. */
px_code shard_rankfile_append(shard_rankfile *f, const void *data, size_t n, shard_full_stage *full, px_err *e);
/* Write what append left there, if anything; of one file several threads may do so beside each other, each with its own. */
px_code shard_full_stage_write(shard_full_stage *full, px_err *e);
void    shard_full_stage_deinit(shard_full_stage *full, px_alloc *a);

/* The rest, then the header at the front, to the disk; closed. */
px_code shard_rankfile_finish(shard_rankfile *f, const void *header, size_t n, px_err *e);

#endif
