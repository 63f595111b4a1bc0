/* The forward pass on CUDA's kernels, against the reference implementation and against the CPU: every type of weights and
 * of KV cache that CUDA has, at 1 to 4 ranks, prompts in chunks and tokens one by one.  The device is the host build's, or
 * with TEST_CUDA_PLUGIN a GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/store/pack.h"
#include "tests/shard/blocks.h"
#include "tests/shard/cuda_run.h"
#include "tests/shard/golden.h"
#include "tests/testlib.h"

#ifdef CUH_ASAN
#define STEP 4                             /* instrumented, a few must do */
#else
#define STEP 1
#endif
#define N 26u                              /* ids of the prompt: two chunks, then four one by one */

/* golden/README: tiny models with fp32 activations, with 12-bit ones (those of CUDA are fp16), with bf16. */
typedef struct bound { double worst, kl, margin; } bound;
static const bound exact = { 1e-3, 1e-6, 0.001 };
static const bound near = { 0.1, 5e-5, 0.05 };
static const bound bf16 = { 0.4, 8e-4, 0.2 };
/* Caches that keep less, against f16 on random weights, which forgive nothing (measured: 0.39, 1.2e-3, 0.022; 2, 0.042, 0.76).
 * What their values are is held to the bit in tests/kernels/cuda. */
static const bound int8 = { 0.8, 4e-3, 0.2 };
static const bound fp8 = { 4, 0.1, 1.5 };

static const char *const kv_name[KERN_N_KV] = { "f16", "f32", "bf16", "int8", "fp8" };

typedef struct check {
    const char *source;                    /* below tiny/ */
    shard_policy policy;
    kern_kv_dtype kv;
    uint32_t world;
    const bound *cpu, *reference;          /* against the CPU's answer; against the golden one, where the set has its weights */
} check;

static void hold(const char *name, const char *against, const float *lp, const float *logits, uint32_t rows, uint32_t n, const bound *b)
{
    const test_distance d = test_compare(lp, logits, rows, n);

    printf("%s %-9s worst %.2g, KL %.2g, flipped margin %.2g\n", name, against, d.worst, d.kl, d.flipped);
    assert_true(d.worst <= b->worst);
    assert_true(d.kl <= b->kl);
    assert_true(d.flipped <= b->margin);
}

/* The set's answers to N ids on the CPU and on CUDA, log-probabilities. */
static void answer(const char *name, test_cluster_args *args, kern_kv_dtype kv, const uint32_t *prompt, float *cpu, float *cuda)
{
    px_err e = {0};

    for (int on_cuda = 0; on_cuda < 2; on_cuda++) {
        if (on_cuda) assert_non_null(args->ops = test_cuda_ops(NULL));
        args->demand.kv_dtype = on_cuda || kv == KERN_KV_F32 ? kv : KERN_KV_F16;      /* the CPU keeps no other */
        test_cluster *c = test_cluster_open(args, &e);
        if (!c) fail_msg("%s %s: %s", name, e.field, e.text);
        test_cuda_score(c, 0, prompt, N, on_cuda ? N - 4 : N, 16, on_cuda ? cuda : cpu);
        test_cluster_close(c);
    }
}

static const test_cluster_args plain = { .demand = { .token_budget = 16, .max_sequences = 16, .kv_tokens = 512 } };

static void one(const check *k)
{
    char name[96], source[96];
    test_cluster_args args = plain;
    test_tiny t;

    snprintf(source, sizeof source, "tiny/%s", k->source);
    test_tiny_read(&t, k->source);
    assert_true(t.n_prompt >= N);
    if (!strncmp(k->source, "gguf/", 5)) snprintf(source, sizeof source, "tiny/%s/model.gguf", k->source);
    snprintf(name, sizeof name, "%-22s %-7s KV %-4s %u ranks:", k->source, shard_policy_name(k->policy), kv_name[k->kv], k->world);
    args.set = test_set(test_golden(source), k->policy, k->world);
    float *cpu = malloc(2 * (size_t)N * t.n_vocab * sizeof *cpu), *cuda = cpu + (size_t)N * t.n_vocab;
    assert_non_null(cpu);
    answer(name, &args, k->kv, t.prompt, cpu, cuda);
    hold(name, "CPU", cuda, cpu, N, t.n_vocab, k->cpu);
    if (k->reference) hold(name, "reference", cuda, t.logits, N, t.n_vocab, k->reference);
    free(cpu);
    free(t.logits);
}

