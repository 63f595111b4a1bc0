/* swiglu.c - out = (g / (1 + px_exp(-g))) * u, the definition. */
#include "kernels/cpu/args.h"

px_code kern_cpu_swiglu_scalar(kern_dev *d, const kern_swiglu_args *a, px_err *e)
{
    uint32_t live;
    px_code rc;

    if ((rc = kern_args_swiglu(a, &live, e))) return rc;
    for (uint32_t t = 0; t < live; t++) {
        size_t at = (size_t)t * a->stride;
        const float *g = kern_f32(a->gate) + at, *u = kern_f32(a->up) + at;
        float *y = kern_f32(a->out) + at;
        for (uint32_t i = 0; i < a->cols; i++) y[i] = (g[i] / (1.0f + px_exp(-g[i]))) * u[i];
    }
    return kern_args_act(d, &a->act, &a->rows, a->cols, a->out, kern_cpu_quant_scalar, e);
}
