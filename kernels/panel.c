/* panel.c - the layout of weights on CPU (dtype.h describes it): sizes, packing, and the way back. */
#include "kernels/panel.h"
#include "kernels/half.h"
#include "kernels/row_path.h"

#include <immintrin.h>
#include <stdio.h>
#include <string.h>

static uint64_t padded(uint64_t cols) { return (cols + 31) / 32 * 32; }

uint64_t kern_panel_stride(kern_dtype t, uint64_t cols)
{
    uint64_t n = padded(cols) / 32, q = kern_block_quants(t), unit = kern_block_unit(t);

    switch (t) {
    case KERN_F32:  return n * 32 * 64;
    case KERN_F16:
    case KERN_BF16: return n * 1024;
    case KERN_FP8:  return kern_fp8_scales(cols) + 64;
    case KERN_Q2_HM: return 16 * kern_q2_hm_row(padded(cols));
    case KERN_Q4_0:
    case KERN_Q4_1:
    case KERN_Q8_0:
    case KERN_Q8_M:
    case KERN_Q8_H:
    case KERN_Q4_HL:
    case KERN_W8:
    case KERN_W4:   return n * q + (n / unit + (n % unit != 0)) * 64;
    default:        return 0;
    }
}

px_code kern_panel_bytes(kern_dtype t, uint64_t rows, uint64_t cols, uint64_t *bytes, px_err *e)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    uint64_t panels = rows / KERN_PANEL_ROWS + (rows % KERN_PANEL_ROWS != 0);
    uint32_t step = f && f->block > 1 ? 32 : 1;               /* groups of 128 may end short, blocks of 32 may not */

    if (!f || !f->weight) {
        char want[128];
        return px_refuse(e, PX_EUNSUP, "dtype", f ? f->name : "?", kern_dtype_weights(want, sizeof want),
                         "weights in %s have no panel layout", f ? f->name : "?");
    }
    if (cols % step || cols > UINT64_MAX / 128
        || __builtin_mul_overflow(panels, kern_panel_stride(t, cols), bytes)) {
        px_code rc = px_fail(e, PX_ERANGE, "cols", "a %s matrix of %llu x %llu does not fit the panel layout", f->name,
                             (unsigned long long)rows, (unsigned long long)cols);
        if (e && e->code == rc) {
            snprintf(e->found, sizeof e->found, "%llu columns", (unsigned long long)cols);
            snprintf(e->expected, sizeof e->expected, "a multiple of %u, and a size below 2^64", step);
        }
        return rc;
    }
    return PX_OK;
}

/* Where block b of a plain row lies: its scale (for W8 and W4 its group's) with its minimum or second scale behind it, and its quants. */
typedef struct plain_at { uint64_t scale, quants; } plain_at;
static plain_at plain_find(kern_dtype t, uint64_t b)
{
    uint64_t group = kern_block_group(t), each = kern_block_row(t), head = kern_block_two(t) ? 4 : 2;
    uint64_t scale = b / group * (head + group * each);

    return (plain_at){ scale, scale + head + b % group * each };
}

#define ROW_PATH 0
#include "kernels/panel_body.h"
#undef ROW_PATH
#define ROW_PATH 1
#include "kernels/panel_body.h"
#undef ROW_PATH
#define ROW_PATH 2
#include "kernels/panel_body.h"

/* ---- panels with missing rows ---- */

static void pack_quantised(kern_dtype t, const void *const *src, uint32_t n_rows, uint64_t cols, uint8_t *panel)
{
    uint64_t n = cols / 32;

    for (uint64_t b = 0; b < n; b++) {
        kern_block_at at = kern_block_find(t, n, b);
        plain_at from = plain_find(t, b);
        for (uint32_t r = 0; r < n_rows; r++) {
            const uint8_t *row = src[r];
            memcpy(panel + at.scales + 2 * r, row + from.scale, 2);
            if (kern_block_two(t)) memcpy(panel + at.second + 2 * r, row + from.scale + 2, 2);
            /* A block keeps column i in the low and 16 + i in the high nibble of byte i: quads as they are. */
            for (uint32_t j = 0; j < kern_block_quants(t) / 64; j++)
                memcpy(panel + at.quants + 64 * j + 4 * r, row + from.quants + 4 * j, 4);
        }
        /* A missing row of nibbles is -8 with scale 0: zero all the same. */
    }
}

