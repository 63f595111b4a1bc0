#include "shard/store/hfconfig.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/io.h"
#include "shard/model/family.h"

#define MAX_CONFIG_BYTES 1000000u

static px_code refuse(const char *field, const char *found, const char *expected, px_err *e)
{
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, expected);
}

static const char *type_word(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:  return "an object";
    case JSON_ARRAY:   return "a list";
    case JSON_STRING:  return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL:    return "a real number";
    case JSON_NULL:    return "null";
    default:           return "a truth value";
    }
}

/* What a refusal says that it found: the value where it is short, else its type. */
typedef struct words { char s[48]; } words;

static words found_of(const json_t *v)
{
    words w;
    if (json_is_integer(v)) snprintf(w.s, sizeof w.s, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v)) snprintf(w.s, sizeof w.s, "%.9g", json_real_value(v));
    else if (json_is_boolean(v)) snprintf(w.s, sizeof w.s, "%s", json_is_true(v) ? "true" : "false");
    else snprintf(w.s, sizeof w.s, "%s", type_word(v));
    return w;
}

/* null means the same as no key. */
static json_t *get(json_t *o, const char *key)
{
    json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static px_code as_u32(json_t *v, const char *field, uint32_t *out, px_err *e)
{
    if (!json_is_integer(v)) return px_mismatch(e, field, type_word(v), "an integer");
    if (json_integer_value(v) < 0 || json_integer_value(v) > (json_int_t)UINT32_MAX)
        return px_fail(e, PX_ERANGE, field, "%" JSON_INTEGER_FORMAT " is not from 0 to %u", json_integer_value(v), UINT32_MAX);
    *out = (uint32_t)json_integer_value(v);
    return PX_OK;
}

/* *out keeps its value, the default, when the key is absent. */
static px_code opt_u32(json_t *o, const char *key, uint32_t *out, px_err *e)
{
    json_t *v = get(o, key);
    return v ? as_u32(v, key, out, e) : PX_OK;
}

static px_code need_u32(json_t *o, const char *key, uint32_t *out, px_err *e)
{
    json_t *v = get(o, key);
    return v ? as_u32(v, key, out, e) : px_fail(e, PX_ENOTFOUND, key, "the file has no such key");
}

static px_code opt_real(json_t *o, const char *key, const char *field, double *out, px_err *e)
{
    json_t *v = get(o, key);
    if (!v) return PX_OK;
    if (!json_is_number(v)) return px_mismatch(e, field, type_word(v), "a number");
    *out = json_number_value(v);
    return PX_OK;
}

static px_code opt_bool(json_t *o, const char *key, bool *out, px_err *e)
{
    json_t *v = get(o, key);
    if (!v) return PX_OK;
    if (!json_is_boolean(v)) return px_mismatch(e, key, type_word(v), "true or false");
    *out = json_is_true(v);
    return PX_OK;
}

static px_code opt_str(json_t *o, const char *key, const char *field, const char **out, px_err *e)
{
    json_t *v = get(o, key);
    if (!v) return PX_OK;
    if (!json_is_string(v)) return px_mismatch(e, field, type_word(v), "a string");
    *out = json_string_value(v);
    return PX_OK;
}

/* ---- family, and what would change the arithmetic ---- */

static px_code read_family(json_t *o, bool served, const shard_family **out, px_err *e)
{
    px_code rc;
    const char *type = NULL, *arch = NULL;
    json_t *list = get(o, "architectures");
    char known[160];

    if ((rc = opt_str(o, "model_type", "model_type", &type, e))) return rc;
    if (list) {
        if (json_array_size(list) != 1 || !json_is_string(json_array_get(list, 0)))
            return px_mismatch(e, "architectures", type_word(list), "a list of one string");
        arch = json_string_value(json_array_get(list, 0));
    }
    if (!type && !arch) return px_fail(e, PX_ENOTFOUND, "model_type", "the file names no architecture");
    const shard_family_word word = type ? SHARD_FAMILY_MODEL_TYPE : SHARD_FAMILY_ARCHITECTURE;
    if (!(*out = shard_family_find(word, type ? type : arch, served)))
        return refuse(type ? "model_type" : "architectures", type ? type : arch, shard_family_list(word, served, known, sizeof known), e);
    /* the language model of a picture model goes by both names */
    if (arch && strcmp(arch, (*out)->architecture) && !((*out)->sizes && !strncmp(arch, "Gemma3For", 9)))
        return refuse("architectures", arch, (*out)->architecture, e);
    return PX_OK;
}

static px_code refuse_what_differs(json_t *o, const shard_family *f, bool served, px_err *e)
{
    static const char *const must_be_false[] = { "attention_bias", "mlp_bias", "is_encoder_decoder", "use_mrope" };
    static const char *const must_be_absent[] = { "attn_logit_softcapping", "final_logit_softcapping", "logit_scale" };
    /* of what is served: a part of the model that would be left out, or that its tensors alone would tell of */
    static const char *const must_be_nothing[] = { "vision_config", "audio_config", "text_config", "num_local_experts", "num_experts", "n_routed_experts" };
    px_code rc;
    const char *act = "silu", *word;
    double rotary = 1;
    bool causal = true;
    json_t *v;

    if ((rc = opt_str(o, "hidden_act", "hidden_act", &act, e))) return rc;
    if (!f->sandwich_norms && strcmp(act, "silu") && strcmp(act, "swish")) return refuse("hidden_act", act, "silu", e);
    for (size_t i = 0; i < sizeof must_be_false / sizeof *must_be_false; i++) {
        bool on = false;
        if ((rc = opt_bool(o, must_be_false[i], &on, e))) return rc;
        if (on) return refuse(must_be_false[i], "true", "false", e);
    }
    if ((rc = opt_bool(o, "is_causal", &causal, e))) return rc;
    if (!causal) return refuse("is_causal", "false", "true: an encoder under the name of a language model is not served", e);
    for (size_t i = 0; !f->sandwich_norms && i < sizeof must_be_absent / sizeof *must_be_absent; i++)
        if ((v = get(o, must_be_absent[i]))) return refuse(must_be_absent[i], found_of(v).s, "no such key", e);
    for (size_t i = 0; served && i < sizeof must_be_nothing / sizeof *must_be_nothing; i++)
        if ((v = get(o, must_be_nothing[i])) && !(json_is_integer(v) && json_integer_value(v) == 0))
            return refuse(must_be_nothing[i], found_of(v).s, "no such key: a dense language model", e);
    if ((v = get(o, "quantization_config"))) {
        word = json_string_value(json_object_get(v, "quant_method"));
        return refuse("quantization_config", word ? word : type_word(v), "no such key: F32, F16 or BF16 tensors", e);
    }
    if ((rc = opt_real(o, "partial_rotary_factor", "partial_rotary_factor", &rotary, e))) return rc;
    if (rotary != 1) return refuse("partial_rotary_factor", found_of(get(o, "partial_rotary_factor")).s, "1", e);
    if (!strcmp(f->model_type, "llama") && (v = get(o, "layer_types"))) {
        if (!json_is_array(v)) return px_mismatch(e, "layer_types", type_word(v), "a list");
        for (size_t i = 0; i < json_array_size(v); i++) {
            word = json_string_value(json_array_get(v, i));
            if (!word || strcmp(word, "full_attention"))
                return refuse("layer_types", word ? word : "no string", "full_attention", e);
        }
    }
    return PX_OK;
}

/* ---- numbers ---- */

/* How many layers see everything although the model has a window: a list says it, a period, or (Qwen) where sliding begins. */
static px_code read_pattern(json_t *o, const shard_family *f, shard_arch *m, px_err *e)
{
    px_code rc;
    json_t *list = get(o, "layer_types");
    uint32_t every = f->full_every, first = 28, full = 0;

    if (list && strcmp(f->model_type, "llama")) {               /* words that are not known are refused, window or none */
        if (!json_is_array(list)) return px_mismatch(e, "layer_types", type_word(list), "a list");
        if (json_array_size(list) != m->n_layer)
            return px_fail(e, PX_EMISMATCH, "layer_types", "%zu layers in the list, %u in the model", json_array_size(list), m->n_layer);
        for (size_t i = 0; i < json_array_size(list); i++) {
            const char *word = json_string_value(json_array_get(list, i));
            if (word && !strcmp(word, "full_attention")) full++;
            else if (!word || strcmp(word, "sliding_attention"))
                return refuse("layer_types", word ? word : "no string", "full_attention or sliding_attention", e);
        }
    }
    if (!m->sliding_window) return PX_OK;
    if (list) {
        if (!strcmp(f->model_type, "llama")) full = m->n_layer;          /* refused above unless all of them say so */
    } else if (f->asks_to_slide) {
        if ((rc = opt_u32(o, "max_window_layers", &first, e))) return rc;
        full = first;
    } else if (every) {
        if ((rc = opt_u32(o, "_sliding_window_pattern", &every, e)) || (rc = opt_u32(o, "sliding_window_pattern", &every, e))) return rc;
        full = every ? m->n_layer / every : 0;
    }
    if (full >= m->n_layer) m->sliding_window = full = 0;
    m->n_full_attention = full;
    return PX_OK;
}

static px_code read_sizes(json_t *o, const shard_family *f, bool served, shard_arch *m, px_err *e)
{
    px_code rc;
    double eps = 1e-6;
    bool window = !f->asks_to_slide;
    bool experts = f->experts || (!served && get(o, "num_local_experts"));

    m->n_ctx = f->n_ctx;
    m->head_dim = f->head_dim;
    m->tied = f->tied;
    m->sandwich_norms = f->sandwich_norms;
    if (f->sizes) {
        m->n_layer = f->sizes->n_layer;
        m->d_model = f->sizes->d_model;
        m->d_ff = f->sizes->d_ff;
        m->n_head = f->sizes->n_head;
        m->n_vocab = f->sizes->n_vocab;
    }
#define SIZE(key, to) (f->sizes ? opt_u32(o, key, to, e) : need_u32(o, key, to, e))
    if ((rc = SIZE("num_hidden_layers", &m->n_layer)) || (rc = SIZE("hidden_size", &m->d_model)) ||
        (rc = SIZE("intermediate_size", &m->d_ff)) || (rc = SIZE("num_attention_heads", &m->n_head)) ||
        (rc = SIZE("vocab_size", &m->n_vocab)) || (rc = opt_u32(o, "max_position_embeddings", &m->n_ctx, e)) ||
        (rc = opt_u32(o, "head_dim", &m->head_dim, e)) || (rc = opt_real(o, "rms_norm_eps", "rms_norm_eps", &eps, e)) ||
        (rc = opt_bool(o, "tie_word_embeddings", &m->tied, e)) || (rc = opt_bool(o, "use_sliding_window", &window, e)))
        return rc;
#undef SIZE
    /* null says: as many as query heads; nothing says the family's default */
    m->n_kv_head = f->n_kv_head && !json_object_get(o, "num_key_value_heads") ? f->n_kv_head : m->n_head;
    if ((rc = opt_u32(o, "num_key_value_heads", &m->n_kv_head, e))) return rc;
    if (window) {
        if (!json_object_get(o, "sliding_window")) m->sliding_window = f->window;        /* null is none, nothing is the default */
        if ((rc = opt_u32(o, "sliding_window", &m->sliding_window, e))) return rc;
    }
    if ((rc = read_pattern(o, f, m, e))) return rc;
    m->rms_eps = (float)eps;
    m->qkv_bias = f->qkv_bias;
    m->qk_norm = f->qk_norm;
    if (experts) {
        m->n_expert = 8;
        m->n_expert_used = 2;
        if ((rc = opt_u32(o, "num_local_experts", &m->n_expert, e)) ||
            (rc = opt_u32(o, "num_experts_per_tok", &m->n_expert_used, e)))
            return rc;
        if (!m->n_expert) m->n_expert_used = 0;
    }
    if (get(o, "head_dim") && !m->head_dim) return px_fail(e, PX_ERANGE, "head_dim", "0 is not from 2 to %u", SHARD_MAX_HEAD_DIM);
    if (!m->head_dim) {
        if (!m->n_head || m->d_model % m->n_head)
            return px_fail(e, PX_ERANGE, "num_attention_heads", "hidden_size %u is not a multiple of %u heads", m->d_model,
                           m->n_head);
        m->head_dim = m->d_model / m->n_head;
    }
    return PX_OK;
}

static px_code need_real(json_t *o, const char *group, const char *key, double *out, px_err *e)
{
    char field[96];
    snprintf(field, sizeof field, "%s.%s", group, key);
    if (!get(o, key)) return px_fail(e, PX_ENOTFOUND, field, "the file has no such key");
    return opt_real(o, key, field, out, e);
}

/* rope_scaling (classic) or rope_parameters (transformers 5: it holds rope_theta too).  Of both transformers takes the first, and
 * nothing of the other. */
static px_code read_rope(json_t *o, const shard_family *f, shard_arch *m, px_err *e)
{
    px_code rc;
    json_t *r = get(o, "rope_scaling"), *kinds;
    const char *group = r && !(json_is_object(r) && !json_object_size(r)) ? "rope_scaling" : "rope_parameters", *type = NULL;
    char field[96];
    double ctx = 0, rotary = 1;

    m->rope_theta = f->rope_theta;
    if ((rc = opt_real(o, "rope_theta", "rope_theta", &m->rope_theta, e))) return rc;
    if (!(r = get(o, group))) return PX_OK;
    if (!json_is_object(r)) return px_mismatch(e, group, type_word(r), "an object");
    if (f->sizes && (kinds = get(r, "full_attention"))) r = kinds;          /* a rope a kind of layer: that of the longest reach */
    if (!json_is_object(r)) return px_mismatch(e, group, type_word(r), "an object");
    if ((rc = opt_real(r, "rope_theta", "rope_parameters.rope_theta", &m->rope_theta, e)) ||
        (rc = opt_real(r, "partial_rotary_factor", "rope_parameters.partial_rotary_factor", &rotary, e)))
        return rc;
    if (rotary != 1)
        return refuse("rope_parameters.partial_rotary_factor", found_of(get(r, "partial_rotary_factor")).s, "1", e);
    snprintf(field, sizeof field, "%s.rope_type", group);
    if ((rc = opt_str(r, "type", field, &type, e)) || (rc = opt_str(r, "rope_type", field, &type, e))) return rc;
    if (!type) {
        const char *key;
        json_t *v;
        json_object_foreach(r, key, v)              /* a rope a kind of layer, or a scaling without its name */
            if (strcmp(key, "rope_theta") && strcmp(key, "partial_rotary_factor") && !json_is_null(v))
                return px_fail(e, PX_EUNSUP, field, "%s has %s and no rope_type", group, key);
        return PX_OK;
    }
    if (!strcmp(type, "default")) return PX_OK;
    if (strcmp(type, "linear") && strcmp(type, "llama3")) return refuse(field, type, "default, linear or llama3", e);
    if ((rc = need_real(r, group, "factor", &m->rope_factor, e))) return rc;
    m->rope_kind = KERN_ROPE_LINEAR;
    if (!strcmp(type, "linear")) return PX_OK;
    m->rope_kind = KERN_ROPE_LLAMA3;
    if ((rc = need_real(r, group, "low_freq_factor", &m->rope_low_freq, e)) ||
        (rc = need_real(r, group, "high_freq_factor", &m->rope_high_freq, e)) ||
        (rc = need_real(r, group, "original_max_position_embeddings", &ctx, e)))
        return rc;
    if (!(ctx >= 1 && ctx <= (double)(1u << 30)))
        return px_fail(e, PX_ERANGE, group, "original_max_position_embeddings %g", ctx);
    m->rope_ctx_orig = (uint32_t)ctx;
    return PX_OK;
}

/* The ids that end a generation, beside those that are there. */
static px_code add_ends(json_t *o, shard_arch *m, px_err *e)
{
    px_code rc;
    json_t *eos = get(o, "eos_token_id");
    size_t n = json_is_array(eos) ? json_array_size(eos) : eos != NULL;
    uint32_t id, k;

    for (size_t i = 0; i < n; i++) {
        if ((rc = as_u32(json_is_array(eos) ? json_array_get(eos, i) : eos, "eos_token_id", &id, e))) return rc;
        if (id >= m->n_vocab) return px_fail(e, PX_ERANGE, "eos_token_id", "%u is not below vocab_size %u", id, m->n_vocab);
        for (k = 0; k < m->n_eos && m->eos[k] != id; ) k++;
        if (k == sizeof m->eos / sizeof *m->eos) return px_fail(e, PX_ERANGE, "eos_token_id", "more than %u ids", k);
        if (k == m->n_eos) m->eos[m->n_eos++] = id;
    }
    return PX_OK;
}

static px_code read_ids(json_t *o, shard_arch *m, px_err *e)
{
    px_code rc;

    m->bos = UINT32_MAX;
    if (get(o, "bos_token_id") && (rc = need_u32(o, "bos_token_id", &m->bos, e))) return rc;
    if (m->bos != UINT32_MAX && m->bos >= m->n_vocab)
        return px_fail(e, PX_ERANGE, "bos_token_id", "%u is not below vocab_size %u", m->bos, m->n_vocab);
    return add_ends(o, m, e);
}

static px_code read_dtype(json_t *o, kern_dtype *out, px_err *e)
{
    static const struct { const char *name; kern_dtype t; } names[] = {
        { "float32", KERN_F32 }, { "float", KERN_F32 }, { "float16", KERN_F16 }, { "half", KERN_F16 },
        { "bfloat16", KERN_BF16 },
    };
    const char *key = get(o, "dtype") ? "dtype" : "torch_dtype", *s = "float32";
    px_code rc = opt_str(o, key, key, &s, e);

    if (rc) return rc;
    if (!strncmp(s, "torch.", 6)) s += 6;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(s, names[i].name)) { *out = names[i].t; return PX_OK; }
    return refuse(key, s, "float32, float16 or bfloat16", e);
}

