/* vec_avx2.h - sixteen fp32 lanes in two registers of AVX2: what the vector bodies (*_body.h) are written in.
 * Layer: kernels/cpu, included only by files compiled for avx2/fma/f16c.  vec_avx512.h has the same names; every
 * function gives the same bits in both, and those of kernels/math.c. */
#ifndef KERN_CPU_VEC_AVX2_H
#define KERN_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/math.h"
#include "kernels/poly.h"

#define V_INLINE static inline __attribute__((always_inline))
#define V_REGISTERS 8                        /* of one lane group: bounds the accumulators of an inner loop */

typedef struct vf { __m256 a, b; } vf;       /* 16 floats: lanes 0-7, 8-15 */
typedef struct vi { __m256i a, b; } vi;      /* 16 words */

V_INLINE vf v_set1(float x) { __m256 y = _mm256_set1_ps(x); return (vf){ y, y }; }
V_INLINE vf v_zero(void) { return v_set1(0.0f); }
V_INLINE vf v_load(const float *p) { return (vf){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) }; }
V_INLINE void v_store(float *p, vf x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
static const int32_t v_tail_[32] = { -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
V_INLINE __m256i v_mask_(unsigned n, unsigned half)
{
    return _mm256_loadu_si256((const void *)(v_tail_ + 16 - n + 8 * half));
}
/* The first n < 16 lanes; the others read as zero and are not written. */
V_INLINE vf v_load_n(const float *p, unsigned n)
{
    return (vf){ _mm256_maskload_ps(p, v_mask_(n, 0)), _mm256_maskload_ps(p + 8, v_mask_(n, 1)) };
}
V_INLINE void v_store_n(float *p, vf x, unsigned n)
{
    _mm256_maskstore_ps(p, v_mask_(n, 0), x.a);
    _mm256_maskstore_ps(p + 8, v_mask_(n, 1), x.b);
}
/* Lanes from n on become y. */
V_INLINE vf v_keep_n(vf x, vf y, unsigned n)
{
    return (vf){ _mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(v_mask_(n, 0))),
                 _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(v_mask_(n, 1))) };
}

V_INLINE vf v_add(vf x, vf y) { return (vf){ _mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b) }; }
V_INLINE vf v_sub(vf x, vf y) { return (vf){ _mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b) }; }
V_INLINE vf v_mul(vf x, vf y) { return (vf){ _mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b) }; }
V_INLINE vf v_div(vf x, vf y) { return (vf){ _mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b) }; }
V_INLINE vf v_fma(vf x, vf y, vf z)
{
    return (vf){ _mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b) };
}
V_INLINE vf v_neg(vf x)
{
    __m256 s = _mm256_set1_ps(-0.0f);
    return (vf){ _mm256_xor_ps(x.a, s), _mm256_xor_ps(x.b, s) };
}
V_INLINE vf v_max(vf x, vf y) { return (vf){ _mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b) }; }  /* x > y ? x : y */
V_INLINE vf v_min(vf x, vf y) { return (vf){ _mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b) }; }  /* x < y ? x : y */

/* One bit a lane. */
V_INLINE uint32_t v_bits_(__m256 a, __m256 b)
{
    return (uint32_t)_mm256_movemask_ps(a) | (uint32_t)_mm256_movemask_ps(b) << 8;
}
V_INLINE uint32_t v_gt_bits(vf x, vf y)
{
    return v_bits_(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ));
}
V_INLINE uint32_t v_eq_bits(vf x, vf y)
{
    return v_bits_(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
}
V_INLINE __m256 v_nonfinite_(__m256 x)
{
    __m256i e = _mm256_set1_epi32(0x7f800000);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), e), e));
}
V_INLINE uint32_t v_nonfinite_bits(vf x) { return v_bits_(v_nonfinite_(x.a), v_nonfinite_(x.b)); }
/* |x| >= y */
V_INLINE uint32_t v_abs_ge_bits(vf x, float y)
{
    __m256 s = _mm256_set1_ps(-0.0f), z = _mm256_set1_ps(y);
    return v_bits_(_mm256_cmp_ps(_mm256_andnot_ps(s, x.a), z, _CMP_GE_OQ),
                   _mm256_cmp_ps(_mm256_andnot_ps(s, x.b), z, _CMP_GE_OQ));
}
/* NaN becomes 0. */
V_INLINE vf v_nan_to_zero(vf x)
{
    return (vf){ _mm256_and_ps(x.a, _mm256_cmp_ps(x.a, x.a, _CMP_ORD_Q)),
                 _mm256_and_ps(x.b, _mm256_cmp_ps(x.b, x.b, _CMP_ORD_Q)) };
}

