/* norm.c - add_norm, the definition: partial sums in tree order, the residual last, then RMSNorm.
 * ss = sum of x^2 (norm.h); r = 1 / sqrtf(ss / n + eps); y = (x * r) * weight. */
#include "kernels/cpu/args.h"
#include "kernels/cpu/norm.h"
#include "proto/base/tree.h"

px_code kern_cpu_add_norm_scalar(kern_dev *d, const kern_add_norm_args *a, px_err *e)
{
    const float *view[KERN_MAX_VIEWS];
    uint32_t live, n = a->cols;
    px_code rc;

    if ((rc = kern_args_add_norm(a, &live, e))) return rc;
    for (uint32_t t = 0; t < live; t++) {
        float *res = kern_f32(a->residual) + (size_t)t * n;
        for (uint32_t v = 0; v < a->n_views; v++) view[v] = kern_f32(a->view[v]) + (size_t)t * n;
        for (uint32_t i = 0; a->n_views && i < n; i++) {
            float sum = px_tree_sum(view, a->n_views, i);
            res[i] = a->first ? sum : res[i] + sum;
        }
        if (!a->weight.h) continue;
        const float *w = kern_f32(a->weight);
        float *y = kern_f32(a->out) + (size_t)t * n;
        float r = 1.0f / sqrtf(kern_sum_of_squares(res, n) / (float)n + a->eps);
        for (uint32_t i = 0; i < n; i++) y[i] = (res[i] * r) * w[i];
    }
    return kern_args_act(d, &a->act, &a->rows, n, a->out, kern_cpu_quant_scalar, e);
}
