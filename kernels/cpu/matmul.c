/* matmul.c - out[t][r] = sum over columns of weight[r][k] * activation[t][k]; the definition.
 *
 * Q4_0, Q4_1, Q8_0, Q8_M, Q8_H, Q4_HL, W4, W8 on Q12 activations, blocks b of 32 columns ascending: S = sum of w * X, exact in int32 (w:
 * nibble - 8, nibble, byte, byte of 0..255, byte, the level that a nibble names, nibble - 8, byte); p = d * s, rounded (W4, W8: d of the
 * block's group); acc = fmaf((float)S, p, acc);
 * Q4_1 and Q8_M then: acc = fmaf((float)sumX, m * s, acc), m * s rounded.  d and m are fp16 converted to fp32.
 * Q8_H, Q4_HL the same of each half of a block by itself, columns 0..15 before 16..31: S0 with d0 * s, S1 with d1 * s.  Q2_HM (w: 0..3), too, and
 * each half's minimum behind it, as Q4_1 has it, with the sum of the half's X.
 * |X| <= 16 * 127 + 8 = 2040, so |S| <= 32 * 255 * 2040 = 16,646,400 < 2^24: S is exact as a float, too.
 * BF16 on BF16: per 32 columns two chains of fmaf from zero, over the even and over the odd columns; even + odd; that
 * added to acc.  F32 on F32, F16 on F16 (kept in fp32): one chain of fmaf over the columns.  Both run over the columns that pad K to 32, too.
 * FP8 on F16: as F16, with the fp16 that is 2^-8 of each weight (kern_fp8_half); at the end acc times 256 d, d * 256 rounded first.
 * acc starts at +0; subnormal inputs, accumulators and results are flushed to zero (the thread's mode).
 * The payload of a NaN is not defined. */
#include "kernels/cpu/matmul.h"
#include "kernels/half.h"
#include "kernels/panel.h"

#include <math.h>
#include <string.h>

#define PART_BYTES 32768u      /* weight bytes x rows: less is not worth another thread */

/* The 32 weights of row r of a block as integers. */
static void weights_of(kern_dtype t, const uint8_t *quants, uint32_t r, int32_t w[32])
{
    int32_t less = t == KERN_Q4_1 ? 0 : 8;

    for (uint32_t c = 0; c < 32; c++) {
        const uint8_t *quad = quants + 4 * r + c % 4;
        if (t == KERN_Q8_M)                   w[c] = quad[64 * (c / 4)];
        else if (kern_block_quants(t) == 512) w[c] = (int8_t)quad[64 * (c / 4)];
        else if (t == KERN_Q4_HL)             w[c] = kern_q4_hl_level[c < 16 ? quad[64 * (c / 4)] & 15 : quad[64 * ((c - 16) / 4)] >> 4];
        else if (c < 16)                      w[c] = (quad[64 * (c / 4)] & 15) - less;
        else                                  w[c] = (quad[64 * ((c - 16) / 4)] >> 4) - less;
    }
}

static void quantised(kern_dtype t, const kern_mm *m)
{
    for (uint32_t r = m->lo * KERN_PANEL_ROWS; r < m->hi * KERN_PANEL_ROWS && r < m->w_rows; r++) {
        const uint8_t *panel = m->panels + r / KERN_PANEL_ROWS * m->stride;
        uint32_t lane = r % KERN_PANEL_ROWS;

        for (uint32_t row = 0; row < m->rows; row++) m->out[row * m->out_stride + r] = 0;
        for (uint32_t b = 0; b < m->blocks; b++) {
            kern_block_at at = kern_block_find(t, m->blocks, b);
            float d = kern_half_at(panel + at.scales + 2 * lane);
            float second = kern_block_two(t) ? kern_half_at(panel + at.second + 2 * lane) : 0;       /* a minimum, or the scale of the last half */
            const uint32_t first = kern_block_halves(t) ? 16 : 32;
            int32_t w[32];

            weights_of(t, panel + at.quants, lane, w);
            for (uint32_t row = 0; row < m->rows; row++) {
                const uint8_t *act = m->act + row * m->act_stride;
                const int8_t *q = (const int8_t *)(act + (size_t)b * 64);
                kern_q12 x;
                float *acc = m->out + row * m->out_stride + r;
                int32_t s[2] = { 0 };

                memcpy(&x, act + (size_t)m->blocks * 64 + b * sizeof x, sizeof x);
                for (uint32_t c = 0; c < 32; c++) s[c >= first] += w[c] * (16 * q[c] + q[32 + c]);
                float p = d * x.scale, p2 = second * x.scale;
                *acc = fmaf((float)s[0], p, *acc);
                if (kern_block_two(t)) *acc = fmaf(kern_block_minimum(t) ? x.sum_f : (float)s[1], p2, *acc);
            }
        }
    }
}

