/* rope_body.h - rope_append over sixteen lanes, once for AVX2 and once for AVX-512 (OP names the function).
 * Layer: kernels/cpu; after vec_avx2.h or vec_avx512.h. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/args.h"
#include "kernels/cpu/vec_tail.h"

typedef struct rope_job { const kern_rope_append_args *a; uint32_t live; float scale; } rope_job;

/* Head `n` of a vector with its bias and norm, either of which may be missing; y may be x. */
static const float *prepare_(float *y, const float *x, uint32_t n, uint32_t h, kern_buf bias, kern_buf norm, float eps)
{
    vf ss = v_zero();

    for (uint32_t i = 0; i < h; i += 16) {
        vf v = load_upto(x + i, h - i);
        if (bias.h) v = v_add(v, load_upto(kern_f32(bias) + (size_t)n * h + i, h - i));
        store_upto(y + i, v, h - i);
        ss = v_fma(v, v, ss);
    }
    if (!norm.h) return y;
    vf r = v_set1(1.0f / sqrtf(v_sum(ss) / (float)h + eps));
    for (uint32_t i = 0; i < h; i += 16)
        store_upto(y + i, v_mul(v_mul(load_upto(y + i, h - i), r), load_upto(kern_f32(norm) + i, h - i)), h - i);
    return y;
}

/* x itself where there are none. */
V_INLINE const float *prepare(float *y, const float *x, uint32_t n, uint32_t h, kern_buf bias, kern_buf norm, float eps)
{
    return bias.h || norm.h ? prepare_(y, x, n, h, bias, norm, eps) : x;
}

/* y = x rotated, times scale (1 for k: a multiplication by it changes nothing). */
V_INLINE void rotate_(float *y, const float *x, const float *c, const float *s, uint32_t half, vf scale, bool tail)
{
    for (uint32_t i = 0; i < half; i += 16) {
        unsigned n = half - i;
        bool full = !tail || n >= 16;
        vf a = full ? v_load(x + i) : v_load_n(x + i, n), b = full ? v_load(x + half + i) : v_load_n(x + half + i, n);
        vf cc = full ? v_load(c + i) : v_load_n(c + i, n), ss = full ? v_load(s + i) : v_load_n(s + i, n);
        vf p = v_mul(v_fma(a, cc, v_neg(v_mul(b, ss))), scale), q = v_mul(v_fma(b, cc, v_mul(a, ss)), scale);
        if (full) {
            v_store(y + i, p);
            v_store(y + half + i, q);
        } else {
            v_store_n(y + i, p, n);
            v_store_n(y + half + i, q, n);
        }
    }
}

static void rotate(float *y, const float *x, const float *c, const float *s, uint32_t half, float scale)
{
    if (half % 16) rotate_(y, x, c, s, half, v_set1(scale), true);
    else rotate_(y, x, c, s, half, v_set1(scale), false);
}

/* x as it stands in the cache: no NaN, and in fp16 nothing that rounds to infinity. */
V_INLINE vf clean(vf x, bool half, uint32_t *flags)
{
    if (v_nonfinite_bits(x)) *flags |= KERN_FLAG_NONFINITE;
    x = v_nan_to_zero(x);
    if (half) {
        if (v_abs_ge_bits(x, KERN_F16_OVERFLOW)) *flags |= KERN_FLAG_KV_SATURATED;
        x = v_max(v_min(x, v_set1(65504.0f)), v_set1(-65504.0f));
    }
    return x;
}

static void append_head(const kern_rope_append_args *a, size_t at, uint32_t off, const float *k, const float *v,
                        uint32_t *flags)
{
    uint32_t h = a->head_dim, i;
    size_t k0 = at + (size_t)(off / KERN_TILE) * h * KERN_TILE + off % KERN_TILE;
    size_t v0 = at + ((size_t)a->kv.block + off) * h;

    if (a->kv.dtype == KERN_KV_F16) {
        uint16_t *pool = a->kv.pool.h, row[KERN_MAX_HEAD_DIM + 16];
        for (i = 0; i < h; i += 16)
            v_store_h(row + i, clean(h - i >= 16 ? v_load(k + i) : v_load_n(k + i, h - i), true, flags));
        for (i = 0; i < h; i++) pool[k0 + (size_t)i * KERN_TILE] = row[i];
        for (i = 0; i < h; i += 16)
            v_store_h(row + i, clean(h - i >= 16 ? v_load(v + i) : v_load_n(v + i, h - i), true, flags));
        memcpy(pool + v0, row, h * sizeof *row);
    } else {
        float *pool = a->kv.pool.h, row[KERN_MAX_HEAD_DIM + 16];
        for (i = 0; i < h; i += 16)
            v_store(row + i, clean(h - i >= 16 ? v_load(k + i) : v_load_n(k + i, h - i), false, flags));
        for (i = 0; i < h; i++) pool[k0 + (size_t)i * KERN_TILE] = row[i];
        for (i = 0; i < h; i += 16)
            v_store(row + i, clean(h - i >= 16 ? v_load(v + i) : v_load_n(v + i, h - i), false, flags));
        memcpy(pool + v0, row, h * sizeof *row);
    }
}

static void rope_part(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const rope_job *j = ctx;
    const kern_rope_append_args *a = j->a;
    uint32_t lo, hi, h = a->head_dim;
    float k[KERN_MAX_HEAD_DIM], v[KERN_MAX_HEAD_DIM];

    kern_cpu_share(j->live, part, n_parts, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++) {
        uint32_t pos = kern_u32(a->pos)[t], flags = 0;
        uint32_t block = kern_u32(a->block_table)[(size_t)kern_u32(a->row_slot)[t] * a->table_stride + pos / a->kv.block];
        const float *c = kern_f32(a->cos) + (size_t)pos * (h / 2), *s = kern_f32(a->sin) + (size_t)pos * (h / 2);

        for (uint32_t n = 0; n < a->n_head; n++) {
            float *q = kern_f32(a->q) + ((size_t)t * a->n_head + n) * h;
            rotate(q, prepare(q, q, n, h, a->q_bias, a->q_norm, a->eps), c, s, h / 2, j->scale);
        }
        for (uint32_t n = 0; n < a->n_kv_head; n++) {
            size_t row = ((size_t)t * a->n_kv_head + n) * h;
            rotate(k, prepare(k, kern_f32(a->k) + row, n, h, a->k_bias, a->k_norm, a->eps), c, s, h / 2, 1.0f);
            append_head(a, kern_kv_at(&a->kv, a->layer, block, n), pos % a->kv.block, k,
                        prepare(v, kern_f32(a->v) + row, n, h, a->v_bias, (kern_buf){0}, 0.0f), &flags);
        }
        if (flags) ((uint32_t *)a->flags.h)[t] |= flags;
    }
}

px_code OP(kern_dev *d, const kern_rope_append_args *a, px_err *e)
{
    rope_job j = { .a = a, .scale = 1.0f / sqrtf((float)a->head_dim) };
    px_code rc;

    if ((rc = kern_args_rope_append(a, &j.live, e))) return rc;
    /* About 8 Ki elements are worth a fork; two rows never write the same place. */
    uint64_t parts = (uint64_t)j.live * (a->n_head + 2 * a->n_kv_head) * a->head_dim / 8192 + 1;
    kern_cpu_split(d, parts < j.live ? (uint32_t)parts : j.live, rope_part, &j);
    return PX_OK;
}
