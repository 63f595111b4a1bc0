/* norm_body.h - add_norm over sixteen lanes, once for AVX2 and once for AVX-512 (OP names the function, QUANT the quant of its path).
 * Layer: kernels/cpu; after vec_avx2.h or vec_avx512.h. */
#include <math.h>

#include "kernels/cpu/args.h"
#include "kernels/cpu/vec_tail.h"
#include "proto/base/tree.h"

typedef struct norm_job { const kern_add_norm_args *a; uint32_t live; } norm_job;

/* px_tree_sum of sixteen columns. */
static vf tree_sum(const float *const *view, unsigned n, size_t i, unsigned width)
{
    if (n == 1) return load_upto(view[0] + i, width);
    if (n == 2) return v_add(load_upto(view[0] + i, width), load_upto(view[1] + i, width));
    unsigned left = px_tree_split(n);
    return v_add(tree_sum(view, left, i, width), tree_sum(view + left, n - left, i, width));
}

static void norm_row(const kern_add_norm_args *a, uint32_t t)
{
    const float *view[KERN_MAX_VIEWS];
    uint32_t n = a->cols;
    float *res = kern_f32(a->residual) + (size_t)t * n;
    vf ss = v_zero();

    for (uint32_t v = 0; v < a->n_views; v++) view[v] = kern_f32(a->view[v]) + (size_t)t * n;
    for (uint32_t i = 0; i < n; i += 16) {
        unsigned width = n - i;
        vf x;
        if (!a->n_views) {
            x = load_upto(res + i, width);
        } else {
            x = tree_sum(view, a->n_views, i, width);
            if (!a->first) x = v_add(load_upto(res + i, width), x);
            store_upto(res + i, x, width);
        }
        ss = v_fma(x, x, ss);
    }
    if (!a->weight.h) return;
    const float *w = kern_f32(a->weight);
    float *y = kern_f32(a->out) + (size_t)t * n;
    vf r = v_set1(1.0f / sqrtf(v_sum(ss) / (float)n + a->eps));
    for (uint32_t i = 0; i < n; i += 16) {
        unsigned width = n - i;
        store_upto(y + i, v_mul(v_mul(load_upto(res + i, width), r), load_upto(w + i, width)), width);
    }
}

static void norm_part(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const norm_job *j = ctx;
    uint32_t lo, hi;

    kern_cpu_share(j->live, part, n_parts, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++) norm_row(j->a, t);
}

px_code OP(kern_dev *d, const kern_add_norm_args *a, px_err *e)
{
    norm_job j = { .a = a };
    px_code rc;

    if ((rc = kern_args_add_norm(a, &j.live, e))) return rc;
    /* About 32 Ki columns are worth a fork. */
    uint64_t parts = (uint64_t)j.live * a->cols / 32768 + 1;
    kern_cpu_split(d, parts < j.live ? (uint32_t)parts : j.live, norm_part, &j);
    return kern_args_act(d, &a->act, &a->rows, a->cols, a->out, QUANT, e);
}
