/* skinny_combine.cu - the second stage of a product whose K is cut: the sums of the splits, ascending, then the row's scale. */
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/ptx.h"

enum { THREADS = 128 };

/* gate: combine regs=48 must=ld128 */
static __global__ void __launch_bounds__(THREADS) combine(const cu_mm a)
{
    const unsigned width = 32 * a.wm * a.n_groups, rows = a.row1 - a.row0, r = blockIdx.y;
    const unsigned padded = 4 * (blockIdx.x * THREADS + threadIdx.x), group = padded / (32 * a.wm);
    const cu_mm_weight w = group >= a.w[2].group0 ? a.w[2] : group >= a.w[1].group0 ? a.w[1] : a.w[0];
    const unsigned column = padded - w.group0 * 32 * a.wm;
    float sum[4] = {};

    if (padded >= width || column >= w.rows || a.row0 + r >= *a.live) return;
    for (unsigned s = 0; s < a.splits; s++) {
        const uint4 v = cu_load16(a.partial + ((size_t)s * rows + r) * width + padded);
        sum[0] += __uint_as_float(v.x), sum[1] += __uint_as_float(v.y), sum[2] += __uint_as_float(v.z), sum[3] += __uint_as_float(v.w);
    }
    const float scale = a.head ? *reinterpret_cast<const float *>(a.act + (a.row0 + r) * a.act_stride) : 1.0f;
    float *out = w.out + (a.row0 + r) * w.out_stride + column;
    CU_UNROLL
    for (unsigned i = 0; i < 4; i++)
        if (column + i < w.rows) out[i] = sum[i] * scale;
}

CU_API cu_status cu_skinny_combine(const cu_mm *m, cu_stream s)
{
    const unsigned vectors = 8 * m->wm * m->n_groups;

    return CU_LAUNCH(combine, dim3(cu_ceil_div(vectors, (unsigned)THREADS), m->row1 - m->row0), dim3(THREADS), 0, s, *m);
}
