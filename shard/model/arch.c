#include "shard/model/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stddef.h>
#include <string.h>

#include "kernels/kernels.h"
#include "proto/base/io.h"
#include "shard/model/family.h"

/* ---- roles ---- */

static const shard_role_info role_info[SHARD_N_ROLES] = {
    [SHARD_TOKEN_EMBD]  = { "token_embd",         false, false, SHARD_CUT_VOCAB_ROWS },
    [SHARD_OUTPUT_NORM] = { "output_norm",        false, true,  SHARD_CUT_NONE },
    [SHARD_OUTPUT]      = { "output",             false, false, SHARD_CUT_VOCAB_ROWS },
    [SHARD_ATTN_NORM]   = { "blk.%u.attn_norm",   true,  true,  SHARD_CUT_NONE },
    [SHARD_ATTN_Q]      = { "blk.%u.attn_q",      true,  false, SHARD_CUT_Q_ROWS },
    [SHARD_ATTN_K]      = { "blk.%u.attn_k",      true,  false, SHARD_CUT_KV_ROWS },
    [SHARD_ATTN_V]      = { "blk.%u.attn_v",      true,  false, SHARD_CUT_KV_ROWS },
    [SHARD_ATTN_OUT]    = { "blk.%u.attn_output", true,  false, SHARD_CUT_Q_COLS },
    /* Biases are 1 x n, one element a row of their matrix: the cut is that matrix's. */
    [SHARD_ATTN_Q_BIAS] = { "blk.%u.attn_q",      true,  true,  SHARD_CUT_Q_ROWS },
    [SHARD_ATTN_K_BIAS] = { "blk.%u.attn_k",      true,  true,  SHARD_CUT_KV_ROWS },
    [SHARD_ATTN_V_BIAS] = { "blk.%u.attn_v",      true,  true,  SHARD_CUT_KV_ROWS },
    [SHARD_Q_NORM]      = { "blk.%u.attn_q_norm", true,  true,  SHARD_CUT_NONE },
    [SHARD_K_NORM]      = { "blk.%u.attn_k_norm", true,  true,  SHARD_CUT_NONE },
    [SHARD_FFN_NORM]    = { "blk.%u.ffn_norm",    true,  true,  SHARD_CUT_NONE },
    [SHARD_FFN_GATE]    = { "blk.%u.ffn_gate",    true,  false, SHARD_CUT_FFN_ROWS },
    [SHARD_FFN_UP]      = { "blk.%u.ffn_up",      true,  false, SHARD_CUT_FFN_ROWS },
    [SHARD_FFN_DOWN]    = { "blk.%u.ffn_down",    true,  false, SHARD_CUT_FFN_COLS },
    [SHARD_ROUTER]      = { "blk.%u.ffn_gate_inp", true, false, SHARD_CUT_NONE },
    [SHARD_ATTN_POST_NORM] = { "blk.%u.post_attention_norm", true, true, SHARD_CUT_NONE },
    [SHARD_FFN_POST_NORM]  = { "blk.%u.post_ffw_norm",       true, true, SHARD_CUT_NONE },
};

const shard_role_info *shard_role_get(shard_role r) { return &role_info[r]; }

static bool is_bias(shard_role r) { return r == SHARD_ATTN_Q_BIAS || r == SHARD_ATTN_K_BIAS || r == SHARD_ATTN_V_BIAS; }

const char *shard_tensor_name(shard_role r, uint32_t layer, char *buf, size_t cap)
{
    const char *name = role_info[r].name, *tail = is_bias(r) ? "bias" : "weight";

    if (role_info[r].per_layer)
        snprintf(buf, cap, "blk.%u.%s.%s", layer, name + strlen("blk.%u."), tail);
    else
        snprintf(buf, cap, "%s.%s", name, tail);
    return buf;
}

bool shard_arch_has(const shard_arch *m, shard_role r)
{
    switch (r) {
    case SHARD_OUTPUT: return !m->tied;
    case SHARD_ROUTER: return m->n_expert > 0;
    case SHARD_Q_NORM: case SHARD_K_NORM: return m->qk_norm;
    case SHARD_ATTN_POST_NORM: case SHARD_FFN_POST_NORM: return m->sandwich_norms;
    default: return is_bias(r) ? m->qkv_bias : r < SHARD_N_ROLES;
    }
}

