/* The forward pass on CUDA's kernels, with weights that are made here: its graphs, its bits in any company, and its answers
 * against the CPU's.  The device is the host build's, or with TEST_CUDA_PLUGIN a GPU, where the models are larger. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/run/engine.h"
#include "tests/shard/cuda_run.h"
#include "tests/shard/golden.h"
#include "tests/shard/synthetic.h"

#define MOST 256u

static const test_shape tiny = { .n_layer = 2, .d_model = 128, .d_ff = 256, .n_head = 4, .n_kv_head = 2, .head_dim = 64, .n_vocab = 331, .n_ctx = 512 };

static test_cluster *open_or_fail(const test_cluster_args *args, const test_shape *s)
{
    px_err e = {0};
    char line[512];
    test_cluster *c = test_synthetic_open(args, s, &e);

    if (!c) fail_msg("%s", px_err_format(&e, line, sizeof line));
    return c;
}

static float *row_of(uint32_t n, uint32_t n_vocab)
{
    float *p = calloc((size_t)n * n_vocab, sizeof *p);
    assert_non_null(p);
    return p;
}

static void some_ids(uint32_t *id, uint32_t n, uint32_t n_vocab)
{
    uint64_t seed = 5;
    for (uint32_t i = 0; i < n; i++) id[i] = (uint32_t)(test_rand(&seed) % n_vocab);
}

static test_shape shape_of(const test_shape *s, const char *format, uint32_t world)
{
    test_shape out = *s;

    out.format = format;
    out.world = world;
    return out;
}

/* ---- graphs ---- */

/* After warm-up every step is a replay, of the same bits as op by op, and on the host build not one kernel is launched by a
 * call.  Ranks whose sums go over the host keep no graphs. */
static void a_step_is_a_replay(void **state)
{
    uint32_t id[24], new[2][8];
    float logprob[2][8];

    (void)state;
    some_ids(id, 24, tiny.n_vocab);
    const test_shape s = shape_of(&tiny, "bf16", 1);
    const test_cluster_args args = { .ops = test_cuda_ops(NULL), .demand = { .token_budget = 16, .max_sequences = 4, .kv_tokens = 512 } };
    const shard_sampling p = { .temperature = 0.8f, .top_p = 0.95f, .seed = 11 };
    test_cluster *c = open_or_fail(&args, &s);
    test_generate(c, 0, &p, id, 24, 10, 8, new[0], logprob[0]);
    const shard_executor *x = test_cluster_executor(c, 0);
    assert_true(x->graphs);
    assert_int_equal(x->replayed, 0);
    test_cuda_warm_up(c);
    const uint64_t replayed = x->replayed, ran = x->ran;
    const unsigned long launched = test_cuda_launches();
    test_cuda_reschedule();
    test_generate(c, 0, &p, id, 24, 10, 8, new[1], logprob[1]);
    assert_int_equal(x->replayed - replayed, 3 + 7);
    assert_int_equal(x->ran, ran);
    assert_int_equal(test_cuda_launches(), launched);
    assert_memory_equal(new[0], new[1], sizeof *new);
    assert_memory_equal(logprob[0], logprob[1], sizeof *logprob);
    test_cluster_close(c);
}

/* ---- law 5 ---- */

#define IDS 70u                            /* of the prompt whose distributions are compared: as one step they go another way */
#define OTHERS 3u
#define SLOT 72u

/* The same prompt in pieces of random length, in steps where others run too, each time at another place among the rows. */
static void score_in_company(test_cluster *c, const uint32_t *id, float *lp)
{
    const uint32_t n_vocab = test_cluster_manifest(c)->arch.n_vocab;
    uint32_t at[OTHERS + 1] = {0}, other[MOST];
    uint64_t seed = 77;
    px_err e = {0};

    some_ids(other, MOST, n_vocab);
    for (uint32_t s = 0; s <= OTHERS; s++) test_open_slot(c, s, SLOT, NULL);
    while (at[0] < IDS) {
        shard_entry en[OTHERS + 1];
        uint32_t n = 0, mine = 0;
        shard_result r;

        for (uint32_t k = 0; k <= OTHERS; k++) {
            const uint32_t s = (k + at[0]) % (OTHERS + 1);
            uint32_t m = 1 + (uint32_t)(test_rand(&seed) % (s ? 4 : 24));

            if (s == 0 && m > IDS - at[0]) m = IDS - at[0];
            if (at[s] + m > SLOT) continue;
            if (s == 0) mine = n;
            en[n++] = (shard_entry){ .slot = s, .first_pos = at[s], .n = m, .id = s ? other + 32 * s + at[s] : id + at[0],
                                     .rows = s ? SHARD_ROWS_LAST : SHARD_ROWS_ALL, .top = s ? 3 : n_vocab };
        }
        if (test_cluster_step(c, &(shard_step){ .entry = en, .n_entries = n }, &r, &e)) fail_msg("%s: %s", e.field, e.text);
        for (uint32_t i = 0; i < r.entry[mine].n_rows; i++) test_cuda_row(&r.entry[mine].row[i], n_vocab, lp + (size_t)(at[0] + i) * n_vocab);
        for (uint32_t k = 0; k < n; k++) at[en[k].slot] += en[k].n;
    }
    for (uint32_t s = 0; s <= OTHERS; s++) test_close_slot(c, s);
}

