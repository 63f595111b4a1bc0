#include "tests/testlib.h"

#include <stdio.h>
#include <string.h>

#include "shard/plan/bytes.h"
#include "shard/store/checkpoint.h"
#include "shard/store/models.h"
#include "shard/store/sharder.h"
#include "tests/shard/image.h"

static px_heap heap;

static void reads_the_architecture_of_any_source(void **state)
{
    static const struct { const char *path, *family; kern_dtype matrix, norm; } want[] = {
        { "tiny/arch/llama3", "llama", KERN_BF16, KERN_BF16 },
        { "tiny/arch/llama3/config.json", "llama", KERN_BF16, KERN_BF16 },
        { "tiny/arch/llama3/model.safetensors", "llama", KERN_BF16, KERN_BF16 },
        { "tiny/arch/qwen2", "qwen2", KERN_BF16, KERN_BF16 },
        { "tiny/arch/qwen3/config.v5.json", "qwen3", KERN_BF16, KERN_BF16 },
        { "tiny/arch/mistral", "mistral", KERN_BF16, KERN_BF16 },
        { "tiny/arch/later/mixtral", "mixtral", KERN_BF16, KERN_BF16 },
        { "tiny/gguf/smollm_like_f16/model.gguf", "llama", KERN_F16, KERN_F32 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        px_err e = {0};
        shard_arch m;
        shard_types t;
        px_code rc = shard_arch_read(&m, &t, &heap.a, test_golden(want[i].path), &e);
        if (rc) print_error("%s: %s: %s\n", want[i].path, e.field, e.text);
        assert_int_equal(rc, PX_OK);
        assert_string_equal(m.family, want[i].family);
        assert_int_equal(t.n_layer, 3);
        assert_int_equal(shard_type_of(&t, SHARD_FFN_UP, 2), want[i].matrix);
        assert_int_equal(shard_type_of(&t, SHARD_TOKEN_EMBD, 0), want[i].matrix);
        assert_int_equal(shard_type_of(&t, SHARD_FFN_NORM, 2), want[i].norm);
        assert_int_equal(shard_type_of(&t, SHARD_OUTPUT_NORM, 0), want[i].norm);
        shard_types_deinit(&t);
    }
}

static const struct { const char *name; uint64_t params; } KNOWN[] = {
    { "llama-1-7b", 6738415616 }, { "llama-1-13b", 13015864320 }, { "llama-1-30b", 32528943616 }, { "llama-1-65b", 65285660672 },
    { "llama-2-7b", 6738415616 }, { "llama-2-13b", 13015864320 }, { "llama-2-70b", 68976648192 }, { "llama-3-8b", 8030261248 },
    { "llama-3-70b", 70553706496 }, { "llama-3.1-8b", 8030261248 }, { "llama-3.1-70b", 70553706496 },
    { "llama-3.1-405b", 405853388800 }, { "tinyllama-1.1b", 1100048384 }, { "smollm2-135m", 134515008 },
    { "smollm2-360m", 361821120 }, { "smollm2-1.7b", 1711376384 }, { "mistral-7b-v0.1", 7241732096 },
    { "mistral-7b-v0.3", 7248023552 }, { "mixtral-8x7b", 46702792704 }, { "qwen2.5-0.5b", 494032768 },
    { "qwen2.5-7b", 7615616512 }, { "qwen2.5-32b", 32763876352 }, { "qwen2.5-72b", 72706203648 }, { "qwen3-8b", 8190735360 },
    { "qwen3-32b", 32762123264 }, { "gemma-2-2b", 2614341888 }, { "gemma-2-9b", 9241705984 }, { "gemma-2-27b", 27227128320 },
    { "gemma-3-1b", 999885952 }, { "gemma-3-4b", 3880263168 }, { "gemma-3-12b", 11766034176 }, { "gemma-3-27b", 27009346304 },
};

/* Every built-in architecture: as many parameters as its authors' files hold. */
static void knows_models_by_name(void **state)
{
    (void)state;
    assert_int_equal(shard_n_models, sizeof KNOWN / sizeof *KNOWN);
    for (size_t i = 0; i < shard_n_models; i++) {
        px_err e = {0};
        shard_arch m;
        shard_types t;
        assert_string_equal(shard_models[i].name, KNOWN[i].name);
        if (shard_arch_read(&m, &t, &heap.a, KNOWN[i].name, &e)) fail_msg("%s: %s: %s", KNOWN[i].name, e.field, e.text);
        assert_string_equal(m.name, KNOWN[i].name);
        if (shard_params(&m) != KNOWN[i].params)
            fail_msg("%s: %llu parameters", KNOWN[i].name, (unsigned long long)shard_params(&m));
        shard_types_deinit(&t);
    }
    assert_ptr_equal(shard_model_find("Llama_2_7B"), shard_model_find("llama-2-7b"));
    assert_null(shard_model_find("llama-2"));
    px_err e = {0};
    shard_arch m;
    shard_types t;
    assert_int_equal(shard_arch_read(&m, &t, &heap.a, "llama-2-7v", &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "model");
    assert_non_null(strstr(e.text, "llama-2-7b"));
}

static const char GOOD[] = "family: qwen3\ndtype: float16\nnum_hidden_layers: 2\nhidden_size: 96\nintermediate_size: 160\n"
    "num_attention_heads: 6\nnum_key_value_heads: 2\nhead_dim: 16\nvocab_size: 321\nmax_position_embeddings: 256\n"
    "rope_theta: 1e6\nrms_norm_eps: 1e-6\n";

static void reads_a_model_file_strictly(void **state)
{
    static const struct { const char *more, *field; px_code code; } bad[] = {
        { "head_dim: 16\n", "head_dim", PX_EEXIST }, { "hidden_sise: 1\n", "hidden_sise", PX_ENOTFOUND },
        { "sliding_window: many\n", "sliding_window", PX_EMISMATCH }, { "sliding_window: -1\n", "sliding_window", PX_EMISMATCH },
        { "sliding_window: 9999999999\n", "sliding_window", PX_EMISMATCH }, { "sliding_window: ''\n", "sliding_window", PX_EMISMATCH },
        { "qk_norm: yes\n", "qk_norm", PX_EMISMATCH }, { "qk_norm: [true]\n", "qk_norm", PX_EINVAL },
        { "qk_norm: &a true\n", "qk_norm", PX_EINVAL }, { "qk_norm: !!bool true\n", "qk_norm", PX_EINVAL },
        { "? [a]\n: b\n", "document", PX_EINVAL }, { "---\na: b\n", "document", PX_EINVAL }, { "\"\n", "document", PX_EINVAL },
        { "full_attention_layers: 1\n", "n_full_attention", PX_ERANGE }, { "num_local_experts: 4\n", "n_expert_used", PX_ERANGE },
    };
    char text[1024];
    kern_dtype dtype;
    shard_arch m;

    (void)state;
    px_err e = {0};
    assert_int_equal(shard_model_parse(&m, &dtype, "dir/mine.yaml", GOOD, sizeof GOOD - 1, &e), PX_OK);
    assert_string_equal(m.name, "mine");
    assert_true(dtype == KERN_F16 && m.n_kv_head == 2 && m.rope_theta == 1e6 && !m.tied);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        px_err_clear(&e);
        int n = snprintf(text, sizeof text, "%s%s", GOOD, bad[i].more);
        px_code rc = shard_model_parse(&m, &dtype, "mine.yaml", text, (size_t)n, &e);
        if (rc != bad[i].code || strcmp(e.field, bad[i].field)) fail_msg("%s: %s: %s: %s", bad[i].more, px_code_name(rc), e.field, e.text);
        assert_string_equal(e.file, "mine.yaml");
    }
    static const char *const none[] = { "", "family", "[a]", "family: llama\n" };
    for (size_t i = 0; i < 4; i++) {
        px_err_clear(&e);
        assert_int_not_equal(shard_model_parse(&m, &dtype, "mine.yaml", none[i], strlen(none[i]), &e), PX_OK);
    }
    /* and from a file */
    shard_types t;
    px_err_clear(&e);
    assert_int_equal(shard_arch_read(&m, &t, &heap.a, text_write(GOOD, "mine.yaml"), &e), PX_OK);
    assert_true(!strcmp(m.family, "qwen3") && shard_type_of(&t, SHARD_FFN_UP, 1) == KERN_F16);
    shard_types_deinit(&t);
    /* no weights there: the sharder says so */
    shard_checkpoint *c;
    assert_int_equal(shard_checkpoint_open(&c, &heap.a, text_write(GOOD, "mine.yaml"), &e), PX_EUNSUP);
}

/* Two layers of a made model, F16 matrices; what a family has more than llama stands in the name it is made by. */
static const char *make_gguf(const char *arch, bool experts, bool merged)
{
    static const char *const plain[] = { "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "post_attention_norm",
                                         "post_ffw_norm", "attn_q_norm", "attn_k_norm", "ffn_gate_inp" };
    static const char *const ffn[] = { "ffn_gate", "ffn_up", "ffn_down" };
    static image m;
    static char key[96];
    bool gemma = !strncmp(arch, "gemma", 5);
    uint64_t n_tensors = 2, at = 0;
    struct { const char *tail; uint32_t v; } u32[] = { { "block_count", 2 }, { "embedding_length", 32 }, { "feed_forward_length", 64 },
        { "attention.head_count", 2 }, { "attention.head_count_kv", 1 }, { "context_length", 64 }, { "attention.key_length", 16 },
        { "attention.value_length", 16 }, { "attention.sliding_window", 8 }, { "expert_count", 4 }, { "expert_used_count", 2 } };
    size_t n_u32 = experts ? 11 : gemma ? 9 : 8;

    for (int l = 0; l < 2; l++) n_tensors += 6 + (gemma ? 2 : 0) + (!strcmp(arch, "gemma3") ? 2 : 0) + (experts ? 1 : 0) + (experts && !merged ? 12 : 3);
    m.n = 0;
    gguf_head(&m, 3, n_tensors, n_u32 - (experts ? 1 : 0) + 2 + (gemma ? 1 : 0));
    gguf_str(&m, "general.architecture", arch);
    for (size_t i = 0; i < n_u32; i++) {
        if (experts && i == 8) continue;
        snprintf(key, sizeof key, "%s.%s", arch, u32[i].tail);
        gguf_u32(&m, key, u32[i].v);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_f32(&m, key, 1e-5f);
    snprintf(key, sizeof key, "%s.attn_logit_softcapping", arch);
    if (gemma) gguf_f32(&m, key, 50);
#define TENSOR(name, nd, c, r, p, type) do { gguf_tensor(&m, name, nd, (uint64_t[]){ c, r, p, 1 }, type, at); \
        at += (c) * (r) * (p) * ((type) ? 2 : 4); } while (0)
    TENSOR("token_embd.weight", 2, 32, 48, 1, 1);
    TENSOR("output_norm.weight", 1, 32, 1, 1, 0);
    for (uint32_t l = 0; l < 2; l++) {
        for (size_t i = 0; i < 11; i++) {
            if ((i >= 6 && i < 8 && !gemma) || (i >= 8 && i < 10 && strcmp(arch, "gemma3")) || (i == 10 && !experts)) continue;
            snprintf(key, sizeof key, "blk.%u.%s.weight", l, plain[i]);
            if (i == 10) TENSOR(key, 2, 32, 4, 1, 0);
            else if (i >= 1 && i <= 4) TENSOR(key, 2, 32, (i == 2 || i == 3 ? 16u : 32u), 1, 1);
            else TENSOR(key, 1, (i >= 8 ? 16u : 32u), 1, 1, 0);
        }
        for (size_t i = 0; i < 3; i++) {
            uint64_t c = i == 2 ? 64 : 32, r = i == 2 ? 32 : 64;
            if (experts && !merged) {
                for (uint32_t x = 0; x < 4; x++) {
                    snprintf(key, sizeof key, "blk.%u.%s.%u.weight", l, ffn[i], x);
                    TENSOR(key, 2, c, r, 1, 1);
                }
                continue;
            }
            snprintf(key, sizeof key, "blk.%u.%s%s.weight", l, ffn[i], experts ? "_exps" : "");
            if (experts) TENSOR(key, 3, c, r, 4, 1);
            else TENSOR(key, 2, c, r, 1, 1);
        }
    }
#undef TENSOR
    image_pad(&m, 32);
    image_zeros(&m, at);
    return image_write(&m, "made.gguf");
}

static void reads_a_gguf_of_other_families(void **state)
{
    static const struct { const char *arch; bool experts, merged; uint32_t window, full; } want[] = {
        { "llama", true, true, 0, 0 }, { "llama", true, false, 0, 0 }, { "gemma2", false, false, 8, 1 }, { "gemma3", false, false, 8, 0 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const char *path = make_gguf(want[i].arch, want[i].experts, want[i].merged);
        shard_checkpoint *c;
        shard_arch m;
        shard_types t;
        px_err e = {0};
        if (shard_arch_read(&m, &t, &heap.a, path, &e)) fail_msg("%s %zu: %s: %s", want[i].arch, i, e.field, e.text);
        assert_string_equal(m.family, want[i].arch);
        assert_true(m.n_expert == (want[i].experts ? 4 : 0) && m.sliding_window == want[i].window && m.n_full_attention == want[i].full);
        assert_true(m.sandwich_norms == (want[i].window != 0) && m.qk_norm == !strcmp(want[i].arch, "gemma3") && m.tied);
        assert_int_equal(shard_type_of(&t, SHARD_FFN_DOWN, 1), KERN_F16);
        assert_int_equal(shard_type_of(&t, SHARD_ATTN_NORM, 1), KERN_F32);
        shard_types_deinit(&t);
        /* and none of them is served */
        assert_int_equal(shard_checkpoint_open(&c, &heap.a, path, &e), PX_EUNSUP);
    }
}

static void reads_a_set(void **state)
{
    px_err e = {0};
    char out[512], manifest[600];
    shard_checkpoint *c;
    shard_pack_result result;
    shard_arch m;
    shard_types t;

    (void)state;
    snprintf(out, sizeof out, "%s/set", test_tmpdir());
    snprintf(manifest, sizeof manifest, "%s/manifest.json", out);
    assert_int_equal(shard_checkpoint_open(&c, &heap.a, test_golden("tiny/gguf/smollm_like_f16/model.gguf"), &e), PX_OK);
    shard_pack_args args = { .source = c, .out = out, .ranks = 2, .split = SHARD_SPLIT_BALANCED, .vocab = SHARD_VOCAB_PADDED64 };
    assert_int_equal(shard_pack(&heap.a, &args, &result, &e), PX_OK);
    const char *const paths[] = { out, manifest };
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(shard_arch_read(&m, &t, &heap.a, paths[i], &e), PX_OK);
        assert_true(m.n_layer == 3 && m.d_model == 144 && m.tied && m.rope_theta == 1e5);
        assert_int_equal(shard_type_of(&t, SHARD_FFN_UP, 0), KERN_F16);              /* stored types */
        shard_types_deinit(&t);
    }
    shard_checkpoint_close(c);
}

static void says_what_is_wrong(void **state)
{
    static const struct { const char *text, *name, *field; px_code code; } bad[] = {
        { "{}", "a/config.json", "model_type", PX_ENOTFOUND },
        { "{\"model_type\":\"gpt2\"}", "a/config.json", "model_type", PX_EUNSUP },
        { "hello", "a/model.bin", "magic", PX_EINVAL },
        { "GGUFGGUFGGUFGGUF", "a/model.gguf", "version", PX_EUNSUP },
    };
    shard_arch m;
    shard_types t;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        px_err e = {0};
        const char *path = text_write(bad[i].text, bad[i].name);
        assert_int_equal(shard_arch_read(&m, &t, &heap.a, path, &e), bad[i].code);
        assert_string_equal(e.field, bad[i].field);
        assert_string_equal(e.file, path);
        assert_null(t.layer);
    }
    px_err e = {0};
    assert_int_equal(shard_arch_read(&m, &t, &heap.a, "/nonexistent", &e), PX_ENOTFOUND);
    assert_string_equal(e.file, "/nonexistent");
}

