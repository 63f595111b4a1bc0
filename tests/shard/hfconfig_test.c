#include "tests/testlib.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/model/family.h"
#include "shard/store/hfconfig.h"
#include "tests/shard/image.h"

static px_heap heap;
static char revision[96];
static kern_dtype dtype;

static shard_arch read_golden(const char *name, bool served)
{
    px_err e = {0};
    shard_arch m;
    px_code rc = shard_hfconfig_read(&m, &dtype, revision, sizeof revision, served, &heap.a, test_golden(name), &e);
    if (rc) print_error("%s: %s: %s\n", name, e.field, e.text);
    assert_int_equal(rc, PX_OK);
    return m;
}

static bool same(const shard_arch *x, const shard_arch *y)
{
    return !strcmp(x->family, y->family) && x->n_layer == y->n_layer && x->d_model == y->d_model && x->d_ff == y->d_ff &&
           x->n_head == y->n_head && x->n_kv_head == y->n_kv_head && x->head_dim == y->head_dim && x->n_vocab == y->n_vocab &&
           x->n_ctx == y->n_ctx && x->rms_eps == y->rms_eps && x->tied == y->tied && x->rope_kind == y->rope_kind &&
           x->rope_theta == y->rope_theta && x->rope_factor == y->rope_factor && x->rope_low_freq == y->rope_low_freq &&
           x->rope_high_freq == y->rope_high_freq && x->rope_ctx_orig == y->rope_ctx_orig && x->bos == y->bos &&
           x->n_eos == y->n_eos && !memcmp(x->eos, y->eos, sizeof x->eos) && x->qkv_bias == y->qkv_bias &&
           x->qk_norm == y->qk_norm && x->sliding_window == y->sliding_window && x->n_full_attention == y->n_full_attention &&
           x->sandwich_norms == y->sandwich_norms;
}

static void reads_both_forms_of_every_golden_model(void **state)
{
    static const struct { const char *name; uint32_t d, h, kv, hd, ff; double theta; float eps; bool tied; kern_rope_kind rope;
                          double factor; } want[] = {
        { "llama",        96,  6, 6, 16, 160, 1e4, 1e-6f, false, KERN_ROPE_NONE,   0 },
        { "llama3",       96,  6, 2, 16, 224, 5e5, 1e-5f, false, KERN_ROPE_LLAMA3, 8 },
        { "llama_linear", 96,  6, 3, 16, 160, 1e4, 1e-5f, false, KERN_ROPE_LINEAR, 4 },
        { "smollm_like",  144, 9, 3, 16, 160, 1e5, 1e-5f, true,  KERN_ROPE_NONE,   0 },
        { "mqa",          96,  4, 1, 24, 160, 1e4, 1e-5f, false, KERN_ROPE_NONE,   0 },
        { "mistral",      96,  6, 2, 16, 160, 1e4, 1e-5f, false, KERN_ROPE_NONE,   0 },
        { "qwen2",        96,  6, 2, 16, 160, 1e6, 1e-6f, true,  KERN_ROPE_NONE,   0 },
        { "qwen3",        96,  6, 2, 32, 160, 1e6, 1e-6f, false, KERN_ROPE_NONE,   0 },
    };
    char name[64];

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        snprintf(name, sizeof name, "tiny/arch/%s/config.json", want[i].name);
        shard_arch m = read_golden(name, true);
        assert_true(m.n_layer == 3 && m.n_vocab == 321 && m.n_ctx == 256);
        assert_true(m.d_model == want[i].d && m.n_head == want[i].h && m.n_kv_head == want[i].kv);
        assert_true(m.head_dim == want[i].hd && m.d_ff == want[i].ff && m.tied == want[i].tied);
        assert_true(m.rope_theta == want[i].theta && m.rms_eps == want[i].eps);
        assert_true(m.rope_kind == want[i].rope && m.rope_factor == want[i].factor);
        assert_string_equal(m.family, i < 5 ? "llama" : want[i].name);
        assert_true(m.sliding_window == (i == 5 ? 8 : 0) && m.qkv_bias == (i == 6) && m.qk_norm == (i == 7));
        assert_int_equal(dtype, KERN_BF16);
        snprintf(name, sizeof name, "tiny/arch/%s/config.v5.json", want[i].name);
        shard_arch v5 = read_golden(name, true);
        assert_true(same(&m, &v5));
        assert_int_equal(dtype, KERN_BF16);
    }
    shard_arch m = read_golden("tiny/arch/llama3/config.json", true);
    assert_true(m.rope_low_freq == 1 && m.rope_high_freq == 4 && m.rope_ctx_orig == 64);
    assert_true(m.bos == 318 && m.n_eos == 2 && m.eos[0] == 319 && m.eos[1] == 320);
}

