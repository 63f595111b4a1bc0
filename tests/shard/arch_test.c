#include "tests/testlib.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shard/model/family.h"

static const shard_arch SMALL = { .family = "llama", .n_layer = 3, .d_model = 96, .d_ff = 160, .n_head = 6, .n_kv_head = 2,
                                  .head_dim = 32, .n_vocab = 321, .n_ctx = 256, .rms_eps = 1e-5f, .rope_theta = 1e4,
                                  .bos = 1, .eos = { 2, 3 }, .n_eos = 2 };

static void names_every_tensor_once(void **state)
{
    static char seen[SHARD_N_ROLES][64];
    char name[64];

    (void)state;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        shard_tensor_name(r, 7, seen[r], sizeof seen[r]);
        assert_int_equal(strstr(seen[r], "blk.7.") == seen[r], shard_role_get(r)->per_layer);
        for (shard_role q = 0; q < r; q++) assert_string_not_equal(seen[r], seen[q]);
    }
    assert_string_equal(shard_tensor_name(SHARD_TOKEN_EMBD, 0, name, sizeof name), "token_embd.weight");
    assert_string_equal(shard_tensor_name(SHARD_ATTN_OUT, 12, name, sizeof name), "blk.12.attn_output.weight");
    assert_string_equal(shard_tensor_name(SHARD_ATTN_Q_BIAS, 0, name, sizeof name), "blk.0.attn_q.bias");
    assert_string_equal(shard_tensor_name(SHARD_ROUTER, UINT32_MAX, name, sizeof name), "blk.4294967295.ffn_gate_inp.weight");
    assert_string_equal(shard_tensor_name(SHARD_TOKEN_EMBD, 0, name, 6), "token");              /* cut, terminated */
}

static void shapes_follow_the_numbers(void **state)
{
    static const struct { shard_role r; uint64_t rows, cols; } want[] = {
        { SHARD_TOKEN_EMBD, 321, 96 }, { SHARD_OUTPUT, 321, 96 }, { SHARD_OUTPUT_NORM, 1, 96 }, { SHARD_ATTN_NORM, 1, 96 },
        { SHARD_ATTN_Q, 192, 96 }, { SHARD_ATTN_K, 64, 96 }, { SHARD_ATTN_V, 64, 96 }, { SHARD_ATTN_OUT, 96, 192 },
        { SHARD_ATTN_Q_BIAS, 1, 192 }, { SHARD_ATTN_K_BIAS, 1, 64 }, { SHARD_ATTN_V_BIAS, 1, 64 }, { SHARD_Q_NORM, 1, 32 },
        { SHARD_K_NORM, 1, 32 }, { SHARD_FFN_NORM, 1, 96 }, { SHARD_FFN_GATE, 160, 96 }, { SHARD_FFN_UP, 160, 96 },
        { SHARD_FFN_DOWN, 96, 160 }, { SHARD_ROUTER, 4, 96 },
        { SHARD_ATTN_POST_NORM, 1, 96 }, { SHARD_FFN_POST_NORM, 1, 96 },
    };
    shard_arch m = SMALL;
    uint64_t rows, cols;

    (void)state;
    _Static_assert(sizeof want / sizeof *want == SHARD_N_ROLES, "every role has a shape");
    m.n_expert = 4;
    for (size_t i = 0; i < SHARD_N_ROLES; i++) {
        shard_arch_shape(&m, want[i].r, &rows, &cols);
        assert_true(rows == want[i].rows && cols == want[i].cols);
        assert_true(!shard_role_get(want[i].r)->vector || rows == 1);
    }
}

static void has_what_the_flags_say(void **state)
{
    shard_arch m = SMALL;

    (void)state;
    assert_true(shard_arch_has(&m, SHARD_OUTPUT) && shard_arch_has(&m, SHARD_ATTN_Q) && shard_arch_has(&m, SHARD_FFN_DOWN));
    assert_false(shard_arch_has(&m, SHARD_ROUTER) || shard_arch_has(&m, SHARD_Q_NORM) || shard_arch_has(&m, SHARD_ATTN_V_BIAS) ||
                 shard_arch_has(&m, SHARD_ATTN_POST_NORM) || shard_arch_has(&m, SHARD_FFN_POST_NORM));
    m.sandwich_norms = m.tied = m.qkv_bias = m.qk_norm = true;
    m.n_expert = 2;
    assert_false(shard_arch_has(&m, SHARD_OUTPUT));
    assert_true(shard_arch_has(&m, SHARD_ROUTER) && shard_arch_has(&m, SHARD_K_NORM) && shard_arch_has(&m, SHARD_ATTN_K_BIAS));
    assert_true(shard_arch_has(&m, SHARD_ATTN_POST_NORM) && shard_arch_has(&m, SHARD_FFN_POST_NORM));
}

