/* kv_image.h - a KV cache on the host, as bytes in the layout of kernels.h: written and read by text that shares nothing
 * with the backends.  What was never written is NaN or infinite, and table entries that are not in use are UINT32_MAX.
 * Layer: tests. */
#ifndef TESTS_KERNELS_CUDA_KV_IMAGE_H
#define TESTS_KERNELS_CUDA_KV_IMAGE_H

#include "kernels/kernels.h"

#include "tests/testlib.h"

typedef struct kv_image {
    kern_kv   kv;                            /* kv.pool: the bytes, on the heap */
    uint32_t *table, stride, slots;          /* (slots, stride) */
} kv_image;

/* Blocks for n_keys[slot] keys of each slot, scattered over a pool that has some more. */
kv_image kv_image_make(const kern_kv *shape, uint32_t slots, uint32_t stride, const uint32_t *n_keys, uint64_t *seed);
void     kv_image_drop(kv_image *m);

/* Where element i of a vector lies, and its scale (int8): bytes from the pool's start. */
size_t   kv_image_at(const kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v, uint32_t i);
size_t   kv_image_scale_at(const kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v);
/* A vector of head_dim finite numbers as rope_append stores it; a value as attention reads it. */
void     kv_image_put(kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v, const float *x);
double   kv_image_get(const kv_image *m, uint32_t layer, uint32_t slot, uint32_t pos, uint32_t head, bool v, uint32_t i);

double   kv_fp8_value(uint8_t b);            /* e4m3 */
uint8_t  kv_fp8_nearest(float x);            /* to the even of two that are equally near; beyond 448: 448 */

#endif
