/* reblock_body.h - the arithmetic of up to 256 columns, their groups beside each other, on one path (row_path.h). */
#include "kernels/row_path.h"

/* q[i] of 256 becomes what the nibble stands for, as IQ4 has it. */
ROW_FN void ROW(levels)(uint8_t *restrict q)
{
#if ROW_PATH
    const __m128i level = _mm_loadu_si128((const __m128i *)kern_iq4_level);

    for (int i = 0; i < 256; i += 16)
        _mm_storeu_si128((__m128i *)(q + i), _mm_shuffle_epi8(level, _mm_loadu_si128((const __m128i *)(q + i))));
#else
    for (int i = 0; i < 256; i++) q[i] = (uint8_t)kern_iq4_level[q[i]];
#endif
}

#if ROW_PATH
/* The sums of four vectors. */
ROW_FN inline __m128i ROW(four_sums)(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));

    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

/* 16 unsigned ones, added in pairs. */
ROW_FN inline __m256i ROW(pairs)(const uint8_t *q)
{
    return _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)q)), _mm256_set1_epi16(1));
}

/* The squares of 16, in pairs. */
ROW_FN inline __m256i ROW(squared)(const uint8_t *q, bool with_sign)
{
    __m128i x = _mm_loadu_si128((const __m128i *)q);
    __m256i v = with_sign ? _mm256_cvtepi8_epi16(x) : _mm256_cvtepu8_epi16(x);

    return _mm256_madd_epi16(v, v);
}

ROW_FN inline __m256i ROW(squared_32)(const uint8_t *q, bool with_sign)
{
    return _mm256_add_epi32(ROW(squared)(q, with_sign), ROW(squared)(q + 16, with_sign));
}

/* The sum of 32, with 128 more each where they have a sign. */
ROW_FN inline __m256i ROW(added)(const uint8_t *q, bool with_sign)
{
    __m256i x = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)q), _mm256_set1_epi8((char)(with_sign ? 0x80 : 0)));

    return _mm256_sad_epu8(x, _mm256_setzero_si256());
}
#endif

/* Sums and sums of squares of groups of 32. */
ROW_FN inline void ROW(moments_of_32)(bool with_sign, const uint8_t *restrict q, int32_t *restrict sum, int32_t *restrict squares)
{
#if ROW_PATH
    for (int g = 0; g < 8; g += 4, q += 128) {
        __m128i s = ROW(four_sums)(ROW(added)(q, with_sign), ROW(added)(q + 32, with_sign), ROW(added)(q + 64, with_sign), ROW(added)(q + 96, with_sign));
        __m128i r = ROW(four_sums)(ROW(squared_32)(q, with_sign), ROW(squared_32)(q + 32, with_sign), ROW(squared_32)(q + 64, with_sign),
                                   ROW(squared_32)(q + 96, with_sign));
        _mm_storeu_si128((__m128i *)(sum + g), _mm_sub_epi32(s, _mm_set1_epi32(with_sign ? 32 * 128 : 0)));
        _mm_storeu_si128((__m128i *)(squares + g), r);
    }
#else
    for (int g = 0; g < 8; g++) {
        sum[g] = squares[g] = 0;
        for (int c = 32 * g; c < 32 * g + 32; c++) {
            int v = with_sign ? (int8_t)q[c] : q[c];
            sum[g] += v;
            squares[g] += v * v;
        }
    }
#endif
}

/* Sums of squares of the levels that sixteens of Q4_HL name; no square is above 1849. */
ROW_FN inline void ROW(level_squares_of_16)(const uint8_t *restrict q, int32_t *restrict squares)
{
#if ROW_PATH
    const __m256i level = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)kern_q4_hl_level)), one = _mm256_set1_epi16(1);

    for (int i = 0; i < 16; i += 4, q += 64) {
        __m256i first = _mm256_abs_epi8(_mm256_shuffle_epi8(level, _mm256_loadu_si256((const __m256i *)q)));
        __m256i last = _mm256_abs_epi8(_mm256_shuffle_epi8(level, _mm256_loadu_si256((const __m256i *)(q + 32))));
        __m256i a = _mm256_madd_epi16(_mm256_maddubs_epi16(first, first), one), b = _mm256_madd_epi16(_mm256_maddubs_epi16(last, last), one);
        a = _mm256_hadd_epi32(a, b);                                       /* two sums of i, two of i + 2; of i + 1 and i + 3 */
        a = _mm256_hadd_epi32(a, a);                                       /* i, i + 2, the same; i + 1, i + 3, the same */
        _mm_storeu_si128((__m128i *)(squares + i), _mm_unpacklo_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
    }
#else
    for (int i = 0; i < 16; i++) {
        squares[i] = 0;
        for (int c = 16 * i; c < 16 * i + 16; c++) squares[i] += kern_q4_hl_level[q[c]] * kern_q4_hl_level[q[c]];
    }
#endif
}

