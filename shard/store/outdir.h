/* outdir.h - a folder that is complete or absent: written as OUT.partial under a lock, renamed once.
 * Layer: shard/store, private to it. */
#ifndef SHARD_OUTDIR_H
#define SHARD_OUTDIR_H

#include "proto/base/alloc.h"

typedef struct shard_outdir {
    char out[4000], partial[4096];
    int  fd;                          /* the locked OUT.partial; -1: none */
} shard_outdir;

/* Makes and locks OUT.partial.  One that nobody locks is what a dead run left: removed, with a note.
 * Errors: PX_EEXIST (OUT is there), PX_EBUSY (another run holds the lock), PX_EIO ...; e->file is the path. */
px_code shard_outdir_open(shard_outdir *d, const char *out, void (*note)(void *ctx, const char *line), void *ctx, px_err *e);
/* Refuses what cannot fit the file system: found and expected are bytes. */
px_code shard_outdir_room(const shard_outdir *d, uint64_t bytes, px_err *e);
/* fsync the folder, rename it to OUT (never over anything), fsync OUT's parent. */
px_code shard_outdir_commit(shard_outdir *d, px_err *e);
void    shard_outdir_drop(shard_outdir *d);       /* not committed: removes OUT.partial; idempotent */

#endif
