/* swiglu.cu - out = (g / (1 + px_exp(-g))) * u, with px_exp's own polynomial (0.91 ulp) and IEEE divisions: the bits of the CPU's
 * definition, and still fewer instructions than the memory has time for.  `out` may be `gate`. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/warp.h"

enum { THREADS = 256, PER_BLOCK = 4 * THREADS, ROW_THREADS = 512, QUADS = 8 };

static __device__ __forceinline__ cu_quad product(const float *gate, const float *up, unsigned c, unsigned cols, bool aligned)
{
    const cu_quad g = cu_quad_load(gate, c, cols, aligned), u = cu_quad_load(up, c, cols, aligned);
    cu_quad y;

    CU_UNROLL
    for (int i = 0; i < 4; i++) y.x[i] = g.x[i] / (1.0f + cu_exp(-g.x[i])) * u.x[i];
    return y;
}

/* gate: swiglu regs=40 must=ld128,st128 */
static __global__ void __launch_bounds__(THREADS) swiglu(const float *gate, const float *up, const uint32_t *live, unsigned cols,
                                                         size_t stride, bool aligned, float *out)
{
    const size_t at = blockIdx.x * stride;
    const bool valid = blockIdx.x < *live;

    for (unsigned c = blockIdx.y * PER_BLOCK + 4 * threadIdx.x; valid && c < cols; c += gridDim.y * PER_BLOCK)
        cu_quad_store(out + at, c, cols, aligned, product(gate + at, up + at, c, cols, aligned));
}

/* gate: swiglu_act regs=128 shared=128 must=ld128
 * One block a row, which has a scale: the first QUADS quads of a thread wait for it in registers, the others in `out`. */
static __global__ void __launch_bounds__(ROW_THREADS) swiglu_act(const float *gate, const float *up, const uint32_t *live, unsigned cols,
                                                                 bool aligned, float *out, const cu_act_to a)
{
    CU_SHARED(unsigned, tops, 32);
    const unsigned n = blockIdx.x < *live ? cols : 0, padded = (n + 31) / 32 * 32, mine = 4 * threadIdx.x, step = 4 * ROW_THREADS;
    const size_t at = (size_t)blockIdx.x * cols;
    const cu_quad zeros = {};
    cu_quad y[QUADS];
    unsigned top = 0;

    CU_UNROLL
    for (int q = 0; q < QUADS; q++) {
        y[q] = mine + q * step < n ? product(gate + at, up + at, mine + q * step, n, aligned) : zeros;
        top = cu_magnitude(y[q], top);
    }
    for (unsigned c = mine + QUADS * step; c < n; c += step) {
        const cu_quad v = product(gate + at, up + at, c, n, aligned);
        cu_quad_store(out + at, c, n, aligned, v);
        top = cu_magnitude(v, top);
    }
    top = cu_block_max(top, 0u, tops);
    const cu_act_row to = cu_act_begin(a.act, top, a, blockIdx.x, n && threadIdx.x == 0);
    CU_UNROLL
    for (int q = 0; q < QUADS; q++)
        if (mine + q * step < padded) cu_act_store(a.act, to, mine + q * step, y[q]);
    for (unsigned c = mine + QUADS * step; c < padded; c += step)
        cu_act_store(a.act, to, c, c < n ? cu_quad_load(out + at, c, n, aligned) : zeros);
}

extern "C" px_code kern_cuda_swiglu(kern_dev *d, const kern_swiglu_args *a, px_err *e)
{
    /* The last row need not have its padding. */
    const size_t n = a->rows.max ? (size_t)(a->rows.max - 1) * a->stride + a->cols : 0;
    cu_act_to to;
    px_code rc;

    if (a->cols > a->stride) return px_fail(e, PX_EINTERNAL, "swiglu.stride", "%u of %u columns", a->stride, a->cols);
    if (a->cols > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "swiglu.cols", "%u columns, at most %u", a->cols, CU_MAX_COLS);
    if ((rc = kern_cuda_rows(&a->rows, "swiglu.rows", e)) || (rc = kern_cuda_need(a->gate, n, 4, 4, "swiglu.gate", e))
        || (rc = kern_cuda_need(a->up, n, 4, 4, "swiglu.up", e)) || (rc = kern_cuda_need(a->out, n, 4, 4, "swiglu.out", e)))
        return rc;
    if (a->act.out.h && a->cols != a->stride)
        return px_fail(e, PX_EINTERNAL, "act", "of %u columns at a stride of %u", a->cols, a->stride);
    if ((rc = kern_cuda_act_to(&a->act, &a->rows, a->cols, &to, e))) return rc;
    if (!a->rows.max || !a->cols) return PX_OK;
    const bool aligned = cu_rows_aligned(a->gate.h, a->stride) && cu_rows_aligned(a->up.h, a->stride) && cu_rows_aligned(a->out.h, a->stride);
    if (to.out)
        return kern_cuda_done(d, "swiglu", CU_LAUNCH(swiglu_act, dim3(a->rows.max), dim3(ROW_THREADS), 0, d->stream,
                                                     static_cast<const float *>(a->gate.h), static_cast<const float *>(a->up.h),
                                                     static_cast<const uint32_t *>(a->rows.live.h), a->cols, aligned,
                                                     static_cast<float *>(a->out.h), to), e);
    return kern_cuda_done(d, "swiglu", CU_LAUNCH(swiglu, dim3(a->rows.max, cu_row_parts(a->cols, PER_BLOCK)), dim3(THREADS), 0, d->stream,
                                                 static_cast<const float *>(a->gate.h), static_cast<const float *>(a->up.h),
                                                 static_cast<const uint32_t *>(a->rows.live.h), a->cols, (size_t)a->stride, aligned,
                                                 static_cast<float *>(a->out.h)), e);
}
