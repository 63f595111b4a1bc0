/* vec_avx512.h - sixteen fp32 lanes on AVX-512: what the vector bodies (*_body.h) are written in.
 * Layer: kernels/cpu, included only by files compiled for avx512f/bw/vl/dq.  vec_avx2.h has the same names; every
 * function gives the same bits in both, and those of kernels/math.c. */
#ifndef KERN_CPU_VEC_AVX512_H
#define KERN_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels/math.h"
#include "kernels/poly.h"

#define V_INLINE static inline __attribute__((always_inline))
#define V_REGISTERS 32                       /* of one lane group: bounds the accumulators of an inner loop */

typedef __m512  vf;                          /* 16 floats */
typedef __m512i vi;                          /* 16 words */

V_INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
V_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
V_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
V_INLINE void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
V_INLINE __mmask16 v_mask_(unsigned n) { return (__mmask16)((1u << n) - 1); }
/* The first n < 16 lanes; the others read as zero and are not written. */
V_INLINE vf v_load_n(const float *p, unsigned n) { return _mm512_maskz_loadu_ps(v_mask_(n), p); }
V_INLINE void v_store_n(float *p, vf x, unsigned n) { _mm512_mask_storeu_ps(p, v_mask_(n), x); }
/* Lanes from n on become y. */
V_INLINE vf v_keep_n(vf x, vf y, unsigned n) { return _mm512_mask_mov_ps(y, v_mask_(n), x); }

V_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
V_INLINE vf v_neg(vf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
V_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }           /* a > b ? a : b */
V_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }           /* a < b ? a : b */

/* One bit a lane. */
V_INLINE uint32_t v_gt_bits(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
V_INLINE uint32_t v_eq_bits(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
V_INLINE uint32_t v_nonfinite_bits(vf a)
{
    vi e = _mm512_set1_epi32(0x7f800000);
    return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a), e), e);
}
/* |a| >= b */
V_INLINE uint32_t v_abs_ge_bits(vf a, float b)
{
    return _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(b), _CMP_GE_OQ);
}
/* NaN becomes 0. */
V_INLINE vf v_nan_to_zero(vf a) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a); }

/* Lane-wise: where x > *best, *best = x and *at = i. */
V_INLINE vi vi_set1(uint32_t i) { return _mm512_set1_epi32((int)i); }
V_INLINE void vi_store(uint32_t *p, vi x) { _mm512_storeu_si512(p, x); }
V_INLINE void v_keep_larger(vf x, vi i, vf *best, vi *at)
{
    __mmask16 gt = _mm512_cmp_ps_mask(x, *best, _CMP_GT_OQ);
    *best = _mm512_mask_mov_ps(*best, gt, x);
    *at = _mm512_mask_mov_epi32(*at, gt, i);
}

/* Lanes i and i + 8, i + 4, i + 2, i + 1 are added. */
V_INLINE float v_sum(vf x)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
V_INLINE float v_largest(vf x)
{
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

V_INLINE float v_first(vf x) { return _mm512_cvtss_f32(x); }

/* fp16: nearest even, no flushing of its subnormals. */
V_INLINE vf v_load_h(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
V_INLINE vf v_load_h8(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_zextsi128_si256(_mm_loadu_si128((const void *)p)));
}
V_INLINE void v_store_h(uint16_t *p, vf x)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* px_exp */
V_INLINE vf v_exp(vf x)
{
    vf y = _mm512_min_ps(x, v_set1(KERN_EXP_MAX));
    vf t = v_fma(y, v_set1(KERN_EXP_LOG2E), v_set1(KERN_EXP_MAGIC));
    vf n = v_sub(t, v_set1(KERN_EXP_MAGIC));
    vf r = v_fma(n, v_set1(-KERN_EXP_LN2_HI), y);
    r = v_fma(n, v_set1(-KERN_EXP_LN2_LO), r);
    vf p = v_fma(v_set1(KERN_EXP_E4), r, v_set1(KERN_EXP_E3));
    p = v_fma(p, r, v_set1(KERN_EXP_E2));
    p = v_fma(p, r, v_set1(KERN_EXP_E1));
    p = v_fma(p, r, v_set1(KERN_EXP_E0));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    vf z = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p),
                                                _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
    z = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, v_set1(KERN_EXP_MIN), _CMP_NLT_UQ), z);
    return _mm512_mask_mov_ps(z, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

/* px_log */
V_INLINE vf v_log(vf x)
{
    vi u = _mm512_castps_si512(x);
    vi e = _mm512_srai_epi32(_mm512_sub_epi32(u, _mm512_set1_epi32(KERN_LOG_SQRTH)), 23);
    vf f = v_sub(_mm512_castsi512_ps(_mm512_sub_epi32(u, _mm512_slli_epi32(e, 23))), v_set1(1.0f));
    vf k = _mm512_cvtepi32_ps(e);
    vf p = v_fma(v_set1(KERN_LOG_L8), f, v_set1(KERN_LOG_L7));
    p = v_fma(p, f, v_set1(KERN_LOG_L6));
    p = v_fma(p, f, v_set1(KERN_LOG_L5));
    p = v_fma(p, f, v_set1(KERN_LOG_L4));
    p = v_fma(p, f, v_set1(KERN_LOG_L3));
    p = v_fma(p, f, v_set1(KERN_LOG_L2));
    p = v_fma(p, f, v_set1(KERN_LOG_L1));
    p = v_fma(p, f, v_set1(KERN_LOG_L0));
    vf z = v_mul(f, f);
    vf y = v_mul(v_mul(p, f), z);
    y = v_fma(k, v_set1(KERN_LOG_LN2_LO), y);
    y = v_fma(z, v_set1(-0.5f), y);
    y = v_add(f, y);
    y = v_fma(k, v_set1(KERN_LOG_LN2_HI), y);
    vf inf = _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, v_set1(KERN_LOG_TINY), _CMP_LT_OQ), v_neg(inf));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, v_zero(), _CMP_LT_OQ),
                           _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, inf, _CMP_NLT_UQ), x);
}

