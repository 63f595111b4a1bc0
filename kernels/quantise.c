/* quantise.c - fp32 rows into the types with scales, and into F16 (dtype.h: the rules).  Written for a checkpoint that is stored
 * once: each group tries what its rule names and keeps the better one.  The bits depend on nothing but the values. */
#include "kernels/dtype.h"

#include <math.h>
#include <string.h>

#define F16_MOST 65504.0f

static void put_half(uint8_t *p, uint16_t h) { p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8); }

/* The value of largest magnitude, with its sign; NaN if one is not finite. */
static float largest(const float *x, size_t n)
{
    float top = 0;

    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return NAN;
        if (fabsf(x[i]) > fabsf(top)) top = x[i];
    }
    return top;
}

/* Nearest even, within [low, high]; d = 0: zero. */
static int quant_of(float x, float d, int low, int high)
{
    float q = d == 0 ? 0 : nearbyintf(x / d);

    return q < (float)low ? low : q > (float)high ? high : (int)q;
}

/* The scale of bytes: max |x| / 127 to the nearest fp16, or the next larger one where a quant would exceed 127 (scales among the
 * subnormals are coarse). */
static uint16_t scale_of_bytes(float most)
{
    uint16_t h = kern_f32_to_f16(most / 127.0f);

    if (most == 0) return 0;
    while (h == 0 || nearbyintf(most / kern_f16_to_f32(h)) > 127.0f) h++;
    return h;
}

/* Squared error of n values with a scale of nibbles. */
static double error_of_nibbles(const float *x, size_t n, float d)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        double r = (double)x[i] - (double)d * quant_of(x[i], d, -8, 7);
        sum += r * r;
    }
    return sum;
}

/* The scale of nibbles: the one that makes the value of largest magnitude -8 (it has the opposite sign and uses all 16 steps), or
 * max |x| / 7; whichever has the smaller squared error, the first where they are equal. */
static uint16_t scale_of_nibbles(const float *x, size_t n, float top)
{
    uint16_t full = kern_f32_to_f16(top / -8.0f), even = kern_f32_to_f16(fabsf(top) / 7.0f);

    return error_of_nibbles(x, n, kern_f16_to_f32(even)) < error_of_nibbles(x, n, kern_f16_to_f32(full)) ? even : full;
}

/* One group of up to 128 columns; the end of what was written, or NULL. */
static uint8_t *group_to(bool nibbles, const float *x, size_t n, uint8_t *p)
{
    float top = largest(x, n), d;
    uint16_t h;

    if (!(fabsf(top) <= (nibbles ? 7.0f : 127.0f) * F16_MOST)) return NULL;
    h = nibbles ? scale_of_nibbles(x, n, top) : scale_of_bytes(fabsf(top));
    d = kern_f16_to_f32(h);
    put_half(p, h);
    p += 2;
    for (; n >= 32; n -= 32, x += 32) {
        if (nibbles)
            for (int i = 0; i < 16; i++)
                *p++ = (uint8_t)((quant_of(x[i], d, -8, 7) + 8) | (quant_of(x[16 + i], d, -8, 7) + 8) << 4);
        else
            for (int i = 0; i < 32; i++) *p++ = (uint8_t)(int8_t)quant_of(x[i], d, -127, 127);
    }
    return p;
}

/* 32 columns with a minimum; the end of what was written, or NULL.  The scale spans from the minimum as it is stored. */
static uint8_t *block_with_minimum(const float *x, uint8_t *p)
{
    float low = x[0], high = x[0], d, m;
    uint16_t hd, hm;

    if (!(fabsf(largest(x, 32)) <= F16_MOST)) return NULL;
    for (int i = 1; i < 32; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    hm = kern_f32_to_f16(low);
    m = kern_f16_to_f32(hm);
    hd = kern_f32_to_f16((high - m) / 15.0f);
    d = kern_f16_to_f32(hd);
    put_half(p, hd);
    put_half(p + 2, hm);
    p += 4;
    for (int i = 0; i < 16; i++) *p++ = (uint8_t)(quant_of(x[i] - m, d, 0, 15) | quant_of(x[16 + i] - m, d, 0, 15) << 4);
    return p;
}

bool kern_row_quantise(kern_dtype t, const float *src, size_t n, void *dst)
{
    const bool nibbles = t == KERN_Q4_0 || t == KERN_W4;
    const size_t group = t == KERN_W8 || t == KERN_W4 ? 128 : 32;
    uint8_t *p = dst;

    if (t == KERN_F16) {
        for (size_t i = 0; i < n; i++, p += 2) {
            if (!(fabsf(src[i]) < 65520.0f)) return false;          /* from here on it would round to infinity */
            put_half(p, kern_f32_to_f16(src[i]));
        }
        return true;
    }
    if (t == KERN_Q4_1 && n % 32 == 0) {
        for (size_t at = 0; at < n && p; at += 32) p = block_with_minimum(src + at, p);
        return p != NULL;
    }
    if ((t != KERN_Q8_0 && !nibbles && t != KERN_W8) || n % 32) return false;
    for (size_t at = 0; at < n && p; at += group) p = group_to(nibbles, src + at, n - at < group ? n - at : group, p);
    return p != NULL;
}