void shard_arch_shape(const shard_arch *m, shard_role r, uint64_t *rows, uint64_t *cols)
{
    const uint64_t d = m->d_model, q = (uint64_t)m->n_head * m->head_dim, kv = (uint64_t)m->n_kv_head * m->head_dim;

    *rows = 1;
    *cols = d;
    switch (r) {
    case SHARD_TOKEN_EMBD: case SHARD_OUTPUT:  *rows = m->n_vocab; break;
    case SHARD_ATTN_Q:                         *rows = q; break;
    case SHARD_ATTN_K: case SHARD_ATTN_V:      *rows = kv; break;
    case SHARD_ATTN_OUT:                       *rows = d; *cols = q; break;
    case SHARD_ATTN_Q_BIAS:                    *cols = q; break;
    case SHARD_ATTN_K_BIAS: case SHARD_ATTN_V_BIAS: *cols = kv; break;
    case SHARD_Q_NORM: case SHARD_K_NORM:      *cols = m->head_dim; break;
    case SHARD_FFN_GATE: case SHARD_FFN_UP:    *rows = m->d_ff; break;
    case SHARD_FFN_DOWN:                       *rows = d; *cols = m->d_ff; break;
    case SHARD_ROUTER:                         *rows = m->n_expert; break;
    default: break;                            /* norms */
    }
}

void shard_arch_set_name(shard_arch *m, const char *name, size_t n)
{
    memset(m->name, 0, sizeof m->name);
    if (n < sizeof m->name) {
        if (!px_utf8_valid(name, n)) return;
    } else {                                           /* cut, and what is behind the cut not read: it may be any gigabytes */
        n = sizeof m->name - 1;
        for (int k = 0; k < 3 && !px_utf8_valid(name, n); k++) n--;                /* the character that the cut split */
        if (!px_utf8_valid(name, n)) return;
    }
    memcpy(m->name, name, n);
}

/* ---- checks ---- */

static px_code in_range(const char *field, uint64_t found, uint64_t lo, uint64_t hi, px_err *e)
{
    if (found >= lo && found <= hi) return PX_OK;
    return px_fail(e, PX_ERANGE, field, "%" PRIu64 " is not from %" PRIu64 " to %" PRIu64, found, lo, hi);
}

static px_code positive(const char *field, double found, double hi, px_err *e)
{
    if (found > 0 && found <= hi) return PX_OK;        /* false for NaN */
    return px_fail(e, PX_ERANGE, field, "%g is not above 0 and at most %g", found, hi);
}

static px_code check_sizes(const shard_arch *m, px_err *e)
{
    /* Wide enough for any model, and tight enough that no product of two overflows 64 bits and no row of heads 32. */
    static const struct { const char *field; size_t at; uint32_t lo, hi; } range[] = {
        { "n_layer",   offsetof(shard_arch, n_layer),   1, SHARD_MAX_LAYERS },
        { "d_model",   offsetof(shard_arch, d_model),   1, 1u << 20 },
        { "d_ff",      offsetof(shard_arch, d_ff),      1, 1u << 24 },
        { "n_head",    offsetof(shard_arch, n_head),    1, 1u << 16 },
        { "n_kv_head", offsetof(shard_arch, n_kv_head), 1, 1u << 16 },
        { "head_dim",  offsetof(shard_arch, head_dim),  2, SHARD_MAX_HEAD_DIM },
        { "n_vocab",   offsetof(shard_arch, n_vocab),   1, 1u << 24 },
        { "n_ctx",     offsetof(shard_arch, n_ctx),     1, 1u << 26 },
        { "n_expert",  offsetof(shard_arch, n_expert),  0, 1u << 16 },
    };
    px_code rc;

    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        uint32_t n;
        memcpy(&n, (const char *)m + range[i].at, sizeof n);
        if ((rc = in_range(range[i].field, n, range[i].lo, range[i].hi, e))) return rc;
    }
    if (m->n_head % m->n_kv_head)
        return px_fail(e, PX_ERANGE, "n_kv_head", "%u query heads are not a multiple of %u KV heads", m->n_head, m->n_kv_head);
    if (m->head_dim % 2) return px_fail(e, PX_ERANGE, "head_dim", "%u is odd: rope rotates pairs", m->head_dim);
    if ((rc = in_range("n_full_attention", m->n_full_attention, 0, m->sliding_window ? m->n_layer - 1 : 0, e))) return rc;
    if (m->n_expert) return in_range("n_expert_used", m->n_expert_used, 1, m->n_expert, e);
    return in_range("n_expert_used", m->n_expert_used, 0, 0, e);
}

