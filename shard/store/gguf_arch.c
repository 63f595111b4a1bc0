#include "shard/store/gguf_arch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "shard/model/family.h"

typedef struct reader { const shard_gguf *g; char arch[32]; const shard_family *family; } reader;
typedef struct key { char s[96]; } key;

static key key_of(const reader *r, const char *tail)
{
    key k;
    snprintf(k.s, sizeof k.s, "%s.%s", r->arch, tail);
    return k;
}

static px_code refuse(const char *field, const char *found, const char *expected, px_err *e)
{
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, expected);
}

static px_code refuse_real(const char *field, double found, const char *expected, px_err *e)
{
    char s[32];
    snprintf(s, sizeof s, "%g", found);
    return refuse(field, s, expected, e);
}

/* A text of the file as a word that others are compared with; one that is none, for its length or a NUL, is quoted, and like no other. */
static const char *word_of(char *word, size_t cap, const char *s, size_t n)
{
    if (n >= cap || memchr(s, 0, n)) return px_log_quote(s, (long)(n < cap ? n : cap), word, cap);
    memcpy(word, s, n);
    word[n] = 0;
    return word;
}

/* One number, or a list of one for every layer that says the same for all. */
static px_code need_u32(const reader *r, const char *tail, uint32_t *out, px_err *e)
{
    px_code rc;
    key k = key_of(r, tail);
    uint64_t n = 0;
    int64_t item, first = 0;
    size_t len;

    if (!shard_gguf_array_len(r->g, k.s, &len, NULL)) {
        if (!len) return px_fail(e, PX_EINVAL, k.s, "an empty list");
        if (len > SHARD_MAX_LAYERS) return px_fail(e, PX_ERANGE, k.s, "a list for %zu layers; at most %u are read", len, SHARD_MAX_LAYERS);
        for (size_t i = 0; i < len; i++) {
            if ((rc = shard_gguf_array_i64(r->g, k.s, i, &item, e))) return rc;
            if (!i) first = item;
            if (item != first) return refuse(k.s, "a list of different numbers", "the same for all layers", e);
        }
        if (first < 0) return px_fail(e, PX_ERANGE, k.s, "%" PRId64 " is negative", first);
        n = (uint64_t)first;
    } else if ((rc = shard_gguf_u64(r->g, k.s, &n, e))) {
        return rc;
    }
    if (n > UINT32_MAX) return px_fail(e, PX_ERANGE, k.s, "%" PRIu64 " is above %u", n, UINT32_MAX);
    *out = (uint32_t)n;
    return PX_OK;
}

/* *out keeps its value, the default, when the key is absent. */
static px_code opt_u32(const reader *r, const char *tail, uint32_t *out, px_err *e)
{
    return shard_gguf_has(r->g, key_of(r, tail).s) ? need_u32(r, tail, out, e) : PX_OK;
}

static px_code opt_f64(const reader *r, const char *tail, double *out, px_err *e)
{
    key k = key_of(r, tail);
    return shard_gguf_has(r->g, k.s) ? shard_gguf_f64(r->g, k.s, out, e) : PX_OK;
}

static px_code refuse_what_differs(const reader *r, px_err *e)
{
    /* Numbers with which other models of this architecture change the arithmetic; 0 and `neutral` do nothing. */
    static const struct { const char *tail; double neutral; } number[] = {
        { "attention.scale", 0 }, { "attention.clamp_kqv", 0 }, { "attention.max_alibi_bias", 0 },
        { "attn_logit_softcapping", 0 }, { "final_logit_softcapping", 0 }, { "logit_scale", 1 },
        { "embedding_scale", 1 }, { "residual_scale", 1 }, { "rope.scaling.attn_factor", 1 },
        { "rope.scaling.yarn_log_multiplier", 0 },
    };
    static const struct { const char *tail; bool served; } truth[] = {
        { "attention.causal", true }, { "use_parallel_residual", false }, { "swin_norm", false },
    };
    px_code rc;

    for (size_t i = 0; i < sizeof number / sizeof *number; i++) {
        double v = 0;
        if ((rc = opt_f64(r, number[i].tail, &v, e))) return rc;
        if (r->family->sandwich_norms && strstr(number[i].tail, "softcapping")) continue;      /* planned, and part of the family */
        if (v != 0 && v != number[i].neutral)
            return refuse_real(key_of(r, number[i].tail).s, v, number[i].neutral != 0 ? "1" : "no such key", e);
    }
    for (size_t i = 0; i < sizeof truth / sizeof *truth; i++) {
        key k = key_of(r, truth[i].tail);
        bool v = truth[i].served;
        if (shard_gguf_has(r->g, k.s) && (rc = shard_gguf_bool(r->g, k.s, &v, e))) return rc;
        if (v != truth[i].served) return refuse(k.s, v ? "true" : "false", truth[i].served ? "true" : "false", e);
    }
    return PX_OK;
}

