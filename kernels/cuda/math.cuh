/* math.cuh - px_exp, px_log and the noise of a draw on a GPU: the operations of kernels/math.c in their order, so the same
 * bits (0.91 and 0.79 ulp).  Some fifteen instructions each, which a kernel that waits for memory does not notice; the
 * approximate functions of the hardware would give other tokens than the CPU.
 * A GPU keeps numbers below 2^-126 and the CPU takes them for zero: cu_flush where that would show.
 * Layer: kernels/cuda, for .cu files. */
#ifndef KERN_CUDA_MATH_CUH
#define KERN_CUDA_MATH_CUH

#include "kernels/cuda/compat.h"
#include "kernels/math.h"
#include "kernels/poly.h"

/* Zero of either sign, or too small to be normal: +0.  NaN stays. */
__device__ __forceinline__ float cu_flush(float x) { return fabsf(x) < 0x1p-126f ? 0.0f : x; }
__device__ __forceinline__ bool cu_is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

/* px_exp */
__device__ __forceinline__ float cu_exp(float x)
{
    const float y = x > KERN_EXP_MAX ? KERN_EXP_MAX : x;
    const float t = fmaf(y, KERN_EXP_LOG2E, KERN_EXP_MAGIC), n = t - KERN_EXP_MAGIC;
    const float r = fmaf(n, -KERN_EXP_LN2_LO, fmaf(n, -KERN_EXP_LN2_HI, y));
    float p = KERN_EXP_E4;

    p = fmaf(p, r, KERN_EXP_E3);
    p = fmaf(p, r, KERN_EXP_E2);
    p = fmaf(p, r, KERN_EXP_E1);
    p = fmaf(p, r, KERN_EXP_E0);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    p = __uint_as_float(__float_as_uint(p) + (__float_as_uint(t) << 23));
    return x != x ? x : x < KERN_EXP_MIN ? 0.0f : p;
}

/* px_log of a number that is neither negative nor a NaN. */
__device__ __forceinline__ float cu_log(float x)
{
    const unsigned u = __float_as_uint(x);
    const int e = static_cast<int>(u - KERN_LOG_SQRTH) >> 23;
    const float f = __uint_as_float(u - (static_cast<unsigned>(e) << 23)) - 1.0f, k = __int2float_rn(e), z = f * f;
    float p = KERN_LOG_L8, y;

    p = fmaf(p, f, KERN_LOG_L7);
    p = fmaf(p, f, KERN_LOG_L6);
    p = fmaf(p, f, KERN_LOG_L5);
    p = fmaf(p, f, KERN_LOG_L4);
    p = fmaf(p, f, KERN_LOG_L3);
    p = fmaf(p, f, KERN_LOG_L2);
    p = fmaf(p, f, KERN_LOG_L1);
    p = fmaf(p, f, KERN_LOG_L0);
    y = fmaf(k, KERN_LOG_LN2_LO, p * f * z);
    y = f + fmaf(z, -0.5f, y);
    y = fmaf(k, KERN_LOG_LN2_HI, y);
    return x < KERN_LOG_TINY ? -INFINITY : x == INFINITY ? x : y;
}

/* Philox4x32-10 of the draw's counter: the words of ids 4 group to 4 group + 3. */
__device__ __forceinline__ uint4 cu_philox(unsigned group, unsigned position, unsigned sequence, unsigned purpose, uint64_t seed)
{
    unsigned x0 = group, x1 = position, x2 = sequence, x3 = purpose, k0 = static_cast<unsigned>(seed), k1 = static_cast<unsigned>(seed >> 32);

    CU_UNROLL
    for (int round = 0; round < 10; round++) {
        const unsigned h0 = __umulhi(KERN_PHILOX_M0, x0), l0 = KERN_PHILOX_M0 * x0, h1 = __umulhi(KERN_PHILOX_M1, x2), l1 = KERN_PHILOX_M1 * x2;
        x0 = h1 ^ x1 ^ k0;
        x2 = h0 ^ x3 ^ k1;
        x1 = l1;
        x3 = l0;
        k0 += KERN_PHILOX_W0;
        k1 += KERN_PHILOX_W1;
    }
    return make_uint4(x0, x1, x2, x3);
}

/* kern_gumbel_of */
__device__ __forceinline__ float cu_gumbel(unsigned word)
{
    const float v = fmaf(__int2float_rn(static_cast<int>(word >> 1)), 0x1p-31f, 0x1p-32f);
    const float e = v < KERN_GUMBEL_CUT ? fmaf(fmaf(v, KERN_THIRD, 0.5f) * v, v, v) : -cu_log(1.0f - v);

    return -cu_log(e);
}

#endif
