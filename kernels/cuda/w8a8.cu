/* w8a8.cu - FP8 weights with FP8 activations (fp8_activations), for the products of many rows that a library makes: what it multiplies.
 * Weights: the bytes of panels as plain rows, a permutation.  Activations: rows of F16 (quant.cu) as e4m3 behind one fp32 scale a row, a
 * 448th of the largest magnitude: byte = nearest even of x * (448 / largest).  Within each block of 32 columns both stand in the order of
 * F16's activations (panel.cuh).  A row of zeros is zeros.  One that is not finite (quant leaves none) is zeros with an infinite scale, so
 * that what comes of it is NaN. */
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/panel.cuh"
#include "kernels/cuda/warp.h"

enum { THREADS = 256 };

/* gate: fp8_weights regs=40 must=ld128
 * 16 lanes a block of one panel: 4 rows each, 8 bytes of each; four lanes write a row's 32. */
static __global__ void __launch_bounds__(THREADS) fp8_weights(const uint8_t *panels, size_t stride, unsigned blocks, uint8_t *rows)
{
    typedef cu_panel<KERN_FP8> P;
    const unsigned block = (blockIdx.x * THREADS + threadIdx.x) / 16, r4 = threadIdx.x / 4 % 4, t = threadIdx.x % 4;
    const uint8_t *from = panels + blockIdx.y * stride + P::quants(block) + 64 * t + 16 * r4;

    if (block >= blocks) return;
    const uint4 v[2] = { cu_load16_stream(from), cu_load16_stream(from + 256) };
    uint8_t *to = rows + ((size_t)blockIdx.y * 16 + 4 * r4) * blocks * 32 + (size_t)block * 32 + 8 * t;
    CU_UNROLL
    for (int r = 0; r < 4; r++)                                     /* bytes 0, 2, 1, 3: as cu_panel_values has them */
        *reinterpret_cast<uint2 *>(to + (size_t)r * blocks * 32) = make_uint2(cu_prmt(cu_word(v[0], r), 0, 0x3120), cu_prmt(cu_word(v[1], r), 0, 0x3120));
}

CU_API cu_status cu_unpack_fp8_bytes(const uint8_t *panels, size_t stride, uint32_t n, uint32_t blocks, void *rows, cu_stream s)
{
    return CU_LAUNCH(fp8_weights, dim3(cu_ceil_div(blocks * 16, (uint32_t)THREADS), n), dim3(THREADS), 0, s, panels, stride, blocks,
                     static_cast<uint8_t *>(rows));
}

/* Two fp16 as two bytes of e4m3. */
static __device__ __forceinline__ unsigned narrow(unsigned pair, float by)
{
    const float2 x = __half22float2(cu_as_half2(pair));

    return cu_float2_to_e4m3x2(make_float2(x.x * by, x.y * by));
}

/* gate: fp8_rows regs=40 shared=128 must=ld128
 * One block a row, the live ones and those that could be, which are zeros. */
static __global__ void __launch_bounds__(THREADS) fp8_rows(const uint8_t *act, size_t act_stride, const uint32_t *live, unsigned blocks, uint8_t *out, float *scales)
{
    CU_SHARED(unsigned, scratch, 32);
    const unsigned row = blockIdx.x, vectors = 4 * blocks;          /* of 8 values */
    const bool valid = row < *live;
    const uint8_t *from = act + row * act_stride;
    uint8_t *to = out + (size_t)row * blocks * 32;
    unsigned top = 0;                                               /* largest magnitude, by its bits */

    for (unsigned i = threadIdx.x; valid && i < vectors; i += THREADS) {
        const uint4 v = cu_load16(from + 64 + 16 * (size_t)i);
        CU_UNROLL
        for (int j = 0; j < 4; j++) top = cu_larger(top, cu_larger(cu_word(v, j) & 0x7fffu, cu_word(v, j) >> 16 & 0x7fffu));
    }
    top = cu_block_max(top, 0u, scratch);

    const bool bad = top >= 0x7c00u;
    const float most = __low2float(cu_as_half2(top)), by = top && !bad ? CU_FP8_MOST / most : 0.0f;
    if (threadIdx.x == 0) scales[row] = valid ? *reinterpret_cast<const float *>(from) * (bad ? __uint_as_float(0x7f800000u) : most / CU_FP8_MOST) : 0.0f;
    for (unsigned i = threadIdx.x; i < vectors; i += THREADS) {
        uint2 bytes = make_uint2(0, 0);
        if (valid && !bad) {
            const uint4 v = cu_load16(from + 64 + 16 * (size_t)i);
            bytes = make_uint2(narrow(v.x, by) | narrow(v.y, by) << 16, narrow(v.z, by) | narrow(v.w, by) << 16);
        }
        *reinterpret_cast<uint2 *>(to + 8 * (size_t)i) = bytes;
    }
}

CU_API cu_status cu_fp8_rows(const cu_mm *m, uint8_t *out, float *scales, cu_stream s)
{
    return CU_LAUNCH(fp8_rows, dim3(m->row1), dim3(THREADS), 0, s, m->act, m->act_stride, m->live, m->blocks, out, scales);
}
