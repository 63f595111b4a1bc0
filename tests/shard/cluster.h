/* cluster.h - ranks as threads of a test: executors of one shard set on the `local` or `shm` transport.
 * Layer: tests.  Threading: one test thread drives; each rank has a thread for its life, as kern_dev and comm want. */
#ifndef TESTS_SHARD_CLUSTER_H
#define TESTS_SHARD_CLUSTER_H

#include "comm/device.h"
#include "shard/run/executor.h"

/* Pack `source` (a checkpoint) for `world` ranks into the test's folder, once per (source, policy, world).
 * Returns the set's folder; fails the test if that cannot be done. */
const char *test_set(const char *source, shard_policy policy, uint32_t world);

typedef struct test_cluster test_cluster;
typedef struct test_cluster_args {
    px_alloc     *a;                       /* NULL: a heap of the cluster's */
    const char   *set;
    shard_demand  demand;                  /* zeros: 4,096 tokens in blocks of 16, 64 sequences, budget 128, 1 thread */
    kern_path     path;
    comm_kind     transport;               /* local, or shm: the same process, through a memory file */
    const kern_ops *ops;                   /* instead of the path's table; with memory of its own sums go over comm's staged transport */
    comm_device   (*device)(kern_dev *d);  /* of such a table: another side for comm than its own alloc, upload and download */
    bool          deterministic;           /* of such a table: law 5 in full */
    bool          bench;                   /* ranks are bound to cores and do not compare what they sampled */
} test_cluster_args;

/* Open a set on as many ranks as it has; NULL with *e filled if a rank refuses. */
test_cluster *test_cluster_open(const test_cluster_args *args, px_err *e);
/* The same with sets that need not be folders: what `set` means, and who gives the shards. */
typedef struct test_shards {
    px_code (*manifest)(shard_manifest *m, px_alloc *a, const char *set, px_err *e);
    void    (*drop)(shard_manifest *m);                                /* idempotent */
    px_code (*open)(shard_file **f, px_alloc *a, const char *set, const shard_manifest *m, uint32_t rank, px_err *e);
    void    (*close)(shard_file *f);                                   /* NULL is legal */
} test_shards;
test_cluster *test_cluster_start(const test_cluster_args *args, const test_shards *shards, px_err *e);
void test_cluster_close(test_cluster *c);
const shard_manifest *test_cluster_manifest(const test_cluster *c);
kern_dev *test_cluster_dev(const test_cluster *c, uint32_t rank);      /* NULL where the host has the memory */
shard_executor *test_cluster_executor(const test_cluster *c, uint32_t rank);

/* fn on every rank's thread at the same time; returns when all have returned. */
void test_cluster_run(test_cluster *c, void (*fn)(void *ctx, uint32_t rank, shard_executor *x), void *ctx);
/* One step on all ranks: rank 0's code, error and result.  Fails the test if another rank says anything else. */
px_code test_cluster_step(test_cluster *c, const shard_step *in, shard_result *out, px_err *e);

/* ---- what most tests do with a cluster; they fail the test on any error ---- */

/* Open a slot with blocks for n_tokens; slots whose n_tokens are equal share no block. */
void test_open_slot(test_cluster *c, uint32_t slot, uint32_t n_tokens, const shard_sampling *p);
void test_close_slot(test_cluster *c, uint32_t slot);
/* Log-probabilities of the whole vocabulary after each of n ids, `chunk` ids a step: lp (n, n_vocab), by id. */
void test_score(test_cluster *c, uint32_t slot, const uint32_t *id, uint32_t n, uint32_t chunk, float *lp);
/* Prompt in chunks, then n_new tokens: ids and their log-probabilities. */
void test_generate(test_cluster *c, uint32_t slot, const shard_sampling *p, const uint32_t *prompt, uint32_t n_prompt,
                   uint32_t chunk, uint32_t n_new, uint32_t *id, float *logprob);

#endif
