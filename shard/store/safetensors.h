/* safetensors.h - one safetensors file, mapped and checked once; and the files that an index names.
 * Layer: shard/store.  Immutable after open; names and data live until close.
 * Checked at open: header inside the file and bounded, JSON without duplicates, F32 F16 BF16 only (others refused by
 * name), one or two dimensions, exact sizes, no overlap, no holes, nothing behind the last tensor.
 * Data may lie at any address: read them with memcpy or byte by byte (kern_row_to_f32 does). */
#ifndef SHARD_SAFETENSORS_H
#define SHARD_SAFETENSORS_H

#include "kernels/dtype.h"
#include "shard/store/mapping.h"

#define SHARD_SAFETENSORS_MAX_HEADER 100000000u    /* of the format's own reader */

typedef struct shard_st_tensor {
    const char    *name;           /* terminated */
    kern_dtype     dtype;          /* F32, F16 or BF16 */
    uint64_t       rows, cols;     /* 1-D: rows = 1 */
    const uint8_t *data;
    size_t         bytes;
} shard_st_tensor;

typedef struct shard_safetensors {
    px_alloc        *a;
    shard_mapping    map;
    shard_st_tensor *tensor;       /* (n) owned, in no order */
    size_t           n;
    char            *names;        /* (names_bytes) owned */
    size_t           names_bytes;
} shard_safetensors;

/* Errors: PX_ECORRUPT, PX_EUNSUP (e->field is the tensor), PX_ENOMEM, and those of shard_mapping_open. */
px_code shard_safetensors_open(shard_safetensors *s, px_alloc *a, const char *path, px_err *e);
void    shard_safetensors_close(shard_safetensors *s);         /* idempotent; accepts a zeroed one */

typedef struct shard_safetensors_set {
    px_alloc          *a;
    shard_safetensors *file;       /* (n) owned */
    size_t             n;
} shard_safetensors_set;

/* One file. */
px_code shard_safetensors_set_single(shard_safetensors_set *s, px_alloc *a, const char *path, px_err *e);
/* The files of DIR/model.safetensors.index.json: names without folders, every one present, every tensor in the file
 * that the index says.  A tensor in two files is found by whoever puts all names in order. */
px_code shard_safetensors_set_index(shard_safetensors_set *s, px_alloc *a, const char *dir, const char *index, px_err *e);
void    shard_safetensors_set_close(shard_safetensors_set *s);

#endif
