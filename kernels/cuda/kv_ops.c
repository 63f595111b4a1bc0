/* kv_ops.c - rope_append and attention on CUDA: what the host can check of their arguments, how the work is split, which
 * kernels are launched.  What only the device knows (positions, slots, block ids) is bounded there: kv.cuh. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"

_Static_assert((int)CU_KV_F16 == KERN_KV_F16 && (int)CU_KV_F32 == KERN_KV_F32 && (int)CU_KV_BF16 == KERN_KV_BF16
               && (int)CU_KV_INT8 == KERN_KV_INT8 && (int)CU_KV_FP8 == KERN_KV_FP8 && KERN_N_KV == 5, "one numbering");

/* What rope_append and attention have in common. */
typedef struct kv_args {
    const kern_rows *rows;
    const kern_kv *kv;
    uint32_t n_head, n_kv_head, head_dim, layer;
    kern_buf pos, row_slot, block_table; uint32_t table_stride;
} kv_args;

static px_code check_shape(const kv_args *a, px_err *e)
{
    const kern_kv *kv = a->kv;
    const uint32_t h = a->head_dim;

    if (!h || h % 2 || h > CU_MAX_HEAD_DIM || h != kv->head_dim)
        return px_fail(e, PX_EINTERNAL, "head_dim", "%u, in the cache %u, at most %u and even", h, kv->head_dim, CU_MAX_HEAD_DIM);
    if (!a->n_kv_head || a->n_kv_head != kv->n_kv_head)
        return px_fail(e, PX_EINTERNAL, "n_kv_head", "%u, in the cache %u", a->n_kv_head, kv->n_kv_head);
    if (a->n_head > CU_MAX_HEADS || a->n_kv_head > CU_MAX_HEADS)
        return px_fail(e, PX_EUNSUP, "n_head", "%u heads on %u: a CUDA rank has at most %u", a->n_head, a->n_kv_head, CU_MAX_HEADS);
    if (kv->block < CU_KV_GROUP || kv->block > 128 || (kv->block & (kv->block - 1)))
        return px_fail(e, PX_EINTERNAL, "kv.block", "%u keys: 16, 32, 64 or 128", kv->block);
    if (a->layer >= kv->n_layer) return px_fail(e, PX_EINTERNAL, "layer", "%u of %u", a->layer, kv->n_layer);
    if (!kern_kv_vector_bytes(kv->dtype, h)) return px_fail(e, PX_EUNSUP, "kv.dtype", "type %d", (int)kv->dtype);
    if (!kv->n_blocks) return px_fail(e, PX_EINTERNAL, "kv.n_blocks", "a cache of no blocks");
    return PX_OK;
}

/* Fills *out; rows.max is known to be over 0. */
static px_code check_kv(const kv_args *a, cu_kv *out, px_err *e)
{
    const kern_kv *kv = a->kv;
    const uint32_t stride = a->table_stride;
    px_code rc;

    if ((rc = kern_cuda_rows(a->rows, "rows.live", e)) || (rc = check_shape(a, e))) return rc;
    const size_t all = kern_kv_block_bytes(kv->dtype, kv->n_layer, kv->block, kv->n_kv_head, kv->head_dim);
    if ((rc = kern_cuda_need(kv->pool, all, kv->n_blocks, 16, "kv.pool", e))) return rc;
    if ((rc = kern_cuda_need(a->pos, a->rows->max, 4, 4, "pos", e))) return rc;
    if ((rc = kern_cuda_need(a->row_slot, a->rows->max, 4, 4, "row_slot", e))) return rc;
    if (!stride || (uint64_t)stride * kv->block > UINT32_MAX)
        return px_fail(e, PX_EINTERNAL, "table_stride", "%u blocks of %u keys", stride, kv->block);
    if ((rc = kern_cuda_need(a->block_table, stride, 4, 4, "block_table", e))) return rc;
    const size_t layer = all / kv->n_layer * kv->n_blocks, slots = a->block_table.bytes / 4 / stride;
    *out = (cu_kv){ .pool = (unsigned char *)kv->pool.h + layer * a->layer, .table = a->block_table.h, .table_stride = stride,
                    .n_slots = slots < UINT32_MAX ? (uint32_t)slots : UINT32_MAX, .n_blocks = kv->n_blocks,
                    .n_kv_head = kv->n_kv_head, .head_dim = kv->head_dim, .dtype = (uint32_t)kv->dtype };
    while (1u << out->block_shift < kv->block) out->block_shift++;
    return PX_OK;
}