static void reads_other_families_for_the_planner(void **state)
{
    (void)state;
    shard_arch m = read_golden("tiny/arch/mistral/config.json", false);
    assert_true(m.sliding_window == 8 && !strcmp(m.family, "mistral") && m.n_kv_head == 2);
    m = read_golden("tiny/arch/qwen2/config.json", false);
    assert_true(m.sliding_window == 0 && m.qkv_bias && m.tied);
    m = read_golden("tiny/arch/qwen2/config.v5.json", false);
    assert_true(m.sliding_window == 0 && m.rope_theta == 1e6);
    m = read_golden("tiny/arch/qwen3/config.json", false);
    assert_true(m.qk_norm && m.head_dim == 32 && m.d_model == 96);
    m = read_golden("tiny/arch/later/mixtral/config.json", false);
    assert_true(m.n_expert == 4 && m.n_expert_used == 2);
}

/* Where the numbers come from that a config leaves to its family, and which layers slide. */
static void reads_windows_of_every_family(void **state)
{
#define SIZES "\"hidden_size\":96,\"num_hidden_layers\":4,\"num_attention_heads\":8,\"num_key_value_heads\":4," \
              "\"intermediate_size\":160,\"vocab_size\":321"
    static const struct { const char *text, *family; uint32_t window, full; bool tied, sandwich, qk_norm; } want[] = {
        { "{\"model_type\":\"mistral\"," SIZES "}", "mistral", 4096, 0, false, false, false },
        { "{\"model_type\":\"mistral\",\"sliding_window\":null," SIZES "}", "mistral", 0, 0, false, false, false },
        { "{\"model_type\":\"mixtral\"," SIZES "}", "mixtral", 0, 0, false, false, false },
        { "{\"model_type\":\"llama\",\"sliding_window\":7," SIZES "}", "llama", 7, 0, false, false, false },
        { "{\"model_type\":\"qwen2\",\"sliding_window\":7," SIZES "}", "qwen2", 0, 0, false, false, false },
        { "{\"model_type\":\"qwen2\",\"sliding_window\":7,\"use_sliding_window\":true,\"max_window_layers\":3," SIZES "}",
          "qwen2", 7, 3, false, false, false },
        { "{\"model_type\":\"qwen2\",\"sliding_window\":7,\"use_sliding_window\":true," SIZES "}", "qwen2", 0, 0, false, false, false },
        { "{\"model_type\":\"qwen3\",\"sliding_window\":7,\"use_sliding_window\":true,\"layer_types\":[\"full_attention\","
          "\"sliding_attention\",\"full_attention\",\"sliding_attention\"]," SIZES "}", "qwen3", 7, 2, false, false, true },
        { "{\"model_type\":\"gemma2\",\"attn_logit_softcapping\":50.0,\"final_logit_softcapping\":30.0,"
          "\"hidden_act\":\"gelu_pytorch_tanh\"," SIZES "}", "gemma2", 4096, 2, true, true, false },
        { "{\"model_type\":\"gemma2\",\"tie_word_embeddings\":false,\"sliding_window\":9," SIZES "}", "gemma2", 9, 2, false, true, false },
        { "{\"model_type\":\"gemma3_text\",\"architectures\":[\"Gemma3ForCausalLM\"],\"sliding_window\":512,"
          "\"sliding_window_pattern\":3," SIZES "}", "gemma3", 512, 1, true, true, true },
        { "{\"model_type\":\"gemma3\",\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"vision_config\":{},"
          "\"torch_dtype\":\"bfloat16\",\"eos_token_id\":[1,106],\"text_config\":{\"model_type\":\"gemma3_text\","
          "\"hidden_size\":2560,\"intermediate_size\":10240,\"num_hidden_layers\":34,\"sliding_window\":1024,"
          "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"}}}", "gemma3", 1024, 5, true, true, true },
        { "{\"model_type\":\"gemma3_text\",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8.0,"
          "\"rope_theta\":1000000},\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":10000}}}", "gemma3", 4096, 4,
          true, true, true },
    };
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        shard_arch m;
        px_err e = {0};
        if (shard_hfconfig_read(&m, &dtype, revision, 96, false, &heap.a, text_write(want[i].text, "config.json"), &e))
            fail_msg("%s: %s: %s", want[i].text, e.field, e.text);
        assert_string_equal(m.family, want[i].family);
        if (m.sliding_window != want[i].window || m.n_full_attention != want[i].full)
            fail_msg("%s: window %u, %u see all", want[i].text, m.sliding_window, m.n_full_attention);
        assert_true(m.tied == want[i].tied && m.sandwich_norms == want[i].sandwich && m.qk_norm == want[i].qk_norm);
        /* what is served: windows of all layers or none, in families that have them; others are refused by name */
        const shard_family *f = shard_family_find(SHARD_FAMILY_NAME, want[i].family, true);
        px_code rc = shard_hfconfig_read(&m, &dtype, revision, 96, true, &heap.a, text_write(want[i].text, "config.json"), &e);
        if (!f) {
            assert_int_equal(rc, PX_EUNSUP);
            assert_string_equal(e.field, "model_type");
        } else if (want[i].full || (want[i].window && !f->slides)) {
            assert_int_equal(rc, PX_OK);
            assert_int_equal(shard_arch_check_served(&m, &e), PX_EUNSUP);
            assert_string_equal(e.field, want[i].full ? "n_full_attention" : "sliding_window");
        } else {
            assert_int_equal(rc, PX_OK);
            assert_int_equal(shard_arch_check_served(&m, &e), PX_OK);
        }
    }
    /* a picture model's config leaves heads and vocabulary to its family */
    shard_arch m;
    assert_int_equal(shard_hfconfig_read(&m, &dtype, revision, 96, false, &heap.a, text_write(want[11].text, "config.json"), NULL), PX_OK);
    assert_true(m.n_head == 8 && m.n_kv_head == 4 && m.head_dim == 256 && m.n_vocab == 262208 && m.n_ctx == 131072);
    assert_true(dtype == KERN_BF16 && m.n_layer == 34 && m.rope_factor == 8);
    static const char *const bad[] = {
        "{\"model_type\":\"gemma3\",\"text_config\":7}", "{\"model_type\":\"gemma2\",\"layer_types\":[\"full_attention\"]," SIZES "}",
        "{\"model_type\":\"gemma2\",\"layer_types\":\"all\"," SIZES "}",
        "{\"model_type\":\"gemma2\",\"layer_types\":[\"chunked_attention\",\"a\",\"b\",\"c\"]," SIZES "}",
    };
    static const char *const field[] = { "text_config", "layer_types", "layer_types", "layer_types" };
    for (size_t i = 0; i < 4; i++) {
        px_err e = {0};
        assert_int_not_equal(shard_hfconfig_read(&m, &dtype, revision, 96, false, &heap.a, text_write(bad[i], "config.json"), &e), PX_OK);
        assert_string_equal(e.field, field[i]);
    }
}

