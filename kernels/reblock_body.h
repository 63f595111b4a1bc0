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

/* The bytes of `two`, 0 to 3, become those of `four`. */
ROW_FN inline void ROW(look_up)(uint32_t four, __m128i two, uint8_t *restrict q)
{
#if ROW_PATH
    two = _mm_shuffle_epi8(_mm_set1_epi32((int)four), two);
    _mm_storeu_si128((__m128i *)q, two);
#else
    _mm_storeu_si128((__m128i *)q, two);
    for (int i = 0; i < 16; i++) q[i] = (uint8_t)(four >> 8 * q[i]);
#endif
}

/* Q3_K: quants of three bits, less 4, times the scales of their sixteen columns, with the other sign. */
ROW_FN void ROW(q3_k_products)(const uint8_t *restrict high, const uint8_t *restrict two, const int16_t *restrict scale, uint8_t *restrict q)
{
    for (int i = 0; i < 16; i++) {
        const uint8_t *low = two + i / 8 * 32 + i % 2 * 16, *top = high + i % 2 * 16;
        const int16_t by = scale[i];
        const int down = i % 8 / 2 * 2, bit = i / 2;
        for (int c = 0; c < 16; c++) {
            int16_t three = (int16_t)((low[c] >> down & 3) | (top[c] >> bit & 1) << 2);
            q[16 * i + c] = (uint8_t)(by * (int16_t)(4 - three));
        }
    }
}

#if ROW_PATH
/* The sums of four vectors. */
ROW_FN inline __m128i ROW(four_sums)(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));

    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
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

/* Scales and minima in fp16 of groups of 32; back: of what scales have lost of the mean, minima get so much (0 or 1) again. */
ROW_FN void ROW(halves_of_32)(bool with_sign, float back, groups *restrict b)
{
    float given[8];

    if (with_sign) ROW(moments_of_32)(true, b->q, b->sum, b->squares);
    else ROW(moments_of_32)(false, b->q, b->sum, b->squares);
    for (int g = 0; g < 8; g++) {
        float d = b->d[g], m = b->m[g];
        uint32_t h = kern_float_to_half(d), k;
        float lost = d - kern_half_to_float((uint16_t)h), again = lost * (float)b->sum[g] / 32 * back;
        m += again;
        k = kern_float_to_half(m);
        b->d_half[g] = h;
        b->m_half[g] = k;
        b->fits[g] = (fabsf(d) < BEYOND_HALF) & (fabsf(m) < BEYOND_HALF);
        b->lost[g] = lost;
        b->lost_m[g] = m - kern_half_to_float((uint16_t)k);
        given[g] = again;
    }
    for (int g = 0; g < 8; g++) {
        double sum = b->sum[g], squares = b->squares[g], d = b->d[g], m = b->m[g], lost = b->lost[g], lost_m = (double)b->lost_m[g] - (double)given[g];
        b->error[g] = lost * lost * squares + 2 * lost * lost_m * sum + lost_m * lost_m * 32;
        b->size[g] = d * d * squares + 2 * d * m * sum + m * m * 32;
    }
}

/* Scales in fp16, of a sixteen's levels or of their multiples by `most`: where that is nearer.  `most` times a level is a byte. */
ROW_FN void ROW(halves_of_16)(int most, groups *restrict b)
{
    const float by = (float)most;
    int32_t times[16];

    for (int i = 0; i < 16; i++) {
        float d = b->d[i];
        uint32_t one = kern_float_to_half(d), part = kern_float_to_half(d / by), nearer;
        float lost = d - kern_half_to_float((uint16_t)one), others = d - by * kern_half_to_float((uint16_t)part);
        nearer = 0u - (fabsf(others) < fabsf(lost));
        b->d_half[i] = (part & nearer) | (one & ~nearer);
        b->lost[i] = pick(nearer, others, lost);
        b->fits[i] = fabsf(d) < BEYOND_HALF;
        times[i] = (int32_t)(1 + (nearer & (uint32_t)(most - 1)));
    }
    ROW(squares_of_16)(b->q, b->squares);
    for (int i = 0; i < 16 && most > 1; i++) {
        const int16_t multiple = (int16_t)times[i];
        for (int c = 0; c < 16; c++) b->q[16 * i + c] = (uint8_t)(b->q[16 * i + c] * multiple);
    }
    for (int i = 0; i < 16; i++) {
        double squares = b->squares[i], d = b->d[i], lost = b->lost[i];
        b->error[i] = lost * lost * squares;
        b->size[i] = d * d * squares;
    }
}

/* ---- Q2_K: least + q * each for 16 columns, four levels, as bytes of a scale that is about a whole part of `each`, and of `least` ---- */

/* The whole number k, 1 to most, of which k * x is nearest to another whole number, in k; 0 where most < 1.  x >= 0, and where most >= 1
 * it is below 127.  As continued fractions have it: a convergent of x, or the largest k of the semiconvergents behind it. */
