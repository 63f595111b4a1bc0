/* The parts of the plan that the golden file does not hold: sliding patterns, experts, classes, hosts, fine-tunes. */
#include "shard/plan/act.h"
#include "shard/plan/capacity.h"
#include "shard/plan/device.h"
#include "shard/plan/finetune.h"
#include "shard/plan/host.h"
#include "shard/plan/others.h"
#include "tests/testlib.h"

#include <math.h>
#include <string.h>

static px_heap heap;

static const shard_arch GEMMA3_27B = { .family = "gemma3", .n_layer = 62, .d_model = 5376, .d_ff = 21504, .n_head = 32,
    .n_kv_head = 16, .head_dim = 128, .n_vocab = 262208, .n_ctx = 131072, .rms_eps = 1e-6f, .tied = true, .qk_norm = true,
    .sandwich_norms = true, .sliding_window = 1024, .n_full_attention = 10, .rope_theta = 1e6, .bos = UINT32_MAX };
static const shard_arch MIXTRAL = { .family = "mixtral", .n_layer = 32, .d_model = 4096, .d_ff = 14336, .n_head = 32,
    .n_kv_head = 8, .head_dim = 128, .n_vocab = 32000, .n_ctx = 32768, .rms_eps = 1e-5f, .n_expert = 8, .n_expert_used = 2,
    .rope_theta = 1e6, .bos = UINT32_MAX };
static const shard_arch LLAMA_7B = { .family = "llama", .n_layer = 32, .d_model = 4096, .d_ff = 11008, .n_head = 32,
    .n_kv_head = 32, .head_dim = 128, .n_vocab = 32000, .n_ctx = 4096, .rms_eps = 1e-5f, .rope_theta = 1e4, .bos = UINT32_MAX };
static const shard_arch LLAMA3_70B = { .family = "llama", .n_layer = 80, .d_model = 8192, .d_ff = 28672, .n_head = 64,
    .n_kv_head = 8, .head_dim = 128, .n_vocab = 128256, .n_ctx = 8192, .rms_eps = 1e-5f, .rope_theta = 5e5, .bos = UINT32_MAX };

static void parameters_of_experts_and_norms(void **state)
{
    (void)state;
    assert_int_equal(shard_params(&MIXTRAL), 46702792704ull);              /* what its authors publish as 46.7B, 12.9B in use */
    assert_int_equal(shard_params_active(&MIXTRAL), 12879925248ull);
    assert_int_equal(shard_params_of(&MIXTRAL, SHARD_ROUTER), 32ull * 8 * 4096);
    assert_int_equal(shard_params_of(&MIXTRAL, SHARD_OUTPUT_NORM), 4096);
    assert_int_equal(shard_params_of(&MIXTRAL, SHARD_Q_NORM), 0);
    /* layer = d h (2H + 2K) + 3 d f + 4 d (sandwich) + 2 h (q, k norms) */
    assert_int_equal(shard_params(&GEMMA3_27B), 62 * (5376ull * 128 * (64 + 32) + 3ull * 5376 * 21504 + 4 * 5376 + 2 * 128) +
                                                    262208ull * 5376 + 5376);
    assert_int_equal(shard_params_active(&LLAMA_7B), shard_params(&LLAMA_7B));
}

static void windows_in_some_layers(void **state)
{
    uint64_t bytes, token = 2 * 16 * 256;            /* one layer, f16 */
    uint32_t full, sliding;
    shard_arch all = GEMMA3_27B;
    px_err e = { 0 };

    (void)state;
    shard_kv_layers(&GEMMA3_27B, &full, &sliding);
    assert_true(full == 10 && sliding == 52);
    /* 8192 tokens: 512 pages in 10 layers; 1023 old ones and a chunk of 512 in the others, 96 pages and one */
    assert_int_equal(shard_kv_sequence_bytes(&GEMMA3_27B, "f16", 16, 8192, 16, 512, &bytes, &e), PX_OK);
    assert_int_equal(bytes, token * 16 * (10 * 512 + 52 * 97));
    /* shorter than the window: nothing is saved */
    assert_int_equal(shard_kv_sequence_bytes(&GEMMA3_27B, "f16", 16, 1000, 16, 512, &bytes, &e), PX_OK);
    assert_int_equal(bytes, token * 16 * 62 * 63);
    all.n_full_attention = 0;
    shard_kv_layers(&all, &full, &sliding);
    assert_true(full == 0 && sliding == 62);
    all.sliding_window = 0;
    shard_kv_layers(&all, &full, &sliding);
    assert_true(full == 62 && sliding == 0);
}

