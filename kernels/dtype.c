/* dtype.c - the table of storage formats, sizes, conversions, and the readers of the formats that are served. */
#include "kernels/dtype.h"
#include "kernels/gguf_blocks.h"
#include "proto/base/alloc.h"

#include <string.h>
#include <strings.h>

#define NO_GGML UINT32_MAX

static const kern_dtype_info info[KERN_N_DTYPES] = {
    [KERN_F32]    = { "F32",      1,   4,  0, true,  true  },
    [KERN_F16]    = { "F16",      1,   2,  1, true,  true  },
    [KERN_BF16]   = { "BF16",     1,   2, 30, true,  true  },
    [KERN_Q8_0]   = { "Q8_0",    32,  34,  8, true,  true  },
    [KERN_Q4_0]   = { "Q4_0",    32,  18,  2, true,  true  },
    [KERN_Q4_1]   = { "Q4_1",    32,  20,  3, true,  true  },
    [KERN_Q5_0]   = { "Q5_0",    32,  22,  6, true,  false },
    [KERN_Q5_1]   = { "Q5_1",    32,  24,  7, true,  false },
    [KERN_Q2_K]   = { "Q2_K",   256,  84, 10, true,  false },
    [KERN_Q3_K]   = { "Q3_K",   256, 110, 11, true,  false },
    [KERN_Q4_K]   = { "Q4_K",   256, 144, 12, true,  false },
    [KERN_Q5_K]   = { "Q5_K",   256, 176, 13, true,  false },
    [KERN_Q6_K]   = { "Q6_K",   256, 210, 14, true,  false },
    [KERN_IQ4_NL] = { "IQ4_NL",  32,  18, 20, true,  false },
    [KERN_IQ4_XS] = { "IQ4_XS", 256, 136, 23, true,  false },
    [KERN_IQ2_XS] = { "IQ2_XS", 256,  74, 17, true,  false },
    [KERN_FP8]    = { "FP8",      1,   1, NO_GGML, false, false },
    [KERN_W8]     = { "W8",     128, 130, NO_GGML, true,  true  },
    [KERN_W4]     = { "W4",     128,  66, NO_GGML, true,  true  },
    [KERN_W4Z]    = { "W4Z",    128,  66, NO_GGML, false, false },   /* + half a byte of zero point a group */
    [KERN_Q8_M]   = { "Q8_M",    32,  36, NO_GGML, true,  true  },
};

const kern_dtype_info *kern_dtype_get(kern_dtype t)
{
    return (unsigned)t < KERN_N_DTYPES ? &info[t] : NULL;
}

px_code kern_dtype_parse(const char *name, kern_dtype *out, px_err *e)
{
    for (unsigned t = 0; name && t < KERN_N_DTYPES; t++)
        if (strcasecmp(name, info[t].name) == 0) {
            *out = (kern_dtype)t;
            return PX_OK;
        }
    return px_fail(e, PX_EINVAL, "dtype", "unknown storage format \"%.32s\"", name ? name : "");
}

kern_dtype kern_dtype_of_ggml(uint32_t type)
{
    for (unsigned t = 0; t < KERN_N_DTYPES; t++)
        if (info[t].ggml == type && type != NO_GGML) return (kern_dtype)t;
    return KERN_N_DTYPES;
}

static bool mul64(uint64_t a, uint64_t b, uint64_t *out) { return __builtin_mul_overflow(a, b, out); }
static bool add64(uint64_t a, uint64_t b, uint64_t *out) { return __builtin_add_overflow(a, b, out); }

bool kern_matrix_bytes(kern_dtype t, uint64_t rows, uint64_t cols, uint64_t *bytes)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    uint64_t data, scales, zeros, groups = cols / 128 + (cols % 128 != 0);

    if (!f) return false;
    switch (t) {
    case KERN_FP8:
        return !mul64(rows, cols, &data) && !add64(data, 4, bytes);
    case KERN_W8:
    case KERN_W4:
    case KERN_W4Z:
        if (mul64(rows, t == KERN_W8 ? cols : cols / 2 + cols % 2, &data) || mul64(rows, groups, &zeros)
            || mul64(zeros, 2, &scales) || add64(data, scales, &data))
            return false;
        return !add64(data, t == KERN_W4Z ? zeros / 2 + zeros % 2 : 0, bytes);
    default:
        if (cols % f->block || mul64(cols / f->block, f->block_bytes, &data)) return false;
        return !mul64(rows, data, bytes);
    }
}

/* ---- conversions, on the bits: the same under every rounding and flushing mode ---- */