static px_code check_rope(const shard_arch *m, px_err *e)
{
    px_code rc;

    if ((rc = positive("rope_theta", m->rope_theta, 1e30, e))) return rc;
    if ((unsigned)m->rope_kind > KERN_ROPE_LLAMA3)
        return px_fail(e, PX_EINVAL, "rope_kind", "no rope kind %u", (unsigned)m->rope_kind);
    if (m->rope_kind != KERN_ROPE_NONE && (rc = positive("rope_factor", m->rope_factor, 1e6, e))) return rc;
    if (m->rope_kind == KERN_ROPE_LLAMA3) {
        if ((rc = positive("rope_low_freq", m->rope_low_freq, 1e6, e)) ||
            (rc = positive("rope_high_freq", m->rope_high_freq, 1e6, e)) ||
            (rc = in_range("rope_ctx_orig", m->rope_ctx_orig, 1, 1u << 26, e)))
            return rc;
        if (!(m->rope_low_freq < m->rope_high_freq))
            return px_fail(e, PX_ERANGE, "rope_high_freq", "%g is not above rope_low_freq %g", m->rope_high_freq,
                           m->rope_low_freq);
    }
    if (m->n_rope_divisors && m->n_rope_divisors != m->head_dim / 2)
        return px_fail(e, PX_EMISMATCH, "rope_divisor", "%u divisors for head_dim %u", m->n_rope_divisors, m->head_dim);
    for (uint32_t i = 0; i < m->n_rope_divisors; i++)
        if ((rc = positive("rope_divisor", (double)m->rope_divisor[i], 1e30, e))) return rc;
    return PX_OK;
}

px_code shard_arch_check(const shard_arch *m, px_err *e)
{
    px_code rc;

    if (!m->family[0] || !memchr(m->family, 0, sizeof m->family) || !memchr(m->name, 0, sizeof m->name))
        return px_fail(e, PX_EINVAL, "family", "the architecture has no family or no proper name");
    if ((rc = check_sizes(m, e)) || (rc = positive("rms_eps", (double)m->rms_eps, 1, e)) || (rc = check_rope(m, e))) return rc;
    if (m->bos != UINT32_MAX && (rc = in_range("bos", m->bos, 0, m->n_vocab - 1, e))) return rc;
    if ((rc = in_range("n_eos", m->n_eos, 0, sizeof m->eos / sizeof *m->eos, e))) return rc;
    for (uint32_t i = 0; i < m->n_eos; i++)
        if ((rc = in_range("eos", m->eos[i], 0, m->n_vocab - 1, e))) return rc;
    return PX_OK;
}

static px_code refuse(const char *field, const char *found, const char *expected, px_err *e)
{
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, expected);
}

static const char *truth(bool x) { return x ? "true" : "false"; }

px_code shard_arch_check_served(const shard_arch *m, px_err *e)
{
    char n[64], known[160];
    const shard_family *f = shard_family_find(SHARD_FAMILY_NAME, m->family, true);

    if (!f) return refuse("family", m->family, shard_family_list(SHARD_FAMILY_NAME, true, known, sizeof known), e);
    if (m->n_expert) {
        snprintf(n, sizeof n, "%u experts", m->n_expert);
        return refuse("n_expert", n, "0 (a dense model)", e);
    }
    if (m->qkv_bias != f->qkv_bias) return refuse("qkv_bias", truth(m->qkv_bias), truth(f->qkv_bias), e);
    if (m->qk_norm != f->qk_norm) return refuse("qk_norm", truth(m->qk_norm), truth(f->qk_norm), e);
    if (m->sandwich_norms) return refuse("sandwich_norms", "true", "false", e);
    if (m->sliding_window && !f->slides) {
        snprintf(n, sizeof n, "%u", m->sliding_window);
        return refuse("sliding_window", n, "0 (none)", e);
    }
    if (m->n_full_attention) {
        snprintf(n, sizeof n, "%u of %u layers keep no window", m->n_full_attention, m->n_layer);
        return refuse("n_full_attention", n, "all or none of them", e);
    }
    if (m->head_dim > KERN_MAX_HEAD_DIM) {
        snprintf(n, sizeof n, "%u", m->head_dim);
        snprintf(known, sizeof known, "%u at most", KERN_MAX_HEAD_DIM);
        return refuse("head_dim", n, known, e);
    }
    return PX_OK;
}
