/* swiglu_body.h - swiglu over sixteen lanes, once for AVX2 and once for AVX-512 (OP names the function, QUANT the quant of its path).
 * Layer: kernels/cpu; after vec_avx2.h or vec_avx512.h. */
#include "kernels/cpu/args.h"

typedef struct swiglu_job { const kern_swiglu_args *a; uint32_t live; } swiglu_job;

V_INLINE vf swiglu(vf g, vf u) { return v_mul(v_div(g, v_add(v_set1(1.0f), v_exp(v_neg(g)))), u); }

static void swiglu_part(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const swiglu_job *j = ctx;
    const kern_swiglu_args *a = j->a;
    uint32_t lo, hi, n = a->cols;

    kern_cpu_share(j->live, part, n_parts, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++) {
        size_t at = (size_t)t * a->stride;
        const float *g = kern_f32(a->gate) + at, *u = kern_f32(a->up) + at;
        float *y = kern_f32(a->out) + at;
        uint32_t i = 0;
        for (; i + 16 <= n; i += 16) v_store(y + i, swiglu(v_load(g + i), v_load(u + i)));
        if (i < n) v_store_n(y + i, swiglu(v_load_n(g + i, n - i), v_load_n(u + i, n - i)), n - i);
    }
}

px_code OP(kern_dev *d, const kern_swiglu_args *a, px_err *e)
{
    swiglu_job j = { .a = a };
    px_code rc;

    if ((rc = kern_args_swiglu(a, &j.live, e))) return rc;
    /* About 16 Ki columns are worth a fork. */
    uint64_t parts = (uint64_t)j.live * a->cols / 16384 + 1;
    kern_cpu_split(d, parts < j.live ? (uint32_t)parts : j.live, swiglu_part, &j);
    return kern_args_act(d, &a->act, &a->rows, a->cols, a->out, QUANT, e);
}