static void q2_hm(const kern_mm *m)
{
    for (uint32_t r = m->lo * KERN_PANEL_ROWS; r < m->hi * KERN_PANEL_ROWS && r < m->w_rows; r++) {
        const uint8_t *panel = m->panels + r / KERN_PANEL_ROWS * m->stride + 4 * (r % KERN_PANEL_ROWS);

        for (uint32_t row = 0; row < m->rows; row++) m->out[row * m->out_stride + r] = 0;
        for (uint32_t i = 0; i < m->blocks * 2; i++) {                              /* halves of blocks, four to a unit */
            const uint8_t *unit = panel + i / 4 * KERN_Q2_HM_UNIT, *pair = unit + 256 + i % 4 * 64;
            float d = kern_half_at(pair), least = kern_half_at(pair + 2);

            for (uint32_t row = 0; row < m->rows; row++) {
                const uint8_t *act = m->act + row * m->act_stride;
                const int8_t *q = (const int8_t *)(act + (size_t)(i / 2) * 64 + i % 2 * 16);
                kern_q12 x;
                float *acc = m->out + row * m->out_stride + r;
                int32_t s = 0;

                memcpy(&x, act + (size_t)m->blocks * 64 + i / 2 * sizeof x, sizeof x);
                for (uint32_t c = 0; c < 16; c++) s += (unit[64 * (c / 4) + c % 4] >> 2 * (i % 4) & 3) * (16 * q[c] + q[32 + c]);
                float p = d * x.scale, p2 = least * x.scale;
                *acc = fmaf((float)s, p, *acc);
                *acc = fmaf(kern_q12_half_sum(&x, i % 2), p2, *acc);
            }
        }
    }
}

static void q4_0(const kern_mm *m) { quantised(KERN_Q4_0, m); }
static void q4_1(const kern_mm *m) { quantised(KERN_Q4_1, m); }
static void q8_0(const kern_mm *m) { quantised(KERN_Q8_0, m); }
static void q8_m(const kern_mm *m) { quantised(KERN_Q8_M, m); }
static void q8_h(const kern_mm *m) { quantised(KERN_Q8_H, m); }
static void q4_hl(const kern_mm *m) { quantised(KERN_Q4_HL, m); }
static void w8(const kern_mm *m) { quantised(KERN_W8, m); }
static void w4(const kern_mm *m) { quantised(KERN_W4, m); }

static float bf16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return kern_bf16_to_f32(h);
}

static void bf16(const kern_mm *m)
{
    for (uint32_t r = m->lo * KERN_PANEL_ROWS; r < m->hi * KERN_PANEL_ROWS && r < m->w_rows; r++)
        for (uint32_t row = 0; row < m->rows; row++) {
            const uint8_t *w = m->panels + r / KERN_PANEL_ROWS * m->stride + 4 * (r % KERN_PANEL_ROWS);
            const float *x = (const float *)(m->act + row * m->act_stride);
            float acc = 0;

            for (uint32_t b = 0; b < m->blocks; b++, x += 32) {
                float even = 0, odd = 0;
                for (uint32_t j = 0; j < 16; j++, w += 64) {
                    even = fmaf(bf16_at(w), x[2 * j], even);
                    odd = fmaf(bf16_at(w + 2), x[2 * j + 1], odd);
                }
                acc = acc + (even + odd);
            }
            m->out[row * m->out_stride + r] = acc;
        }
}

