/* quant_avx512.c - a row to Q12, 16 columns at a time (definition: quant.c). */
#include "kernels/cpu/quant.h"

#include <immintrin.h>
#include <string.h>

static bool row_avx512(const float *x, uint32_t n, uint8_t *out)
{
    uint32_t blocks = kern_cpu_blocks(n);
    kern_q12 *meta = (kern_q12 *)(out + (size_t)blocks * 64);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    size_t used = (size_t)blocks * 80;
    bool bad = false;

    for (uint32_t b = 0; b < blocks; b++, x += 32, out += 64) {
        uint32_t width = n - 32 * b < 32 ? n - 32 * b : 32;
        uint32_t mask = width == 32 ? UINT32_MAX : (1u << width) - 1;
        __m512 x0 = _mm512_maskz_loadu_ps((__mmask16)mask, x);
        __m512 x1 = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16);
        uint32_t top = _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                                                                _mm512_and_si512(_mm512_castps_si512(x1), magnitude)));
        if (top >= 0x7f800000u || top < KERN_Q12_TINY) {
            bad |= top >= 0x7f800000u;
            _mm512_storeu_si512(out, _mm512_setzero_si512());
            meta[b] = (kern_q12){0};
            continue;
        }
        float m;
        memcpy(&m, &top, 4);
        __m512 inv = _mm512_set1_ps(127.0f / m), sixteen = _mm512_set1_ps(16.0f);
        __m512 t0 = _mm512_mul_ps(x0, inv), t1 = _mm512_mul_ps(x1, inv);
        __m512i a0 = _mm512_cvtps_epi32(t0), a1 = _mm512_cvtps_epi32(t1);
        __m512i b0 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(t0, _mm512_cvtepi32_ps(a0)), sixteen));
        __m512i b1 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(t1, _mm512_cvtepi32_ps(a1)), sixteen));
        _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(a0));
        _mm_storeu_si128((__m128i *)(out + 16), _mm512_cvtepi32_epi8(a1));
        _mm_storeu_si128((__m128i *)(out + 32), _mm512_cvtepi32_epi8(b0));
        _mm_storeu_si128((__m128i *)(out + 48), _mm512_cvtepi32_epi8(b1));
        int32_t first = _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_slli_epi32(a0, 4), b0));
        int32_t sum = first + _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_slli_epi32(a1, 4), b1));
        meta[b] = (kern_q12){ .scale = m / 2032.0f, .sum_f = (float)sum, .neg8_first = -8 * first, .neg8 = -8 * sum };
    }
    memset(meta + blocks, 0, kern_q12_stride(n) - used);
    return bad;
}

px_code kern_cpu_quant_avx512(kern_dev *d, const kern_quant_args *a, px_err *e)
{
    return kern_cpu_quant_run(d, a, row_avx512, e);
}
