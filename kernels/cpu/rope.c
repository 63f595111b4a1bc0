/* rope.c - rope_append, the definition: rotate q and k, scale q, store k and v in the cache.
 * Before that, where the model has them: + bias, rounded; then of each head of q and of k the RMS norm as in norm.c.
 * Pairs (i, i + h/2): a' = fmaf(a, c, -(b * s)), b' = fmaf(b, c, a * s); then q * (1 / sqrtf(h)), rounded once.
 * In the cache a NaN is 0 and sets the row's NONFINITE flag, as does an infinity; in fp16 what would round to infinity
 * becomes +-65504 and sets KV_SATURATED. */
#include <string.h>

#include "kernels/cpu/args.h"
#include "kernels/cpu/norm.h"

/* Head `n` of a vector, with its bias and norm; in place where y is x. */
static void prepare(float *y, const float *x, uint32_t n, uint32_t h, kern_buf bias, kern_buf norm, float eps)
{
    for (uint32_t i = 0; i < h; i++) y[i] = bias.h ? x[i] + kern_f32(bias)[(size_t)n * h + i] : x[i];
    if (!norm.h) return;
    float r = 1.0f / sqrtf(kern_sum_of_squares(y, h) / (float)h + eps);
    for (uint32_t i = 0; i < h; i++) y[i] = (y[i] * r) * kern_f32(norm)[i];
}

static void rotate(float *x, const float *c, const float *s, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = fmaf(a, c[i], -(b * s[i]));
        x[i + half] = fmaf(b, c[i], a * s[i]);
    }
}

static void store(const kern_kv *kv, size_t at, float x, uint32_t *flags)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    if ((u & 0x7f800000u) == 0x7f800000u) *flags |= KERN_FLAG_NONFINITE;
    if (x != x) x = 0.0f;
    if (kv->dtype == KERN_KV_F32) {
        kern_f32(kv->pool)[at] = x;
        return;
    }
    if (fabsf(x) >= KERN_F16_OVERFLOW) {
        *flags |= KERN_FLAG_KV_SATURATED;
        x = x > 0.0f ? 65504.0f : -65504.0f;
    }
    ((uint16_t *)kv->pool.h)[at] = kern_f32_to_f16(x);
}

px_code kern_cpu_rope_append_scalar(kern_dev *d, const kern_rope_append_args *a, px_err *e)
{
    uint32_t live, h = a->head_dim;
    px_code rc;

    (void)d;
    if ((rc = kern_args_rope_append(a, &live, e))) return rc;
    float scale = 1.0f / sqrtf((float)h);
    for (uint32_t t = 0; t < live; t++) {
        uint32_t pos = kern_u32(a->pos)[t], off = pos % a->kv.block;
        uint32_t block = kern_u32(a->block_table)[(size_t)kern_u32(a->row_slot)[t] * a->table_stride + pos / a->kv.block];
        const float *c = kern_f32(a->cos) + (size_t)pos * (h / 2), *s = kern_f32(a->sin) + (size_t)pos * (h / 2);
        uint32_t *flags = (uint32_t *)a->flags.h + t;

        for (uint32_t n = 0; n < a->n_head; n++) {
            float *q = kern_f32(a->q) + ((size_t)t * a->n_head + n) * h;
            prepare(q, q, n, h, a->q_bias, a->q_norm, a->eps);
            rotate(q, c, s, h / 2);
            for (uint32_t i = 0; i < h; i++) q[i] = q[i] * scale;
        }
        for (uint32_t n = 0; n < a->n_kv_head; n++) {
            const size_t row = ((size_t)t * a->n_kv_head + n) * h, at = kern_kv_at(&a->kv, a->layer, block, n);
            float k[KERN_MAX_HEAD_DIM], v[KERN_MAX_HEAD_DIM];
            prepare(k, kern_f32(a->k) + row, n, h, a->k_bias, a->k_norm, a->eps);
            prepare(v, kern_f32(a->v) + row, n, h, a->v_bias, (kern_buf){0}, 0.0f);
            rotate(k, c, s, h / 2);
            for (uint32_t i = 0; i < h; i++) {
                store(&a->kv, at + ((size_t)(off / KERN_TILE) * h + i) * KERN_TILE + off % KERN_TILE, k[i], flags);
                store(&a->kv, at + ((size_t)a->kv.block + off) * h + i, v[i], flags);
            }
        }
    }
    return PX_OK;
}
