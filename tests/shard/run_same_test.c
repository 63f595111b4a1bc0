/* Law 5: a request's tokens and log-probabilities are the same, bit for bit, alone and in a batch of 32 others, for any
 * chunk size, for any size of KV blocks, on every path of the CPU and with any number of threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/shard/apart.h"
#include "tests/shard/cluster.h"
#include "tests/shard/golden.h"
#include "tests/testlib.h"

#define N_NEW 12u
#define OTHERS 32u

/* One request's whole answer: the distribution after every id of the prompt, and three continuations. */
typedef struct answer {
    float    *lp;
    size_t    n;
    uint32_t  id[3][N_NEW];
    float     logprob[3][N_NEW];
} answer;

static const shard_sampling how[3] = {
    { .top_p = 1 },
    { .temperature = 0.9f, .top_p = 1, .seed = 42, .sequence = 3 },
    { .temperature = 1.2f, .top_p = 0.9f, .min_p = 0.01f, .top_k = 50, .seed = 7 },
};

static void answer_alone(test_cluster *c, const test_tiny *t, uint32_t chunk, answer *a)
{
    memset(a, 0, sizeof *a);
    a->n = (size_t)t->n_prompt * t->n_vocab * sizeof *a->lp;
    a->lp = malloc(a->n);
    assert_non_null(a->lp);
    test_score(c, 1, t->prompt, t->n_prompt, chunk, a->lp);
    for (unsigned i = 0; i < 3; i++)
        test_generate(c, 2 + i, &how[i], t->prompt, t->n_prompt, chunk, N_NEW, a->id[i], a->logprob[i]);
}

static void same(const answer *a, const answer *b)
{
    assert_memory_equal(a->id, b->id, sizeof a->id);
    assert_memory_equal(a->logprob, b->logprob, sizeof a->logprob);
    assert_memory_equal(a->lp, b->lp, a->n);
}

static test_cluster *open_or_fail(const test_cluster_args *args)
{
    px_err e = {0};
    char line[512];
    test_cluster *c = test_cluster_open(args, &e);

    if (!c) fail_msg("%s", px_err_format(&e, line, sizeof line));
    return c;
}

/* Prompt and continuation of slot 0 among 32 others that join, decode, and leave at other times. */
static void generate_in_a_crowd(test_cluster *c, const test_tiny *t, const shard_sampling *p, uint32_t *id, float *logprob)
{
    uint32_t at[OTHERS + 1] = {0}, prompt[OTHERS + 1][64], n_prompt[OTHERS + 1], n_new = 0;
    uint64_t seed = 99;
    px_err e = {0};

    for (uint32_t s = 0; s <= OTHERS; s++) {
        const shard_sampling other = { .temperature = s % 3 ? 0.8f : 0, .top_p = s % 2 ? 0.9f : 1, .seed = s };
        n_prompt[s] = s == 0 ? t->n_prompt : 1 + (uint32_t)(test_rand(&seed) % 60);
        for (uint32_t i = 0; i < n_prompt[s]; i++)
            prompt[s][i] = s == 0 ? t->prompt[i] : (uint32_t)(test_rand(&seed) % t->n_vocab);
        test_open_slot(c, s, 96, s == 0 ? p : &other);
    }
    while (n_new < N_NEW) {
        shard_entry en[OTHERS + 1];
        uint32_t n = 0, rows = 0, mine = UINT32_MAX;
        shard_result r;

        for (uint32_t k = 0; k <= OTHERS; k++) {
            const uint32_t s = (k + n_new) % (OTHERS + 1);          /* our rows lie at another place each step */
            const uint32_t left = at[s] < n_prompt[s] ? n_prompt[s] - at[s] : 0;
            uint32_t m = left ? 1 + (uint32_t)(test_rand(&seed) % 9) : 1;

            if (left && m > left) m = left;
            if (at[s] + m > 96 || rows + m > 128 || (s && !left && test_rand(&seed) % 4 == 0)) continue;
            if (s == 0) mine = n;
            const bool last = at[s] + m >= n_prompt[s];
            en[n++] = (shard_entry){ .slot = s, .first_pos = at[s], .n = m, .id = left ? prompt[s] + at[s] : NULL,
                                     .rows = last ? SHARD_ROWS_LAST : SHARD_ROWS_NONE, .sample = last, .logprob = last,
                                     .top = last && s % 5 == 1 ? 10 : 0 };
            rows += m;
            at[s] += m;
        }
        assert_int_equal(test_cluster_step(c, &(shard_step){ .entry = en, .n_entries = n }, &r, &e), PX_OK);
        if (mine < n && r.entry[mine].n_rows) {
            id[n_new] = r.entry[mine].row[0].id;
            logprob[n_new++] = r.entry[mine].row[0].logprob;
        }
    }
    for (uint32_t s = 0; s <= OTHERS; s++) test_close_slot(c, s);
}

