/* attention.c - paged attention, the definition, and the workspace of every path.
 * Keys lie in spans of 128 absolute positions.  In a span: score = chain of fmaf over head_dim, ascending, on q already
 * scaled; m = largest score; p = px_exp(score - m); l = sum of p in 16 lanes by position mod 16; o = chain of fmaf over
 * the keys, ascending.  Spans are merged in ascending order: M' = max(M, m), a = px_exp(M - M'), b = px_exp(m - M'),
 * l = fmaf(l_span, b, l * a), o = fmaf(o_span, b, o * a), from M = -inf, l = o = 0; at the end o / l.
 * Only visible keys enter: an old block may hold anything behind them, and before a window. */
#include <math.h>

#include "kernels/cpu/args.h"

size_t kern_cpu_attention_workspace_bytes(const kern_shape *s)
{
    return (size_t)s->threads * kern_attention_scratch(s->head_dim);
}

static float kv_value(const kern_kv *kv, size_t at)
{
    return kv->dtype == KERN_KV_F32 ? kern_f32(kv->pool)[at] : kern_f16_to_f32(((const uint16_t *)kv->pool.h)[at]);
}

/* One query head of one row. */
static void attend(const kern_attention_args *a, const uint32_t *table, uint32_t head, uint32_t pos, const float *q, float *out)
{
    const kern_kv *kv = &a->kv;
    uint32_t h = a->head_dim, n_keys = pos + 1, first = kern_first_key(pos, a->window);
    float top = -INFINITY, l = 0.0f;

    for (uint32_t i = 0; i < h; i++) out[i] = 0.0f;
    for (uint32_t begin = first / KERN_SPAN * KERN_SPAN; begin < n_keys; begin += KERN_SPAN) {
        uint32_t n = n_keys - begin < KERN_SPAN ? n_keys - begin : KERN_SPAN, from = first > begin ? first - begin : 0;
        float p[KERN_SPAN], lane[16] = {0}, o[KERN_MAX_HEAD_DIM] = {0}, m = -INFINITY;

        for (uint32_t j = from; j < n; j++) {
            uint32_t off = (begin + j) % kv->block;
            size_t at = kern_kv_at(kv, a->layer, table[(begin + j) / kv->block], head)
                        + (size_t)(off / KERN_TILE) * h * KERN_TILE + off % KERN_TILE;
            p[j] = 0.0f;
            for (uint32_t i = 0; i < h; i++) p[j] = fmaf(q[i], kv_value(kv, at + (size_t)i * KERN_TILE), p[j]);
            m = p[j] > m ? p[j] : m;
        }
        for (uint32_t j = from; j < n; j++) {
            p[j] = px_exp(p[j] - m);
            lane[j % 16] = lane[j % 16] + p[j];
        }
        for (uint32_t step = 8; step; step /= 2)
            for (uint32_t i = 0; i < step; i++) lane[i] = lane[i] + lane[i + step];
        for (uint32_t j = from; j < n; j++) {
            size_t at = kern_kv_at(kv, a->layer, table[(begin + j) / kv->block], head)
                        + ((size_t)kv->block + (begin + j) % kv->block) * h;
            for (uint32_t i = 0; i < h; i++) o[i] = fmaf(p[j], kv_value(kv, at + i), o[i]);
        }

        float both = m > top ? m : top, old = px_exp(top - both), new = px_exp(m - both);
        l = fmaf(lane[0], new, l * old);
        for (uint32_t i = 0; i < h; i++) out[i] = fmaf(o[i], new, out[i] * old);
        top = both;
    }
    for (uint32_t i = 0; i < h; i++) out[i] = out[i] / l;
}

px_code kern_cpu_attention_scalar(kern_dev *d, const kern_attention_args *a, px_err *e)
{
    uint32_t live;
    px_code rc;

    if ((rc = kern_args_attention(a, d->threads, &live, e))) return rc;
    for (uint32_t t = 0; t < live; t++) {
        const uint32_t *table = kern_u32(a->block_table) + (size_t)kern_u32(a->row_slot)[t] * a->table_stride;
        for (uint32_t n = 0; n < a->n_head; n++) {
            size_t at = ((size_t)t * a->n_head + n) * a->head_dim;
            attend(a, table, kern_u32(a->head_map)[n], kern_u32(a->pos)[t], kern_f32(a->q) + at, kern_f32(a->out) + at);
        }
    }
    return PX_OK;
}
