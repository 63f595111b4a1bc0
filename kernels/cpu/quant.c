/* quant.c - activations into the format that a matmul reads; the definition.
 *
 * Q12, per row and block of 32 columns (a short last block is padded with zeros): m = max |x|.  m < 2^-100: all zero.
 * inv = 127 / m; t = x * inv; q1 = nearest even of t; q2 = nearest even of (t - q1) * 16; s = m / 2032;
 * X = 16 q1 + q2; sumX = sum of X.
 * BF16: nearest even, kept as fp32.  F32: as it is.
 * In all three a block with a value that is not finite (exponent bits all ones, tested as integers; for BF16 after the
 * rounding, too) is zeros, and its row gets KERN_FLAG_NONFINITE. */
#include "kernels/cpu/quant.h"

#include <string.h>

#define PART_VALUES 16384u     /* fewer are not worth another thread */

static uint32_t abs_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    return b & 0x7fffffffu;
}

/* Nearest even for |x| < 2^22, in the hardware's default rounding. */
static float round_even(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

static bool row_scalar(const float *x, uint32_t n, uint8_t *out)
{
    uint32_t blocks = kern_cpu_blocks(n);
    kern_q12 *meta = (kern_q12 *)(out + (size_t)blocks * 64);
    bool bad = false;

    memset(out, 0, kern_q12_stride(n));
    for (uint32_t b = 0; b < blocks; b++, x += 32, out += 64) {
        uint32_t width = n - 32 * b < 32 ? n - 32 * b : 32, top = 0;
        int32_t sum[2] = { 0 };         /* of columns 0..15 and 16..31 */

        for (uint32_t i = 0; i < width; i++)
            if (abs_bits(x[i]) > top) top = abs_bits(x[i]);     /* magnitudes order like their bits */
        if (top >= 0x7f800000u) bad = true;
        if (top >= 0x7f800000u || top < KERN_Q12_TINY) continue;

        float m, inv;
        memcpy(&m, &top, 4);
        inv = 127.0f / m;
        for (uint32_t i = 0; i < width; i++) {
            float t = x[i] * inv, q1 = round_even(t), q2 = round_even((t - q1) * 16.0f);
            out[i] = (uint8_t)(int8_t)q1;
            out[32 + i] = (uint8_t)(int8_t)q2;
            sum[i / 16] += 16 * (int32_t)q1 + (int32_t)q2;
        }
        meta[b] = (kern_q12){ .scale = m / 2032.0f, .sum_f = (float)(sum[0] + sum[1]), .neg8_first = -8 * sum[0], .neg8 = -8 * (sum[0] + sum[1]) };
    }
    return bad;
}

static bool row_flat(const float *x, uint32_t n, bool bf16, uint8_t *out)
{
    bool bad = false;

    for (uint32_t i = 0; i < n; i += 32, out += 128) {
        uint32_t width = n - i < 32 ? n - i : 32, v[32] = {0}, over = 0;

        memcpy(v, x + i, width * 4);
        for (int j = 0; j < 32; j++) {
            over |= (v[j] & 0x7f800000u) == 0x7f800000u;
            if (bf16) v[j] = (v[j] + 0x7fffu + (v[j] >> 16 & 1u)) & 0xffff0000u;
            over |= (v[j] & 0x7f800000u) == 0x7f800000u;
        }
        if (over) memset(v, 0, sizeof v);
        memcpy(out, v, sizeof v);
        bad |= over;
    }
    return bad;
}

typedef struct quant_ctx { const kern_quant_args *a; kern_quant_row *row; uint32_t rows; } quant_ctx;

static void body(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const quant_ctx *c = ctx;
    const kern_quant_args *a = c->a;
    size_t stride = kern_cpu_act_stride(a->act, a->cols);
    uint32_t *flags = a->flags.h, lo, hi;

    kern_cpu_share(c->rows, part, n_parts, &lo, &hi);
    for (uint32_t t = lo; t < hi; t++) {
        const float *x = (const float *)a->in.h + (size_t)t * a->cols;
        uint8_t *out = (uint8_t *)a->out.h + t * stride;
        if (a->act == KERN_ACT_Q12 ? c->row(x, a->cols, out) : row_flat(x, a->cols, a->act == KERN_ACT_BF16, out))
            flags[t] |= KERN_FLAG_NONFINITE;
    }
}

px_code kern_cpu_quant_run(kern_dev *d, const kern_quant_args *a, kern_quant_row *row, px_err *e)
{
    quant_ctx c = { .a = a, .row = row, .rows = kern_cpu_rows(&a->rows) };
    uint64_t parts = (uint64_t)c.rows * a->cols / PART_VALUES + 1;
    px_code rc;

    if ((unsigned)a->act >= KERN_N_ACTS)
        return px_fail(e, PX_EINTERNAL, "quant.act", "no activation format %d", (int)a->act);
    if ((rc = kern_cpu_need(a->in, c.rows, (size_t)a->cols * 4, "quant.in", e))
        || (rc = kern_cpu_need(a->out, kern_act_bytes(KERN_ON_CPU, a->act, c.rows, a->cols), 1, "quant.out", e))
        || (rc = kern_cpu_need(a->flags, c.rows, 4, "quant.flags", e)))
        return rc;
    kern_cpu_split(d, parts < c.rows ? (uint32_t)parts : c.rows, body, &c);
    return PX_OK;
}

px_code kern_cpu_quant_scalar(kern_dev *d, const kern_quant_args *a, px_err *e)
{
    return kern_cpu_quant_run(d, a, row_scalar, e);
}
