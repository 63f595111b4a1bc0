/* mapping.h - a regular file, mapped read-only as a whole.
 * Layer: shard/store.  Immutable after open; the descriptor is closed at once, the mapping lives until close.
 * A file that shrinks while it is mapped is named by the program's guard (proto/base/mapped.h). */
#ifndef SHARD_MAPPING_H
#define SHARD_MAPPING_H

#include "proto/base/alloc.h"
#include "proto/base/mapped.h"

typedef struct shard_mapping {
    px_alloc      *a;
    char          *path;          /* owned */
    const uint8_t *data;
    size_t         bytes;
    px_mapped      listed;        /* so the object stays where it was opened */
} shard_mapping;

/* Errors: PX_ENOTFOUND, PX_EIO, PX_EINVAL (not a regular file), PX_ECORRUPT (empty; changes its size while it is
 * opened), PX_ENOMEM.  e->file is the path. */
px_code shard_mapping_open(shard_mapping *m, px_alloc *a, const char *path, px_err *e);
void    shard_mapping_close(shard_mapping *m);      /* idempotent; accepts a zeroed one */

/* Sort order[0..n) by cmp, in place, without memory and without a bad case (heap sort): names and extents of hostile
 * files are sorted to find duplicates and overlaps. */
void shard_order_sort(uint32_t *order, size_t n, int (*cmp)(const void *ctx, uint32_t x, uint32_t y), const void *ctx);

#endif
