/* quantise.c - fp32 rows into the types with scales, and into F16 (dtype.h: the rules).  Written for a checkpoint that is stored
 * once: each group tries what its rule names and keeps the better one.  The bits depend on nothing but the values. */
#include "kernels/dtype.h"

#include <math.h>
#include <string.h>

#define F16_MOST 65504.0f

/* Four values at once: what every machine that we build for has. */
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(16)));
typedef double wides __attribute__((vector_size(32)));
typedef int8_t bytes __attribute__((vector_size(4)));

static lanes four(const float *x) { lanes v; memcpy(&v, x, sizeof v); return v; }
static ints select_ints(ints mask, ints a, ints b) { return (a & mask) | (b & ~mask); }

static void put_half(uint8_t *p, uint16_t h) { p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8); }

/* The largest magnitude of n values, n % 4 = 0; NaN if one is not finite.  Bits of magnitudes have the order of the magnitudes. */
static float magnitude(const float *x, size_t n)
{
    ints most = { 0 };
    int32_t top = 0;
    float f;

    for (size_t i = 0; i < n; i += 4) {
        ints v;
        memcpy(&v, x + i, sizeof v);
        v &= 0x7fffffff;
        most = select_ints(v > most, v, most);
    }
    for (int k = 0; k < 4; k++) top = most[k] > top ? most[k] : top;
    memcpy(&f, &top, sizeof f);
    return top < 0x7f800000 ? f : NAN;
}

/* Nearest even of x / d within [low, high], d not 0: at 1.5 * 2^23 a float has no digits after the point.  What is beyond 2^22 is
 * beyond the limits, too; it is below 2^31, as a scale follows from the values. */
static ints quants_of(lanes x, float d, int low, int high)
{
    const float magic = 0x1.8p23f;
    lanes q = x / d + magic;
    ints n;

    q -= magic;
    n = __builtin_convertvector(q, ints);
    n = select_ints(n < low, (ints){ 0 } + low, n);
    return select_ints(n > high, (ints){ 0 } + high, n);
}

/* The scale of bytes: max |x| / 127 to the nearest fp16, or the next larger one where a quant would exceed 127 (scales among the
 * subnormals are coarse). */
static uint16_t scale_of_bytes(float most)
{
    uint16_t h = kern_f32_to_f16(most / 127.0f);

    if (most == 0) return 0;
    while (h == 0 || most / kern_f16_to_f32(h) >= 127.5f) h++;            /* the tie goes to 128 */
    return h;
}

/* Squared error of n values with a scale and quants from low to high. */
static double error_of(const float *x, size_t n, float d, int low, int high)
{
    wides sum = { 0 };
    double all = 0;

    for (size_t i = 0; i < n; i += 4) {
        lanes v = four(x + i);
        ints q = d == 0 ? (ints){ 0 } : quants_of(v, d, low, high);
        wides r = __builtin_convertvector(v, wides) - (double)d * __builtin_convertvector(q, wides);
        sum += r * r;
    }
    for (int k = 0; k < 4; k++) all += sum[k];
    return all;
}

/* The scale of nibbles: the one that makes the value of largest magnitude -8 (it has the opposite sign and uses all 16 steps), or
 * max |x| / 7; whichever has the smaller squared error, the first where they are equal. */
static uint16_t scale_of_nibbles(const float *x, size_t n, float most)
{
    uint16_t full, even = kern_f32_to_f16(most / 7.0f);
    float top = 0;

    for (size_t i = 0; i < n && top == 0; i++) top = fabsf(x[i]) == most ? x[i] : 0;
    full = kern_f32_to_f16(top / -8.0f);
    return error_of(x, n, kern_f16_to_f32(even), -8, 7) < error_of(x, n, kern_f16_to_f32(full), -8, 7) ? even : full;
}

static void put_bytes(const float *x, float d, uint8_t *p)
{
    for (int i = 0; i < 32; i += 4) {
        ints q = d == 0 ? (ints){ 0 } : quants_of(four(x + i), d, -127, 127);
        bytes b = __builtin_convertvector(q, bytes);
        memcpy(p + i, &b, sizeof b);
    }
}

/* Of x - minus: value i in the low, 16 + i in the high nibble, each minus the lowest. */
static void put_nibbles(const float *x, float d, float minus, int low, int high, uint8_t *p)
{
    for (int i = 0; i < 16; i += 4) {
        ints l = d == 0 ? (ints){ 0 } : quants_of(four(x + i) - minus, d, low, high);
        ints h = d == 0 ? (ints){ 0 } : quants_of(four(x + 16 + i) - minus, d, low, high);
        bytes b = __builtin_convertvector((l - low) | (h - low) << 4, bytes);
        memcpy(p + i, &b, sizeof b);
    }
}

