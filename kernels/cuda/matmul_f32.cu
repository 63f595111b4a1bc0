/* matmul_f32.cu - weights in F32: fp32 throughout, for tests and tiny models.
 * A block has one panel and 8 rows of activations: 16 output rows x 8 slices of K.  A slice is a chain of fmaf over columns
 * slice, slice + 8, ...; the slices' sums are added in ascending order.  The order does not know the number of rows. */
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/ptx.h"

enum { SLICES = 8, ROWS = 8, THREADS = 16 * SLICES };

/* gate: matmul_f32 regs=64 shared=4096 */
static __global__ void __launch_bounds__(THREADS) matmul_f32(const cu_mm a)
{
    CU_SHARED(float, sums, SLICES * 16 * ROWS);
    const unsigned lane = threadIdx.x % 16, slice = threadIdx.x / 16;
    const cu_mm_weight w = blockIdx.y >= a.w[2].group0 ? a.w[2] : blockIdx.y >= a.w[1].group0 ? a.w[1] : a.w[0];
    const unsigned panel = blockIdx.y - w.group0, row0 = a.row0 + blockIdx.x * ROWS, end = *a.live < a.row1 ? *a.live : a.row1;
    const float *weights = reinterpret_cast<const float *>(w.panels + panel * w.stride) + lane;
    const unsigned last = end > row0 ? end - 1 : row0;                       /* rows past the end are computed as the last one */
    const float *x[ROWS];
    float acc[ROWS] = {};

    CU_UNROLL
    for (unsigned r = 0; r < ROWS; r++)
        x[r] = reinterpret_cast<const float *>(a.act + (row0 + r < last ? row0 + r : last) * a.act_stride);
    for (unsigned c = slice; c < 32 * a.blocks && row0 < end; c += SLICES) {
        const float v = weights[(size_t)c * 16];
        CU_UNROLL
        for (unsigned r = 0; r < ROWS; r++) acc[r] = fmaf(v, x[r][c], acc[r]);
    }
    CU_UNROLL
    for (unsigned r = 0; r < ROWS; r++) sums[(slice * ROWS + r) * 16 + lane] = acc[r];
    __syncthreads();

    const unsigned r = threadIdx.x / 16, column = panel * 16 + lane;          /* THREADS = ROWS * 16 */
    float sum = 0.0f;
    for (unsigned s = 0; s < SLICES; s++) sum += sums[(s * ROWS + r) * 16 + lane];
    if (row0 + r < end && column < w.rows) w.out[(row0 + r) * w.out_stride + column] = sum;
}

CU_API cu_status cu_matmul_f32(const cu_mm *m, cu_stream s)
{
    return CU_LAUNCH(matmul_f32, dim3(cu_ceil_div(m->row1 - m->row0, (uint32_t)ROWS), m->n_groups), dim3(THREADS), 0, s, *m);
}