static void every_type_of_weights_and_cache_meets_the_cpu_and_the_reference(void **state)
{
    static const check list[] = {
        { "arch/llama",        SHARD_AS_FILE,  KERN_KV_F16,  1, &near, &bf16 },
        { "arch/llama",        SHARD_TO_F32,   KERN_KV_F32,  2, &exact, &exact },
        { "arch/llama",        SHARD_TO_W8A16, KERN_KV_FP8,  1, &fp8, NULL },
        { "arch/llama",        SHARD_TO_FP8,   KERN_KV_F16,  2, &near, NULL },
        { "arch/llama3",       SHARD_AS_FILE,  KERN_KV_BF16, 2, &bf16, &bf16 },
        { "arch/llama3",       SHARD_TO_W8A16, KERN_KV_F16,  1, &near, NULL },
        { "arch/llama3",       SHARD_TO_W4A16, KERN_KV_INT8, 1, &int8, NULL },
        { "arch/llama3",       SHARD_TO_F32,   KERN_KV_F32,  4, &exact, &exact },
        { "arch/llama_linear", SHARD_TO_Q8_0,  KERN_KV_F16,  2, &near, NULL },
        { "arch/llama_linear", SHARD_AS_FILE,  KERN_KV_F16,  4, &near, &bf16 },
        { "arch/mqa",          SHARD_AS_FILE,  KERN_KV_F16,  4, &near, &bf16 },
        { "arch/mqa",          SHARD_TO_Q4_0,  KERN_KV_F16,  1, &near, NULL },
        { "arch/mqa",          SHARD_TO_W4A16, KERN_KV_FP8,  1, &fp8, NULL },
        { "arch/smollm_like",  SHARD_AS_FILE,  KERN_KV_F16,  2, &near, &bf16 },
        { "arch/smollm_like",  SHARD_AS_FILE,  KERN_KV_INT8, 1, &int8, NULL },
        { "gguf/smollm_like_f16", SHARD_AS_FILE, KERN_KV_F16, 2, &near, &near },
        { "gguf/smollm_like_f16", SHARD_TO_FP8, KERN_KV_F16, 1, &near, NULL },
        { "arch/mistral",      SHARD_TO_F32,   KERN_KV_F32,  2, &exact, &exact },
        { "arch/mistral",      SHARD_AS_FILE,  KERN_KV_BF16, 1, &bf16, &bf16 },
        { "arch/qwen2",        SHARD_TO_F32,   KERN_KV_F32,  3, &exact, &exact },
        { "gguf/qwen2_q8_0",   SHARD_AS_FILE,  KERN_KV_F16,  1, &near, &near },
        { "arch/qwen3",        SHARD_TO_F32,   KERN_KV_F32,  2, &exact, &exact },
        { "gguf/qwen3_q4_0",   SHARD_AS_FILE,  KERN_KV_F16,  1, &near, &near },
        { "gguf/llama3_q5_1",  SHARD_AS_FILE,  KERN_KV_F16,  2, &near, &near },          /* stored as Q8_M */
    };

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i += STEP) one(&list[i]);
}

/* Blocks of GGUF that are stored as Q8_H, Q2_HM, Q4_HL (twice), Q8_M and Q4_1, cut through with three ranks. */
static void every_type_that_blocks_become_meets_the_cpu(void **state)
{
    static const struct { kern_dtype type; uint32_t world; } list[] = {
        { KERN_Q6_K, 2 }, { KERN_Q2_K, 3 }, { KERN_Q3_K, 3 }, { KERN_IQ2_XS, 2 }, { KERN_Q5_K, 3 }, { KERN_Q4_K, 1 },
    };
    uint32_t prompt[N];
    float *cpu = malloc(2 * (size_t)N * TEST_BLOCKS_VOCAB * sizeof *cpu), *cuda = cpu + (size_t)N * TEST_BLOCKS_VOCAB;

    (void)state;
    assert_non_null(cpu);
    for (uint32_t i = 0; i < N; i++) prompt[i] = i * 37 % TEST_BLOCKS_VOCAB;
    for (size_t i = 0; i < sizeof list / sizeof *list; i += STEP) {
        test_cluster_args args = plain;
        char name[64];
        snprintf(name, sizeof name, "%s, %u ranks:", kern_dtype_get(list[i].type)->name, list[i].world);
        args.set = test_set(test_blocks_model(list[i].type), SHARD_AS_FILE, list[i].world);
        answer(name, &args, KERN_KV_F16, prompt, cpu, cuda);
        hold(name, "CPU", cuda, cpu, N, TEST_BLOCKS_VOCAB, &near);
    }
    free(cpu);
}

