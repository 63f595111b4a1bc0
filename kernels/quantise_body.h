/* quantise_body.h - fp32 rows into the types with scales, and into F16, on one path (row_path.h; dtype.h has the rules).  Written for
 * a checkpoint that is stored once: each group tries what its rule names and keeps the better one. */
#include "kernels/row_path.h"

/* The largest magnitude of n values; NaN if one is not finite.  Bits of magnitudes have the order of the magnitudes. */
ROW_FN float ROW(magnitude)(const float *x, size_t n)
{
    int32_t top = 0;
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        for (size_t k = i; k < i + 32; k++) {
            int32_t v = (int32_t)(kern_bits_of(x[k]) & 0x7fffffffu);
            top = v > top ? v : top;
        }
    for (; i < n; i++) {
        int32_t v = (int32_t)(kern_bits_of(x[i]) & 0x7fffffffu);
        top = v > top ? v : top;
    }
    return top < 0x7f800000 ? kern_float_of((uint32_t)top) : NAN;
}

/* Nearest even of x / d within [low, high], 32 of them; d 0: zeros.  At 1.5 * 2^23 a float has no digits after the point.  What is beyond
 * 2^22 is beyond the limits, too; it is below 2^31, as a scale follows from the values. */
ROW_FN void ROW(quants_of)(const float *restrict x, float d, int low, int high, int32_t *restrict q)
{
    const float magic = 0x1.8p23f;

    if (d == 0) {
        memset(q, 0, 32 * sizeof *q);
        return;
    }
    for (int i = 0; i < 32; i++) {
        float t = x[i] / d + magic;
        int32_t v = (int32_t)(t - magic);
        v = v < low ? low : v;
        q[i] = v > high ? high : v;
    }
}

/* Squared error of n values with a scale and quants from low to high: 16 sums, added in pairs. */
ROW_FN float ROW(error_of)(const float *x, size_t n, float d, int low, int high)
{
    _Alignas(64) float sum[16] = { 0 };
    _Alignas(64) int32_t q[32];

    for (size_t at = 0; at < n; at += 32) {
        ROW(quants_of)(x + at, d, low, high, q);
        for (int i = 0; i < 16; i++) {
            float r = x[at + (size_t)i] - d * (float)q[i], s = x[at + 16 + (size_t)i] - d * (float)q[16 + i];
            sum[i] += r * r + s * s;
        }
    }
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) sum[i] += sum[i + w];
    return sum[0];
}

/* The scale of nibbles: the one that makes the value of largest magnitude -8 (it has the opposite sign and uses all 16 steps), or
 * max |x| / 7; whichever has the smaller squared error, the first where they are equal. */
ROW_FN uint16_t ROW(scale_of_nibbles)(const float *x, size_t n, float most)
{
    uint16_t full, even = kern_one_float(most / 7.0f);
    float top = 0;

    for (size_t i = 0; i < n && top == 0; i++) top = fabsf(x[i]) == most ? x[i] : 0;
    full = kern_one_float(top / -8.0f);
    return ROW(error_of)(x, n, kern_one_half(even), -8, 7) < ROW(error_of)(x, n, kern_one_half(full), -8, 7) ? even : full;
}

ROW_FN void ROW(put_bytes)(const float *restrict x, float d, uint8_t *restrict p)
{
    _Alignas(64) int32_t q[32];

    ROW(quants_of)(x, d, -127, 127, q);
    for (int i = 0; i < 32; i++) p[i] = (uint8_t)q[i];
}

/* Of x - minus: value i in the low, 16 + i in the high nibble, each minus the lowest. */
ROW_FN void ROW(put_nibbles)(const float *restrict x, float d, float minus, int low, int high, uint8_t *restrict p)
{
    _Alignas(64) float v[32];
    _Alignas(64) int32_t q[32];

    for (int i = 0; i < 32; i++) v[i] = x[i] - minus;
    ROW(quants_of)(v, d, low, high, q);
    for (int i = 0; i < 16; i++) p[i] = (uint8_t)((q[i] - low) | (q[16 + i] - low) << 4);
}

/* Q8_0: scales of 16 blocks beside each other (scale_of_bytes without a branch; one step up is enough), then their quants, and what
 * those change: 16 sums of squares for 512 columns, few enough that fp32 loses nothing that is printed. */
