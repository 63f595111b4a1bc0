/* unpack.cu - panels as plain rows of 16-bit values, for the products of many rows that a library makes.
 * BF16 and F16 as they are.  Quants: d * q, with minima fmaf(d, q, m), in fp32 and then rounded to the nearest fp16: at most 2^-11 of a
 * weight, or 2^-25 where it is below fp16's normal numbers; beyond fp16 it is infinite, as the row then is.  Columns stand in
 * the order of activations within each block of 32 (panel.cuh). */
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/panel.cuh"

enum { THREADS = 256 };

template <kern_dtype D>
static __device__ __forceinline__ unsigned widen(unsigned pair, float d, float m)
{
    if constexpr (cu_panel<D>::PAIRS) return pair;
    else {
        const float2 q = __half22float2(cu_as_half2(pair));
        return cu_bits(__floats2half2_rn(fmaf(d, q.x, m), fmaf(d, q.y, m)));
    }
}

/* The four words of a row, two of each half of the block. */
template <kern_dtype D>
static __device__ __forceinline__ uint4 widen_row(const unsigned (&w)[4], float d0, float m0, float d1, float m1)
{
    return make_uint4(widen<D>(w[0], d0, m0), widen<D>(w[1], d0, m0), widen<D>(w[2], d1, m1), widen<D>(w[3], d1, m1));
}

/* gate: unpack regs=64 must=ld128,st128
 * 16 lanes a block of one panel: 4 rows each, 16 bytes of each. */
template <kern_dtype D>
static __global__ void __launch_bounds__(THREADS) unpack(const uint8_t *panels, size_t stride, unsigned blocks, uint8_t *rows)
{
    typedef cu_panel<D> P;
    const unsigned block = (blockIdx.x * THREADS + threadIdx.x) / 16, r4 = threadIdx.x / 4 % 4, t = threadIdx.x % 4;
    const uint8_t *panel = panels + blockIdx.y * stride;
    uint4 v[P::VECS];
    unsigned w[4][4];
    constexpr int LAST = P::HALVES ? 1 : 0;    /* half of a block that has scales of its own */
    float d[2][4] = {}, m[2][4] = {};

    if (block >= blocks) return;
    CU_UNROLL
    for (unsigned i = 0; i < P::VECS; i++) v[i] = cu_load16_stream(panel + P::quants(block) + 256 * i + 64 * t + 16 * r4);
    if constexpr (P::FP8) cu_fp8_scales(panel + stride, r4, d[0]);
    else if constexpr (!P::PAIRS) {
        const uint8_t *meta = panel + P::meta(blocks, block);
        if constexpr (P::TWO_BITS) {
            cu_four_pairs(meta + P::FOUR_ROWS * r4, d[0], m[0]);
            cu_four_pairs(meta + 64 + P::FOUR_ROWS * r4, d[1], m[1]);
        } else {
            cu_four_halves(meta + P::FOUR_ROWS * r4, d[0]);
            if (P::TWO) cu_four_halves(meta + 32 + P::FOUR_ROWS * r4, P::HALVES ? d[1] : m[0]);
        }
    }
    cu_panel_values<D>(v, block, w);
    CU_UNROLL
    for (unsigned r = 0; r < 4; r++)
        cu_store16(rows + ((size_t)blockIdx.y * 16 + 4 * r4 + r) * blocks * 64 + (size_t)block * 64 + 16 * t,
                   widen_row<D>(w[r], d[0][r], m[0][r], d[LAST][r], m[LAST][r]));
}

template <kern_dtype D>
static cu_status unpack_of(const uint8_t *panels, size_t stride, uint32_t n, uint32_t blocks, void *rows, cu_stream s)
{
    return CU_LAUNCH(unpack<D>, dim3(cu_ceil_div(blocks * 16, (uint32_t)THREADS), n), dim3(THREADS), 0, s, panels, stride, blocks,
                     static_cast<uint8_t *>(rows));
}

#define UNPACK(name, type)                                                                                                    \
    CU_API cu_status cu_unpack_##name(const uint8_t *panels, size_t stride, uint32_t n, uint32_t blocks, void *rows, cu_stream s) \
    {                                                                                                                         \
        return unpack_of<type>(panels, stride, n, blocks, rows, s);                                                           \
    }
UNPACK(bf16, KERN_BF16)
UNPACK(f16, KERN_F16)
UNPACK(fp8, KERN_FP8)
UNPACK(q8_0, KERN_Q8_0)
UNPACK(q8_m, KERN_Q8_M)
UNPACK(q8_h, KERN_Q8_H)
UNPACK(q2_hm, KERN_Q2_HM)
UNPACK(q4_hl, KERN_Q4_HL)
UNPACK(q4_0, KERN_Q4_0)
UNPACK(q4_1, KERN_Q4_1)
UNPACK(w8, KERN_W8)
UNPACK(w4, KERN_W4)

/* gate: scale_rows regs=32
 * Without columns' scales nearly every row's is 1 and nothing is touched. */
static __global__ void __launch_bounds__(THREADS) scale_rows(const cu_mm_scales by, const uint32_t *live, float *out, size_t out_stride, unsigned cols)
{
    const unsigned row = blockIdx.x, c = blockIdx.y * THREADS + threadIdx.x;

    if (row >= *live || c >= cols) return;
    const float scale = *reinterpret_cast<const float *>(static_cast<const uint8_t *>(by.row) + row * by.row_stride);
    float *to = out + row * out_stride + c;
    if (by.column) *to = *to * *reinterpret_cast<const float *>(by.column + c / 16 * by.column_stride + 4 * (c % 16)) * scale;
    else if (scale != 1.0f) *to *= scale;
}

CU_API cu_status cu_scale_rows(const cu_mm *m, const cu_mm_scales *by, float *out, size_t out_stride, uint32_t cols, cu_stream s)
{
    return CU_LAUNCH(scale_rows, dim3(m->row1, cu_ceil_div(cols, (uint32_t)THREADS)), dim3(THREADS), 0, s, *by, m->live, out, out_stride, cols);
}
