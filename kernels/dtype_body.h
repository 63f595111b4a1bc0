/* dtype_body.h - the types that are served as fp32, on one path (row_path.h). */
#include "kernels/row_path.h"

/* A scale for 32 or 128 columns, then their quants in blocks of 32; a last group may have fewer blocks. */
ROW_FN void ROW(grouped)(kern_dtype t, const uint8_t *restrict p, size_t n, float *restrict y)
{
    size_t group = t == KERN_W8 || t == KERN_W4 ? 4 : 1;
    bool bytes = t == KERN_Q8_0 || t == KERN_W8;

    for (size_t left = n / 32; left;) {
        float d = kern_half_at(p);
        p += 2;
        for (size_t b = 0; b < group && left; b++, left--, y += 32) {
            if (bytes) {
                for (int i = 0; i < 32; i++) y[i] = d * (float)(int8_t)p[i];
                p += 32;
            } else {
                for (int i = 0; i < 16; i++) y[i] = d * (float)((p[i] & 15) - 8);
                for (int i = 0; i < 16; i++) y[16 + i] = d * (float)((p[i] >> 4) - 8);
                p += 16;
            }
        }
    }
}

ROW_FN void ROW(q4_1)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p), m = kern_half_at(p + 2);

    for (int i = 0; i < 16; i++) y[i] = d * (float)(p[4 + i] & 15) + m;
    for (int i = 0; i < 16; i++) y[16 + i] = d * (float)(p[4 + i] >> 4) + m;
}

ROW_FN void ROW(q8_m)(const uint8_t *restrict p, float *restrict y)
{
    float d = kern_half_at(p), m = kern_half_at(p + 2);

    for (int i = 0; i < 32; i++) y[i] = d * (float)p[4 + i] + m;
}

ROW_FN void ROW(q8_h)(const uint8_t *restrict p, float *restrict y)
{
    float d[2] = { kern_half_at(p), kern_half_at(p + 2) };

    for (int i = 0; i < 16; i++) y[i] = d[0] * (float)(int8_t)p[4 + i];
    for (int i = 16; i < 32; i++) y[i] = d[1] * (float)(int8_t)p[4 + i];
}

ROW_FN void ROW(q4_hl)(const uint8_t *restrict p, float *restrict y)
{
    float d[2] = { kern_half_at(p), kern_half_at(p + 2) };

    for (int i = 0; i < 16; i++) y[i] = d[0] * (float)kern_q4_hl_level[p[4 + i] & 15];
    for (int i = 0; i < 16; i++) y[16 + i] = d[1] * (float)kern_q4_hl_level[p[4 + i] >> 4];
}

/* 64 columns, or 32. */
ROW_FN void ROW(q2_hm)(const uint8_t *restrict p, size_t n, float *restrict y)
{
    for (size_t k = 0; k < n / 16; k++) {
        float d = kern_half_at(p + 16 + 4 * k), m = kern_half_at(p + 18 + 4 * k);
        for (int i = 0; i < 16; i++) y[16 * k + (size_t)i] = d * (float)(p[i] >> 2 * k & 3) + m;
    }
}

/* A scale for the whole row, and a byte a column. */
ROW_FN void ROW(fp8)(const uint8_t *restrict p, size_t n, float *restrict y)
{
    float d;
    size_t i = 0;

    memcpy(&d, p, 4);
    p += 4;
    for (; i + 32 <= n; i += 32)
        for (size_t k = 0; k < 32; k++) y[i + k] = d * kern_fp8_to_float(p[i + k]);
    for (; i < n; i++) y[i] = d * kern_fp8_to_float(p[i]);
}

ROW_FN void ROW(to_f32)(kern_dtype t, const uint8_t *restrict p, size_t n, float *restrict y)
{
    size_t i = 0;
    uint16_t h[32];

    switch (t) {
    case KERN_F16:
        for (; i < n; i += 32) {
            size_t some = n - i < 32 ? n - i : 32;
            memcpy(h, p + 2 * i, 2 * some);
            if (some == 32)
                for (int k = 0; k < 32; k++) y[i + (size_t)k] = kern_half_to_float(h[k]);
            else
                for (size_t k = 0; k < some; k++) y[i + k] = kern_half_to_float(h[k]);
        }
        break;
    case KERN_BF16:
        for (; i < n; i++) y[i] = kern_float_of((uint32_t)(memcpy(h, p + 2 * i, 2), h[0]) << 16);
        break;
    case KERN_Q4_1:
        for (; n >= 32; n -= 32, p += 20, y += 32) ROW(q4_1)(p, y);
        break;
    case KERN_Q8_M:
        for (; n >= 32; n -= 32, p += 36, y += 32) ROW(q8_m)(p, y);
        break;
    case KERN_Q8_H:
        for (; n >= 32; n -= 32, p += 36, y += 32) ROW(q8_h)(p, y);
        break;
    case KERN_Q4_HL:
        for (; n >= 32; n -= 32, p += 20, y += 32) ROW(q4_hl)(p, y);
        break;
    case KERN_Q2_HM:
        for (; n >= 64; n -= 64, p += 32, y += 64) ROW(q2_hm)(p, 64, y);
        if (n) ROW(q2_hm)(p, 32, y);
        break;
    case KERN_FP8:
        ROW(fp8)(p, n, y);
        break;
    default:
        ROW(grouped)(t, p, n, y);
    }
}