/* ---- one key changed ---- */

#define BASE "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":96,\"num_hidden_layers\":3," \
             "\"num_attention_heads\":6,\"intermediate_size\":160,\"vocab_size\":321}"

/* BASE with the members of `change` (JSON) put over it; members that are null are as good as absent. */
static px_code read_with(const char *change, shard_arch *m, px_err *e)
{
    json_t *base = json_loads(BASE, 0, NULL), *over = json_loads(change, 0, NULL);
    assert_non_null(over);
    assert_int_equal(json_object_update(base, over), 0);
    char *text = json_dumps(base, 0);
    px_code rc = shard_hfconfig_read(m, &dtype, revision, sizeof revision, true, &heap.a, text_write(text, "config.json"), e);
    free(text);
    json_decref(base);
    json_decref(over);
    return rc;
}

static void knows_the_defaults(void **state)
{
    shard_arch m;
    px_err e = {0};

    (void)state;
    assert_int_equal(read_with("{}", &m, &e), PX_OK);
    assert_true(m.n_kv_head == 6 && m.head_dim == 16 && m.rope_theta == 1e4 && m.rms_eps == 1e-6f && !m.tied);
    assert_true(m.n_ctx == 2048 && m.rope_kind == KERN_ROPE_NONE && m.bos == UINT32_MAX && m.n_eos == 0);
    assert_true(dtype == KERN_F32 && !m.name[0] && !revision[0]);
    assert_int_equal(read_with("{\"num_key_value_heads\":null,\"head_dim\":null,\"rope_scaling\":null,\"sliding_window\":null,"
                               "\"bos_token_id\":null,\"rope_theta\":10000,\"rms_norm_eps\":1e-06,\"dtype\":\"float16\","
                               "\"_name_or_path\":\"org/model\",\"_commit_hash\":\"abc\",\"eos_token_id\":[],"
                               "\"model_type\":null,\"quantization_config\":null}", &m, &e), PX_OK);
    assert_true(m.n_kv_head == 6 && dtype == KERN_F16);
    assert_string_equal(m.name, "org/model");
    assert_string_equal(revision, "abc");
    assert_int_equal(read_with("{\"rope_parameters\":{\"rope_theta\":5,\"rope_type\":\"default\"},\"rope_theta\":7}", &m, &e), PX_OK);
    assert_true(m.rope_theta == 5);
    /* both spellings, and they differ: the classic one counts, alone */
    assert_int_equal(read_with("{\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},\"rope_parameters\":{\"rope_theta\":5,"
                               "\"rope_type\":\"default\"},\"is_causal\":true}", &m, &e), PX_OK);
    assert_true(m.rope_kind == KERN_ROPE_LINEAR && m.rope_factor == 4 && m.rope_theta == 1e4);
    assert_int_equal(read_with("{\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":5,\"rope_type\":\"default\"}}", &m, &e), PX_OK);
    assert_true(m.rope_kind == KERN_ROPE_NONE && m.rope_theta == 5);
}