ROW_FN bool ROW(bytes)(const float *restrict x, size_t n, uint8_t *restrict p, double sums[2])
{
    _Alignas(64) float most[16] = { 0 }, d[16];
    _Alignas(64) uint32_t h[16];
    _Alignas(64) float v[32];

    for (size_t blocks; n; n -= 32 * blocks) {
        _Alignas(64) float e[16] = { 0 }, s[16] = { 0 };
        blocks = n / 32 < 16 ? n / 32 : 16;
        for (size_t b = 0; b < blocks; b++) {
            most[b] = ROW(magnitude)(x + 32 * b, 32);
            if (!(most[b] <= 127.0f * F16_MOST)) return false;
        }
        for (int b = 0; b < 16; b++) {
            uint32_t first = kern_float_to_half(most[b] / 127.0f);
            float over = most[b] / kern_half_to_float((uint16_t)first);                 /* infinite where the scale is 0 */
            h[b] = first + (uint32_t)((over >= 127.5f) & (most[b] > 0));
            d[b] = kern_half_to_float((uint16_t)h[b]);
        }
        for (size_t b = 0; b < blocks; b++, x += 32, p += 34) {
            const float magic = 0x1.8p23f, each = d[b], by = each > 0 ? each : 1.0f;       /* 0: all values are */
            kern_half_put(p, (uint16_t)h[b]);
            for (int i = 0; i < 32; i++) {                      /* quants_of; the scale sees to the limits */
                float t = x[i] / by + magic;
                v[i] = t - magic;
            }
            for (int i = 0; i < 32; i++) p[2 + i] = (uint8_t)(int32_t)v[i];
            for (int i = 0; i < 16; i++) {
                float r = each * v[i] - x[i], t = each * v[16 + i] - x[16 + i];
                e[i] += r * r + t * t;
                s[i] += x[i] * x[i] + x[16 + i] * x[16 + i];
            }
        }
        for (int w = 8; w; w /= 2)
            for (int i = 0; i < w; i++) {
                e[i] += e[i + w];
                s[i] += s[i + w];
            }
        sums[0] += (double)e[0];
        sums[1] += (double)s[0];
    }
    return true;
}

/* One group of up to 128 columns; the end of what was written, or NULL. */
ROW_FN uint8_t *ROW(group_to)(bool nibbles, const float *x, size_t n, uint8_t *p)
{
    float most = ROW(magnitude)(x, n), d;
    uint16_t h;

    if (!(most <= (nibbles ? 7.0f : 127.0f) * F16_MOST)) return NULL;
    h = nibbles ? ROW(scale_of_nibbles)(x, n, most) : scale_of_bytes(most);
    d = kern_one_half(h);
    kern_half_put(p, h);
    p += 2;
    for (; n >= 32; n -= 32, x += 32, p += nibbles ? 16 : 32) {
        if (nibbles) ROW(put_nibbles)(x, d, 0, -8, 7, p);
        else ROW(put_bytes)(x, d, p);
    }
    return p;
}

ROW_FN void ROW(range)(const float *x, float *low, float *high)
{
    _Alignas(64) float l[16], h[16];

    for (int i = 0; i < 16; i++) {
        l[i] = x[16 + i] < x[i] ? x[16 + i] : x[i];
        h[i] = x[16 + i] > x[i] ? x[16 + i] : x[i];
    }
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) {
            l[i] = l[i + w] < l[i] ? l[i + w] : l[i];
            h[i] = h[i + w] > h[i] ? h[i + w] : h[i];
        }
    *low = l[0];
    *high = h[0];
}

/* 32 unsigned bytes with a minimum; the end of what was written, or NULL. */
ROW_FN uint8_t *ROW(bytes_with_minimum)(const float *x, uint8_t *p)
{
    _Alignas(64) float v[32];
    float low, high, d, m;
    uint16_t hd, hm;
    _Alignas(64) int32_t q[32];

    if (!(ROW(magnitude)(x, 32) <= F16_MOST)) return NULL;
    ROW(range)(x, &low, &high);
    hm = half_below(low);
    m = kern_one_half(hm);
    hd = kern_one_float((high - m) / 255.0f);
    while (high > m && (hd == 0 || (high - m) / kern_one_half(hd) > 255.5f)) hd++;        /* the tie goes to 256, and is clamped */
    d = kern_one_half(hd);
    kern_half_put(p, hd);
    kern_half_put(p + 2, hm);
    for (int i = 0; i < 32; i++) v[i] = x[i] - m;
    ROW(quants_of)(v, d, 0, 255, q);
    for (int i = 0; i < 32; i++) p[4 + i] = (uint8_t)q[i];
    return p + 36;
}

/* 32 columns with a minimum; the end of what was written, or NULL.  The scale spans from the minimum as it is stored. */
ROW_FN uint8_t *ROW(block_with_minimum)(const float *x, uint8_t *p)
{
    float low, high, d, m;
    uint16_t hd, hm;

    if (!(ROW(magnitude)(x, 32) <= F16_MOST)) return NULL;
    ROW(range)(x, &low, &high);
    hm = kern_one_float(low);
    m = kern_one_half(hm);
    hd = kern_one_float((high - m) / 15.0f);
    d = kern_one_half(hd);
    kern_half_put(p, hd);
    kern_half_put(p + 2, hm);
    ROW(put_nibbles)(x, d, m, 0, 15, p + 4);
    return p + 20;
}

/* 32 bytes with a scale a half, each by the rule of bytes; the end of what was written, or NULL. */
ROW_FN uint8_t *ROW(bytes_with_halves)(const float *x, uint8_t *p)
{
    for (int h = 0; h < 2; h++) {
        _Alignas(64) float v[32] = { 0 };
        _Alignas(64) int32_t q[32];
        float most;
        uint16_t d;

        memcpy(v, x + 16 * h, 16 * sizeof *v);
        most = ROW(magnitude)(v, 32);
        if (!(most <= 127.0f * F16_MOST)) return NULL;
        d = scale_of_bytes(most);
        kern_half_put(p + 2 * h, d);
        ROW(quants_of)(v, kern_one_half(d), -127, 127, q);
        for (int i = 0; i < 16; i++) p[4 + 16 * h + i] = (uint8_t)q[i];
    }
    return p + 36;
}

