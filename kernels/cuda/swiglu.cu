/* swiglu.cu - out = (g / (1 + px_exp(-g))) * u, with px_exp's own polynomial (0.91 ulp) and IEEE divisions: the bits of the CPU's
 * definition, and still fewer instructions than the memory has time for.  `out` may be `gate`. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/rows.cuh"

enum { THREADS = 256, PER_BLOCK = 4 * THREADS };

/* gate: swiglu regs=40 must=ld128,st128 */
static __global__ void __launch_bounds__(THREADS) swiglu(const float *gate, const float *up, const uint32_t *live, unsigned cols,
                                                         size_t stride, bool aligned, float *out)
{
    const size_t at = blockIdx.x * stride;
    const bool valid = blockIdx.x < *live;

    for (unsigned c = blockIdx.y * PER_BLOCK + 4 * threadIdx.x; valid && c < cols; c += gridDim.y * PER_BLOCK) {
        const cu_quad g = cu_quad_load(gate + at, c, cols, aligned), u = cu_quad_load(up + at, c, cols, aligned);
        cu_quad y;

        CU_UNROLL
        for (int i = 0; i < 4; i++) y.x[i] = g.x[i] / (1.0f + cu_exp(-g.x[i])) * u.x[i];
        cu_quad_store(out + at, c, cols, aligned, y);
    }
}

extern "C" px_code kern_cuda_swiglu(kern_dev *d, const kern_swiglu_args *a, px_err *e)
{
    /* The last row need not have its padding. */
    const size_t n = a->rows.max ? (size_t)(a->rows.max - 1) * a->stride + a->cols : 0;
    px_code rc;

    if (a->cols > a->stride) return px_fail(e, PX_EINTERNAL, "swiglu.stride", "%u of %u columns", a->stride, a->cols);
    if (a->cols > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "swiglu.cols", "%u columns, at most %u", a->cols, CU_MAX_COLS);
    if ((rc = kern_cuda_rows(&a->rows, "swiglu.rows", e)) || (rc = kern_cuda_need(a->gate, n, 4, 4, "swiglu.gate", e))
        || (rc = kern_cuda_need(a->up, n, 4, 4, "swiglu.up", e)) || (rc = kern_cuda_need(a->out, n, 4, 4, "swiglu.out", e)))
        return rc;
    if (!a->rows.max || !a->cols) return PX_OK;
    const bool aligned = cu_rows_aligned(a->gate.h, a->stride) && cu_rows_aligned(a->up.h, a->stride) && cu_rows_aligned(a->out.h, a->stride);
    return kern_cuda_done(d, "swiglu", CU_LAUNCH(swiglu, dim3(a->rows.max, cu_row_parts(a->cols, PER_BLOCK)), dim3(THREADS), 0, d->stream,
                                                 static_cast<const float *>(a->gate.h), static_cast<const float *>(a->up.h),
                                                 static_cast<const uint32_t *>(a->rows.live.h), a->cols, (size_t)a->stride, aligned,
                                                 static_cast<float *>(a->out.h)), e);
}
