/* args.c - checks of the ops' arguments: every address formed from a buffer's contents is bounded here. */
#include "kernels/cpu/args.h"

px_code kern_args_add_norm(const kern_add_norm_args *a, uint32_t *live, px_err *e)
{
    px_code rc;

    *live = kern_cpu_rows(&a->rows);
    if (a->n_views > KERN_MAX_VIEWS) return px_fail(e, PX_EINTERNAL, "n_views", "%u views", a->n_views);
    size_t n = (size_t)*live * a->cols;
    for (uint32_t i = 0; i < a->n_views; i++)
        if ((rc = kern_cpu_need(a->view[i], n, 4, "view", e))) return rc;
    if ((rc = kern_cpu_need(a->residual, n, 4, "residual", e))) return rc;
    if (!a->weight.h) return a->act.out.h ? px_fail(e, PX_EINTERNAL, "act", "of rows that are not normed") : PX_OK;
    if ((rc = kern_cpu_need(a->weight, a->cols, 4, "weight", e))) return rc;
    return kern_cpu_need(a->out, n, 4, "out", e);
}

px_code kern_args_swiglu(const kern_swiglu_args *a, uint32_t *live, px_err *e)
{
    px_code rc;

    *live = kern_cpu_rows(&a->rows);
    if (a->cols > a->stride) return px_fail(e, PX_EINTERNAL, "stride", "%u of %u columns", a->stride, a->cols);
    if (a->act.out.h && a->cols != a->stride)
        return px_fail(e, PX_EINTERNAL, "act", "of %u columns at a stride of %u", a->cols, a->stride);
    size_t n = *live ? (size_t)(*live - 1) * a->stride + a->cols : 0;
    if ((rc = kern_cpu_need(a->gate, n, 4, "gate", e))) return rc;
    if ((rc = kern_cpu_need(a->up, n, 4, "up", e))) return rc;
    return kern_cpu_need(a->out, n, 4, "out", e);
}

static px_code check_kv(const kern_kv *kv, uint32_t n_kv_head, uint32_t head_dim, uint32_t layer, px_err *e)
{
    size_t n = kern_kv_vector_bytes(kv->dtype, head_dim);

    if (!head_dim || head_dim % 2 || head_dim > KERN_MAX_HEAD_DIM || head_dim != kv->head_dim)
        return px_fail(e, PX_EINTERNAL, "head_dim", "%u, in the cache %u, at most %u and even", head_dim,
                       kv->head_dim, KERN_MAX_HEAD_DIM);
    if (!n_kv_head || n_kv_head != kv->n_kv_head)
        return px_fail(e, PX_EINTERNAL, "n_kv_head", "%u, in the cache %u", n_kv_head, kv->n_kv_head);
    if (!kv->block || kv->block % KERN_TILE) return px_fail(e, PX_EINTERNAL, "kv.block", "%u keys", kv->block);
    if (layer >= kv->n_layer) return px_fail(e, PX_EINTERNAL, "layer", "%u of %u", layer, kv->n_layer);
    if (kv->dtype != KERN_KV_F16 && kv->dtype != KERN_KV_F32)
        return px_fail(e, PX_EUNSUP, "kv.dtype", "type %d: the CPU keeps f16 and f32", (int)kv->dtype);
    if (px_mul(n, kv->n_layer, &n) || px_mul(n, kv->n_blocks, &n) || px_mul(n, n_kv_head, &n)
        || px_mul(n, (size_t)2 * kv->block, &n))
        n = SIZE_MAX;
    return kern_cpu_need(kv->pool, n, 1, "kv.pool", e);
}

/* Rows name a slot and a position in it: both must lie in the table. */
static px_code check_rows(kern_buf pos, kern_buf row_slot, kern_buf table, uint32_t stride, uint32_t block,
                          uint32_t live, px_err *e)
{
    px_code rc;

    if ((rc = kern_cpu_need(pos, live, 4, "pos", e))) return rc;
    if ((rc = kern_cpu_need(row_slot, live, 4, "row_slot", e))) return rc;
    for (uint32_t t = 0; t < live; t++) {
        uint32_t p = kern_u32(pos)[t], s = kern_u32(row_slot)[t];
        if (p / block >= stride) return px_fail(e, PX_EINTERNAL, "pos", "%u needs %u blocks of %u", p, p / block, stride);
        if ((rc = kern_cpu_need(table, ((size_t)s + 1) * stride, 4, "block_table", e))) return rc;
    }
    return PX_OK;
}

