/* kv_bench.h - an open CUDA device for the tests of rope_append and attention.
 * Layer: tests. */
#ifndef TESTS_KERNELS_CUDA_KV_BENCH_H
#define TESTS_KERNELS_CUDA_KV_BENCH_H

#include "tests/kernels/cuda/ops.h"

typedef struct cuda_bench { const kern_ops *ops; kern_dev *d; px_heap *heap; } cuda_bench;

/* `state`: cmocka's. */
cuda_bench cuda_bench_open(void **state, bool deterministic);
void       cuda_bench_close(cuda_bench *b);
/* A buffer of exactly `bytes` (1 at least): with these contents, or with NaNs. */
kern_buf   cuda_bench_put(const cuda_bench *b, const void *src, size_t bytes);
kern_buf   cuda_bench_poisoned(const cuda_bench *b, size_t bytes);
void       cuda_bench_get(const cuda_bench *b, void *dst, kern_buf src, size_t bytes);

/* To MSan: what code that it cannot see has written. */
void       cuda_bench_defined(const void *p, size_t bytes);

/* Of n cases. */
#define CUDA_BENCH_CASES(n) (EFFORT_TSAN ? 1u : (uint32_t)(n))

#endif
