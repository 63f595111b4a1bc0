#include "shard/store/inventory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shard/store/mapping.h"

typedef struct label { char s[96]; } label;

static label label_of(const shard_named *t)
{
    label l = {0};
    memcpy(l.s, t->name, t->name_bytes < sizeof l.s ? t->name_bytes : sizeof l.s - 1);
    return l;
}

px_code shard_inventory_init(shard_inventory *v, px_alloc *a, size_t n, px_err *e)
{
    *v = (shard_inventory){ .a = a, .n = n };
    v->item = px_new(a, shard_named, n);
    v->order = px_new(a, uint32_t, n);
    if (v->item && v->order) return PX_OK;
    shard_inventory_deinit(v);
    return px_fail(e, PX_ENOMEM, "", "no memory for %zu tensors", n);
}

void shard_inventory_deinit(shard_inventory *v)
{
    if (v->order) px_del(v->a, v->order, v->n);
    if (v->item) px_del(v->a, v->item, v->n);
    *v = (shard_inventory){0};
}

static int compare(const char *x, size_t xn, const char *y, size_t yn)
{
    int d = memcmp(x, y, xn < yn ? xn : yn);
    return d ? d : (xn > yn) - (xn < yn);
}

static int compare_names(const void *ctx, uint32_t x, uint32_t y)
{
    const shard_named *t = ctx;
    return compare(t[x].name, t[x].name_bytes, t[y].name, t[y].name_bytes);
}

px_code shard_inventory_sort(shard_inventory *v, px_err *e)
{
    for (size_t i = 0; i < v->n; i++) v->order[i] = (uint32_t)i;
    shard_order_sort(v->order, v->n, compare_names, v->item);
    for (size_t i = 1; i < v->n; i++) {
        const shard_named *x = &v->item[v->order[i - 1]], *y = &v->item[v->order[i]];
        if (compare_names(v->item, v->order[i - 1], v->order[i])) continue;
        px_fail(e, PX_ECORRUPT, label_of(y).s, "the tensor is also in %s", x->source.file);
        px_err_set_file(e, y->source.file);
        return PX_ECORRUPT;
    }
    return PX_OK;
}

shard_named *shard_inventory_find(const shard_inventory *v, const char *name)
{
    size_t lo = 0, hi = v->n, n = strlen(name);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        shard_named *t = &v->item[v->order[mid]];
        int d = compare(t->name, t->name_bytes, name, n);
        if (!d) return t;
        if (d < 0) lo = mid + 1; else hi = mid;
    }
    return NULL;
}

/* ---- names ---- */

static const char *const hf_name[SHARD_N_ROLES] = {
    [SHARD_TOKEN_EMBD]  = "model.embed_tokens.weight",
    [SHARD_OUTPUT_NORM] = "model.norm.weight",
    [SHARD_OUTPUT]      = "lm_head.weight",
    [SHARD_ATTN_NORM]   = "input_layernorm.weight",
    [SHARD_ATTN_Q]      = "self_attn.q_proj.weight",
    [SHARD_ATTN_K]      = "self_attn.k_proj.weight",
    [SHARD_ATTN_V]      = "self_attn.v_proj.weight",
    [SHARD_ATTN_OUT]    = "self_attn.o_proj.weight",
    [SHARD_ATTN_Q_BIAS] = "self_attn.q_proj.bias",
    [SHARD_ATTN_K_BIAS] = "self_attn.k_proj.bias",
    [SHARD_ATTN_V_BIAS] = "self_attn.v_proj.bias",
    [SHARD_Q_NORM]      = "self_attn.q_norm.weight",
    [SHARD_K_NORM]      = "self_attn.k_norm.weight",
    [SHARD_FFN_NORM]    = "post_attention_layernorm.weight",
    [SHARD_FFN_GATE]    = "mlp.gate_proj.weight",
    [SHARD_FFN_UP]      = "mlp.up_proj.weight",
    [SHARD_FFN_DOWN]    = "mlp.down_proj.weight",
    [SHARD_ROUTER]      = "block_sparse_moe.gate.weight",
    [SHARD_ATTN_POST_NORM] = "post_attention_layernorm.weight",
    [SHARD_FFN_POST_NORM]  = "post_feedforward_layernorm.weight",
};

const char *shard_naming_of(shard_naming names, shard_role r, uint32_t layer, char *buf, size_t cap)
{
    if (names == SHARD_NAMES_GGUF) return shard_tensor_name(r, layer, buf, cap);
    if (shard_role_get(r)->per_layer) snprintf(buf, cap, "model.layers.%u.%s", layer, hf_name[r]);
    else snprintf(buf, cap, "%s", hf_name[r]);
    return buf;
}

