/* mm_bench.h - what the tests of quant and matmul on CUDA share: an open device, weights, activations, and both ops run.
 * Layer: tests. */
#ifndef TESTS_KERNELS_CUDA_MM_BENCH_H
#define TESTS_KERNELS_CUDA_MM_BENCH_H

#include "tests/kernels/cuda/ops.h"

typedef struct mm_bench { const kern_ops *ops; kern_dev *d; px_heap *heap; kern_buf workspace; } mm_bench;

/* A device, kept open for the next of its kind, with a workspace for `shape` of exactly its size, and its fp8_activations.  The host build
 * takes the next of the shim's schedules. */
mm_bench mm_bench_open(bool deterministic, const kern_shape *shape);
void     mm_bench_close(mm_bench *b);
bool     mm_bench_little_shared(bool little);                     /* cuda_ops_little_shared, of devices that are not open yet */
kern_buf mm_bench_put(const mm_bench *b, const void *src, size_t bytes);     /* a buffer of exactly these bytes */
kern_buf mm_bench_filled(const mm_bench *b, uint8_t with, size_t bytes);
kern_buf mm_bench_poisoned(const mm_bench *b, size_t bytes);                  /* all bits set: NaN */
void     mm_bench_get(const mm_bench *b, void *dst, kern_buf src, size_t bytes);
int      mm_bench_main(const struct CMUnitTest *tests, size_t n);            /* 77: no device */

/* A matrix in plain blocks and in panels, and as what it means: value[r * cols + k] exactly, and size[...], the sum of
 * the magnitudes that it is computed from (they differ where there are minima). */
typedef struct mm_weights {
    kern_dtype t; uint32_t rows, cols;
    uint8_t *plain, *panels; uint64_t bytes;   /* bytes: of panels */
    double *value, *size;
} mm_weights;
mm_weights  mm_weights_random(kern_dtype t, uint32_t rows, uint32_t cols, uint64_t *seed);
void        mm_weights_drop(mm_weights *w);
kern_weight mm_weight_on(const mm_bench *b, const mm_weights *w);             /* uploaded */

/* Rows of different sizes: most of about 1, some with values beyond fp16, tiny ones, zeros. */
float *mm_rows_random(uint32_t rows, uint32_t cols, uint64_t *seed);
/* The row as an activation format keeps it. */
void   mm_row_kept(kern_act act, const float *x, uint32_t cols, double *out);

/* quant, then matmul of n weights, `max` rows of which `live` are; out[i]: (max, w[i]->rows + pad) on the heap, and what nobody
 * wrote is MM_UNWRITTEN: no NaN, which a sum of poison would be, too. */
#define MM_UNWRITTEN 0xfefefefeu
typedef struct mm_call { uint32_t max, live, n, pad; const mm_weights *w[KERN_MAX_MATMULS]; const float *x; } mm_call;
void mm_call_run(const mm_bench *b, const mm_call *c, float *out[KERN_MAX_MATMULS]);

#endif