static px_code read_sizes(const reader *r, shard_arch *m, px_err *e)
{
    px_code rc;
    double eps;
    uint32_t value_length, rotary;
    const shard_gguf_tensor *table = shard_gguf_tensor_find(r->g, "token_embd.weight");

    if ((rc = need_u32(r, "block_count", &m->n_layer, e)) || (rc = need_u32(r, "embedding_length", &m->d_model, e)) ||
        (rc = need_u32(r, "feed_forward_length", &m->d_ff, e)) ||
        (rc = need_u32(r, "attention.head_count", &m->n_head, e)) || (rc = need_u32(r, "context_length", &m->n_ctx, e)) ||
        (rc = shard_gguf_f64(r->g, key_of(r, "attention.layer_norm_rms_epsilon").s, &eps, e)))
        return rc;
    m->rms_eps = (float)eps;
    m->n_kv_head = m->n_head;
    if ((rc = opt_u32(r, "attention.head_count_kv", &m->n_kv_head, e)) ||
        (rc = opt_u32(r, "attention.key_length", &m->head_dim, e)))
        return rc;
    if (!m->head_dim) {
        if (!m->n_head || m->d_model % m->n_head)
            return px_fail(e, PX_ERANGE, key_of(r, "attention.head_count").s,
                           "embedding_length %u is not a multiple of %u heads", m->d_model, m->n_head);
        m->head_dim = m->d_model / m->n_head;
    }
    value_length = rotary = m->head_dim;
    if ((rc = opt_u32(r, "attention.value_length", &value_length, e)) ||
        (rc = opt_u32(r, "rope.dimension_count", &rotary, e)) || (rc = opt_u32(r, "expert_count", &m->n_expert, e)) ||
        (rc = opt_u32(r, "attention.sliding_window", &m->sliding_window, e)))
        return rc;
    if (m->sliding_window && r->family->asks_to_slide)           /* whether it counts, no key of a GGUF says */
        return refuse_real(key_of(r, "attention.sliding_window").s, m->sliding_window, "no such key", e);
    /* the file tells the window, the family which layers keep it */
    if (m->sliding_window && r->family->full_every) m->n_full_attention = m->n_layer / r->family->full_every;
    if (m->n_expert && (rc = need_u32(r, "expert_used_count", &m->n_expert_used, e))) return rc;
    if (value_length != m->head_dim)
        return refuse_real(key_of(r, "attention.value_length").s, value_length, "attention.key_length", e);
    if (rotary != m->head_dim)
        return refuse_real(key_of(r, "rope.dimension_count").s, rotary, "the size of a head", e);
    if (!table) return px_fail(e, PX_ENOTFOUND, "token_embd.weight", "the file has no such tensor");
    if (table->rows > UINT32_MAX) return px_fail(e, PX_ERANGE, "token_embd.weight", "%" PRIu64 " rows", table->rows);
    m->n_vocab = (uint32_t)table->rows;
    m->tied = !shard_gguf_tensor_find(r->g, "output.weight");
    return PX_OK;
}

static px_code read_rope(const reader *r, shard_arch *m, px_err *e)
{
    px_code rc;
    key k = key_of(r, "rope.scaling.type");
    const char *type = "linear";             /* what a factor without a type means */
    size_t n = strlen(type);
    double factor = 0;
    const shard_gguf_tensor *t = shard_gguf_tensor_find(r->g, "rope_freqs.weight");
    char word[32];

    m->rope_theta = 1e4;
    if ((rc = opt_f64(r, "rope.freq_base", &m->rope_theta, e)) || (rc = opt_f64(r, "rope.scale_linear", &factor, e)) ||
        (rc = opt_f64(r, "rope.scaling.factor", &factor, e)))
        return rc;
    if (shard_gguf_has(r->g, k.s) && (rc = shard_gguf_str(r->g, k.s, &type, &n, e))) return rc;
    if (!strcmp(word_of(word, sizeof word, type, n), "linear")) {
        if (factor != 0 && factor != 1) {
            m->rope_kind = KERN_ROPE_LINEAR;
            m->rope_factor = factor;
        }
    } else if (strcmp(word, "none")) {
        return refuse(k.s, word, "none or linear", e);
    }
    if (!t) return PX_OK;
    if (t->dtype != KERN_F32)
        return refuse("rope_freqs.weight", kern_dtype_get(t->dtype)->name, "F32", e);
    if (t->rows != 1 || t->cols != m->head_dim / 2 || t->cols > SHARD_MAX_HEAD_DIM / 2) {
        char found[64], want[32];
        snprintf(found, sizeof found, "[%" PRIu64 ",%" PRIu64 "]", t->rows, t->cols);
        snprintf(want, sizeof want, "[%u]", m->head_dim / 2);
        return px_mismatch(e, "rope_freqs.weight", found, want);
    }
    memcpy(m->rope_divisor, t->data, t->bytes);
    m->n_rope_divisors = (uint32_t)t->cols;
    return PX_OK;
}