/* Sums of squares of signed sixteens. */
ROW_FN inline void ROW(squares_of_16)(const uint8_t *restrict q, int32_t *restrict squares)
{
#if ROW_PATH
    for (int i = 0; i < 16; i += 4, q += 64)
        _mm_storeu_si128((__m128i *)(squares + i), ROW(four_sums)(ROW(squared)(q, true), ROW(squared)(q + 16, true), ROW(squared)(q + 32, true),
                                                                  ROW(squared)(q + 48, true)));
#else
    for (int i = 0; i < 16; i++) {
        squares[i] = 0;
        for (int c = 16 * i; c < 16 * i + 16; c++) squares[i] += (int8_t)q[c] * (int8_t)q[c];
    }
#endif
}

/* The same of unsigned sixteens. */
ROW_FN inline void ROW(moments_of_16)(const uint8_t *restrict q, int32_t *restrict sum, int32_t *restrict squares)
{
#if ROW_PATH
    for (int i = 0; i < 16; i += 4, q += 64) {
        _mm_storeu_si128((__m128i *)(sum + i), ROW(four_sums)(ROW(pairs)(q), ROW(pairs)(q + 16), ROW(pairs)(q + 32), ROW(pairs)(q + 48)));
        _mm_storeu_si128((__m128i *)(squares + i), ROW(four_sums)(ROW(squared)(q, false), ROW(squared)(q + 16, false), ROW(squared)(q + 32, false),
                                                                  ROW(squared)(q + 48, false)));
    }
#else
    for (int i = 0; i < 16; i++) {
        sum[i] = squares[i] = 0;
        for (int c = 16 * i; c < 16 * i + 16; c++) {
            sum[i] += q[c];
            squares[i] += q[c] * q[c];
        }
    }
#endif
}

/* Scales and minima in fp16 of n groups of so many columns, whose moments are there; back: of what scales have lost of the mean, minima
 * get so much (0 or 1) again. */
ROW_FN inline void ROW(halves_of)(int n, int columns, float back, groups *restrict b)
{
    const float each = (float)columns;
    float given[16];

    for (int g = 0; g < n; g++) {
        float d = b->d[g], m = b->m[g];
        uint32_t h = kern_float_to_half(d), k;
        float lost = d - kern_half_to_float((uint16_t)h), again = lost * (float)b->sum[g] / each * back;
        m += again;
        k = kern_float_to_half(m);
        b->d_half[g] = h;
        b->m_half[g] = k;
        b->fits[g] = (fabsf(d) < BEYOND_HALF) & (fabsf(m) < BEYOND_HALF);
        b->lost[g] = lost;
        b->lost_m[g] = m - kern_half_to_float((uint16_t)k);
        given[g] = again;
    }
    for (int g = 0; g < n; g++) {
        double sum = b->sum[g], squares = b->squares[g], d = b->d[g], m = b->m[g], lost = b->lost[g], lost_m = (double)b->lost_m[g] - (double)given[g];
        b->error[g] = lost * lost * squares + 2 * lost * lost_m * sum + lost_m * lost_m * columns;
        b->size[g] = d * d * squares + 2 * d * m * sum + m * m * columns;
    }
}

ROW_FN void ROW(halves_of_32)(bool with_sign, float back, groups *restrict b)
{
    if (with_sign) ROW(moments_of_32)(true, b->q, b->sum, b->squares);
    else ROW(moments_of_32)(false, b->q, b->sum, b->squares);
    ROW(halves_of)(8, 32, back, b);
}

/* With minima. */
ROW_FN void ROW(pairs_of_16)(groups *restrict b)
{
    ROW(moments_of_16)(b->q, b->sum, b->squares);
    ROW(halves_of)(16, 16, 1, b);
}

/* Scales in fp16, of a sixteen's levels or of three times the levels: where that is nearer.  Q6_K's -32..31 are bytes still. */
ROW_FN void ROW(halves_of_16)(groups *restrict b)
{
    int32_t times[16];

    for (int i = 0; i < 16; i++) {
        float d = b->d[i];
        uint32_t one = kern_float_to_half(d), part = kern_float_to_half(d / 3), nearer;
        float lost = d - kern_half_to_float((uint16_t)one), others = d - 3 * kern_half_to_float((uint16_t)part);
        nearer = 0u - (fabsf(others) < fabsf(lost));
        b->d_half[i] = (part & nearer) | (one & ~nearer);
        b->lost[i] = pick(nearer, others, lost);
        b->fits[i] = fabsf(d) < BEYOND_HALF;
        times[i] = (int32_t)(1 + (nearer & 2));
    }
    ROW(squares_of_16)(b->q, b->squares);
    for (int i = 0; i < 16; i++) {
        const int16_t multiple = (int16_t)times[i];
        for (int c = 0; c < 16; c++) b->q[16 * i + c] = (uint8_t)(b->q[16 * i + c] * multiple);
    }
    for (int i = 0; i < 16; i++) {
        double squares = b->squares[i], d = b->d[i], lost = b->lost[i];
        b->error[i] = lost * lost * squares;
        b->size[i] = d * d * squares;
    }
}

/* Without minima, which are 0 and stay it; of levels that have names. */
ROW_FN void ROW(levels_of_16)(groups *restrict b)
{
    ROW(level_squares_of_16)(b->q, b->squares);
    ROW(halves_of)(16, 16, 0, b);
}
