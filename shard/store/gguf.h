/* gguf.h - a GGUF file (v2, v3), mapped and checked once, then read without copies.
 * Layer: shard/store.  Immutable after open.  All returned pointers lie in the mapping and live until close.
 * Everything is checked at open: counts against the file's size and 2^24, nested arrays refused, duplicate keys and tensor
 * names refused, extents inside the file, aligned, without overlap; memory is a small multiple of the file's header. */
#ifndef SHARD_GGUF_H
#define SHARD_GGUF_H

#include "kernels/dtype.h"
#include "proto/base/alloc.h"

typedef struct shard_gguf shard_gguf;

typedef struct shard_gguf_tensor {
    const char    *name;           /* not terminated */
    size_t         name_bytes;
    uint32_t       type;           /* GGML type number as in the file */
    kern_dtype     dtype;          /* always known: types without a size are refused at open */
    uint64_t       rows, cols;     /* 1-D: rows = 1 */
    uint64_t       planes;         /* matrices one behind the other (experts); 4 dimensions are refused at open */
    const uint8_t *data;
    size_t         bytes;
} shard_gguf_tensor;

px_code shard_gguf_open(shard_gguf **g, px_alloc *a, const char *path, px_err *e);
void    shard_gguf_close(shard_gguf *g);
const char *shard_gguf_path(const shard_gguf *g);

size_t  shard_gguf_n_tensors(const shard_gguf *g);
const shard_gguf_tensor *shard_gguf_tensor_at(const shard_gguf *g, size_t i);
const shard_gguf_tensor *shard_gguf_tensor_find(const shard_gguf *g, const char *name);   /* NULL: none */

/* Typed metadata.  PX_ENOTFOUND when the key is absent, PX_EMISMATCH when it has another type; e->field = key.
 * Integers of any width are accepted where the value fits; negative ones are PX_ERANGE. */
bool    shard_gguf_has(const shard_gguf *g, const char *key);
px_code shard_gguf_u64(const shard_gguf *g, const char *key, uint64_t *out, px_err *e);
px_code shard_gguf_f64(const shard_gguf *g, const char *key, double *out, px_err *e);      /* also from integers */
px_code shard_gguf_bool(const shard_gguf *g, const char *key, bool *out, px_err *e);
px_code shard_gguf_str(const shard_gguf *g, const char *key, const char **s, size_t *bytes, px_err *e);
px_code shard_gguf_array_len(const shard_gguf *g, const char *key, size_t *n, px_err *e);
px_code shard_gguf_array_i64(const shard_gguf *g, const char *key, size_t i, int64_t *out, px_err *e);
px_code shard_gguf_array_f64(const shard_gguf *g, const char *key, size_t i, double *out, px_err *e);
/* Walk an array of strings; fn returns non-PX_OK to stop, which is then returned. */
px_code shard_gguf_array_str(const shard_gguf *g, const char *key,
                             px_code (*fn)(void *ctx, size_t i, const char *s, size_t bytes, px_err *e), void *ctx, px_err *e);

#endif
