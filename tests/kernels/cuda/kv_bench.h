/* kv_bench.h - an open CUDA device for the tests of rope_append and attention: the host build's kernels, or with
 * TEST_CUDA_PLUGIN defined those of the plugin on a GPU (skipped loudly where there is none).
 * Layer: tests. */
#ifndef TESTS_KERNELS_CUDA_KV_BENCH_H
#define TESTS_KERNELS_CUDA_KV_BENCH_H

#include "kernels/kernels.h"

#include "tests/kernels/cuda/effort.h"
#include "tests/testlib.h"

typedef struct cuda_bench { const kern_ops *ops; kern_dev *d; px_heap *heap; } cuda_bench;

/* `state`: cmocka's, of cuda_bench_main. */
cuda_bench cuda_bench_open(void **state, bool deterministic);
void       cuda_bench_close(cuda_bench *b);
/* A buffer of exactly `bytes` (1 at least): with these contents, or with NaNs. */
kern_buf   cuda_bench_put(const cuda_bench *b, const void *src, size_t bytes);
kern_buf   cuda_bench_poisoned(const cuda_bench *b, size_t bytes);
void       cuda_bench_get(const cuda_bench *b, void *dst, kern_buf src, size_t bytes);

/* The host build: the next of the shim's schedules, from here on.  A GPU has its own. */
void       cuda_bench_next_schedule(void);

/* To MSan: what code that it cannot see has written. */
void       cuda_bench_defined(const void *p, size_t bytes);

/* Of n cases. */
#define CUDA_BENCH_CASES(n) (EFFORT_TSAN ? 1u : (uint32_t)(n))

/* Runs the group.  77: there is no device, nothing was tested. */
int cuda_bench_main(const struct CMUnitTest *tests, size_t n);

#endif
