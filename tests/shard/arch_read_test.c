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
        assert_int_equal(shard_type_of(&t, SHARD_FFN_UP, 0), KERN_F32);              /* stored types */
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
    size_t live = heap.count.live;
    px_heap_deinit(&heap);
    return live != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_architecture_of_any_source),
        cmocka_unit_test(knows_models_by_name),
        cmocka_unit_test(reads_a_model_file_strictly),
        cmocka_unit_test(reads_a_set),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(survives_every_oom),
    };
    return cmocka_run_group_tests_name("shard_arch_read", tests, up, down);
}