/* Lane-wise: where x > *best, *best = x and *at = i. */
V_INLINE vi vi_set1(uint32_t i) { __m256i x = _mm256_set1_epi32((int)i); return (vi){ x, x }; }
V_INLINE void vi_store(uint32_t *p, vi x)
{
    _mm256_storeu_si256((void *)p, x.a);
    _mm256_storeu_si256((void *)(p + 8), x.b);
}
V_INLINE void v_keep_larger(vf x, vi i, vf *best, vi *at)
{
    __m256 p = _mm256_cmp_ps(x.a, best->a, _CMP_GT_OQ), q = _mm256_cmp_ps(x.b, best->b, _CMP_GT_OQ);
    *best = (vf){ _mm256_blendv_ps(best->a, x.a, p), _mm256_blendv_ps(best->b, x.b, q) };
    *at = (vi){ _mm256_blendv_epi8(at->a, i.a, _mm256_castps_si256(p)),
                _mm256_blendv_epi8(at->b, i.b, _mm256_castps_si256(q)) };
}

/* Lanes i and i + 8, i + 4, i + 2, i + 1 are added. */
V_INLINE float v_sum(vf x)
{
    __m256 a = _mm256_add_ps(x.a, x.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
V_INLINE float v_largest(vf x)
{
    __m256 a = _mm256_max_ps(x.a, x.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

V_INLINE float v_first(vf x) { return _mm256_cvtss_f32(x.a); }

/* fp16: nearest even, no flushing of its subnormals. */
V_INLINE vf v_load_h(const uint16_t *p)
{
    return (vf){ _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8))) };
}
V_INLINE vf v_load_h8(const uint16_t *p)
{
    return (vf){ _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)), _mm256_setzero_ps() };
}
V_INLINE void v_store_h(uint16_t *p, vf x)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

V_INLINE __m256 v_exp_(__m256 x)
{
    __m256 magic = _mm256_set1_ps(KERN_EXP_MAGIC), one = _mm256_set1_ps(1.0f);
    __m256 y = _mm256_min_ps(x, _mm256_set1_ps(KERN_EXP_MAX));
    __m256 t = _mm256_fmadd_ps(y, _mm256_set1_ps(KERN_EXP_LOG2E), magic);
    __m256 n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-KERN_EXP_LN2_HI), y);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-KERN_EXP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(KERN_EXP_E4), r, _mm256_set1_ps(KERN_EXP_E3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(KERN_EXP_E2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(KERN_EXP_E1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(KERN_EXP_E0));
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    __m256 z = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p),
                                                    _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
    z = _mm256_and_ps(z, _mm256_cmp_ps(x, _mm256_set1_ps(KERN_EXP_MIN), _CMP_NLT_UQ));
    return _mm256_blendv_ps(z, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
/* px_exp */
V_INLINE vf v_exp(vf x) { return (vf){ v_exp_(x.a), v_exp_(x.b) }; }

V_INLINE __m256 v_log_(__m256 x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(u, _mm256_set1_epi32(KERN_LOG_SQRTH)), 23);
    __m256 f = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_sub_epi32(u, _mm256_slli_epi32(e, 23))),
                             _mm256_set1_ps(1.0f));
    __m256 k = _mm256_cvtepi32_ps(e);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(KERN_LOG_L8), f, _mm256_set1_ps(KERN_LOG_L7));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(KERN_LOG_L6));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(KERN_LOG_L5));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(KERN_LOG_L4));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(KERN_LOG_L3));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(KERN_LOG_L2));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(KERN_LOG_L1));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(KERN_LOG_L0));
    __m256 z = _mm256_mul_ps(f, f);
    __m256 y = _mm256_mul_ps(_mm256_mul_ps(p, f), z);
    y = _mm256_fmadd_ps(k, _mm256_set1_ps(KERN_LOG_LN2_LO), y);
    y = _mm256_fmadd_ps(z, _mm256_set1_ps(-0.5f), y);
    y = _mm256_add_ps(f, y);
    y = _mm256_fmadd_ps(k, _mm256_set1_ps(KERN_LOG_LN2_HI), y);
    __m256 inf = _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000));
    __m256 low = _mm256_castsi256_ps(_mm256_set1_epi32((int)0xff800000u));
    __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    y = _mm256_blendv_ps(y, low, _mm256_cmp_ps(x, _mm256_set1_ps(KERN_LOG_TINY), _CMP_LT_OQ));
    y = _mm256_blendv_ps(y, nan, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, inf, _CMP_NLT_UQ));
}
/* px_log */
V_INLINE vf v_log(vf x) { return (vf){ v_log_(x.a), v_log_(x.b) }; }

