/* gguf_blocks_body.h - the blocks of GGUF that are read and not multiplied with, on one path (row_path.h).  A function a type: one block
 * in, its values out, each product exact in fp32 and a minimum subtracted with one rounding, in the order in which ggml does it. */
#include "kernels/row_path.h"

/* ---- 32 values with fifth bits in a word: bit i for value i.  Q5_0: d, bits, nibbles; Q5_1: d, minimum, bits, nibbles ---- */

ROW_FN void ROW(q5_0)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p);
    uint32_t high = u32(p + 2);

    for (int i = 0; i < 16; i++) y[i] = d * (float)((int)((p[6 + i] & 15u) | (high >> i & 1) << 4) - 16);
    high >>= 16;
    for (int i = 0; i < 16; i++) y[16 + i] = d * (float)((int)((uint32_t)p[6 + i] >> 4 | (high >> i & 1) << 4) - 16);
}

ROW_FN void ROW(q5_1)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p), m = kern_half_at(p + 2);
    uint32_t high = u32(p + 4);

    for (int i = 0; i < 16; i++) y[i] = d * (float)(int)((p[8 + i] & 15u) | (high >> i & 1) << 4) + m;
    high >>= 16;
    for (int i = 0; i < 16; i++) y[16 + i] = d * (float)(int)((uint32_t)p[8 + i] >> 4 | (high >> i & 1) << 4) + m;
}

/* ---- 256 values: two halves of 128, each of groups that share bytes and differ in the bits they take ---- */

/* 16 values with their scale and minimum; apart from what unpacks them, which GCC would mix with it, lane by lane. */
ROW_FN __attribute__((noinline)) void ROW(with_minimum)(const int32_t *restrict q, float each, float min, float *restrict y)
{
    for (int i = 0; i < 16; i++) y[i] = each * (float)q[i] - min;
}

/* 16 scales and minima in nibbles, two bits a value, d, dmin. */
ROW_FN void ROW(q2_k)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p + 80), dmin = kern_half_at(p + 82);

    for (int g = 0; g < 8; g++, y += 32) {                              /* two groups of 16 */
        const uint8_t *at = p + 16 + g / 4 * 32, *s = p + 2 * g;
        int down = g % 4 * 2;
        _Alignas(64) int32_t q[32];
        for (int i = 0; i < 32; i++) q[i] = at[i] >> down & 3;
        ROW(with_minimum)(q, d * (float)(s[0] & 15), dmin * (float)(s[0] >> 4), y);
        ROW(with_minimum)(q + 16, d * (float)(s[1] & 15), dmin * (float)(s[1] >> 4), y + 16);
    }
}

/* Third bits (a byte for eight groups), two bits a value, 16 scales of six bits in 12 bytes, d. */
ROW_FN void ROW(q3_k)(const uint8_t *restrict p, float *restrict y)
{
    const uint8_t *high = p, *s = p + 96;
    float d = kern_half_at(p + 108), each[16];

    for (int g = 0; g < 16; g++)
        each[g] = d * (float)kern_q3_k_scale(s, g);
    for (int g = 0; g < 8; g++, y += 32) {                              /* two groups of 16 */
        const uint8_t *at = p + 32 + g / 4 * 32;
        float x = each[2 * g], z = each[2 * g + 1];
        int down = g % 4 * 2;
        for (int i = 0; i < 32; i++) y[i] = (i < 16 ? x : z) * (float)((at[i] >> down & 3) + (high[i] >> g & 1) * 4 - 4);
    }
}

/* d, dmin, scales, and nibbles from `q` on: 32 values low and 32 values high of 32 bytes.  high: their fifth bits, a byte for eight
 * groups; NULL: none. */
ROW_FN inline void ROW(q4_or_q5_k)(const uint8_t *restrict p, const uint8_t *restrict high, const uint8_t *restrict q, float *restrict y)
{
    float d = kern_half_at(p), dmin = kern_half_at(p + 2);

    for (int g = 0; g < 8; g++, y += 32) {
        const uint8_t *at = q + g / 2 * 32;
        int scale, min, down = g % 2 * 4;
        float each, m;
        kern_k_scale_and_min(p + 4, g, &scale, &min);
        each = d * (float)scale;
        m = dmin * (float)min;
        if (high)
            for (int i = 0; i < 32; i++) y[i] = each * (float)((at[i] >> down & 15) + (high[i] >> g & 1) * 16) - m;
        else
            for (int i = 0; i < 32; i++) y[i] = each * (float)(at[i] >> down & 15) - m;
    }
}

