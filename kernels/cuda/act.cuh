/* act.cuh - rows of fp32 in the formats that matmul reads: how a row begins, and a quad of its columns.  quant.cu has the rules.
 * Layer: kernels/cuda, for .cu files. */
#ifndef KERN_CUDA_ACT_CUH
#define KERN_CUDA_ACT_CUH

#include "kernels/cuda/device.h"
#include "kernels/cuda/panel.cuh"
#include "kernels/cuda/rows.cuh"

/* Bits of a magnitude: they order as magnitudes do, infinities and NaN last. */
__device__ __forceinline__ unsigned cu_magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }
__device__ __forceinline__ unsigned cu_magnitude(const cu_quad &q, unsigned most)
{
    CU_UNROLL
    for (int i = 0; i < 4; i++) most = cu_magnitude(q.x[i]) > most ? cu_magnitude(q.x[i]) : most;
    return most;
}

struct cu_act_row {
    uint8_t *to;                               /* the row's values */
    float    inverse;                          /* of its scale */
    bool     bad;                              /* it holds what is not finite: zeros */
};

__device__ __forceinline__ constexpr bool cu_act_half(kern_act act) { return act == KERN_ACT_Q12 || act == KERN_ACT_F16; }

/* Row `row`, whose largest magnitude has the bits `top`: its scale and its flag, which the one thread that `writes` leaves there. */
__device__ __forceinline__ cu_act_row cu_act_begin(kern_act act, unsigned top, const cu_act_to &a, unsigned row, bool writes)
{
    uint8_t *const to = a.out + row * a.stride;
    const bool half = cu_act_half(act), bad = top >= (act == KERN_ACT_BF16 ? 0x7f7f8000u : 0x7f800000u);
    unsigned shift = 0;                        /* scale = 2^shift */

    if (half && !bad && top > 0x47000000u) shift = (top >> 23) - 127 + ((top & 0x7fffffu) != 0) - 15;
    if (writes && bad) a.flags[row] |= KERN_FLAG_NONFINITE;
    if (writes && half) *reinterpret_cast<float *>(to) = __uint_as_float((127 + shift) << 23);
    return { half ? to + 64 : to, __uint_as_float((127 - shift) << 23), bad };
}

/* Two values as a word of 16-bit ones. */
__device__ __forceinline__ unsigned cu_act_pair(kern_act act, const cu_act_row &r, float x, float y)
{
    if (r.bad) return 0;
    return cu_act_half(act) ? cu_bits(__floats2half2_rn(x * r.inverse, y * r.inverse)) : cu_bits(__floats2bfloat162_rn(x, y));
}

/* Columns c .. c + 3, c a multiple of 4, at their places in their block (cu_act_column). */
__device__ __forceinline__ void cu_act_store(kern_act act, const cu_act_row &r, unsigned c, const cu_quad &q)
{
    if (act == KERN_ACT_F32) {
        cu_quad y;
        CU_UNROLL
        for (int i = 0; i < 4; i++) y.x[i] = r.bad ? 0.0f : q.x[i];
        cu_quad_store(reinterpret_cast<float *>(r.to), c, c + 4, true, y);
        return;
    }
    unsigned *const block = reinterpret_cast<unsigned *>(r.to + (size_t)(c / 32) * 64);
    const unsigned at = c % 32;
    if (act == KERN_ACT_Q12) {
        unsigned *const to = block + at % 16 + at / 16 * 2;                 /* lane at % 16 / 4 has four words */
        to[0] = cu_act_pair(act, r, q.x[0], q.x[2]);
        to[1] = cu_act_pair(act, r, q.x[1], q.x[3]);
    } else {
        unsigned *const to = block + at % 8 * 2 + at / 8;                   /* lanes at % 8 / 2 and the next */
        to[0] = cu_act_pair(act, r, q.x[0], q.x[1]);
        to[4] = cu_act_pair(act, r, q.x[2], q.x[3]);
    }
}

#endif