static float f32_of(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static uint32_t bits_of(float f) { uint32_t b; memcpy(&b, &f, 4); return b; }

float kern_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 31u, man = h & 0x3ffu;

    if (exp == 31) return f32_of(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0));   /* NaN made quiet */
    if (exp) return f32_of(sign | (exp + 112) << 23 | man << 13);
    if (!man) return f32_of(sign);
    for (exp = 113; !(man & 0x400u); exp--) man <<= 1;       /* subnormal in fp16, normal in fp32 */
    return f32_of(sign | exp << 23 | (man & 0x3ffu) << 13);
}

uint16_t kern_f32_to_f16(float f)
{
    uint32_t b = bits_of(f), sign = b >> 16 & 0x8000u, a = b & 0x7fffffffu, shift, half, man;

    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7bffu);                 /* would round to 65536 or is infinite */
    if (a >= 0x38800000u)                                                     /* normal in fp16 */
        return (uint16_t)(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13);
    if (a <= 0x33000000u) return (uint16_t)sign;                              /* up to 2^-25: a tie goes to even, 0 */
    shift = 126 - (a >> 23);                                                  /* 14 .. 24 */
    man = (a & 0x7fffffu) | 0x800000u;
    half = 1u << (shift - 1);
    return (uint16_t)(sign | (man + half - 1 + (man >> shift & 1u)) >> shift);
}

float kern_bf16_to_f32(uint16_t h) { return f32_of((uint32_t)h << 16); }

uint16_t kern_f32_to_bf16(float f)
{
    uint32_t b = bits_of(f);

    if ((b & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(b >> 16 | 0x40u);   /* NaN stays NaN */
    return (uint16_t)((b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}

/* ---- rows ---- */

static uint16_t u16_at(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

/* A scale for 32 or 128 columns, then their quants in blocks of 32; a last group may have fewer blocks. */
static void grouped_to_f32(kern_dtype t, const uint8_t *p, size_t n, float *dst)
{
    size_t group = t == KERN_W8 || t == KERN_W4 ? 4 : 1;
    float d = 0;

    for (size_t b = 0; b < n / 32; b++, dst += 32) {
        if (b % group == 0) {
            d = kern_f16_to_f32(u16_at(p));
            p += 2;
        }
        if (t == KERN_Q8_0 || t == KERN_W8) {
            for (int i = 0; i < 32; i++) dst[i] = d * (float)(int8_t)p[i];
            p += 32;
        } else {
            for (int i = 0; i < 16; i++) {
                dst[i] = d * (float)((p[i] & 15) - 8);
                dst[i + 16] = d * (float)((p[i] >> 4) - 8);
            }
            p += 16;
        }
    }
}

void kern_row_to_f32(kern_dtype t, const void *src, size_t n, float *dst)
{
    const uint8_t *p = src;

    switch (t) {
    case KERN_F32:
        memcpy(dst, src, n * 4);
        break;
    case KERN_F16:
        for (size_t i = 0; i < n; i++) dst[i] = kern_f16_to_f32(u16_at(p + 2 * i));
        break;
    case KERN_BF16:
        for (size_t i = 0; i < n; i++) dst[i] = kern_bf16_to_f32(u16_at(p + 2 * i));
        break;
    case KERN_Q8_0:
    case KERN_W8:
    case KERN_Q4_0:
    case KERN_W4:
        grouped_to_f32(t, p, n, dst);
        break;
    case KERN_Q4_1:
        for (; n >= 32; n -= 32, p += 20, dst += 32) {
            float d = kern_f16_to_f32(u16_at(p)), m = kern_f16_to_f32(u16_at(p + 2));
            for (int i = 0; i < 16; i++) {
                dst[i] = d * (float)(p[4 + i] & 15) + m;
                dst[i + 16] = d * (float)(p[4 + i] >> 4) + m;
            }
        }
        break;
    case KERN_Q8_M:
        for (; n >= 32; n -= 32, p += 36, dst += 32) {
            float d = kern_f16_to_f32(u16_at(p)), m = kern_f16_to_f32(u16_at(p + 2));
            for (int i = 0; i < 32; i++) dst[i] = d * (float)p[4 + i] + m;
        }
        break;
    default:
        kern_gguf_to_f32(t, src, n, dst);
    }
}

void kern_row_from_f32(kern_dtype t, const float *src, size_t n, void *dst)
{
    uint16_t *h = dst;

    if (t == KERN_F32) memcpy(dst, src, n * 4);
    else if (t == KERN_BF16)
        for (size_t i = 0; i < n; i++) h[i] = kern_f32_to_bf16(src[i]);
}