px_code kern_cuda_rope_append(kern_dev *d, const kern_rope_append_args *a, px_err *e)
{
    const kv_args k = { &a->rows, &a->kv, a->n_head, a->n_kv_head, a->head_dim, a->layer, a->pos, a->row_slot, a->block_table, a->table_stride };
    const size_t rows = a->rows.max, vector = a->head_dim * sizeof(float);
    cu_rope r = {0};
    px_code rc;

    if (!rows) return PX_OK;
    if ((rc = check_kv(&k, &r.kv, e))) return rc;
    if ((rc = kern_cuda_need(a->q, rows * a->n_head, vector, 4, "q", e))) return rc;
    if ((rc = kern_cuda_need(a->k, rows * a->n_kv_head, vector, 4, "k", e))) return rc;
    if ((rc = kern_cuda_need(a->v, rows * a->n_kv_head, vector, 4, "v", e))) return rc;
    if ((rc = kern_cuda_need(a->flags, rows, 4, 4, "flags", e))) return rc;
    const struct { kern_buf b; uint32_t heads; const char *name; const float **out; } of_heads[] = {
        { a->q_bias, a->n_head, "q_bias", &r.q_bias }, { a->k_bias, a->n_kv_head, "k_bias", &r.k_bias },
        { a->v_bias, a->n_kv_head, "v_bias", &r.v_bias }, { a->q_norm, 1, "q_norm", &r.q_norm }, { a->k_norm, 1, "k_norm", &r.k_norm },
    };
    for (size_t i = 0; i < sizeof of_heads / sizeof *of_heads; i++) {
        if (!(*of_heads[i].out = of_heads[i].b.h)) continue;
        if ((rc = kern_cuda_need(of_heads[i].b, of_heads[i].heads, vector, 4, of_heads[i].name, e))) return rc;
    }
    r.eps = a->eps;
    const size_t n_cos = a->cos.bytes / (vector / 2), n_sin = a->sin.bytes / (vector / 2), n_pos = n_cos < n_sin ? n_cos : n_sin;
    if (!n_pos) return px_fail(e, PX_EINTERNAL, n_cos ? "sin" : "cos", "a table of no positions");
    r.live = a->rows.live.h;
    r.pos = a->pos.h;
    r.row_slot = a->row_slot.h;
    r.q = a->q.h;
    r.k = a->k.h;
    r.v = a->v.h;
    r.cos = a->cos.h;
    r.sin = a->sin.h;
    r.flags = a->flags.h;
    r.rows = a->rows.max;
    r.n_head = a->n_head;
    r.n_pos = n_pos < UINT32_MAX ? (uint32_t)n_pos : UINT32_MAX;
    return kern_cuda_done(d, "rope_append", cu_rope_append(&r, d->stream), e);
}

px_code kern_cuda_attention(kern_dev *d, const kern_attention_args *a, px_err *e)
{
    const kv_args k = { &a->rows, &a->kv, a->n_head, a->n_kv_head, a->head_dim, a->layer, a->pos, a->row_slot, a->block_table, a->table_stride };
    const uint32_t rows = a->rows.max;
    cu_attention c = {0};
    cu_status s;
    size_t ml;
    px_code rc;

    if (!rows || !a->n_head) return PX_OK;
    if ((rc = check_kv(&k, &c.kv, e))) return rc;
    if ((rc = kern_cuda_need(a->head_map, a->n_head, 4, 4, "head_map", e))) return rc;
    if ((rc = kern_cuda_need(a->q, (size_t)rows * a->n_head, a->head_dim * sizeof(float), 8, "q", e))) return rc;
    if ((rc = kern_cuda_need(a->out, (size_t)rows * a->n_head, a->head_dim * sizeof(float), 8, "out", e))) return rc;
    const uint32_t most = a->table_stride * a->kv.block, window = a->window < most ? a->window : 0;       /* a wider one is none */
    const cu_attention_split split = cu_attention_split_of(rows, a->n_kv_head, cu_attention_span(most, window), d->deterministic);
    const size_t need = cu_attention_parts_bytes(rows, a->n_head, a->head_dim, split.n_parts, &ml);
    if (split.n_parts && (rc = kern_cuda_need(a->workspace, need, 1, 16, "workspace", e))) return rc;
    c.live = a->rows.live.h;
    c.pos = a->pos.h;
    c.row_slot = a->row_slot.h;
    c.head_map = a->head_map.h;
    c.q = a->q.h;
    c.out = a->out.h;
    c.rows = rows;
    c.n_head = a->n_head;
    c.window = window;
    c.splits = split.splits;
    c.part = split.part;
    c.n_parts = split.n_parts;
    if (split.n_parts) {
        c.part_o = a->workspace.h;
        c.part_ml = (float *)(void *)((char *)a->workspace.h + ml);
    }
    if (!cu_attention_fast(c.kv.dtype, c.kv.head_dim)) {
        s = cu_attention_plain(&c, d->stream);
    } else {
        c.run_tile = cu_attention_run_tile(rows, a->n_head, a->n_kv_head, a->head_dim, split.part, d->max_shared);
        s = cu_attention_decode(&c, d->stream);
        if (!s && c.run_tile) s = cu_attention_prefill(&c, d->stream);
    }
    if (!s && c.n_parts) s = cu_attention_merge(&c, d->stream);
    return kern_cuda_done(d, "attention", s, e);
}