/* The models: an exact one, bf16, one cut unevenly, one with a window, one with biases in 12 bits, one with norms of heads, one of FP8. */
static const struct { const char *name, *source; shard_policy policy; } model[] = {
    { "arch/llama3", "tiny/arch/llama3", SHARD_TO_F32 },
    { "arch/smollm_like", "tiny/arch/smollm_like", SHARD_AS_FILE },
    { "arch/mistral", "tiny/arch/mistral", SHARD_AS_FILE },
    { "gguf/qwen2_q8_0", "tiny/gguf/qwen2_q8_0/model.gguf", SHARD_AS_FILE },
    { "arch/qwen3", "tiny/arch/qwen3", SHARD_TO_F32 },
    { "arch/llama", "tiny/arch/llama", SHARD_TO_FP8 },
};
#define N_MODELS (sizeof model / sizeof *model)

static const char *set_of(size_t i, uint32_t world) { return test_set(test_golden(model[i].source), model[i].policy, world); }

static void the_answer_depends_on_nothing_but_the_request(void **state)
{
    static const uint32_t chunk[] = { 1, 3, 7, 16 };

    (void)state;
    for (size_t i = 0; i < N_MODELS; i++)
        for (uint32_t world = 1; world <= 3; world++) {
            test_cluster_args args = { .set = set_of(i, world), .demand = { .kv_tokens = 8192 } };
            test_cluster *c = open_or_fail(&args);
            answer want, got;
            test_tiny t;

            test_tiny_read(&t, model[i].name);
            answer_alone(c, &t, 40, &want);
            for (size_t k = 0; k < sizeof chunk / sizeof *chunk; k++) {
                answer_alone(c, &t, chunk[k], &got);
                same(&want, &got);
                free(got.lp);
            }
            for (unsigned k = 0; k < 3; k++) {
                uint32_t id[N_NEW];
                float logprob[N_NEW];

                generate_in_a_crowd(c, &t, &how[k], id, logprob);
                assert_memory_equal(id, want.id[k], sizeof id);
                assert_memory_equal(logprob, want.logprob[k], sizeof logprob);
            }
            test_cluster_close(c);

            for (uint32_t block = 32; block <= 128; block *= 2) {
                args.demand = (shard_demand){ .kv_block = block };
                c = open_or_fail(&args);
                answer_alone(c, &t, 16, &got);
                same(&want, &got);
                free(got.lp);
                test_cluster_close(c);
            }
            args.demand = (shard_demand){ .threads = 3, .token_budget = 64, .max_sequences = 33 };
            c = open_or_fail(&args);
            answer_alone(c, &t, 33, &got);
            same(&want, &got);
            free(got.lp);
            test_cluster_close(c);
            free(want.lp);
            free(t.logits);
        }
}