/* The file as an object; *o NULL where it is none. */
static px_code load(json_t **o, px_alloc *a, const char *path, px_err *e)
{
    px_code rc;
    char *text = NULL;
    size_t bytes;
    json_error_t why;

    *o = NULL;
    if ((rc = px_read_file(a, path, MAX_CONFIG_BYTES, &text, &bytes, e))) return rc;
    *o = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    px_alloc_put(a, text, bytes + 1, 1);
    if (!*o) return px_fail(e, PX_EINVAL, "", "line %d, column %d: %s", why.line, why.column, why.text);
    return json_is_object(*o) ? PX_OK : px_mismatch(e, "", type_word(*o), "an object");
}

px_code shard_hfconfig_add_generation(shard_arch *m, px_alloc *a, const char *path, px_err *e)
{
    px_err why = {0};
    json_t *o;
    px_code rc = load(&o, a, path, &why);

    if (rc == PX_ENOTFOUND) return PX_OK;
    if (!rc) rc = add_ends(o, m, &why);
    json_decref(o);
    if (rc && e && !e->code) *e = why;
    if (rc) px_err_set_file(e, path);
    return rc;
}

px_code shard_hfconfig_read(shard_arch *m, kern_dtype *dtype, char *revision, size_t cap, bool served, px_alloc *a,
                            const char *path, px_err *e)
{
    px_code rc;
    json_t *o = NULL, *root = NULL;
    const shard_family *f = NULL;
    const char *name = "", *commit = "";

    *m = (shard_arch){0};
    if ((rc = load(&root, a, path, e))) goto out;
    o = root;
    if ((rc = read_family(o, served, &f, e))) goto out;
    if (f->sizes && get(o, "text_config")) {                /* a picture model: its language model alone */
        o = get(o, "text_config");
        if (!json_is_object(o)) { rc = px_mismatch(e, "text_config", type_word(o), "an object"); goto out; }
    }
    if ((rc = refuse_what_differs(o, f, served, e)) || (rc = read_sizes(o, f, served, m, e)) ||
        (rc = read_rope(o, f, m, e)) || (rc = read_ids(o, m, e)) ||
        (rc = read_dtype(get(o, "dtype") || get(o, "torch_dtype") ? o : root, dtype, e)) ||
        (rc = opt_str(root, "_name_or_path", "_name_or_path", &name, e)) ||
        (rc = opt_str(root, "_commit_hash", "_commit_hash", &commit, e)))
        goto out;
    snprintf(m->family, sizeof m->family, "%s", f->name);
    shard_arch_set_name(m, name, strlen(name));
    if (cap) snprintf(revision, cap, "%s", commit);
    rc = shard_arch_check(m, e);
out:
    if (rc) px_err_set_file(e, path);
    json_decref(root);
    return rc;
}