/* Philox words of 64 consecutive ids from 4 * group: four counters at once, one in each 64-bit lane.  A product reads
 * only the low half of its lanes, so the high halves may hold anything. */
V_INLINE void v_philox_64(const kern_draw *d, uint32_t group, uint32_t *out)
{
    const __m256i m0 = _mm256_set1_epi64x(KERN_PHILOX_M0), m1 = _mm256_set1_epi64x(KERN_PHILOX_M1);
    const __m256i lane = _mm256_set_epi64x(3, 2, 1, 0);

    for (int i = 0; i < 4; i += 2) {         /* two at a time: the chain of products is long */
        __m256i x0[2], x1[2], x2[2], x3[2];
        uint32_t k0 = (uint32_t)d->seed, k1 = (uint32_t)(d->seed >> 32);
        for (int j = 0; j < 2; j++) {
            x0[j] = _mm256_add_epi64(_mm256_set1_epi64x((long long)group + 4 * (i + j)), lane);
            x1[j] = _mm256_set1_epi64x(d->position);
            x2[j] = _mm256_set1_epi64x(d->sequence);
            x3[j] = _mm256_set1_epi64x(d->purpose);
        }
        for (int round = 0; round < 10; round++) {
            __m256i a = _mm256_set1_epi64x(k0), b = _mm256_set1_epi64x(k1);
            for (int j = 0; j < 2; j++) {
                __m256i p0 = _mm256_mul_epu32(x0[j], m0), p1 = _mm256_mul_epu32(x2[j], m1);
                x0[j] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), x1[j]), a);
                x2[j] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), x3[j]), b);
                x1[j] = p1;
                x3[j] = p0;
            }
            k0 += KERN_PHILOX_W0;
            k1 += KERN_PHILOX_W1;
        }
        for (int j = 0; j < 2; j++) {
            __m256i lo = _mm256_blend_epi32(x0[j], _mm256_slli_epi64(x1[j], 32), 0xAA);
            __m256i hi = _mm256_blend_epi32(x2[j], _mm256_slli_epi64(x3[j], 32), 0xAA);
            __m256i even = _mm256_unpacklo_epi64(lo, hi), odd = _mm256_unpackhi_epi64(lo, hi);
            uint32_t *p = out + 16 * (i + j);
            _mm256_storeu_si256((void *)p, _mm256_permute2x128_si256(even, odd, 0x20));
            _mm256_storeu_si256((void *)(p + 8), _mm256_permute2x128_si256(even, odd, 0x31));
        }
    }
}

V_INLINE __m256 v_gumbel_(__m256i words)
{
    __m256 w = _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 1)), one = _mm256_set1_ps(1.0f);
    __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v = _mm256_fmadd_ps(w, _mm256_set1_ps(0x1p-31f), _mm256_set1_ps(0x1p-32f));
    __m256 s = _mm256_fmadd_ps(v, _mm256_set1_ps(KERN_THIRD), _mm256_set1_ps(0.5f));
    s = _mm256_fmadd_ps(_mm256_mul_ps(s, v), v, v);
    __m256 l = _mm256_xor_ps(v_log_(_mm256_sub_ps(one, v)), sign);
    __m256 e = _mm256_blendv_ps(l, s, _mm256_cmp_ps(v, _mm256_set1_ps(KERN_GUMBEL_CUT), _CMP_LT_OQ));
    return _mm256_xor_ps(v_log_(e), sign);
}
/* kern_gumbel_of sixteen words */
V_INLINE vf v_gumbel(const uint32_t *words)
{
    return (vf){ v_gumbel_(_mm256_loadu_si256((const void *)words)),
                 v_gumbel_(_mm256_loadu_si256((const void *)(words + 8))) };
}

#endif