static void every_path_of_the_cpu_gives_the_same_bits(void **state)
{
    static const char *const name[] = { [KERN_PATH_SCALAR] = "scalar", [KERN_PATH_AVX2] = "avx2", [KERN_PATH_AVX512] = "avx512" };

    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        answer want = {0}, got;
        test_tiny t;

        test_tiny_read(&t, model[i].name);
        for (kern_path p = KERN_PATH_SCALAR; p <= KERN_PATH_AVX512; p++) {
            if (!kern_cpu_has(p)) {
                printf("SKIP: this CPU has no %s\n", name[p]);
                continue;
            }
            test_cluster *c = open_or_fail(&(test_cluster_args){ .set = set_of(i, 2), .path = p });
            answer_alone(c, &t, 16, want.lp ? &got : &want);
            test_cluster_close(c);
            if (p == KERN_PATH_SCALAR) continue;
            same(&want, &got);
            free(got.lp);
        }
        free(want.lp);
        free(t.logits);
    }
}

static void shm_gives_the_same_bits_as_local(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++)
        for (uint32_t world = 2; world <= 3; world++) {
            answer a, b;
            test_tiny t;
            test_cluster *c = open_or_fail(&(test_cluster_args){ .set = set_of(i, world) });

            test_tiny_read(&t, model[i].name);
            answer_alone(c, &t, 16, &a);
            test_cluster_close(c);
            c = open_or_fail(&(test_cluster_args){ .set = set_of(i, world), .transport = COMM_SHM });
            answer_alone(c, &t, 16, &b);
            test_cluster_close(c);
            same(&a, &b);
            free(a.lp);
            free(b.lp);
            free(t.logits);
        }
}

typedef struct warm { px_code rc[COMM_MAX_WORLD]; px_err e[COMM_MAX_WORLD]; } warm;

static void warm_up(void *ctx, uint32_t rank, shard_executor *x)
{
    warm *w = ctx;
    w->rc[rank] = shard_executor_warm_up_all(x, &w->e[rank]);
}

/* A device whose memory is not the host's: weights are uploaded, sums staged, and, where no other rank takes part, every
 * step after warm-up is a replay: not one op is called. */
static void memory_of_its_own_and_graphs_give_the_same_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++)
        for (uint32_t world = 1; world <= 3; world++) {
            test_cluster_args args = { .set = set_of(i, world), .path = KERN_PATH_SCALAR, .demand = { .token_budget = 40, .max_sequences = 16 } };
            answer want, got;
            warm w = {0};
            test_tiny t;
            test_cluster *c = open_or_fail(&args);

            test_tiny_read(&t, model[i].name);
            answer_alone(c, &t, 16, &want);
            test_cluster_close(c);
            args.ops = &test_apart_ops;
            args.device = test_apart_device;
            c = open_or_fail(&args);
            test_cluster_run(c, warm_up, &w);
            for (uint32_t k = 0; k < world; k++)
                if (w.rc[k]) fail_msg("rank %u: %s: %s", k, w.e[k].field, w.e[k].text);
            const test_apart_counts before = test_apart_count(test_cluster_dev(c, 0));
            answer_alone(c, &t, 16, &got);
            same(&want, &got);
            free(got.lp);
            const test_apart_counts after = test_apart_count(test_cluster_dev(c, 0));
            assert_int_equal(after.called, world == 1 ? before.called : after.called);
            assert_int_equal(after.records, before.records);
            assert_true(world == 1 ? after.replays > before.replays : after.called > before.called);
            const shard_rank_bytes *plan = shard_executor_plan(test_cluster_executor(c, 0));
            assert_int_equal(after.live, plan->weights.mapped + plan->kv_pool + plan->activations.bytes + plan->rope_tables
                                             + comm_device_bytes(world, plan->partial_bytes));
            test_cluster_close(c);
            free(want.lp);
            free(t.logits);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_depends_on_nothing_but_the_request),
        cmocka_unit_test(every_path_of_the_cpu_gives_the_same_bits),
        cmocka_unit_test(shm_gives_the_same_bits_as_local),
        cmocka_unit_test(memory_of_its_own_and_graphs_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