static void refuses_by_name(void **state)
{
    static const struct { const char *change; px_code code; const char *field, *found; } bad[] = {
        { "{\"model_type\":\"gemma\",\"architectures\":[\"GemmaForCausalLM\"]}", PX_EUNSUP, "model_type", "gemma" },
        { "{\"architectures\":[\"LlamaForSequenceClassification\"]}", PX_EUNSUP, "architectures", "LlamaForSequenceClassification" },
        { "{\"model_type\":null,\"architectures\":[\"FalconForCausalLM\"]}", PX_EUNSUP, "architectures", "FalconForCausalLM" },
        { "{\"model_type\":null,\"architectures\":null}", PX_ENOTFOUND, "model_type", "" },
        { "{\"architectures\":[]}", PX_EMISMATCH, "architectures", "a list" },
        { "{\"model_type\":7}", PX_EMISMATCH, "model_type", "an integer" },
        { "{\"attention_bias\":true}", PX_EUNSUP, "attention_bias", "true" },
        { "{\"mlp_bias\":true}", PX_EUNSUP, "mlp_bias", "true" },
        { "{\"model_type\":\"qwen3\",\"architectures\":null,\"attention_bias\":true}", PX_EUNSUP, "attention_bias", "true" },
        { "{\"model_type\":\"qwen2_vl\",\"architectures\":null}", PX_EUNSUP, "model_type", "qwen2_vl" },
        { "{\"model_type\":\"bert\",\"architectures\":[\"BertModel\"]}", PX_EUNSUP, "model_type", "bert" },
        { "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForTokenClassification\"]}", PX_EUNSUP, "architectures", "Qwen2ForTokenClassification" },
        { "{\"is_encoder_decoder\":true}", PX_EUNSUP, "is_encoder_decoder", "true" },
        { "{\"use_mrope\":true}", PX_EUNSUP, "use_mrope", "true" },
        { "{\"is_causal\":false}", PX_EUNSUP, "is_causal", "false" },
        { "{\"is_causal\":1}", PX_EMISMATCH, "is_causal", "an integer" },
        { "{\"vision_config\":{}}", PX_EUNSUP, "vision_config", "an object" },
        { "{\"text_config\":{\"hidden_size\":96}}", PX_EUNSUP, "text_config", "an object" },
        { "{\"num_experts\":128}", PX_EUNSUP, "num_experts", "128" },
        { "{\"num_local_experts\":4}", PX_EUNSUP, "num_local_experts", "4" },
        { "{\"num_local_experts\":0,\"num_experts\":\"many\"}", PX_EUNSUP, "num_experts", "a string" },
        { "{\"mlp_bias\":\"no\"}", PX_EMISMATCH, "mlp_bias", "a string" },
        { "{\"hidden_act\":\"gelu\"}", PX_EUNSUP, "hidden_act", "gelu" },
        { "{\"quantization_config\":{\"quant_method\":\"gptq\"}}", PX_EUNSUP, "quantization_config", "gptq" },
        { "{\"partial_rotary_factor\":0.5}", PX_EUNSUP, "partial_rotary_factor", "0.5" },
        { "{\"rope_parameters\":{\"partial_rotary_factor\":0.25}}", PX_EUNSUP, "rope_parameters.partial_rotary_factor", "0.25" },
        { "{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", PX_EUNSUP, "layer_types", "sliding_attention" },
        { "{\"final_logit_softcapping\":30.0}", PX_EUNSUP, "final_logit_softcapping", "30" },
        { "{\"logit_scale\":true}", PX_EUNSUP, "logit_scale", "true" },
        { "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", PX_EUNSUP, "rope_scaling.rope_type", "yarn" },
        { "{\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}}", PX_EUNSUP, "rope_scaling.rope_type", "dynamic" },
        { "{\"rope_parameters\":{\"rope_type\":\"longrope\"}}", PX_EUNSUP, "rope_parameters.rope_type", "longrope" },
        { "{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}", PX_EUNSUP, "rope_parameters.rope_type", NULL },
        { "{\"rope_scaling\":{\"factor\":4}}", PX_EUNSUP, "rope_scaling.rope_type", NULL },
        { "{\"rope_scaling\":\"linear\"}", PX_EMISMATCH, "rope_scaling", "a string" },
        { "{\"rope_scaling\":{\"type\":\"linear\"}}", PX_ENOTFOUND, "rope_scaling.factor", NULL },
        { "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":-1}}", PX_ERANGE, "rope_factor", NULL },
        { "{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4}}", PX_ENOTFOUND,
          "rope_scaling.original_max_position_embeddings", NULL },
        { "{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
          "\"original_max_position_embeddings\":64}}", PX_ERANGE, "rope_high_freq", NULL },
        { "{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
          "\"original_max_position_embeddings\":0}}", PX_ERANGE, "rope_scaling", NULL },
        { "{\"rope_theta\":0}", PX_ERANGE, "rope_theta", NULL },
        { "{\"rope_theta\":\"10000\"}", PX_EMISMATCH, "rope_theta", "a string" },
        { "{\"hidden_size\":null}", PX_ENOTFOUND, "hidden_size", NULL },
        { "{\"hidden_size\":96.0}", PX_EMISMATCH, "hidden_size", "a real number" },
        { "{\"hidden_size\":-96}", PX_ERANGE, "hidden_size", NULL },
        { "{\"hidden_size\":4294967296}", PX_ERANGE, "hidden_size", NULL },
        { "{\"hidden_size\":97}", PX_ERANGE, "num_attention_heads", NULL },
        { "{\"num_attention_heads\":0}", PX_ERANGE, "num_attention_heads", NULL },
        { "{\"num_key_value_heads\":4}", PX_ERANGE, "n_kv_head", NULL },
        { "{\"num_key_value_heads\":0}", PX_ERANGE, "n_kv_head", NULL },
        { "{\"num_hidden_layers\":4000000000}", PX_ERANGE, "n_layer", NULL },
        { "{\"head_dim\":15}", PX_ERANGE, "head_dim", NULL },
        { "{\"head_dim\":514}", PX_ERANGE, "head_dim", NULL },
        { "{\"rms_norm_eps\":0}", PX_ERANGE, "rms_eps", NULL },
        { "{\"rms_norm_eps\":-1e-6}", PX_ERANGE, "rms_eps", NULL },
        { "{\"bos_token_id\":321}", PX_ERANGE, "bos_token_id", NULL },
        { "{\"bos_token_id\":-1}", PX_ERANGE, "bos_token_id", NULL },
        { "{\"eos_token_id\":[1,321]}", PX_ERANGE, "eos_token_id", NULL },
        { "{\"eos_token_id\":[1,\"2\"]}", PX_EMISMATCH, "eos_token_id", "a string" },
        { "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", PX_ERANGE, "eos_token_id", NULL },
        { "{\"torch_dtype\":\"float8_e4m3fn\"}", PX_EUNSUP, "torch_dtype", "float8_e4m3fn" },
        { "{\"dtype\":\"int8\"}", PX_EUNSUP, "dtype", "int8" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        shard_arch m;
        px_err e = {0};
        px_code rc = read_with(bad[i].change, &m, &e);
        if (rc != bad[i].code || strcmp(e.field, bad[i].field))
            print_error("%s: %s: %s: %s\n", bad[i].change, px_code_name(rc), e.field, e.text);
        assert_int_equal(rc, bad[i].code);
        assert_string_equal(e.field, bad[i].field);
        if (bad[i].found) assert_string_equal(e.found, bad[i].found);
        assert_non_null(strstr(e.file, "config.json"));
    }
}