ROW_FN void ROW(q4_k)(const uint8_t *restrict p, float *restrict y) { ROW(q4_or_q5_k)(p, NULL, p + 16, y); }
ROW_FN void ROW(q5_k)(const uint8_t *restrict p, float *restrict y) { ROW(q4_or_q5_k)(p, p + 16, p + 48, y); }

/* Nibbles, two more bits a value, 16 signed scales, d. */
ROW_FN void ROW(q6_k)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p + 208);

    for (int g = 0; g < 8; g++, y += 32) {                              /* two groups of 16 */
        const uint8_t *low = p + g / 4 * 64 + g % 2 * 32, *high = p + 128 + g / 4 * 32;
        float x = d * (float)(int8_t)p[192 + 2 * g], z = d * (float)(int8_t)p[193 + 2 * g];
        int down = g % 4 / 2 * 4, up = g % 4 * 2;
        for (int i = 0; i < 32; i++) y[i] = (i < 16 ? x : z) * (float)((low[i] >> down & 15) + (high[i] >> up & 3) * 16 - 32);
    }
}

/* ---- levels of a table ---- */

/* n levels of a byte. */
ROW_FN void ROW(scaled)(float d, const int8_t *restrict q, int n, float *restrict y)
{
    for (int i = 0; i < n; i++) y[i] = d * (float)q[i];
}

/* The levels of 16 bytes of nibbles: the low ones', then the high ones'. */
ROW_FN void ROW(iq4_levels)(const uint8_t *restrict p, int8_t *restrict q)
{
#if ROW_PATH
    __m128i level = _mm_loadu_si128((const __m128i *)kern_iq4_level), n = _mm_loadu_si128((const __m128i *)p), low = _mm_set1_epi8(15);
    _mm_storeu_si128((__m128i *)q, _mm_shuffle_epi8(level, _mm_and_si128(n, low)));
    _mm_storeu_si128((__m128i *)(q + 16), _mm_shuffle_epi8(level, _mm_and_si128(_mm_srli_epi16(n, 4), low)));
#else
    for (int i = 0; i < 16; i++) {
        q[i] = kern_iq4_level[p[i] & 15];
        q[16 + i] = kern_iq4_level[p[i] >> 4];
    }
#endif
}

ROW_FN void ROW(iq4_nl)(const uint8_t *restrict p, float *restrict y)
{
    _Alignas(64) int8_t q[32];

    ROW(iq4_levels)(p + 2, q);
    ROW(scaled)(kern_half_at(p), q, 32, y);
}

ROW_FN void ROW(iq4_xs)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p);
    _Alignas(64) int8_t q[32];

    for (int g = 0; g < 8; g++, y += 32) {
        ROW(iq4_levels)(p + 8 + 16 * g, q);
        ROW(scaled)(d * (float)kern_iq4_xs_scale(p, g), q, 32, y);
    }
}

ROW_FN void ROW(iq2_xs)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p);
    _Alignas(64) int8_t q[256];

    kern_iq2_levels(p, q);
    for (int g = 0; g < 8; g++, y += 32) {                              /* two groups of 16 */
        float x = d * (0.5f + (float)(p[66 + g] & 15)) * 0.25f, z = d * (0.5f + (float)(p[66 + g] >> 4)) * 0.25f;
        for (int i = 0; i < 32; i++) y[i] = (i < 16 ? x : z) * (float)q[32 * g + i];
    }
}

ROW_FN void ROW(to_f32)(kern_dtype t, const void *src, size_t n, float *restrict y)
{
    static void (*const reader[KERN_N_DTYPES])(const uint8_t *restrict, float *restrict) = {
        [KERN_Q5_0] = ROW(q5_0), [KERN_Q5_1] = ROW(q5_1), [KERN_Q2_K] = ROW(q2_k), [KERN_Q3_K] = ROW(q3_k), [KERN_Q4_K] = ROW(q4_k),
        [KERN_Q5_K] = ROW(q5_k), [KERN_Q6_K] = ROW(q6_k), [KERN_IQ4_NL] = ROW(iq4_nl), [KERN_IQ4_XS] = ROW(iq4_xs),
        [KERN_IQ2_XS] = ROW(iq2_xs),
    };
    const kern_dtype_info *f = kern_dtype_get(t);
    const uint8_t *p = src;

    if (!f || !reader[t]) {
        memset(y, 0, n * sizeof *y);                /* not readable: the table of types says so */
        return;
    }
    for (; n >= f->block; n -= f->block, p += f->block_bytes, y += f->block) reader[t](p, y);
}