/* Flat types: words of four bytes, one value or two, the 16 rows' beside each other. */
static void pack_words(const void *const *src, uint32_t n_rows, uint64_t words, uint8_t *panel)
{
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint64_t w = 0; w < words; w++) memcpy(panel + 64 * w + 4 * r, (const uint8_t *)src[r] + 4 * w, 4);
}

/* FP8: columns 0 to 7 of each 16 between the columns 8 to 15, 512 columns at a time; then the words as ever. */
static void pack_fp8(kern_path path, const void *const *src, uint32_t n_rows, uint64_t cols, uint8_t *panel)
{
    uint8_t row[KERN_PANEL_ROWS][512] = { 0 };
    const void *rows[KERN_PANEL_ROWS];
    uint64_t scales = kern_fp8_scales(cols);

    memset(panel + scales, 0, 64);
    for (uint32_t r = 0; r < KERN_PANEL_ROWS; r++) rows[r] = row[r];
    for (uint64_t at = 0; at < cols; at += sizeof *row) {
        uint64_t n = cols - at < sizeof *row ? cols - at : sizeof *row;
        for (uint32_t r = 0; r < n_rows; r++) {
            const uint8_t *p = (const uint8_t *)src[r] + 4 + at;
            uint64_t c = 0;
            for (; c + 16 <= n; c += 16)
                for (uint64_t k = 0; k < 8; k++) row[r][c + 2 * k] = p[c + k], row[r][c + 2 * k + 1] = p[c + 8 + k];
            if (n % 32) memset(row[r] + c, 0, (n + 31) / 32 * 32 - c);
            for (uint64_t k = 0; c + k < n; k++) row[r][c + 2 * (k % 8) + k / 8] = p[c + k];
        }
        ROW_ON(path, pack_words, rows, (n + 31) / 32 * 8, panel + 16 * at);
    }
    for (uint32_t r = 0; r < n_rows; r++) memcpy(panel + scales + 4 * r, src[r], 4);
}

void kern_panel_pack_on(kern_path path, kern_dtype t, const void *const *src, uint32_t n_rows, uint64_t cols, void *panel)
{
    const bool whole = n_rows == KERN_PANEL_ROWS;
    uint64_t stride = kern_panel_stride(t, cols), tail = kern_block_unit(t) * kern_block_quants(t) + 64;
    uint64_t words = t == KERN_F32 ? cols : t == KERN_Q2_HM ? kern_q2_hm_row(cols) / 4 : cols / 2;
    uint8_t *out = panel;

    if (t == KERN_F32 || t == KERN_F16 || t == KERN_BF16 || t == KERN_Q2_HM) {
        memset(whole ? out + 64 * words : out, 0, whole ? stride - 64 * words : stride);
        if (!whole) pack_words(src, n_rows, words, out);
        else ROW_ON(path, pack_words, src, words, out);
        for (uint32_t r = 0; r < n_rows && (t == KERN_F16 || t == KERN_BF16) && cols % 2; r++)
            memcpy(out + 64 * words + 4 * r, (const uint8_t *)src[r] + 2 * (cols - 1), 2);
    } else if (t == KERN_FP8) {
        pack_fp8(path, src, n_rows, cols, out);
    } else if (stride) {
        if (tail > stride || !whole) tail = stride;              /* of a whole panel, only what a last unit lacks stays zero */
        memset(out + stride - tail, 0, tail);
        if (!whole) pack_quantised(t, src, n_rows, cols, out);
        else ROW_ON(path, pack_quantised, t, src, cols, out);
    }
}