ROW_FN void ROW(best_parts)(const float *restrict x, const float *restrict most, float *restrict part)
{
    const float magic = 0x1.8p23f;                              /* at it a float has no digits after the point */
    float last[16], now[16], rest[16], limit[16];
    uint32_t on = 1;

    for (int i = 0; i < 16; i++) {
        float m = most[i], y = x[i];
        uint32_t any = 0u - (m >= 1);
        y = pick(any, y, 0);
        m = pick(any, m, 0);
        limit[i] = (float)(int32_t)m;
        rest[i] = y - (float)(int32_t)y;
        last[i] = 0;
        now[i] = 1;
    }
    for (int step = 0; on && step < 12; step++) {               /* denominators grow like Fibonacci's numbers, and most is 84 */
        on = 0;
        for (int i = 0; i < 16; i++) {
            float behind = last[i], here = now[i], r = rest[i], turned = 1 / larger(r, 0x1p-20f), whole = (float)(int32_t)turned, next = behind + whole * here;
            uint32_t go = 0u - (next <= limit[i]);
            rest[i] = pick(go, turned - whole, r);
            last[i] = pick(go, here, behind);
            now[i] = pick(go, next, here);
            on |= go;
        }
    }
    for (int i = 0; i < 16; i++) {
        float here = now[i], most_of = limit[i], v = x[i], semi = last[i] + (float)(int32_t)((most_of - last[i]) / here) * here, y = v * here, z = v * semi;
        float off = fabsf(y - ((y + magic) - magic)) * semi, others = fabsf(z - ((z + magic) - magic)) * here;
        part[i] = pick(0u - (most_of >= 1), pick(0u - (others < off), semi, here), 0);
    }
}

/* Scales of the sixteens; top: the largest magnitude of their levels. */
ROW_FN void ROW(q2_k_scales)(const float *restrict each, const float *restrict least, float *restrict scale, groups *restrict b)
{
    float x[16], most[16], part[16], top[16];
    uint32_t all = 1;

    for (int i = 0; i < 16; i++) {
        float e = each[i], y = least[i] / e;
        uint32_t any = 0u - (e != 0);
        x[i] = fabsf(y);
        y = smaller(126.5f / larger(fabsf(y), fabsf(y + 3)), fabsf(e) * 0x1p14f);               /* fp16 has too few digits below */
        most[i] = pick(any, y, 0);
    }
    ROW(best_parts)(x, most, part);
    for (int i = 0; i < 16; i++) {
        float e = each[i], l = least[i], p = part[i], t = larger(fabsf(l), fabsf(l + 3 * e)), of_part = fabsf(e) / larger(p, 1), s;
        s = pick(0u - ((p > 0) & (of_part < BEYOND_HALF)), of_part, t / 127);
        b->d_half[i] = kern_float_to_half(s);
        s = kern_half_to_float((uint16_t)b->d_half[i]);
        scale[i] = s;
        top[i] = t;
        all &= t <= 127.4f * s;
    }
    for (int i = 0; i < 16 && !all; i++) {                      /* some need the next fp16, or one behind it */
        b->d_half[i] = kern_scale_of_bytes(scale[i], top[i]);
        scale[i] = kern_one_half((uint16_t)b->d_half[i]);
    }
}

ROW_FN void ROW(q2_k_block)(const uint8_t *restrict p, groups *restrict b)
{
    const float d = kern_half_at(p + 80), dmin = kern_half_at(p + 82), magic = 0x1.8p23f;
    float each[16], least[16], scale[16], turned[16];
    int32_t level[4][16], n[4][16];
    uint32_t four[16];

    for (int i = 0; i < 16; i++) {
        each[i] = d * (float)(p[i] & 15);
        least[i] = -(dmin * (float)(p[i] >> 4));
    }
    ROW(q2_k_scales)(each, least, scale, b);
    for (int i = 0; i < 16; i++) {
        float s = scale[i];
        turned[i] = pick(0u - (s > 0), 1 / s, 0);
    }
    for (int q = 0; q < 4; q++)
        for (int i = 0; i < 16; i++) {
            float z = (least[i] + (float)q * each[i]) * turned[i];
            level[q][i] = (int32_t)((z + magic) - magic);
        }
    for (int i = 0; i < 16; i++) four[i] = (level[0][i] & 255u) | (level[1][i] & 255u) << 8 | (level[2][i] & 255u) << 16 | (level[3][i] & 255u) << 24;
    for (int i = 0; i < 16; i++) {
        const uint8_t *two = p + 16 + i / 8 * 32 + i % 2 * 16;
        const int down = i % 8 / 2 * 2;
        const uint64_t x = word(two) >> down, y = word(two + 8) >> down;
        const int32_t ones = sum_of_bytes((x & EACH) + (y & EACH)), twos = sum_of_bytes((x >> 1 & EACH) + (y >> 1 & EACH));
        const int32_t threes = sum_of_bytes((x & x >> 1 & EACH) + (y & y >> 1 & EACH));
        n[0][i] = 16 - ones - twos + threes;
        n[1][i] = ones - threes;
        n[2][i] = twos - threes;
        n[3][i] = threes;
        ROW(look_up)(four[i], _mm_set_epi64x((int64_t)(y & 3 * EACH), (int64_t)(x & 3 * EACH)), b->q + 16 * i);
    }
    for (int i = 0; i < 16; i++) {
        float first = least[i], step = each[i], s = scale[i], error = 0, size = 0;
        for (int q = 0; q < 4; q++) {
            float was = first + (float)q * step, off = was - s * (float)level[q][i], times = (float)n[q][i];
            error += off * off * times;
            size += was * was * times;
        }
        b->error[i] = (double)error;
        b->size[i] = (double)size;
    }
}
