#include "shard/plan/split.h"

#include "proto/base/io.h"

#include <string.h>

/* ---- the storage type of every tensor: as a file says, or as a named format would choose ---- */

px_code shard_types_init(shard_types *t, px_alloc *a, uint32_t n_layer, px_err *e)
{
    size_t n;

    _Static_assert(KERN_F32 == 0, "zeroed storage must mean F32");
    *t = (shard_types){ .a = a, .n_layer = n_layer };
    if (px_mul(n_layer, SHARD_N_ROLES, &n) || !(t->layer = px_new(a, kern_dtype, n))) {
        *t = (shard_types){ 0 };
        return px_fail(e, PX_ENOMEM, "n_layer", "types of %u layers", n_layer);
    }
    return PX_OK;
}

void shard_types_deinit(shard_types *t)
{
    if (t->layer) px_del(t->a, t->layer, (size_t)t->n_layer * SHARD_N_ROLES);
    *t = (shard_types){ 0 };
}

/* A pure format: one type for the layers' matrices, one for the table, one for the head. */
typedef enum mixture { MIX_PURE, MIX_Q4_0, MIX_Q4_K_M, MIX_Q5_K_M, MIX_IQ2_XS } mixture;

typedef struct format {
    const char *name;
    kern_dtype  layer, table, head;
    bool        vectors_too;      /* a Hugging Face checkpoint: norms and biases in the same type */
    mixture     mix;
} format;

static const format FORMAT[] = {
    { "f32",            KERN_F32,    KERN_F32,    KERN_F32,    false, MIX_PURE },
    { "f16",            KERN_F16,    KERN_F16,    KERN_F16,    false, MIX_PURE },
    { "bf16",           KERN_BF16,   KERN_BF16,   KERN_BF16,   false, MIX_PURE },
    { "bf16_hf",        KERN_BF16,   KERN_BF16,   KERN_BF16,   true,  MIX_PURE },
    { "fp8",            KERN_FP8,    KERN_BF16,   KERN_BF16,   false, MIX_PURE },
    { "w8a16_g128",     KERN_W8,     KERN_F16,    KERN_W8,     false, MIX_PURE },
    { "w4a16_g128",     KERN_W4,     KERN_F16,    KERN_F16,    false, MIX_PURE },
    { "w4a16_g128_awq", KERN_W4Z,    KERN_F16,    KERN_F16,    false, MIX_PURE },
    { "q8_0",           KERN_Q8_0,   KERN_Q8_0,   KERN_Q8_0,   false, MIX_PURE },
    { "q6_k",           KERN_Q6_K,   KERN_Q6_K,   KERN_Q6_K,   false, MIX_PURE },
    { "pure_q4_0",      KERN_Q4_0,   KERN_Q4_0,   KERN_Q4_0,   false, MIX_PURE },
    { "pure_q4_1",      KERN_Q4_1,   KERN_Q4_1,   KERN_Q4_1,   false, MIX_PURE },
    { "pure_q4_k",      KERN_Q4_K,   KERN_Q4_K,   KERN_Q4_K,   false, MIX_PURE },
    { "pure_q5_k",      KERN_Q5_K,   KERN_Q5_K,   KERN_Q5_K,   false, MIX_PURE },
    { "pure_q6_k",      KERN_Q6_K,   KERN_Q6_K,   KERN_Q6_K,   false, MIX_PURE },
    { "pure_iq2_xs",    KERN_IQ2_XS, KERN_IQ2_XS, KERN_IQ2_XS, false, MIX_PURE },
    { "q4_0",           KERN_Q4_0,   KERN_Q4_0,   KERN_Q6_K,   false, MIX_Q4_0 },
    { "q4_k_m",         KERN_Q4_K,   KERN_Q4_K,   KERN_Q6_K,   false, MIX_Q4_K_M },
    { "q5_k_m",         KERN_Q5_K,   KERN_Q5_K,   KERN_Q6_K,   false, MIX_Q5_K_M },
    { "iq2_xs",         KERN_IQ2_XS, KERN_Q2_K,   KERN_Q5_K,   false, MIX_IQ2_XS },
};
#define N_FORMATS (sizeof FORMAT / sizeof *FORMAT)

/* The layers that the K mixtures store better: the first and last eighth, and every third between. */
static bool more(uint32_t i, uint32_t n)
{
    return i < n / 8 || i >= (uint32_t)((uint64_t)n * 7 / 8) || (i - n / 8) % 3 == 2;
}

