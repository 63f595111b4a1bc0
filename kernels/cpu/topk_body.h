/* topk_body.h - candidates over sixteen lanes, once for AVX2 and once for AVX-512 (OP names the function).
 * Layer: kernels/cpu; after vec_avx2.h or vec_avx512.h. */
#include <math.h>

#include "kernels/cpu/topk.h"

#define WORDS 2048u                          /* random words made at once; a multiple of 64 */

typedef struct cand_job { const kern_candidates_args *a; uint32_t live; } cand_job;

/* The largest of x; false when one is not finite.  n > 0 */
static bool largest(const float *x, uint32_t n, float *max)
{
    vf low = v_set1(-INFINITY), m = low;
    uint32_t bad = 0, i;

    for (i = 0; i + 16 <= n; i += 16) {
        vf y = v_load(x + i);
        bad |= v_nonfinite_bits(y);
        m = v_max(y, m);
    }
    if (i < n) {
        vf y = v_load_n(x + i, n - i);
        bad |= v_nonfinite_bits(y);
        m = v_max(v_keep_n(y, low, n - i), m);
    }
    *max = v_largest(m) + 0.0f;              /* no negative zero */
    return !bad;
}

static uint32_t first_equal(const float *x, uint32_t n, float max)
{
    vf m = v_set1(max);
    uint32_t i, bits;

    for (i = 0; i + 16 <= n; i += 16)
        if ((bits = v_eq_bits(v_load(x + i), m))) return i + (uint32_t)__builtin_ctz(bits);
    return i + (uint32_t)__builtin_ctz(v_eq_bits(v_load_n(x + i, n - i), m));
}

static float sum_exp(const float *x, uint32_t n, float max)
{
    vf m = v_set1(max), s = v_zero();
    uint32_t i;

    for (i = 0; i + 16 <= n; i += 16) s = v_add(s, v_exp(v_sub(v_load(x + i), m)));
    if (i < n) s = v_add(s, v_keep_n(v_exp(v_sub(v_load_n(x + i, n - i), m)), v_zero(), n - i));
    return v_sum(s);
}

static float sum_exp_tempered(const float *x, uint32_t n, float t, float max)
{
    vf m = v_set1(max), tt = v_set1(t), s = v_zero();
    uint32_t i;

    for (i = 0; i + 16 <= n; i += 16) s = v_add(s, v_exp(v_sub(v_div(v_load(x + i), tt), m)));
    if (i < n) s = v_add(s, v_keep_n(v_exp(v_sub(v_div(v_load_n(x + i, n - i), tt), m)), v_zero(), n - i));
    return v_sum(s);
}

/* Index of the largest x / t + noise. */
static uint32_t draw(const float *x, uint32_t n, float t, const kern_draw *d, uint32_t begin, float *value)
{
    static const uint32_t lanes[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    uint32_t word[WORDS + 64], skip = begin % 4;
    vf low = v_set1(-INFINITY), top = low, tt = v_set1(t);
    float value_of[16];
    uint32_t base_of[16];
    vi at = vi_set1(0);

    for (uint32_t done = 0; done < n; done += WORDS) {
        uint32_t m = n - done < WORDS ? n - done : WORDS;
        for (uint32_t w = 0; w < m + skip; w += 64) v_philox_64(d, (begin + done) / 4 + w / 4, word + w);
        for (uint32_t i = 0; i < m; i += 16) {
            vf g = v_gumbel(word + skip + i);
            vf y = m - i >= 16 ? v_add(v_div(v_load(x + done + i), tt), g)
                               : v_keep_n(v_add(v_div(v_load_n(x + done + i, m - i), tt), g), low, m - i);
            v_keep_larger(y, vi_set1(done + i), &top, &at);
        }
    }
    v_store(value_of, top);
    vi_store(base_of, at);
    uint32_t best = base_of[0];
    *value = value_of[0];
    for (uint32_t i = 1; i < 16; i++) {
        uint32_t id = base_of[i] + lanes[i];
        if (value_of[i] < *value || (value_of[i] == *value && id > best)) continue;
        best = id;
        *value = value_of[i];
    }
    return best;
}

static void row(const kern_candidates_args *a, const kern_cand_param *p, const float *x, kern_cand_head *h,
                kern_cand_entry *list)
{
    uint32_t n = a->n_valid, begin = a->vocab_begin;
    float max, t = p->temperature;

    kern_cand_empty(h, false);
    if (!n) return;
    if (!largest(x, n, &max)) {
        h->nonfinite = 1;
        return;
    }
    h->max = max;
    h->sum = sum_exp(x, n, max);
    uint32_t best = first_equal(x, n, max);
    h->best = begin + best;
    h->best_logit = x[best];
    kern_cand_target(h, a, p, x);
    if (t > 0.0f) {
        h->tmax = max / t + 0.0f;            /* division keeps the order */
        h->tsum = sum_exp_tempered(x, n, t, h->tmax);
        if (p->draw) {
            kern_draw d = { p->seed, p->position, p->sequence, KERN_PURPOSE_TOKEN };
            uint32_t drawn = draw(x, n, t, &d, begin, &h->drawn_value);
            h->drawn = begin + drawn;
            h->drawn_logit = x[drawn];
        }
    }
    if (!p->n_list) return;
    kern_best b;
    kern_best_init(&b, p->n_list);
    for (uint32_t i = 0; i < n; i += 16) {
        uint32_t bits = n - i >= 16 ? v_gt_bits(v_load(x + i), v_set1(b.floor))
                                    : v_gt_bits(v_load_n(x + i, n - i), v_set1(b.floor)) & ((1u << (n - i)) - 1);
        for (; bits; bits &= bits - 1) {
            uint32_t j = i + (uint32_t)__builtin_ctz(bits);
            kern_best_put(&b, begin + j, x[j]);
        }
    }
    h->n_list = kern_best_take(&b, x, begin, list);
}

static void cand_part(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const cand_job *j = ctx;
    const kern_candidates_args *a = j->a;
    uint32_t lo, hi;

    kern_cpu_share(j->live, part, n_parts, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++) {
        kern_cand_head *h = (kern_cand_head *)((char *)a->out.h + (size_t)t * a->out_stride);
        row(a, (const kern_cand_param *)a->params.h + t, kern_f32(a->logits) + (size_t)t * a->stride, h,
            (kern_cand_entry *)(h + 1));
    }
}

px_code OP(kern_dev *d, const kern_candidates_args *a, px_err *e)
{
    cand_job j = { .a = a };
    px_code rc;

    if ((rc = kern_args_candidates(a, &j.live, e))) return rc;
    if (j.live) kern_cpu_split(d, j.live, cand_part, &j);
    return PX_OK;
}
