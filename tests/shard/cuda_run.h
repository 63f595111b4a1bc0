/* cuda_run.h - clusters of ranks on CUDA's table: the plugin's on a GPU where TEST_CUDA_PLUGIN names its file, else the host
 * build's.  Layer: tests. */
#ifndef TESTS_SHARD_CUDA_RUN_H
#define TESTS_SHARD_CUDA_RUN_H

#include "tests/kernels/cuda/ops.h"
#include "tests/shard/cluster.h"

/* cuda_ops_find, with memory for all ranks together. */
const kern_ops *test_cuda_ops(px_err *e);
/* Whether devices opened from here on multiply FP8: the host build's have compute capability 8.9, or again 8.0.  A GPU has its own. */
void test_cuda_multiplies_fp8(bool on);
/* The host build takes the next of its schedules: another order of blocks and threads.  Nothing on a GPU. */
void test_cuda_reschedule(void);
/* Kernels that calls have launched so far, a graph's not; 0 on a GPU. */
unsigned long test_cuda_launches(void);

/* Warm-up on every rank, which records every graph; fails the test. */
void test_cuda_warm_up(test_cluster *c);
/* Log-probabilities (n, n_vocab) by id after each of n ids: the first `prefill` in chunks, then one at a time.  Other slots
 * are free to be in use. */
void test_cuda_score(test_cluster *c, uint32_t slot, const uint32_t *id, uint32_t n, uint32_t prefill, uint32_t chunk, float *lp);
/* An answer's row as log-probabilities by id. */
void test_cuda_row(const shard_row_result *row, uint32_t n_vocab, float *lp);

#endif