static void refuses_what_is_no_configuration(void **state)
{
    static const struct { const char *text; px_code code; } bad[] = {
        { "", PX_EINVAL }, { "{", PX_EINVAL }, { "[]", PX_EMISMATCH }, { "{\"a\":1,\"a\":2}", PX_EINVAL },
        { "{\"model_type\":\"ll\xFF\"}", PX_EINVAL }, { "{\"hidden_size\":1e999}", PX_EINVAL }, { "{} {}", PX_EINVAL },
    };
    shard_arch m;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        px_err e = {0};
        assert_int_equal(shard_hfconfig_read(&m, &dtype, revision, 96, true, &heap.a, text_write(bad[i].text, "config.json"), &e),
                         bad[i].code);
        assert_non_null(strstr(e.file, "config.json"));
    }
    px_err e = {0};
    assert_int_equal(shard_hfconfig_read(&m, &dtype, revision, 96, true, &heap.a, "/nonexistent/config.json", &e), PX_ENOTFOUND);
}

/* generation_config.json adds to what ends a generation, and says nothing else. */
static void generation_adds_its_ends(void **state)
{
    static const struct { const char *text; px_code code; const char *field; uint32_t n; } want[] = {
        { "{\"eos_token_id\":[5,2,7,5],\"bos_token_id\":9999,\"temperature\":0.6}", PX_OK, "", 3 },
        { "{\"eos_token_id\":7}", PX_OK, "", 2 },
        { "{\"eos_token_id\":null}", PX_OK, "", 1 },
        { "{}", PX_OK, "", 1 },
        { "{\"eos_token_id\":[321]}", PX_ERANGE, "eos_token_id", 0 },
        { "{\"eos_token_id\":[1,3,4,5,6,7,8,9]}", PX_ERANGE, "eos_token_id", 0 },
        { "{\"eos_token_id\":\"2\"}", PX_EMISMATCH, "eos_token_id", 0 },
        { "[]", PX_EMISMATCH, "", 0 },
        { "{", PX_EINVAL, "", 0 },
    };
    shard_arch m;

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        px_err e = {0};
        assert_int_equal(read_with("{\"eos_token_id\":2}", &m, &e), PX_OK);
        const char *path = text_write(want[i].text, "generation_config.json");
        assert_int_equal(shard_hfconfig_add_generation(&m, &heap.a, path, &e), want[i].code);
        assert_string_equal(e.field, want[i].field);
        if (want[i].code) assert_string_equal(e.file, path);
        else assert_true(m.n_eos == want[i].n && m.eos[0] == 2 && m.bos == UINT32_MAX);
    }
    px_err e = {0};
    assert_int_equal(shard_hfconfig_add_generation(&m, &heap.a, "no such folder/generation_config.json", &e), PX_OK);
    assert_int_equal(e.code, PX_OK);
}

static px_code read_and_drop(px_alloc *a, px_err *e)
{
    shard_arch m;
    return shard_hfconfig_read(&m, &dtype, revision, 96, true, a, test_golden("tiny/arch/llama3/config.json"), e);
}

static void survives_every_oom(void **state) { (void)state; test_oom_sweep(read_and_drop); }

static int up(void **state) { (void)state; px_heap_init(&heap, "test"); return 0; }
static int down(void **state)
{
    (void)state;
    return test_heap_end(&heap, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_both_forms_of_every_golden_model),
        cmocka_unit_test(reads_other_families_for_the_planner),
        cmocka_unit_test(reads_windows_of_every_family),
        cmocka_unit_test(knows_the_defaults),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_what_is_no_configuration),
        cmocka_unit_test(generation_adds_its_ends),
        cmocka_unit_test(survives_every_oom),
    };
    return cmocka_run_group_tests_name("shard_hfconfig", tests, up, down);
}
