#include "tests/testlib.h"

#include <stdio.h>
#include <string.h>

#include "shard/store/checkpoint.h"
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
static px_code read_gguf(px_alloc *a, px_err *e) { return read_and_drop(a, e, "tiny/gguf/smollm_like_f16/model.gguf"); }

static void survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(read_config);
    test_oom_sweep(read_gguf);
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
        cmocka_unit_test(reads_a_set),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(survives_every_oom),
    };
    return cmocka_run_group_tests_name("shard_arch_read", tests, up, down);
}
