/* synthetic.h - sets that are no files: a model of any shape with random weights, made in memory, the same at any number of
 * ranks.  Layer: tests.  Links in the place of the store's shard files: a machine with a GPU has no libraries to read them. */
#ifndef TESTS_SHARD_SYNTHETIC_H
#define TESTS_SHARD_SYNTHETIC_H

#include "tests/shard/cluster.h"

typedef struct test_shape {
    uint32_t n_layer, d_model, d_ff, n_head, n_kv_head, head_dim, n_vocab, n_ctx;
    const char *format;                    /* of the planner: "f32" "bf16" "w8a16_g128" "pure_q4_0" ... */
    uint32_t world;
    bool in_file;                          /* the shard lies in a memory file and is mapped for reading, no page touched yet */
} test_shape;

/* test_cluster_open with a shape in the place of args->set.  The shape is borrowed for the cluster's life. */
test_cluster *test_synthetic_open(const test_cluster_args *args, const test_shape *shape, px_err *e);

/* The same for a test that opens its ranks itself: `set` is the address of a test_shape; to open it may be NULL. */
const test_shards *test_synthetic_shards(void);

#endif
