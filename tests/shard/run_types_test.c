/* A model of random weights in every block type of GGUF that has no kernels of its own: a set as the file is, against an exact set (F32
 * weights, activations and KV) of the same file.  What is measured is what storing as another type costs, beside 12-bit activations;
 * with three ranks, cuts go through blocks of 256. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/shard/blocks.h"
#include "tests/shard/cluster.h"
#include "tests/shard/golden.h"
#include "tests/testlib.h"

enum { VOCAB = TEST_BLOCKS_VOCAB, ROWS = 24 };

static float *score(const char *path, shard_policy policy, kern_kv_dtype kv, uint32_t world)
{
    float *lp = malloc(ROWS * VOCAB * sizeof *lp);
    uint32_t id[ROWS];
    px_err e = {0};
    test_cluster *c = test_cluster_open(&(test_cluster_args){ .set = test_set(path, policy, world), .demand = { .kv_dtype = kv } }, &e);

    if (!c) {
        char line[512];
        fail_msg("%s at %u ranks: %s", path, world, px_err_format(&e, line, sizeof line));
    }
    assert_non_null(lp);
    for (uint32_t i = 0; i < ROWS; i++) id[i] = i * 37 % VOCAB;
    test_score(c, 0, id, ROWS, 10, lp);
    test_cluster_close(c);
    return lp;
}

/* kl, worst: bounds as the file is; better: how many times nearer (KL) than --format Q8_0, at least; 0: it is the same. */
static const struct { kern_dtype type; double kl, worst, better; } TYPE[] = {
    { KERN_Q5_0, 1e-5, 0.05, 0 },   { KERN_Q5_1, 1e-5, 0.05, 40 }, { KERN_Q4_K, 2e-5, 0.05, 8 }, { KERN_Q5_K, 2e-5, 0.05, 15 },
    { KERN_IQ4_NL, 1e-5, 0.05, 0 }, { KERN_IQ4_XS, 1e-5, 0.05, 0 }, { KERN_Q6_K, 1e-5, 0.05, 100 },   { KERN_Q3_K, 1e-5, 0.05, 20 }, { KERN_Q2_K, 1e-5, 0.05, 10 }, { KERN_IQ2_XS, 1e-5, 0.05, 20 },
};

static void every_type_meets_its_bound(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof TYPE / sizeof *TYPE; i++) {
        const char *path = test_blocks_model(TYPE[i].type), *name = kern_dtype_get(TYPE[i].type)->name;
        float *exact = score(path, SHARD_TO_F32, KERN_KV_F32, 1);

        for (uint32_t world = 1; world <= 3; world++) {
            float *kept = score(path, SHARD_AS_FILE, KERN_KV_F16, world), *eight = score(path, SHARD_TO_Q8_0, KERN_KV_F16, world);
            test_distance d = test_compare(kept, exact, ROWS, VOCAB), q = test_compare(eight, exact, ROWS, VOCAB);

            printf("%-7s %u ranks: worst %.2g, KL %.2g; as Q8_0: worst %.2g, KL %.2g\n", name, world, d.worst, d.kl, q.worst, q.kl);
            assert_true(d.kl <= TYPE[i].kl && d.worst <= TYPE[i].worst);
            if (TYPE[i].better > 0) assert_true(d.kl * TYPE[i].better <= q.kl);
            else assert_memory_equal(kept, eight, ROWS * VOCAB * sizeof *kept);
            free(kept), free(eight);
        }
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_type_meets_its_bound) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