static px_code read_id(const shard_gguf *g, const char *name, uint32_t n_vocab, uint32_t *out, px_err *e)
{
    px_code rc;
    uint64_t id;

    *out = UINT32_MAX;
    if (!shard_gguf_has(g, name)) return PX_OK;
    if ((rc = shard_gguf_u64(g, name, &id, e))) return rc;
    if (id == UINT32_MAX) return PX_OK;                  /* how some files say "none" */
    if (id >= n_vocab) return px_fail(e, PX_ERANGE, name, "%" PRIu64 " is not below the vocabulary of %u", id, n_vocab);
    *out = (uint32_t)id;
    return PX_OK;
}

static px_code read_ids(const reader *r, shard_arch *m, px_err *e)
{
    static const char *const ends[] = { "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id" };
    px_code rc;
    uint32_t id;

    if ((rc = read_id(r->g, "tokenizer.ggml.bos_token_id", m->n_vocab, &m->bos, e))) return rc;
    for (size_t i = 0; i < 2; i++) {
        if ((rc = read_id(r->g, ends[i], m->n_vocab, &id, e))) return rc;
        if (id != UINT32_MAX && !(m->n_eos && m->eos[0] == id)) m->eos[m->n_eos++] = id;
    }
    return PX_OK;
}

/* A file of weights that go with those of another is no model. */
static px_code check_kind(const shard_gguf *g, bool served, px_err *e)
{
    px_code rc;
    const char *s;
    size_t n;
    uint64_t parts = 1;
    char word[32];

    /* the first of several parts has all the numbers that a plan takes */
    if (served && shard_gguf_has(g, "split.count") && (rc = shard_gguf_u64(g, "split.count", &parts, e))) return rc;
    if (parts > 1) return refuse_real("split.count", (double)parts, "1: the parts joined into one file", e);
    if (!shard_gguf_has(g, "general.type")) return PX_OK;
    if ((rc = shard_gguf_str(g, "general.type", &s, &n, e))) return rc;
    return strcmp(word_of(word, sizeof word, s, n), "model") ? refuse("general.type", word, "model", e) : PX_OK;
}

px_code shard_gguf_arch(shard_arch *m, const shard_gguf *g, bool served, px_err *e)
{
    px_code rc;
    const char *s;
    size_t n;
    char known[160];
    reader r = { .g = g };

    *m = (shard_arch){ .bos = UINT32_MAX };
    if ((rc = shard_gguf_str(g, "general.architecture", &s, &n, e))) goto out;
    if (!(r.family = shard_family_find(SHARD_FAMILY_GGUF, word_of(r.arch, sizeof r.arch, s, n), served))) {
        rc = refuse("general.architecture", r.arch, shard_family_list(SHARD_FAMILY_GGUF, served, known, sizeof known), e);
        goto out;
    }
    if ((rc = check_kind(g, served, e))) goto out;
    snprintf(m->family, sizeof m->family, "%s", r.family->name);
    m->qkv_bias = r.family->qkv_bias;
    m->qk_norm = r.family->qk_norm;
    m->sandwich_norms = r.family->sandwich_norms;
    if ((rc = refuse_what_differs(&r, e)) || (rc = read_sizes(&r, m, e)) || (rc = read_rope(&r, m, e)) ||
        (rc = read_ids(&r, m, e)))
        goto out;
    if (shard_gguf_has(g, "general.name")) {
        if ((rc = shard_gguf_str(g, "general.name", &s, &n, e))) goto out;
        shard_arch_set_name(m, s, n);
    }
    rc = shard_arch_check(m, e);
out:
    if (rc) px_err_set_file(e, shard_gguf_path(g));
    return rc;
}