static void f32(const kern_mm *m)
{
    for (uint32_t r = m->lo * KERN_PANEL_ROWS; r < m->hi * KERN_PANEL_ROWS && r < m->w_rows; r++)
        for (uint32_t row = 0; row < m->rows; row++) {
            const float *w = (const float *)(m->panels + r / KERN_PANEL_ROWS * m->stride) + r % KERN_PANEL_ROWS;
            const float *x = (const float *)(m->act + row * m->act_stride);
            float acc = 0;

            for (uint32_t c = 0; c < m->blocks * 32; c++) acc = fmaf(w[(size_t)c * KERN_PANEL_ROWS], x[c], acc);
            m->out[row * m->out_stride + r] = acc;
        }
}

static void f16(const kern_mm *m)
{
    for (uint32_t r = m->lo * KERN_PANEL_ROWS; r < m->hi * KERN_PANEL_ROWS && r < m->w_rows; r++)
        for (uint32_t row = 0; row < m->rows; row++) {
            const uint8_t *w = m->panels + r / KERN_PANEL_ROWS * m->stride + 4 * (r % KERN_PANEL_ROWS);
            const float *x = (const float *)(m->act + row * m->act_stride);
            float acc = 0;

            for (uint32_t c = 0; c < m->blocks * 32; c++) acc = fmaf(kern_half_at(w + (size_t)(c / 2) * 64 + 2 * (c % 2)), x[c], acc);
            m->out[row * m->out_stride + r] = acc;
        }
}

static void fp8(const kern_mm *m)
{
    for (uint32_t r = m->lo * KERN_PANEL_ROWS; r < m->hi * KERN_PANEL_ROWS && r < m->w_rows; r++) {
        const uint8_t *panel = m->panels + r / KERN_PANEL_ROWS * m->stride;
        float d;

        memcpy(&d, panel + (size_t)m->blocks * 512 + 4 * (r % KERN_PANEL_ROWS), 4);
        d *= 256.0f;
        for (uint32_t row = 0; row < m->rows; row++) {
            const float *x = (const float *)(m->act + row * m->act_stride);
            float acc = 0;

            for (uint32_t c = 0; c < m->blocks * 32; c++)
                acc = fmaf(kern_f16_to_f32(kern_fp8_half(panel[kern_fp8_column(c, r % KERN_PANEL_ROWS)])), x[c], acc);
            m->out[row * m->out_stride + r] = acc * d;
        }
    }
}

px_code kern_cpu_matmul_scalar(kern_dev *d, const kern_matmul_args *a, px_err *e)
{
    static const kern_mm_table table = { {
        [KERN_Q4_0] = q4_0, [KERN_Q4_1] = q4_1, [KERN_Q8_0] = q8_0, [KERN_Q8_M] = q8_m, [KERN_Q8_H] = q8_h, [KERN_Q2_HM] = q2_hm,
        [KERN_Q4_HL] = q4_hl, [KERN_W8] = w8, [KERN_W4] = w4, [KERN_BF16] = bf16, [KERN_F16] = f16, [KERN_FP8] = fp8,
        [KERN_F32] = f32,
    } };

    return kern_cpu_matmul_run(d, a, &table, e);
}

/* ---- shared by every path ---- */

typedef struct mm_ctx {
    uint32_t n, total;                              /* weights; panels of all of them */
    kern_mm mm[KERN_MAX_MATMULS];
    kern_mm_fn *fn[KERN_MAX_MATMULS];
} mm_ctx;