/* Philox words of 64 consecutive ids from 4 * group: eight counters at once, one in each 64-bit lane.  A product reads
 * only the low half of its lanes, so the high halves may hold anything. */
V_INLINE void v_philox_64(const kern_draw *d, uint32_t group, uint32_t *out)
{
    const vi m0 = _mm512_set1_epi64(KERN_PHILOX_M0), m1 = _mm512_set1_epi64(KERN_PHILOX_M1);
    const vi lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    vi x0[2], x1[2], x2[2], x3[2];
    uint32_t k0 = (uint32_t)d->seed, k1 = (uint32_t)(d->seed >> 32);

    for (int j = 0; j < 2; j++) {
        x0[j] = _mm512_add_epi64(_mm512_set1_epi64((long long)group + 8 * j), lane);
        x1[j] = _mm512_set1_epi64(d->position);
        x2[j] = _mm512_set1_epi64(d->sequence);
        x3[j] = _mm512_set1_epi64(d->purpose);
    }
    for (int round = 0; round < 10; round++) {
        vi a = _mm512_set1_epi64(k0), b = _mm512_set1_epi64(k1);
        for (int j = 0; j < 2; j++) {
            vi p0 = _mm512_mul_epu32(x0[j], m0), p1 = _mm512_mul_epu32(x2[j], m1);
            x0[j] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), x1[j], a, 0x96);
            x2[j] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), x3[j], b, 0x96);
            x1[j] = p1;
            x3[j] = p0;
        }
        k0 += KERN_PHILOX_W0;
        k1 += KERN_PHILOX_W1;
    }
    const vi first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), second = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    for (int j = 0; j < 2; j++) {
        vi lo = _mm512_mask_blend_epi32(0xAAAA, x0[j], _mm512_slli_epi64(x1[j], 32));
        vi hi = _mm512_mask_blend_epi32(0xAAAA, x2[j], _mm512_slli_epi64(x3[j], 32));
        _mm512_storeu_si512(out + 32 * j, _mm512_permutex2var_epi64(lo, first, hi));
        _mm512_storeu_si512(out + 32 * j + 16, _mm512_permutex2var_epi64(lo, second, hi));
    }
}

/* kern_gumbel_of sixteen words */
V_INLINE vf v_gumbel(const uint32_t *words)
{
    vf w = _mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_loadu_si512(words), 1));
    vf v = v_fma(w, v_set1(0x1p-31f), v_set1(0x1p-32f));
    vf s = v_fma(v_mul(v_fma(v, v_set1(KERN_THIRD), v_set1(0.5f)), v), v, v);
    vf l = v_neg(v_log(v_sub(v_set1(1.0f), v)));
    vf e = _mm512_mask_mov_ps(l, _mm512_cmp_ps_mask(v, v_set1(KERN_GUMBEL_CUT), _CMP_LT_OQ), s);
    return v_neg(v_log(e));
}

#endif