/* One group of up to 128 columns; the end of what was written, or NULL. */
static uint8_t *group_to(bool nibbles, const float *x, size_t n, uint8_t *p)
{
    float most = magnitude(x, n), d;
    uint16_t h;

    if (!(most <= (nibbles ? 7.0f : 127.0f) * F16_MOST)) return NULL;
    h = nibbles ? scale_of_nibbles(x, n, most) : scale_of_bytes(most);
    d = kern_f16_to_f32(h);
    put_half(p, h);
    p += 2;
    for (; n >= 32; n -= 32, x += 32, p += nibbles ? 16 : 32) {
        if (nibbles) put_nibbles(x, d, 0, -8, 7, p);
        else put_bytes(x, d, p);
    }
    return p;
}

/* The largest fp16 that is not above x; of magnitudes up to 65504. */
static uint16_t half_below(float x)
{
    uint16_t h = kern_f32_to_f16(x);

    if (kern_f16_to_f32(h) <= x) return h;
    return (uint16_t)(h & 0x8000 ? h + 1 : h - 1);                /* a positive h is not 0 here: 0 is above no positive x */
}

/* 32 unsigned bytes with a minimum; the end of what was written, or NULL. */
static uint8_t *bytes_with_minimum(const float *x, uint8_t *p)
{
    float low = x[0], high = x[0], d, m;
    uint16_t hd, hm;

    if (!(magnitude(x, 32) <= F16_MOST)) return NULL;
    for (int i = 1; i < 32; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    hm = half_below(low);
    m = kern_f16_to_f32(hm);
    hd = kern_f32_to_f16((high - m) / 255.0f);
    while (high > m && (hd == 0 || (high - m) / kern_f16_to_f32(hd) > 255.5f)) hd++;        /* the tie goes to 256, and is clamped */
    d = kern_f16_to_f32(hd);
    put_half(p, hd);
    put_half(p + 2, hm);
    for (int i = 0; i < 32; i += 4) {
        ints q = hd == 0 ? (ints){ 0 } : quants_of(four(x + i) - m, d, 0, 255);
        for (int k = 0; k < 4; k++) p[4 + i + k] = (uint8_t)q[k];
    }
    return p + 36;
}

/* 32 columns with a minimum; the end of what was written, or NULL.  The scale spans from the minimum as it is stored. */
static uint8_t *block_with_minimum(const float *x, uint8_t *p)
{
    float low = x[0], high = x[0], d, m;
    uint16_t hd, hm;

    if (!(magnitude(x, 32) <= F16_MOST)) return NULL;
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
    put_nibbles(x, d, m, 0, 15, p + 4);
    return p + 20;
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
    if ((t == KERN_Q4_1 || t == KERN_Q8_M) && n % 32 == 0) {
        for (size_t at = 0; at < n && p; at += 32) p = t == KERN_Q4_1 ? block_with_minimum(src + at, p) : bytes_with_minimum(src + at, p);
        return p != NULL;
    }
    if ((t != KERN_Q8_0 && !nibbles && t != KERN_W8) || n % 32) return false;
    for (size_t at = 0; at < n && p; at += group) p = group_to(nibbles, src + at, n - at < group ? n - at : group, p);
    return p != NULL;
}

/* The scale of 32 values that lie `step` apart. */
static uint16_t scale_of_levels(const float *x, float most, float step)
{
    uint16_t best = scale_of_bytes(most);
    double least = error_of(x, 32, kern_f16_to_f32(best), -127, 127);

    for (int k = 1; k <= 16 && least > 0; k++) {
        uint16_t h = kern_f32_to_f16(step / (float)k);
        float d = kern_f16_to_f32(h);
        double error;
        if (!(d > 0) || most / d >= 127.5f) break;
        if ((error = error_of(x, 32, d, -127, 127)) < least) least = error, best = h;
    }
    return best;
}

bool kern_row_requantise(const float *src, const float *step, size_t n, void *dst)
{
    uint8_t *p = dst;

    if (n % 32) return false;
    for (size_t at = 0; at < n; at += 32, p += 34) {
        float most = magnitude(src + at, 32), s = step[at / 32];
        uint16_t h;
        if (!(most <= 127.0f * F16_MOST)) return false;
        h = most > 0 && s <= F16_MOST ? scale_of_levels(src + at, most, s) : scale_of_bytes(most);
        put_half(p, h);
        put_bytes(src + at, kern_f16_to_f32(h), p + 2);
    }
    return true;
}

void kern_row_distance(const float *was, const float *is, size_t n, double *error, double *size)
{
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {                    /* few enough that fp32 loses nothing that is printed */
        lanes e = { 0 }, s = { 0 };
        for (size_t k = i; k < i + 32; k += 4) {
            lanes x = four(was + k), d = four(is + k) - x;
            e += d * d;
            s += x * x;
        }
        *error += (double)(e[0] + e[1] + (e[2] + e[3]));
        *size += (double)(s[0] + s[1] + (s[2] + s[3]));
    }
    for (; i < n; i++) {
        double d = (double)is[i] - (double)was[i];
        *error += d * d;
        *size += (double)was[i] * (double)was[i];
    }
}
