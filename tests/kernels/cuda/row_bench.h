/* row_bench.h - an open CUDA device beside the CPU's definition, for the tests of the ops over rows.
 * Layer: tests. */
#ifndef TESTS_KERNELS_CUDA_ROW_BENCH_H
#define TESTS_KERNELS_CUDA_ROW_BENCH_H

#include "tests/kernels/cuda/ops.h"

typedef struct row_bench {
    const kern_ops *ops, *cpu;
    kern_dev *d, *cpu_d;
    px_heap *heap;
} row_bench;

row_bench row_bench_open(void);
void      row_bench_close(row_bench *b);     /* nothing may be left */

/* Numbers on both sides: `host` for the CPU's definition, `dev` for the device, each of exactly `bytes`. */
typedef struct row_pair { kern_buf host, dev; } row_pair;
row_pair row_pair_get(const row_bench *b, size_t bytes);                     /* all bits set */
row_pair row_pair_normal(const row_bench *b, size_t floats, float size, uint64_t *seed);
void     row_pair_upload(const row_bench *b, row_pair *p);                   /* host -> dev */
void     row_pair_put(const row_bench *b, row_pair *p);                      /* both are freed */
/* The device's bytes on the heap. */
void    *row_pair_download(const row_bench *b, const row_pair *p);
/* Every bit is equal; of floats too small to be normal only the magnitude counts, and NaN is NaN. */
void     row_pair_same(const row_bench *b, const row_pair *p, const char *what);
void     row_same_float(float got, float want, const char *what, size_t i);
/* How many rows there can be and are, on both sides; row_pair_put(&count). */
typedef struct row_live { kern_rows host, dev; row_pair count; } row_live;
row_live row_live_get(const row_bench *b, uint32_t max, uint32_t live);

#endif