static void classes(void **state)
{
    static const char *const bad[] = { "", "chat", "chat:4", "chat:4:100", "chat:0:1+1", "chat:4:100+", "chat:4:100+20:", ":4:1+1",
        "chat:4:100+20:90+20", "chat:4:100+20:100+19", "chat:4:0+0", "chat:4:100+20x", "chat:4:100+20:100+20x", "chat:-4:1+1",
        "chat:2000000:1+1", "chat:1:900000000+1" };
    shard_class c;
    px_err e = { 0 };

    (void)state;
    assert_int_equal(shard_class_parse("chat:48:1500+400:3000+800", &c, &e), PX_OK);
    assert_string_equal(c.name, "chat");
    assert_true(c.n == 48 && c.p95[0] == 1500 && c.p95[1] == 400 && c.p99[0] == 3000 && c.p99[1] == 800);
    assert_int_equal(shard_class_parse("one:1:10+0", &c, &e), PX_OK);
    assert_true(c.p99[0] == 10 && c.p99[1] == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        px_err_clear(&e);
        if (shard_class_parse(bad[i], &c, &e) == PX_OK) fail_msg("taken: %s", bad[i]);
        assert_string_equal(e.field, "class");
    }
}

static void capacity_of_classes(void **state)
{
    shard_class c[2] = { { "chat", 48, { 1500, 400 }, { 3000, 800 } }, { "fixed", 2, { 100, 28 }, { 100, 28 } } };
    shard_cache k = { "f16", 16, 512 };
    shard_capacity small, large;
    uint64_t token = 2ull * 80 * 8 * 256, tokens;
    px_err e = { 0 };

    (void)state;
    assert_int_equal(shard_capacity_of(&LLAMA3_70B, &k, 8, 20000 * token, c, 2, &small, &e), PX_OK);
    assert_int_equal(small.need[0].seq_p95, 119 * 16 * token);           /* 1900 tokens: 118.75 pages */
    assert_int_equal(small.need[1].seq_p99, 8 * 16 * token);
    assert_int_equal(small.need[0].fit_p95, 10);
    assert_int_equal(small.need_p95, (48 * 119 + 2 * 8) * 16 * token);
    assert_int_equal(small.need_worst, 50 * 8192 * token);
    assert_true(small.overflow > 0.9);                                    /* 48 sequences of some 700 tokens in 20000 */
    assert_int_equal(shard_capacity_of(&LLAMA3_70B, &k, 8, 120000 * token, c, 2, &large, &e), PX_OK);
    assert_true(large.overflow < 0.01 && large.overflow >= 0);
    /* the last one alone, in twice of what it needs at most */
    assert_int_equal(shard_capacity_of(&LLAMA3_70B, &k, 8, 4 * 8 * 16 * token, c + 1, 1, &large, &e), PX_OK);
    assert_true(large.overflow < 1e-6);
    assert_int_equal(shard_max_context(&LLAMA3_70B, &k, 8, 100 * token, 1, &tokens, &e), PX_OK);
    assert_int_equal(tokens, 96);                                         /* whole pages */
    assert_int_equal(shard_max_context(&LLAMA3_70B, &k, 8, 15 * token, 1, &tokens, &e), PX_OK);
    assert_int_equal(tokens, 0);
    assert_int_equal(shard_max_context(&LLAMA3_70B, &k, 8, token, 0, &tokens, &e), PX_ERANGE);
    assert_string_equal(e.field, "max_sequences");
    k.page = 0;
    px_err_clear(&e);
    assert_int_equal(shard_capacity_of(&LLAMA3_70B, &k, 8, token, c, 2, &large, &e), PX_ERANGE);
    assert_string_equal(e.field, "kv.block");
    px_err_clear(&e);
    k = (shard_cache){ "f17", 16, 16 };
    assert_int_equal(shard_capacity_of(&LLAMA3_70B, &k, 8, token, c, 2, &large, &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "kv.dtype");
    /* the mean of a lognormal lies between its median and its p95; without spread it is the length */
    assert_true(shard_mean_tokens(1500, 3000) > 130 && shard_mean_tokens(1500, 3000) < 1500);
    assert_true(fabs(shard_mean_tokens(700, 700) - 700) < 1e-9 && shard_mean_tokens(0, 5) == 0);
}

static void activations(void **state)
{
    shard_types t;
    shard_split s;
    shard_act a;
    px_err e = { 0 };

    (void)state;
    assert_int_equal(shard_types_format(&t, &heap.a, &MIXTRAL, "bf16", &e), PX_OK);
    assert_int_equal(shard_split_init(&s, &heap.a, &MIXTRAL, &t, 2, SHARD_SPLIT_EVEN, SHARD_VOCAB_UNPADDED, &e), PX_OK);
    assert_int_equal(shard_act_of(&MIXTRAL, &s, 1, 64, 8, SHARD_ACT_CUDA, &a, &e), PX_OK);
    /* experts: input, router, chosen, their inputs, gate and up, outputs, sum (section 6) */
    assert_int_equal(a.ffn, 64ull * (4096 * 2 + 8 * 4 + 2 * 8 + 2 * 4096 * 2 + 2 * 2 * 7168 * 2 + 2 * 4096 * 2 + 4096 * 2));
    assert_int_equal(a.total, 64 * 4096 * 4 + a.ffn);
    assert_int_equal(a.sampling, 0);
    assert_int_equal(shard_act_of(&MIXTRAL, &s, 0, 64, 8, SHARD_ACT_CUDA, &a, &e), PX_OK);
    assert_int_equal(a.sampling, 8 * 32000 * 14 + 8 * 1000 * 4);
    assert_int_equal(shard_act_of(&MIXTRAL, &s, 0, 0, 8, SHARD_ACT_CUDA, &a, &e), PX_ERANGE);
    assert_string_equal(e.field, "token_budget");
    px_err_clear(&e);
    assert_int_equal(shard_act_of(&MIXTRAL, &s, 0, 64, 0, SHARD_ACT_CUDA, &a, &e), PX_ERANGE);
    assert_string_equal(e.field, "max_sequences");
    assert_int_equal(shard_act_of(&MIXTRAL, &s, 2, 64, 8, SHARD_ACT_CUDA, &a, &e), PX_ERANGE);
    px_err_clear(&e);
    assert_int_equal(shard_act_of(&MIXTRAL, &s, 0, UINT32_MAX, UINT32_MAX, SHARD_ACT_CUDA, &a, &e), PX_ERANGE);
    assert_string_equal(e.field, "model");
    shard_split_deinit(&s);
    shard_types_deinit(&t);
}

static void estimates_have_bounds(void **state)
{
    const shard_rank_bytes none = { 0 };
    const shard_estimate all[] = { shard_nccl_bytes(8, 24, SHARD_NCCL_SIMPLE), shard_cuda_context_bytes(),
                                   shard_cuda_graph_bytes(), shard_process_bytes(1), shard_process_bytes(2) };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_true(all[i].low <= all[i].bytes && all[i].bytes < all[i].high && !all[i].measured);
    for (shard_other k = 0; k < SHARD_N_OTHERS; k++) {
        shard_estimate one = shard_other_of(&none, 1, k), many = shard_other_of(&none, 2, k);
        assert_true(one.low <= one.bytes && one.bytes <= one.high && many.low <= many.bytes && many.bytes <= many.high);
        assert_true(one.low <= many.low && one.bytes <= many.bytes && one.high <= many.high);
    }
    assert_int_equal(shard_other_of(&none, 1, SHARD_OTHER_MPI).high, 0);        /* a world of one needs no MPI */
    assert_int_equal(all[0].high, 7ull * 32 * 12582912);         /* the case that a user saw as 4.34 - 1.06 GB and less */
}

static void hosts_and_starts(void **state)
{
    /* Llama-3-70B bf16, 8 ranks, 7 GB/s disk, 55 GB/s links: 20.2 s for the disk, 0.33 s for the upload */
    const uint64_t file = 141107412992ull, shard = 17641054208ull;
    shard_host_case c = { .ranks = 8, .threads = 4, .file = file, .largest_tensor = 2101346304, .shards = 8 * shard,
                          .largest_shard = shard, .pool = 0, .rate = { 7000000000, 55000000000, 2000000000 } };
    shard_host_need n = shard_host_of(&c, SHARD_LOAD_STAGED);

    (void)state;
    assert_true(fabs(n.read_s - 20.16) < 0.01 && fabs(n.upload_s - 0.32) < 0.01 && n.cold_s == n.read_s && n.warm_s == n.cold_s);
    assert_int_equal(n.anonymous, 8 * SHARD_STAGING);
    assert_int_equal(n.page_cache, 0);
    n = shard_host_of(&c, SHARD_LOAD_NAIVE);
    assert_int_equal(n.anonymous, 8 * file);
    assert_true(n.cold_s > n.read_s);
    n = shard_host_of(&c, SHARD_LOAD_MMAP);
    assert_true(n.page_cache == file && n.anonymous == 8 * SHARD_STAGING);
    n = shard_host_of(&c, SHARD_LOAD_MMAP_DROP);
    assert_int_equal(n.page_cache, 8 * c.largest_tensor);
    n = shard_host_of(&c, SHARD_LOAD_REPACK);
    assert_true(n.anonymous == 8 * shard && n.page_cache == file);
    n = shard_host_of(&c, SHARD_LOAD_PRIVATE);
    assert_true(n.anonymous == 8 * shard + 8 * SHARD_STAGING && n.page_cache == 0);
    c.pool = 64000000000;
    n = shard_host_of(&c, SHARD_LOAD_SHARD_MMAP);
    assert_true(n.anonymous == 0 && n.staging == 0 && n.page_cache == 8 * shard && n.read == 8 * shard);
    assert_true(fabs(n.warm_s - 1) < 1e-9 && fabs(n.cold_s - n.read_s - 1) < 1e-9);       /* 64 GB by 32 cores of 2 GB/s */
    for (shard_load l = 0; l < SHARD_N_LOADS; l++) assert_true(strlen(shard_load_name(l)) > 3);
}

static void fine_tunes(void **state)
{
    shard_finetune f = { .batch = 1, .sequence = 2048, .replicas = 1, .tp = 1 };
    shard_finetune_bytes b;
    px_err e = { 0 };

    (void)state;
    assert_int_equal(shard_finetune_of(&LLAMA_7B, &shard_optimizers[1], &f, 0, &b, &e), PX_OK);
    assert_int_equal(b.total - b.activations, 107814649856ull);          /* 7B, Adam mixed: 107.8 GB */
    assert_int_equal(b.activations, 34ull * 2048 * 4096 * 32);
    f.checkpointing = true;
    f.zero = 3;
    f.replicas = 8;
    assert_int_equal(shard_finetune_of(&LLAMA_7B, &shard_optimizers[1], &f, 0, &b, &e), PX_OK);
    assert_int_equal(b.total - b.activations, 107814649856ull / 8);
    assert_int_equal(b.activations, 2ull * 2048 * 4096 * 32 + 34ull * 2048 * 4096);
    f.zero = 1;                                                           /* weights and gradients stay whole */
    assert_int_equal(shard_finetune_of(&LLAMA_7B, &shard_optimizers[1], &f, 0, &b, &e), PX_OK);
    assert_true(b.weights == 2 * 6738415616ull && b.grads == b.weights && b.master == 6738415616ull / 2);
    assert_int_equal(shard_finetune_of(&LLAMA_7B, &shard_optimizers[4], &f, 0, &b, &e), PX_OK);
    assert_int_equal(b.moments, (2 * 6738415616ull + 6738415616ull / 256 * 8 + 7) / 8);
    f = (shard_finetune){ .batch = 1, .sequence = 128, .replicas = 1, .tp = 2, .lora_rank = 16 };
    assert_int_equal(shard_finetune_of(&LLAMA_7B, &shard_optimizers[0], &f, 3800000000, &b, &e), PX_OK);
    assert_int_equal(b.trainable, 16ull * 32 * (4 * 8192 + 3 * 15104));
    assert_int_equal(b.base, 1900000000);
    assert_int_equal(b.weights + b.grads + b.master + b.moments, 16 * b.trainable / 2);

    static const struct { size_t at; uint32_t v; const char *field; } bad[] = {
        { offsetof(shard_finetune, batch), 0, "batch" }, { offsetof(shard_finetune, sequence), 0, "sequence" },
        { offsetof(shard_finetune, replicas), 0, "replicas" }, { offsetof(shard_finetune, zero), 4, "zero" },
        { offsetof(shard_finetune, tp), 0, "tp" }, { offsetof(shard_finetune, lora_rank), 1u << 30, "lora_rank" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        shard_finetune g = f;
        px_err_clear(&e);
        memcpy((char *)&g + bad[i].at, &bad[i].v, 4);
        assert_int_equal(shard_finetune_of(&LLAMA_7B, &shard_optimizers[0], &g, 0, &b, &e), PX_ERANGE);
        assert_string_equal(e.field, bad[i].field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_of_experts_and_norms), cmocka_unit_test(windows_in_some_layers), cmocka_unit_test(classes),
        cmocka_unit_test(capacity_of_classes), cmocka_unit_test(activations), cmocka_unit_test(estimates_have_bounds),
        cmocka_unit_test(hosts_and_starts), cmocka_unit_test(fine_tunes),
    };
    px_heap_init(&heap, "test");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