/* ---- fp8_activations: 80 rows in one step ---- */

#define MANY 80u
/* Against the CPU, whose activations of FP8 weights are fp32; on random weights a rounding of each to 2^-4 shows (measured: 3.5, 0.11, 1.4).
 * torch, rounding the same inputs of the same matrices, is as far from itself without: KL 0.078 to 0.086, worst 3 to 3.8.  That a product
 * is what the roundings make it is held in tests/kernels/cuda/w8a8_test.c. */
static const bound w8a8 = { 7, 0.2, 2 };

static void fp8_activations_stay_near_the_cpu(void **state)
{
    static const struct { const char *source; uint32_t world; } list[] = { { "arch/llama", 1 }, { "arch/smollm_like", 2 }, { "arch/mqa", 4 } };

    (void)state;
    for (size_t i = 0; i < sizeof list / sizeof *list; i += STEP) {
        char name[64], source[64];
        uint32_t prompt[MANY];
        test_tiny t;

        snprintf(source, sizeof source, "tiny/%s", list[i].source);
        test_tiny_read(&t, list[i].source);
        for (uint32_t k = 0; k < MANY; k++) prompt[k] = k < t.n_prompt ? t.prompt[k] : k * 37 % t.n_vocab;
        float *cpu = malloc(2 * (size_t)MANY * t.n_vocab * sizeof *cpu), *cuda = cpu + (size_t)MANY * t.n_vocab;
        assert_non_null(cpu);
        test_cluster_args args = { .set = test_set(test_golden(source), SHARD_TO_FP8, list[i].world),
                                   .demand = { .token_budget = MANY, .max_sequences = MANY, .kv_tokens = 512 } };
        for (int key = 0; key < 3; key++) {              /* the CPU, CUDA without and with */
            px_err e = {0};
            if (key) assert_non_null(args.ops = test_cuda_ops(NULL));
            args.demand.fp8_activations = key == 2;
            test_cuda_multiplies_fp8(key == 2);
            test_cluster *c = test_cluster_open(&args, &e);
            test_cuda_multiplies_fp8(false);
            if (!c && key == 2 && !strcmp(e.field, "fp8_activations")) {
                printf("SKIPPED: %s\n", e.text);         /* a GPU before 8.9 */
                continue;
            }
            if (!c) fail_msg("%s: %s: %s", list[i].source, e.field, e.text);
            test_cuda_score(c, 0, prompt, MANY, MANY, MANY, key ? cuda : cpu);
            for (uint32_t r = 0; key && r < list[i].world; r++) {
                kern_info now;
                assert_int_equal(args.ops->info(test_cluster_dev(c, r), &now, &e), PX_OK);
                assert_true(key == 2 ? now.products_fp8 > 0 : !now.products_fp8);
            }
            test_cluster_close(c);
            snprintf(name, sizeof name, "%-16s FP8, %u ranks%s:", list[i].source, list[i].world, key == 2 ? ", fp8_activations" : "");
            if (key) hold(name, "CPU", cuda, cpu, MANY, t.n_vocab, key == 2 ? &w8a8 : &near);
        }
        free(cpu);
        free(t.logits);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_of_weights_and_cache_meets_the_cpu_and_the_reference),
        cmocka_unit_test(every_type_that_blocks_become_meets_the_cpu),
        cmocka_unit_test(fp8_activations_stay_near_the_cpu),
    };
    return cuda_ops_main(tests, sizeof tests / sizeof *tests, NULL);
}