static void deterministic_bits_depend_on_the_request_alone(void **state)
{
    static const struct { const char *format; kern_kv_dtype kv; uint32_t world; } list[] = {
        { "bf16", KERN_KV_F16, 1 }, { "w4a16_g128", KERN_KV_INT8, 2 },
    };
    const size_t bytes = (size_t)IDS * tiny.n_vocab * sizeof(float);
    uint32_t id[IDS];

    (void)state;
    some_ids(id, IDS, tiny.n_vocab);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        test_shape s = shape_of(&tiny, list[i].format, list[i].world);
        test_cluster_args args = { .ops = test_cuda_ops(NULL), .deterministic = true,
                                   .demand = { .kv_dtype = list[i].kv, .token_budget = 72, .max_sequences = 72, .kv_tokens = 512 } };
        float *want = row_of(IDS, tiny.n_vocab), *got = row_of(IDS, tiny.n_vocab);

        s.n_layer = 1;
        test_cluster *c = open_or_fail(&args, &s);
        test_cuda_score(c, 0, id, IDS, IDS, IDS, want);
        test_cuda_reschedule();
        score_in_company(c, id, got);
        assert_memory_equal(want, got, bytes);
        test_cluster_close(c);
        /* other sizes of the step and of the cache's blocks; graphs; tokens one at a time */
        args.demand = (shard_demand){ .kv_dtype = list[i].kv, .token_budget = 16, .max_sequences = 16, .kv_tokens = 512, .kv_block = 32 };
        c = open_or_fail(&args, &s);
        if (list[i].world == 1) test_cuda_warm_up(c);
        test_cuda_reschedule();
        test_cuda_score(c, 0, id, IDS, IDS - 4, 16, got);
        assert_memory_equal(want, got, bytes);
        test_cluster_close(c);
        free(want);
        free(got);
    }
}

/* ---- against the CPU ---- */

static uint32_t cores(void)
{
#ifndef TEST_CUDA_PLUGIN
    return 1;                              /* a short prompt: threads would only wait for each other */
#endif
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 64 ? 64 : (uint32_t)n;
}

/* The prompt in chunks, its last ids one at a time: CUDA at every world, the CPU once. */
static void meets_the_cpu(const test_shape *shape, const char *format, kern_kv_dtype kv, const uint32_t *world, uint32_t n_worlds, uint32_t n,
                          uint32_t chunk, double most_kl, double most_margin)
{
    uint32_t id[MOST];
    float *cpu = row_of(n, shape->n_vocab), *cuda = row_of(n, shape->n_vocab);
    const shard_demand demand = { .kv_dtype = kv, .token_budget = chunk, .max_sequences = chunk, .kv_tokens = 1024 };

    assert_true(n <= MOST);
    some_ids(id, n, shape->n_vocab);
    for (uint32_t i = 0; i <= n_worlds; i++) {
        const test_shape s = shape_of(shape, format, i ? world[i - 1] : 1);
        test_cluster_args args = { .ops = i ? test_cuda_ops(NULL) : NULL, .demand = demand };
        if (!i) {
            args.demand.threads = cores();
            args.demand.kv_dtype = kv == KERN_KV_F32 ? kv : KERN_KV_F16;
        }
        test_cluster *c = open_or_fail(&args, &s);
        test_cuda_score(c, 0, id, n, n - 4, chunk, i ? cuda : cpu);
        test_cluster_close(c);
        if (!i) continue;
        const test_distance d = test_compare(cuda, cpu, n, s.n_vocab);
        printf("%u x %u, %-10s KV %d, %u ranks, %u rows a step: worst %.2g, KL %.2g, flipped margin %.2g\n", s.n_layer, s.d_model, format, (int)kv,
               s.world, chunk, d.worst, d.kl, d.flipped);
        assert_true(d.kl <= most_kl);
        assert_true(d.flipped <= most_margin);
    }
    free(cpu);
    free(cuda);
}

/* Groups of 128 columns want a model that is wider than the golden ones to be cut at all; a context beyond one span of
 * attention; more rows than the narrow matmuls take. */
static void answers_are_those_of_the_cpu(void **state)
{
    static const uint32_t two[] = { 2 }, one[] = { 1 };

    (void)state;
    meets_the_cpu(&tiny, "w8a16_g128", KERN_KV_F16, two, 1, 12, 8, 5e-5, 0.05);
    meets_the_cpu(&tiny, "w4a16_g128", KERN_KV_F16, two, 1, 12, 8, 5e-5, 0.05);
    meets_the_cpu(&tiny, "pure_q4_0", KERN_KV_F16, one, 1, 140, 68, 5e-5, 0.05);
}

#ifdef TEST_CUDA_PLUGIN
/* 1.1 billion weights, as TinyLlama has them, and every number of ranks that shares the GPU.  More rows than the narrow matmuls
 * take: an answer has at most 2^20 pairs, so with fewer ids. */
static void a_billion_weights_too(void **state)
{
    static const test_shape big = { .n_layer = 22, .d_model = 2048, .d_ff = 5632, .n_head = 32, .n_kv_head = 4, .head_dim = 64, .n_vocab = 32000, .n_ctx = 2048 };
    static const uint32_t world[] = { 1, 2, 4, 8 };
    test_shape fewer_ids = big;

    (void)state;
    fewer_ids.n_vocab = 10000;
    meets_the_cpu(&big, "bf16", KERN_KV_F16, world, 4, 36, 32, 5e-4, 0.2);
    meets_the_cpu(&big, "w8a16_g128", KERN_KV_F16, world, 3, 36, 32, 5e-4, 0.2);
    meets_the_cpu(&fewer_ids, "bf16", KERN_KV_F16, world, 1, 100, 96, 5e-4, 0.2);
    meets_the_cpu(&fewer_ids, "w4a16_g128", KERN_KV_F16, world, 1, 100, 96, 5e-4, 0.2);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_a_replay),
        cmocka_unit_test(deterministic_bits_depend_on_the_request_alone),
        cmocka_unit_test(answers_are_those_of_the_cpu),
#ifdef TEST_CUDA_PLUGIN
        cmocka_unit_test(a_billion_weights_too),
#endif
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests, NULL);
}