static void checks_every_number(void **state)
{
    px_err e = {0};
    shard_arch m = SMALL;

    (void)state;
    assert_int_equal(shard_arch_check(&m, &e), PX_OK);
    assert_int_equal(shard_arch_check_served(&m, &e), PX_OK);
    m.bos = UINT32_MAX;
    m.n_eos = 0;
    assert_int_equal(shard_arch_check(&m, &e), PX_OK);

#define BAD(change, want, name) do { m = SMALL; change; px_err_clear(&e); assert_int_equal(shard_arch_check(&m, &e), want); \
        assert_int_equal(e.code, want); assert_string_equal(e.field, name); } while (0)
    BAD(m.family[0] = 0, PX_EINVAL, "family");
    BAD(memset(m.name, 'x', sizeof m.name), PX_EINVAL, "family");
    BAD(m.n_layer = 0, PX_ERANGE, "n_layer");
    BAD(m.n_layer = UINT32_MAX, PX_ERANGE, "n_layer");
    BAD(m.d_model = 0, PX_ERANGE, "d_model");
    BAD(m.d_model = 1u << 30, PX_ERANGE, "d_model");
    BAD(m.d_ff = 0, PX_ERANGE, "d_ff");
    BAD(m.n_head = 0, PX_ERANGE, "n_head");
    BAD(m.n_kv_head = 0, PX_ERANGE, "n_kv_head");
    BAD(m.n_kv_head = 4, PX_ERANGE, "n_kv_head");
    BAD(m.n_kv_head = 12, PX_ERANGE, "n_kv_head");
    BAD(m.head_dim = 0, PX_ERANGE, "head_dim");
    BAD(m.head_dim = 31, PX_ERANGE, "head_dim");
    BAD(m.head_dim = SHARD_MAX_HEAD_DIM + 2, PX_ERANGE, "head_dim");
    BAD(m.n_vocab = 0, PX_ERANGE, "n_vocab");
    BAD(m.n_vocab = UINT32_MAX, PX_ERANGE, "n_vocab");
    BAD(m.n_ctx = 0, PX_ERANGE, "n_ctx");
    BAD(m.n_expert = 4, PX_ERANGE, "n_expert_used");
    BAD(m.n_expert_used = 1, PX_ERANGE, "n_expert_used");
    BAD(m.n_full_attention = 1, PX_ERANGE, "n_full_attention");                 /* without a window */
    BAD((m.sliding_window = 8, m.n_full_attention = 3), PX_ERANGE, "n_full_attention");
    BAD(m.rms_eps = 0, PX_ERANGE, "rms_eps");
    BAD(m.rms_eps = NAN, PX_ERANGE, "rms_eps");
    BAD(m.rope_theta = -1, PX_ERANGE, "rope_theta");
    BAD(m.rope_theta = (double)INFINITY, PX_ERANGE, "rope_theta");
    BAD(m.rope_kind = (kern_rope_kind)9, PX_EINVAL, "rope_kind");
    BAD(m.rope_kind = KERN_ROPE_LINEAR, PX_ERANGE, "rope_factor");
    BAD((m.rope_kind = KERN_ROPE_LLAMA3, m.rope_factor = 8), PX_ERANGE, "rope_low_freq");
    BAD((m.rope_kind = KERN_ROPE_LLAMA3, m.rope_factor = 8, m.rope_low_freq = 1), PX_ERANGE, "rope_high_freq");
    BAD((m.rope_kind = KERN_ROPE_LLAMA3, m.rope_factor = 8, m.rope_low_freq = 1, m.rope_high_freq = 4), PX_ERANGE, "rope_ctx_orig");
    BAD((m.rope_kind = KERN_ROPE_LLAMA3, m.rope_factor = 8, m.rope_low_freq = 4, m.rope_high_freq = 4, m.rope_ctx_orig = 64),
        PX_ERANGE, "rope_high_freq");
    BAD(m.n_rope_divisors = 8, PX_EMISMATCH, "rope_divisor");
    BAD(m.n_rope_divisors = 16, PX_ERANGE, "rope_divisor");                     /* all zero */
    BAD(m.bos = 321, PX_ERANGE, "bos");
    BAD(m.eos[1] = 321, PX_ERANGE, "eos");
    BAD(m.n_eos = 9, PX_ERANGE, "n_eos");