void kern_panel_pack(kern_dtype t, const void *const *src, uint32_t n_rows, uint64_t cols, void *panel)
{
    kern_panel_pack_on(kern_row_path(), t, src, n_rows, cols, panel);
}

void kern_panel_row_to_f32(kern_dtype t, const void *panel, uint32_t row, uint64_t cols, float *dst)
{
    const uint8_t *p = panel;
    uint64_t n = cols / 32;

    if (t == KERN_F32) {
        for (uint64_t c = 0; c < cols; c++) memcpy(dst + c, p + 64 * c + 4 * row, 4);
        return;
    }
    if (t == KERN_BF16 || t == KERN_F16) {
        for (uint64_t c = 0; c < cols; c++) {
            uint16_t h;
            memcpy(&h, p + 64 * (c / 2) + 4 * row + 2 * (c % 2), 2);
            dst[c] = t == KERN_F16 ? kern_f16_to_f32(h) : kern_bf16_to_f32(h);
        }
        return;
    }
    if (t == KERN_FP8) {
        float d;
        memcpy(&d, p + kern_fp8_scales(cols) + 4 * row, 4);
        for (uint64_t c = 0; c < cols; c++) dst[c] = d * kern_fp8_to_float(p[kern_fp8_column(c, row)]);
        return;
    }
    if (t == KERN_Q2_HM) {
        for (uint64_t c = 0; c < cols; c += 64, p += KERN_Q2_HM_UNIT, dst += 64) {
            uint64_t columns = cols - c < 64 ? 32 : 64;
            uint8_t plain[32];
            for (uint64_t w = 0; w < kern_q2_hm_row(columns) / 4; w++) memcpy(plain + 4 * w, p + 64 * w + 4 * row, 4);
            kern_row_to_f32(t, plain, columns, dst);
        }
        return;
    }
    for (uint64_t b = 0; b < n; b++, dst += 32) {
        kern_block_at at = kern_block_find(t, n, b);
        const uint8_t *q = p + at.quants + 4 * row;
        float d = kern_half_at(p + at.scales + 2 * row);

        if (t == KERN_Q8_0 || t == KERN_W8) {
            for (uint32_t c = 0; c < 32; c++) dst[c] = d * (float)(int8_t)q[64 * (c / 4) + c % 4];
        } else if (t == KERN_Q8_H) {
            float last = kern_half_at(p + at.second + 2 * row);
            for (uint32_t c = 0; c < 32; c++) dst[c] = (c < 16 ? d : last) * (float)(int8_t)q[64 * (c / 4) + c % 4];
        } else if (t == KERN_Q4_HL) {
            float last = kern_half_at(p + at.second + 2 * row);
            for (uint32_t c = 0; c < 16; c++) {
                uint8_t v = q[64 * (c / 4) + c % 4];
                dst[c] = d * (float)kern_q4_hl_level[v & 15];
                dst[c + 16] = last * (float)kern_q4_hl_level[v >> 4];
            }
        } else if (t == KERN_Q8_M) {
            float m = kern_half_at(p + at.second + 2 * row);
            for (uint32_t c = 0; c < 32; c++) dst[c] = d * (float)q[64 * (c / 4) + c % 4] + m;
        } else if (t == KERN_Q4_0 || t == KERN_W4) {
            for (uint32_t c = 0; c < 16; c++) {
                uint8_t v = q[64 * (c / 4) + c % 4];
                dst[c] = d * (float)((v & 15) - 8);
                dst[c + 16] = d * (float)((v >> 4) - 8);
            }
        } else {
            float m = kern_half_at(p + at.second + 2 * row);
            for (uint32_t c = 0; c < 16; c++) {
                uint8_t v = q[64 * (c / 4) + c % 4];
                dst[c] = d * (float)(v & 15) + m;
                dst[c + 16] = d * (float)(v >> 4) + m;
            }
        }
    }
}