static px_code read_and_drop(px_alloc *a, px_err *e, const char *path)
{
    shard_arch m;
    shard_types t;
    px_code rc = shard_arch_read(&m, &t, a, test_golden(path), e);
    shard_types_deinit(&t);
    return rc;
}

static px_code read_config(px_alloc *a, px_err *e) { return read_and_drop(a, e, "tiny/arch/mqa/config.json"); }
static px_code read_name(px_alloc *a, px_err *e)
{
    shard_arch m;
    shard_types t;
    px_code rc = shard_arch_read(&m, &t, a, "gemma-3-1b", e);
    shard_types_deinit(&t);
    return rc;
}
static px_code read_gguf(px_alloc *a, px_err *e) { return read_and_drop(a, e, "tiny/gguf/smollm_like_f16/model.gguf"); }

static void survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(read_config);
    test_oom_sweep(read_gguf);
    test_oom_sweep(read_name);
}

static int up(void **state) { (void)state; px_heap_init(&heap, "test"); return 0; }
static int down(void **state)
{
    (void)state;
    return test_heap_end(&heap, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_architecture_of_any_source),
        cmocka_unit_test(knows_models_by_name),
        cmocka_unit_test(reads_a_model_file_strictly),
        cmocka_unit_test(reads_a_gguf_of_other_families),
        cmocka_unit_test(reads_a_set),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(survives_every_oom),
    };
    return cmocka_run_group_tests_name("shard_arch_read", tests, up, down);
}