#define UNSERVED(change, name) do { m = SMALL; change; px_err_clear(&e); \
        assert_int_equal(shard_arch_check_served(&m, &e), PX_EUNSUP); assert_string_equal(e.field, name); \
        assert_true(e.found[0] && e.expected[0]); } while (0)
    UNSERVED(strcpy(m.family, "gemma2"), "family");
    assert_string_equal(e.expected, "llama, mistral, qwen2 or qwen3");
    UNSERVED(m.n_expert = 4, "n_expert");
    UNSERVED(m.qkv_bias = true, "qkv_bias");
    UNSERVED(m.qk_norm = true, "qk_norm");
    UNSERVED(strcpy(m.family, "qwen2"), "qkv_bias");                            /* it has to have them */
    UNSERVED(strcpy(m.family, "qwen3"), "qk_norm");
    UNSERVED(m.sliding_window = 8, "sliding_window");
    UNSERVED((strcpy(m.family, "mistral"), m.sliding_window = 8, m.n_full_attention = 1), "n_full_attention");
    UNSERVED(m.sandwich_norms = true, "sandwich_norms");
    UNSERVED(m.head_dim = 258, "head_dim");
#define SERVED(change) do { m = SMALL; change; assert_int_equal(shard_arch_check_served(&m, &e), PX_OK); } while (0)
    SERVED((strcpy(m.family, "mistral"), m.sliding_window = 8));
    SERVED((strcpy(m.family, "qwen2"), m.qkv_bias = true));
    SERVED((strcpy(m.family, "qwen3"), m.qk_norm = true, m.sliding_window = 8));
}

static void finds_a_family_by_each_of_its_words(void **state)
{
    char list[160];

    (void)state;
    for (size_t i = 0; i < shard_n_families; i++) {
        const shard_family *f = &shard_families[i];
        assert_true(f->name && f->model_type && f->architecture && f->n_ctx && f->rope_theta > 0);
        assert_ptr_equal(shard_family_find(SHARD_FAMILY_MODEL_TYPE, f->model_type, false), f);
        assert_ptr_equal(shard_family_find(SHARD_FAMILY_MODEL_TYPE, f->model_type, true), f->served ? f : NULL);
        assert_ptr_equal(shard_family_find(SHARD_FAMILY_ARCHITECTURE, f->architecture, false), f);
        if (f->gguf) assert_ptr_equal(shard_family_find(SHARD_FAMILY_GGUF, f->gguf, false), f);
        /* what is served needs nothing that the forward pass has not */
        if (f->served) assert_false(f->sandwich_norms || f->experts || f->full_every);
    }
    assert_null(shard_family_find(SHARD_FAMILY_NAME, "bert", false));
    assert_string_equal(shard_family_list(SHARD_FAMILY_GGUF, true, list, sizeof list), "llama, qwen2 or qwen3");
    assert_string_equal(shard_family_list(SHARD_FAMILY_NAME, false, list, sizeof list),
                        "llama, mistral, qwen2, qwen3, mixtral, gemma2 or gemma3");
    assert_string_equal(shard_family_list(SHARD_FAMILY_NAME, false, list, 9), "llama, m");
}

static void cuts_a_name_at_a_character(void **state)
{
    shard_arch m = SMALL;
    char text[120];

    (void)state;
    shard_arch_set_name(&m, "SmolLM2", 7);
    assert_string_equal(m.name, "SmolLM2");
    memset(text, 'x', sizeof text);
    memcpy(text + 94, "\xC3\xA9", 2);                   /* its second byte would be the 96th */
    shard_arch_set_name(&m, text, sizeof text);
    assert_int_equal(strlen(m.name), 94);
    text[97] = (char)0xFF;                              /* behind the cut nothing is read */
    shard_arch_set_name(&m, text, sizeof text);
    assert_int_equal(strlen(m.name), 94);
    text[40] = (char)0xFF;
    shard_arch_set_name(&m, text, sizeof text);
    assert_string_equal(m.name, "");
    shard_arch_set_name(&m, "a\xFF", 2);
    assert_string_equal(m.name, "");
    shard_arch_set_name(&m, "", 0);
    assert_string_equal(m.name, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_every_tensor_once),
        cmocka_unit_test(shapes_follow_the_numbers),
        cmocka_unit_test(has_what_the_flags_say),
        cmocka_unit_test(checks_every_number),
        cmocka_unit_test(finds_a_family_by_each_of_its_words),
        cmocka_unit_test(cuts_a_name_at_a_character),
    };
    return cmocka_run_group_tests_name("shard_arch", tests, NULL, NULL);
}
