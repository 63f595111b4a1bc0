/* quant_avx2.c - a row to Q12, 8 columns at a time (definition: quant.c). */
#include "kernels/cpu/quant.h"

#include <immintrin.h>
#include <string.h>

static uint32_t reduce_max(__m256i v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

static int32_t reduce_add(__m256i v)
{
    __m128i m = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}

/* 4 x 8 integers of 32 bits to 32 bytes in order (packing works within halves of 128 bits). */
static __m256i to_bytes(const __m256i *v)
{
    __m256i p = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(p, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static bool row_avx2(const float *row, uint32_t n, uint8_t *out)
{
    uint32_t blocks = kern_cpu_blocks(n);
    kern_q12 *meta = (kern_q12 *)(out + (size_t)blocks * 64);
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    size_t used = (size_t)blocks * 80;
    bool bad = false;

    for (uint32_t b = 0; b < blocks; b++, out += 64) {
        const float *x = row + (size_t)32 * b;
        float tail[32] = {0}, m;
        if (n - 32 * b < 32) x = memcpy(tail, x, (n - 32 * b) * sizeof *x);

        __m256i top4 = _mm256_setzero_si256(), q1[4], q2[4], total[2] = { _mm256_setzero_si256(), _mm256_setzero_si256() };
        for (int i = 0; i < 4; i++)
            top4 = _mm256_max_epu32(top4, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + 8 * i)), magnitude));
        uint32_t top = reduce_max(top4);
        if (top >= 0x7f800000u || top < KERN_Q12_TINY) {
            bad |= top >= 0x7f800000u;
            memset(out, 0, 64);
            meta[b] = (kern_q12){0};
            continue;
        }
        memcpy(&m, &top, 4);
        __m256 inv = _mm256_set1_ps(127.0f / m), sixteen = _mm256_set1_ps(16.0f);
        for (int i = 0; i < 4; i++) {
            __m256 t = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inv);
            q1[i] = _mm256_cvtps_epi32(t);
            q2[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(t, _mm256_cvtepi32_ps(q1[i])), sixteen));
            total[i / 2] = _mm256_add_epi32(total[i / 2], _mm256_add_epi32(_mm256_slli_epi32(q1[i], 4), q2[i]));
        }
        _mm256_storeu_si256((__m256i *)out, to_bytes(q1));
        _mm256_storeu_si256((__m256i *)(out + 32), to_bytes(q2));
        int32_t first = reduce_add(total[0]), sum = first + reduce_add(total[1]);
        meta[b] = (kern_q12){ .scale = m / 2032.0f, .sum_f = (float)sum, .neg8_first = -8 * first, .neg8 = -8 * sum };
    }
    memset(meta + blocks, 0, kern_q12_stride(n) - used);
    return bad;
}

px_code kern_cpu_quant_avx2(kern_dev *d, const kern_quant_args *a, px_err *e)
{
    return kern_cpu_quant_run(d, a, row_avx2, e);
}