static kern_dtype mix_k(const shard_arch *m, mixture mix, kern_dtype base, shard_role r, uint32_t i)
{
    bool gqa70 = m->n_layer == 80 && m->n_head != m->n_kv_head;
    kern_dtype t = base;

    if ((r == SHARD_ATTN_V || r == SHARD_FFN_DOWN) && more(i, m->n_layer)) t = KERN_Q6_K;
    if (r == SHARD_ATTN_V && gqa70 && t == KERN_Q4_K) t = KERN_Q5_K;
    if (m->n_expert == 8) {
        if (r == SHARD_ATTN_K || r == SHARD_ATTN_V) t = KERN_Q8_0;
        if (r == SHARD_ATTN_OUT && mix == MIX_Q4_K_M) t = KERN_Q5_K;
    }
    return t;
}

static kern_dtype mix_iq2(const shard_arch *m, shard_role r, uint32_t i)
{
    switch (r) {
    case SHARD_ATTN_V:   return m->n_head / m->n_kv_head >= 4 || m->n_expert >= 4 ? KERN_Q4_K : KERN_Q2_K;
    case SHARD_FFN_DOWN: return i < m->n_layer / 8 ? KERN_Q2_K : KERN_IQ2_XS;
    case SHARD_ATTN_K:   return m->n_expert == 8 ? KERN_Q4_K : KERN_IQ2_XS;
    case SHARD_ATTN_OUT: return m->n_expert == 8 ? KERN_Q5_K : KERN_IQ2_XS;
    default:             return KERN_IQ2_XS;
    }
}

/* Columns that are no multiple of the block: the next simpler type, then F16. */
static kern_dtype fallback(kern_dtype t, uint64_t cols)
{
    if (kern_dtype_get(t)->block > 1 && cols % kern_dtype_get(t)->block) {
        switch (t) {
        case KERN_Q4_K:   t = KERN_Q5_0; break;
        case KERN_Q5_K:   t = KERN_Q5_1; break;
        case KERN_Q6_K:   t = KERN_Q8_0; break;
        case KERN_Q2_K:
        case KERN_Q3_K:   t = KERN_Q4_0; break;
        case KERN_IQ2_XS:
        case KERN_IQ4_XS: t = KERN_IQ4_NL; break;
        default: break;
        }
        if (cols % kern_dtype_get(t)->block) t = KERN_F16;
    }
    return t;
}

static kern_dtype choose(const format *f, const shard_arch *m, shard_role r, uint32_t i)
{
    kern_dtype t = f->layer;
    uint64_t rows, cols;

    if (r == SHARD_ROUTER || shard_role_get(r)->vector) return f->vectors_too ? f->layer : KERN_F32;
    if (r == SHARD_TOKEN_EMBD) {
        /* a tied table is stored as the head would be, where a mixture stores the head better than the table */
        t = m->tied && f->mix != MIX_PURE ? f->head : f->table;
    } else if (r == SHARD_OUTPUT) {
        t = f->head;
    } else if (f->mix == MIX_Q4_K_M || f->mix == MIX_Q5_K_M) {
        t = mix_k(m, f->mix, f->layer, r, i);
    } else if (f->mix == MIX_IQ2_XS) {
        t = mix_iq2(m, r, i);
    }
    /* groups of 128 and single scales may end short; blocks may not */
    if (t == KERN_FP8 || t == KERN_W8 || t == KERN_W4 || t == KERN_W4Z) return t;
    shard_arch_shape(m, r, &rows, &cols);
    /* a mixture never lets its head fall below Q8_0 */
    if (f->mix != MIX_PURE && (r == SHARD_OUTPUT || (r == SHARD_TOKEN_EMBD && m->tied)) && cols % 256 && cols % 32 == 0)
        return KERN_Q8_0;
    return fallback(t, cols);
}

px_code shard_types_format(shard_types *t, px_alloc *a, const shard_arch *m, const char *name, px_err *e)
{
    const format *f = NULL;
    const char *words[N_FORMATS];
    px_code rc;

    *t = (shard_types){ 0 };
    for (size_t i = 0; i < N_FORMATS; i++) {
        words[i] = FORMAT[i].name;
        if (!strcmp(name, FORMAT[i].name)) f = &FORMAT[i];
    }
    if (!f) {
        const char *near = px_nearest(name, words, N_FORMATS);
        return px_fail(e, PX_ENOTFOUND, "format", "no format is called \"%.40s\"%s%s", name,
                       near ? "; the nearest is " : "; there are f32 f16 bf16 q8_0 q6_k q5_k_m q4_k_m q4_0 iq2_xs and others",
                       near ? near : "");
    }
    if ((rc = shard_types_init(t, a, m->n_layer, e))) return rc;
    for (shard_role r = 0; r <= SHARD_OUTPUT; r++) t->global[r] = choose(f, m, r, 0);
    for (uint32_t i = 0; i < m->n_layer; i++)
        for (shard_role r = SHARD_OUTPUT + 1; r < SHARD_N_ROLES; r++)
            t->layer[(size_t)i * SHARD_N_ROLES + r] = choose(f, m, r, i);
    return PX_OK;
}
