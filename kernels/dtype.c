/* dtype.c - the table of storage formats, sizes, conversions, and the readers of the formats that are served. */
#include "kernels/dtype.h"
#include "kernels/gguf_blocks.h"
#include "kernels/half.h"
#include "kernels/panel.h"
#include "proto/base/alloc.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NO_GGML UINT32_MAX

const int8_t kern_q4_hl_level[16] = { KERN_Q4_HL_LEVELS };

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
    [KERN_FP8]    = { "FP8",      1,   1, NO_GGML, true,  true  },    /* + a scale, four bytes */
    [KERN_W8]     = { "W8",     128, 130, NO_GGML, true,  true  },
    [KERN_W4]     = { "W4",     128,  66, NO_GGML, true,  true  },
    [KERN_W4Z]    = { "W4Z",    128,  66, NO_GGML, false, false },   /* + half a byte of zero point a group */
    [KERN_Q8_M]   = { "Q8_M",    32,  36, NO_GGML, true,  true  },
    [KERN_Q8_H]   = { "Q8_H",    32,  36, NO_GGML, true,  true  },
    [KERN_Q2_HM]  = { "Q2_HM",   64,  32, NO_GGML, true,  true  },
    [KERN_Q4_HL]  = { "Q4_HL",   32,  20, NO_GGML, true,  true  },
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

char *kern_dtype_weights(char *buf, size_t cap)
{
    size_t at = 0;
    unsigned last = KERN_N_DTYPES;

    while (last && !info[last - 1].weight) last--;
    buf[0] = 0;
    for (unsigned t = 0; t < last && at < cap; t++)
        if (info[t].weight)
            at += (size_t)snprintf(buf + at, cap - at, "%s%s", !at ? "" : t + 1 < last ? ", " : " or ", info[t].name);
    return buf;
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
    case KERN_Q2_HM:
        return cols % 32 == 0 && !mul64(rows, kern_q2_hm_row(cols), bytes);
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

float kern_f16_to_f32(uint16_t h) { return kern_one_half(h); }
uint16_t kern_f32_to_f16(float f) { return kern_one_float(f); }
float kern_bf16_to_f32(uint16_t h) { return kern_float_of((uint32_t)h << 16); }

uint16_t kern_f32_to_bf16(float f)
{
    uint32_t b = kern_bits_of(f);

    if ((b & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(b >> 16 | 0x40u);   /* NaN stays NaN */
    return (uint16_t)((b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}

/* ---- rows ---- */

#define ROW_PATH 0
#include "kernels/dtype_body.h"
#undef ROW_PATH
#define ROW_PATH 1
#include "kernels/dtype_body.h"
#undef ROW_PATH
#define ROW_PATH 2
#include "kernels/dtype_body.h"

void kern_row_to_f32_on(kern_path path, kern_dtype t, const void *src, size_t n, float *dst)
{
    const kern_dtype_info *f = kern_dtype_get(t);

    if (t == KERN_F32) memcpy(dst, src, n * sizeof *dst);
    else if (!f || !f->weight) kern_gguf_to_f32(path, t, src, n, dst);
    else ROW_ON(path, to_f32, t, src, n, dst);
}

void kern_row_to_f32(kern_dtype t, const void *src, size_t n, float *dst) { kern_row_to_f32_on(kern_row_path(), t, src, n, dst); }

void kern_row_from_f32(kern_dtype t, const float *src, size_t n, void *dst)
{
    uint16_t *h = dst;

    if (t == KERN_F32) memcpy(dst, src, n * 4);
    else if (t == KERN_BF16)
        for (size_t i = 0; i < n; i++) h[i] = kern_f32_to_bf16(src[i]);
}