/* ---- binding ---- */

static void shape_text(char *buf, size_t cap, bool vector, uint64_t rows, uint64_t cols)
{
    if (vector && rows == 1) snprintf(buf, cap, "[%" PRIu64 "]", cols);
    else snprintf(buf, cap, "[%" PRIu64 ",%" PRIu64 "]", rows, cols);
}

/* Types that a file has: those of our own are made while sharding. */
static bool taken(kern_dtype t, bool vector)
{
    const kern_dtype_info *f = kern_dtype_get(t);

    return vector ? t == KERN_F32 || t == KERN_F16 || t == KERN_BF16 : f->readable && f->ggml != UINT32_MAX;
}

static px_code check_type(const char *name, bool vector, kern_dtype t, px_err *e)
{
    char want[128] = "";
    size_t at = 0;

    if (taken(t, vector)) return PX_OK;
    for (unsigned i = 0; i < KERN_N_DTYPES && at < sizeof want; i++)
        if (taken((kern_dtype)i, vector))
            at += (size_t)snprintf(want + at, sizeof want - at, "%s%s", at ? " " : "", kern_dtype_get((kern_dtype)i)->name);
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, name, kern_dtype_get(t)->name, want);
}

static px_code bind_one(shard_inventory *v, const char *name, const shard_arch *m, shard_role r, shard_source *out, px_err *e)
{
    px_code rc;
    uint64_t rows, cols;
    char found[64], want[64];
    bool vector = shard_role_get(r)->vector;
    shard_named *t = shard_inventory_find(v, name);

    if (!t) return px_fail(e, PX_ENOTFOUND, name, "the checkpoint has no such tensor");
    shard_arch_shape(m, r, &rows, &cols);
    rc = check_type(name, vector, t->source.dtype, e);
    if (!rc && (t->source.rows != rows || t->source.cols != cols)) {
        shape_text(found, sizeof found, vector, t->source.rows, t->source.cols);
        shape_text(want, sizeof want, vector, rows, cols);
        rc = px_mismatch(e, name, found, want);
    }
    if (rc) {
        px_err_set_file(e, t->source.file);
        return rc;
    }
    t->used = true;
    *out = t->source;
    return PX_OK;
}

static bool ends_with(const shard_named *t, const char *tail)
{
    size_t n = strlen(tail);
    return t->name_bytes >= n && !memcmp(t->name + t->name_bytes - n, tail, n);
}

/* Tensors that carry nothing which the architecture does not say already. */
static px_code check_left_over(const shard_inventory *v, shard_naming names, const shard_arch *m, const shard_source *bound,
                               px_err *e)
{
    const shard_source *table = &bound[SHARD_TOKEN_EMBD];

    for (size_t i = 0; i < v->n; i++) {
        const shard_named *t = &v->item[v->order[i]];
        label l = label_of(t);
        if (t->used) continue;
        if (ends_with(t, names == SHARD_NAMES_GGUF ? "rope_freqs.weight" : "rotary_emb.inv_freq")) continue;
        if (names == SHARD_NAMES_HF && m->tied && !strcmp(l.s, hf_name[SHARD_OUTPUT])) {
            if (t->source.dtype == table->dtype && t->source.rows == table->rows && t->source.cols == table->cols &&
                !memcmp(t->source.data, table->data, table->bytes))
                continue;
            px_fail(e, PX_EMISMATCH, l.s, "tie_word_embeddings is true, and this tensor is not the same as %s",
                    hf_name[SHARD_TOKEN_EMBD]);
            px_err_set_file(e, t->source.file);
            return PX_EMISMATCH;
        }
        px_fail(e, PX_EUNSUP, l.s, "a tensor that a %s model does not have", m->family);
        px_err_set_file(e, t->source.file);
        return PX_EUNSUP;
    }
    return PX_OK;
}

px_code shard_inventory_bind(shard_inventory *v, shard_naming names, const shard_arch *m, shard_source *out, px_err *e)
{
    px_code rc;
    char name[96];

    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        if (!shard_arch_has(m, r)) continue;
        for (uint32_t l = 0; l < (shard_role_get(r)->per_layer ? m->n_layer : 1); l++) {
            shard_naming_of(names, r, l, name, sizeof name);
            if ((rc = bind_one(v, name, m, r, &out[shard_binding_at(r, l)], e))) return rc;
        }
    }
    return check_left_over(v, names, m, out, e);
}
