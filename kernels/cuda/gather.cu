/* gather.cu - out[i] = in[index[i]].  An index beyond `in` (the CPU refuses it; here nobody on the host knows it) gives a row of
 * NaN, which candidates report. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.cuh"

enum { THREADS = 256, PER_BLOCK = 4 * THREADS };

/* gate: gather regs=32 must=ld128,st128 */
static __global__ void __launch_bounds__(THREADS) gather(const float *in, size_t n_in, const uint32_t *index, const uint32_t *live,
                                                         unsigned cols, bool aligned, float *out)
{
    const unsigned row = blockIdx.x;
    const bool valid = row < *live;
    const unsigned from = valid ? index[row] : 0;
    const bool there = from < n_in;

    for (unsigned c = blockIdx.y * PER_BLOCK + 4 * threadIdx.x; valid && c < cols; c += gridDim.y * PER_BLOCK) {
        cu_quad q = { { NAN, NAN, NAN, NAN } };
        if (there) q = cu_quad_load(in + (size_t)from * cols, c, cols, aligned);
        cu_quad_store(out + (size_t)row * cols, c, cols, aligned, q);
    }
}

extern "C" px_code kern_cuda_gather(kern_dev *d, const kern_gather_args *a, px_err *e)
{
    const size_t row = (size_t)a->cols * sizeof(float);
    px_code rc;

    if (a->cols > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "gather.cols", "%u columns, at most %u", a->cols, CU_MAX_COLS);
    if ((rc = kern_cuda_rows(&a->rows, "gather.rows", e)) || (rc = kern_cuda_need(a->index, a->rows.max, 4, 4, "gather.index", e))
        || (rc = kern_cuda_need(a->in, 0, 1, 4, "gather.in", e)) || (rc = kern_cuda_need(a->out, a->rows.max, row, 4, "gather.out", e)))
        return rc;
    if (!a->rows.max || !a->cols) return PX_OK;
    const bool aligned = cu_rows_aligned(a->in.h, a->cols) && cu_rows_aligned(a->out.h, a->cols);
    return kern_cuda_done(d, "gather", CU_LAUNCH(gather, dim3(a->rows.max, cu_row_parts(a->cols, PER_BLOCK)), dim3(THREADS), 0, d->stream,
                                                 static_cast<const float *>(a->in.h), a->in.bytes / row,
                                                 static_cast<const uint32_t *>(a->index.h), static_cast<const uint32_t *>(a->rows.live.h),
                                                 a->cols, aligned, static_cast<float *>(a->out.h)), e);
}