/* A row of a cut whose scale is d. */
ROW_FN void ROW(to_fp8)(const float *restrict x, size_t n, float d, uint8_t *restrict p)
{
    size_t i = 0;

    memcpy(p, &d, 4);
    p += 4;
    if (d == 0) {
        memset(p, 0, n);
        return;
    }
    for (; i + 32 <= n; i += 32)
        for (size_t k = 0; k < 32; k++) p[i + k] = kern_float_to_fp8(x[i + k] / d);
    for (; i < n; i++) p[i] = kern_float_to_fp8(x[i] / d);
}

ROW_FN bool ROW(halves)(const float *restrict x, size_t n, uint8_t *restrict p)
{
    uint32_t top = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t v = kern_bits_of(x[i]) & 0x7fffffffu;
        uint16_t h = kern_float_to_half(x[i]);
        top = v > top ? v : top;
        memcpy(p + 2 * i, &h, 2);
    }
    return top < 0x477ff000u;                           /* 65520: from here on it would round to infinity */
}

ROW_FN bool ROW(quantise)(kern_dtype t, const float *src, size_t n, uint8_t *p)
{
    const bool nibbles = t == KERN_Q4_0 || t == KERN_W4;
    const size_t group = t == KERN_W8 || t == KERN_W4 ? 128 : 32;

    double sums[2] = { 0 };

    if (t == KERN_F16) return ROW(halves)(src, n, p);
    if (t == KERN_FP8) {
        float most = ROW(magnitude)(src, n);
        if (!(most >= 0)) return false;
        ROW(to_fp8)(src, n, kern_fp8_scale(most), p);
        return true;
    }
    if (t == KERN_Q8_0 && n % 32 == 0) return ROW(bytes)(src, n, p, sums);
    if ((t == KERN_Q4_1 || t == KERN_Q8_M) && n % 32 == 0) {
        for (size_t at = 0; at < n && p; at += 32) p = t == KERN_Q4_1 ? ROW(block_with_minimum)(src + at, p) : ROW(bytes_with_minimum)(src + at, p);
        return p != NULL;
    }
    if (t == KERN_Q8_H && n % 32 == 0) {
        for (size_t at = 0; at < n && p; at += 32) p = ROW(bytes_with_halves)(src + at, p);
        return p != NULL;
    }
    if ((!nibbles && t != KERN_W8) || n % 32) return false;
    for (size_t at = 0; at < n && p; at += group) p = ROW(group_to)(nibbles, src + at, n - at < group ? n - at : group, p);
    return p != NULL;
}

/* The scale of 32 values that lie `step` apart. */
ROW_FN uint16_t ROW(scale_of_levels)(const float *x, float most, float step)
{
    uint16_t best = scale_of_bytes(most);
    float least = ROW(error_of)(x, 32, kern_one_half(best), -127, 127);

    for (int k = 1; k <= 16 && least > 0; k++) {
        uint16_t h = kern_one_float(step / (float)k);
        float d = kern_one_half(h), error;
        if (!(d > 0) || most / d >= 127.5f) break;
        if ((error = ROW(error_of)(x, 32, d, -127, 127)) < least) least = error, best = h;
    }
    return best;
}

ROW_FN bool ROW(requantise)(const float *src, const float *step, size_t n, uint8_t *p)
{
    if (n % 32) return false;
    for (size_t at = 0; at < n; at += 32, p += 34) {
        float most = ROW(magnitude)(src + at, 32), s = step[at / 32];
        uint16_t h;
        if (!(most <= 127.0f * F16_MOST)) return false;
        h = most > 0 && s > 0 && s <= F16_MOST ? ROW(scale_of_levels)(src + at, most, s) : scale_of_bytes(most);
        kern_half_put(p, h);
        ROW(put_bytes)(src + at, kern_one_half(h), p + 2);
    }
    return true;
}

ROW_FN void ROW(distance)(const float *restrict was, const float *restrict is, size_t n, double *error, double *size)
{
    size_t at = 0;

    for (; at + 32 <= n; at += 32) {                  /* few enough that fp32 loses nothing that is printed */
        _Alignas(64) float e[16], s[16];
        for (int i = 0; i < 16; i++) {
            float x = was[at + (size_t)i], y = was[at + 16 + (size_t)i], dx = is[at + (size_t)i] - x, dy = is[at + 16 + (size_t)i] - y;
            e[i] = dx * dx + dy * dy;
            s[i] = x * x + y * y;
        }
        for (int w = 8; w; w /= 2)
            for (int i = 0; i < w; i++) {
                e[i] += e[i + w];
                s[i] += s[i + w];
            }
        *error += (double)e[0];
        *size += (double)s[0];
    }
    for (; at < n; at++) {
        double d = (double)is[at] - (double)was[at];
        *error += d * d;
        *size += (double)was[at] * (double)was[at];
    }
}