px_code kern_args_rope_append(const kern_rope_append_args *a, uint32_t *live, px_err *e)
{
    px_code rc;
    size_t top = 0;

    *live = kern_cpu_rows(&a->rows);
    if ((rc = check_kv(&a->kv, a->n_kv_head, a->head_dim, a->layer, e))) return rc;
    if ((rc = check_rows(a->pos, a->row_slot, a->block_table, a->table_stride, a->kv.block, *live, e))) return rc;
    for (uint32_t t = 0; t < *live; t++) {
        uint32_t p = kern_u32(a->pos)[t], s = kern_u32(a->row_slot)[t];
        uint32_t b = kern_u32(a->block_table)[(size_t)s * a->table_stride + p / a->kv.block];
        if (b >= a->kv.n_blocks) return px_fail(e, PX_EINTERNAL, "block_table", "block %u of %u", b, a->kv.n_blocks);
        if ((size_t)p + 1 > top) top = (size_t)p + 1;
    }
    size_t q = (size_t)*live * a->n_head, k = (size_t)*live * a->n_kv_head;
    if ((rc = kern_cpu_need(a->cos, top, a->head_dim / 2 * sizeof(float), "cos", e))) return rc;
    if ((rc = kern_cpu_need(a->sin, top, a->head_dim / 2 * sizeof(float), "sin", e))) return rc;
    if ((rc = kern_cpu_need(a->q, q, a->head_dim * sizeof(float), "q", e))) return rc;
    if ((rc = kern_cpu_need(a->k, k, a->head_dim * sizeof(float), "k", e))) return rc;
    if ((rc = kern_cpu_need(a->v, k, a->head_dim * sizeof(float), "v", e))) return rc;
    const struct { kern_buf b; uint32_t heads; const char *name; } vector[] = {
        { a->q_bias, a->n_head, "q_bias" }, { a->k_bias, a->n_kv_head, "k_bias" }, { a->v_bias, a->n_kv_head, "v_bias" },
        { a->q_norm, 1, "q_norm" }, { a->k_norm, 1, "k_norm" },
    };
    for (size_t i = 0; i < sizeof vector / sizeof *vector; i++)
        if (vector[i].b.h && (rc = kern_cpu_need(vector[i].b, vector[i].heads, a->head_dim * sizeof(float), vector[i].name, e))) return rc;
    return kern_cpu_need(a->flags, *live, 4, "flags", e);
}

px_code kern_args_attention(const kern_attention_args *a, uint32_t threads, uint32_t *live, px_err *e)
{
    px_code rc;

    *live = kern_cpu_rows(&a->rows);
    if ((rc = check_kv(&a->kv, a->n_kv_head, a->head_dim, a->layer, e))) return rc;
    if ((rc = check_rows(a->pos, a->row_slot, a->block_table, a->table_stride, a->kv.block, *live, e))) return rc;
    if ((rc = kern_cpu_need(a->head_map, a->n_head, 4, "head_map", e))) return rc;
    for (uint32_t h = 0; h < a->n_head; h++)
        if (kern_u32(a->head_map)[h] >= a->n_kv_head)
            return px_fail(e, PX_EINTERNAL, "head_map", "head %u reads KV head %u of %u", h, kern_u32(a->head_map)[h],
                           a->n_kv_head);
    /* Every block that a row sees; rows of one slot follow each other, so a prefix already seen is not read again. */
    uint32_t slot = UINT32_MAX, done = 0;
    for (uint32_t t = 0; t < *live; t++) {
        uint32_t s = kern_u32(a->row_slot)[t], n = kern_u32(a->pos)[t] / a->kv.block + 1;
        const uint32_t *table = kern_u32(a->block_table) + (size_t)s * a->table_stride;
        if (s != slot) {
            slot = s;
            done = 0;
        }
        for (; done < n; done++)
            if (table[done] >= a->kv.n_blocks)
                return px_fail(e, PX_EINTERNAL, "block_table", "block %u of %u", table[done], a->kv.n_blocks);
    }
    size_t n = (size_t)*live * a->n_head;
    if ((rc = kern_cpu_need(a->q, n, a->head_dim * sizeof(float), "q", e))) return rc;
    if ((rc = kern_cpu_need(a->out, n, a->head_dim * sizeof(float), "out", e))) return rc;
    return kern_cpu_need(a->workspace, threads, kern_attention_scratch(a->head_dim), "workspace", e);
}

px_code kern_args_candidates(const kern_candidates_args *a, uint32_t *live, px_err *e)
{
    px_code rc;

    *live = kern_cpu_rows(&a->rows);
    if (a->n_valid > a->stride) return px_fail(e, PX_EINTERNAL, "stride", "%u of %u logits", a->stride, a->n_valid);
    if (a->vocab_begin > UINT32_MAX - a->n_valid) return px_fail(e, PX_EINTERNAL, "vocab_begin", "%u", a->vocab_begin);
    if (a->out_stride < sizeof(kern_cand_head) || a->out_stride % 8)
        return px_fail(e, PX_EINTERNAL, "out_stride", "%u bytes", a->out_stride);
    size_t n = *live ? (size_t)(*live - 1) * a->stride + a->n_valid : 0;
    if ((rc = kern_cpu_need(a->logits, n, sizeof(float), "logits", e))) return rc;
    if ((rc = kern_cpu_need(a->params, *live, sizeof(kern_cand_param), "params", e))) return rc;
    if ((rc = kern_cpu_need(a->out, *live, a->out_stride, "out", e))) return rc;
    uint32_t room = (a->out_stride - (uint32_t)sizeof(kern_cand_head)) / (uint32_t)sizeof(kern_cand_entry);
    for (uint32_t t = 0; t < *live; t++) {
        const kern_cand_param *p = (const kern_cand_param *)a->params.h + t;
        uint32_t list = p->n_list < a->n_valid ? p->n_list : a->n_valid;
        if (p->n_list > KERN_MAX_CANDIDATES || list > room)
            return px_fail(e, PX_EINTERNAL, "n_list", "%u candidates, room for %u", p->n_list, room);
    }
    return PX_OK;
}
