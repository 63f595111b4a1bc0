/* rows.cuh - matrices of fp32 rows, four columns at a time: 16 bytes where the rows allow it.
 * Layer: kernels/cuda, for .cu files. */
#ifndef KERN_CUDA_ROWS_CUH
#define KERN_CUDA_ROWS_CUH

#include "kernels/cuda/device.h"
#include "kernels/cuda/ptx.h"

struct cu_quad { float x[4]; };

/* Every row of a matrix begins on 16 bytes. */
inline bool cu_rows_aligned(const void *p, size_t stride) { return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % 4 == 0; }

/* Columns c .. c + 3 of a row; zeros beyond its end. */
__device__ __forceinline__ cu_quad cu_quad_load(const float *row, unsigned c, unsigned cols, bool aligned)
{
    cu_quad q;

    if (aligned && c + 4 <= cols) {
        const uint4 v = cu_load16(row + c);
        q.x[0] = __uint_as_float(v.x), q.x[1] = __uint_as_float(v.y), q.x[2] = __uint_as_float(v.z), q.x[3] = __uint_as_float(v.w);
    } else {
        CU_UNROLL
        for (unsigned i = 0; i < 4; i++) q.x[i] = c + i < cols ? row[c + i] : 0.0f;
    }
    return q;
}

__device__ __forceinline__ void cu_quad_store(float *row, unsigned c, unsigned cols, bool aligned, const cu_quad &q)
{
    if (aligned && c + 4 <= cols) {
        cu_store16(row + c, make_uint4(__float_as_uint(q.x[0]), __float_as_uint(q.x[1]), __float_as_uint(q.x[2]), __float_as_uint(q.x[3])));
    } else {
        CU_UNROLL
        for (unsigned i = 0; i < 4; i++)
            if (c + i < cols) row[c + i] = q.x[i];
    }
}

/* Blocks of a grid's y for kernels whose blocks take `per` columns of a row, and go on to the columns of the next round. */
inline unsigned cu_row_parts(unsigned cols, unsigned per)
{
    const unsigned n = cu_ceil_div(cols, per);

    return n < CU_MAX_GRID_YZ ? n : CU_MAX_GRID_YZ;
}

#endif