/* The panels of all weights are dealt as one row of panels: three small weights cost one fork. */
static void body(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const mm_ctx *c = ctx;
    uint32_t lo, hi, first = 0;

    kern_cpu_share(c->total, part, n_parts, &lo, &hi);
    for (uint32_t i = 0; i < c->n; i++) {
        kern_mm m = c->mm[i];
        uint32_t n = m.hi;
        m.lo = lo > first ? lo - first : 0;
        m.hi = hi > first ? (hi - first < n ? hi - first : n) : 0;
        if (m.lo < m.hi) c->fn[i](&m);
        first += n;
    }
}

static px_code check(const kern_matmul_args *a, const kern_weight *w, kern_mm_fn *fn, uint64_t *bytes, px_err *e)
{
    px_code rc;

    if (!fn) return px_fail(e, PX_EUNSUP, "matmul.dtype", "no matmul with weights of type %d", (int)w->dtype);
    if (kern_act_of(w->dtype) != a->act)
        return px_fail(e, PX_EINTERNAL, "matmul.act", "activation format %d, weights of %s want %d", (int)a->act,
                       kern_dtype_get(w->dtype)->name, (int)kern_act_of(w->dtype));
    if (w->cols != a->cols)
        return px_fail(e, PX_EINTERNAL, "matmul.cols", "%u columns of weights, %u of activations", w->cols, a->cols);
    if ((rc = kern_panel_bytes(w->dtype, w->rows, w->cols, bytes, e))) return rc;
    return kern_cpu_need(w->panels, *bytes, 1, "matmul.w", e);
}

px_code kern_cpu_matmul_run(kern_dev *d, const kern_matmul_args *a, const kern_mm_table *table, px_err *e)
{
    uint32_t rows = kern_cpu_rows(&a->rows);
    mm_ctx c = { .n = a->n };
    uint64_t work = 0, bytes, panels = 0;
    px_code rc;

    if (a->n > KERN_MAX_MATMULS) return px_fail(e, PX_EINTERNAL, "matmul.n", "%u weights", a->n);
    if ((unsigned)a->act >= KERN_N_ACTS) return px_fail(e, PX_EINTERNAL, "matmul.act", "format %d", (int)a->act);
    if ((rc = kern_cpu_need(a->in, kern_act_bytes(KERN_ON_CPU, a->act, rows, a->cols), 1, "matmul.in", e))) return rc;
    for (uint32_t i = 0; i < a->n; i++) {
        const kern_weight *w = &a->w[i];
        uint32_t n = w->rows / KERN_PANEL_ROWS + (w->rows % KERN_PANEL_ROWS != 0);

        c.fn[i] = (unsigned)w->dtype < KERN_N_DTYPES ? table->fn[w->dtype] : NULL;
        if ((rc = check(a, w, c.fn[i], &bytes, e))) return rc;
        if (w->rows > a->out_stride[i])
            return px_fail(e, PX_EINTERNAL, "matmul.out_stride", "%u outputs, a stride of %u", w->rows, a->out_stride[i]);
        /* The last row need not have its padding. */
        if (rows && ((rc = kern_cpu_need(a->out[i], (size_t)(rows - 1) * a->out_stride[i] + w->rows, 4, "matmul.out", e))))
            return rc;
        c.mm[i] = (kern_mm){
            .panels = w->panels.h, .stride = kern_panel_stride(w->dtype, w->cols), .hi = n, .w_rows = w->rows,
            .blocks = kern_cpu_blocks(w->cols), .act = a->in.h, .act_stride = kern_cpu_act_stride(a->act, a->cols),
            .rows = rows, .out = a->out[i].h, .out_stride = a->out_stride[i],
        };
        panels += n;
        work += bytes;
    }
    c.total = (uint32_t)panels;                     /* at most 3 x 2^28 */
    work = work * rows / PART_BYTES + 1;
    if (rows) kern_cpu_split(d, work < c.total ? (uint32_t)work : c.total, body, &c);
    return PX_OK;
}
