/* dtype.h - every storage format of a matrix: block sizes, reading, and the panel layout of the CPU.
 * Layer: kernels (sees proto).  Pure functions, always built: planner and sharder need no backend. */
#ifndef KERN_DTYPE_H
#define KERN_DTYPE_H

#include "proto/base/err.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kern_dtype {
    KERN_F32, KERN_F16, KERN_BF16, KERN_Q8_0, KERN_Q4_0, KERN_Q4_1,
    KERN_Q5_0, KERN_Q5_1, KERN_Q2_K, KERN_Q3_K, KERN_Q4_K, KERN_Q5_K, KERN_Q6_K,
    KERN_IQ4_NL, KERN_IQ4_XS, KERN_IQ2_XS,
    KERN_FP8,        /* OCP e4m3, an F32 scale per tensor cut: e4m3 * d */
    KERN_W8,         /* int8, F16 scale per row and group of 128: q * d, q signed */
    KERN_W4,         /* int4, F16 scale per row and group of 128: (q - 8) * d, q of 0..15 */
    KERN_W4Z,        /* W4 with 4-bit zero points */
    KERN_Q8_M,       /* a byte of 0..255, F16 scale and minimum a block of 32: q * d + m; what types with a minimum are stored as */
    KERN_Q8_H,       /* a signed byte, an F16 scale for each half of a block of 32: q * d; what types with a scale for 16 columns are stored as */
    KERN_Q2_HM,      /* two bits, an F16 scale and an F16 minimum for each half of a block of 32: q * d + m, q of 0..3; what Q2_K is stored as */
    KERN_Q4_HL,      /* four bits that name a level, an F16 scale for each half of a block of 32: level * d; what Q3_K and IQ2_XS are stored as */
    KERN_N_DTYPES
} kern_dtype;

/* What Q4_HL's numbers stand for: Q3_K's three bits less 4, and IQ2_XS's eights, behind them negative. */
#define KERN_Q4_HL_LEVELS -4, -3, -2, -1, 0, 1, 2, 3, 8, 25, 43, 0, -8, -25, -43, 0
extern const int8_t kern_q4_hl_level[16];

typedef struct kern_dtype_info {
    const char *name;              /* "Q4_1" */
    uint32_t    block, block_bytes;/* elements and bytes a block; for FP8/W8/W4 see kern_matrix_bytes */
    uint32_t    ggml;              /* GGML type number; UINT32_MAX if none */
    bool        readable;          /* kern_row_to_f32 reads it */
    bool        weight;            /* the CPU backend multiplies with it (panel layout exists) */
} kern_dtype_info;

const kern_dtype_info *kern_dtype_get(kern_dtype t);
px_code kern_dtype_parse(const char *name, kern_dtype *out, px_err *e);    /* case-insensitive */
kern_dtype kern_dtype_of_ggml(uint32_t type);                               /* KERN_N_DTYPES if unknown */

/* "F32, F16 ... or X": the types that a weight may have, for messages.  Returns buf. */
char *kern_dtype_weights(char *buf, size_t cap);

/* Source: memory/formulas section 3.  false on overflow or when cols is not a multiple of the block. */
bool kern_matrix_bytes(kern_dtype t, uint64_t rows, uint64_t cols, uint64_t *bytes);

/* Plain rows of W8 and W4, as the functions below take them: group after group, an F16 scale and then the group's quants,
 * W8 a byte each, W4 in blocks of 32 as Q4_0 has them (column i in the low, 16 + i in the high nibble of byte i).  A last group
 * may have 32, 64 or 96 columns.  Cuts lie at groups.
 * Q8_M: an F16 scale, an F16 minimum, 32 unsigned bytes.
 * Q8_H: the F16 scale of columns 0..15, that of columns 16..31, 32 signed bytes.
 * Q2_HM: 64 columns are 16 bytes, byte i of columns i, 16 + i, 32 + i and 48 + i from its lowest bits up, then the F16 scale and the F16
 * minimum of each 16 columns.  Last 32 columns: 16 bytes whose upper bits are 0, and two scales and minima.
 * Q4_HL: the F16 scale of columns 0..15, that of columns 16..31, 16 bytes: columns i low, 16 + i high, numbers of KERN_Q4_HL_LEVELS.
 * FP8: the F32 scale, which all rows of a cut share, then a byte a column, any number of them.  Bytes that e4m3 calls NaN read as 480. */

/* n elements (a multiple of the block; W8, W4: of 32) of a readable type as fp32; d*q exact (FP8: rounded), with a minimum one rounded addition. */
void kern_row_to_f32(kern_dtype t, const void *src, size_t n, float *dst);
/* fp32 -> F32, BF16 (nearest even). */
void kern_row_from_f32(kern_dtype t, const float *src, size_t n, void *dst);
/* fp32 -> F16 (nearest even), Q8_0, Q4_0, Q4_1, W8, W4, Q8_M, Q8_H (n % 32 = 0), FP8; false: another type, a value that is not finite, or one that the type
 * cannot hold.  Symmetric (but Q4_1 and Q8_M), for each group of 16 (Q8_H), 32 or 128 columns; q = nearest even of x / d, with d as it is stored.
 * Bytes: d = max |x| / 127 to the nearest fp16, or the next larger fp16 where that would need a quant beyond 127.
 * Nibbles: d = -x / 8 of the x of largest magnitude, or max |x| / 7: the one with the smaller squared error; q in -8..7, clamped.
 * Q4_1: m = min x, d = (max x - m) / 15, each to the nearest fp16; q = nearest even of (x - m) / d, in 0..15, clamped.
 * Q8_M: m = the largest fp16 that is not above min x; d = (max x - m) / 255 to the nearest fp16, or the next larger fp16 where that
 * would need a quant beyond 255; q = nearest even of (x - m) / d.  So no value is off by more than d / 2, but for the sum's rounding.
 * FP8: of a row that is a cut of its own; the next three are for a cut of many.
 * Q2_HM and Q4_HL have no rule: nothing but blocks of few bits becomes them (reblock.h). */
bool kern_row_quantise(kern_dtype t, const float *src, size_t n, void *dst);
/* The largest magnitude of n values; NaN if one is not finite. */
float kern_row_magnitude(const float *src, size_t n);
/* The scale of an FP8 cut of that largest magnitude: a 448th of it, and 0, whose bytes are all zeros, below 2^-100. */
float kern_fp8_scale(float most);
/* fp32 -> FP8 with a scale: e4m3 of x / d, to nearest even, at most 448. */
void kern_row_to_fp8(const float *src, size_t n, float d, void *dst);
/* The same as Q8_0, and to sums what kern_row_distance would add for it, but for the order of its sums: in one pass. */
bool kern_row_to_bytes(const float *src, size_t n, void *dst, double sums[2]);
/* The distance of the levels on which the 32 columns from `col` of a row lie, col % 32 = 0; 0: they have none in common, or the type
 * is no block type of GGUF that is only read. */
float kern_row_step(kern_dtype t, const void *row, size_t col);
/* Q8_0 out of what was quantised before: step[i] is that of columns 32 i.. (0: none).  Beside the scale of kern_row_quantise those are
 * tried that are a whole part of the step, so that levels fall on quants; the smallest squared error wins, the first where equal. */
bool kern_row_requantise(const float *src, const float *step, size_t n, void *dst);
/* Adds the squares of is - was and of was. */
void kern_row_distance(const float *was, const float *is, size_t n, double *error, double *size);

/* ---- panels: the layout of weights on CPU, in the shard and in memory (DESIGN section 6) ----
 * 16 output rows x K columns a panel, panels one after the other; rows are padded with zero rows to 16, K with zero
 * columns to 32 (quantised types: K % 32 = 0 or refused).  Within a panel, per block of 32 columns:
 *   Q4_1: 256 bytes of nibbles, 16 fp16 scales, 16 fp16 minima (320).
 *   Q8_M: 512 unsigned bytes, 16 fp16 scales, 16 fp16 minima (576).
 *   Q8_H: 512 signed bytes, 16 fp16 scales of columns 0..15, 16 of columns 16..31 (576).
 *   Q4_HL: 256 bytes of nibbles, 16 fp16 scales of columns 0..15, 16 of columns 16..31 (320).
 *   Q2_HM: per 64 columns 256 bytes of two bits, then for each 16 columns 16 pairs of an fp16 scale and an fp16 minimum (512): the words
 *          of four bytes of the plain rows beside each other.  Last 32 columns: 384.
 *   Q4_0, Q8_0: two blocks' quants (2 x 256, 2 x 512), then their 2 x 32 bytes of scales; an odd last block is
 *               padded to 64 bytes: quants, 32 bytes of scales, 32 bytes of zeros.
 *   W4, W8:     the same with groups of 128 columns, 4 blocks, in the place of blocks: 8 blocks' quants (8 x 256, 8 x 512), then
 *               the 2 x 32 bytes of scales of two groups.  At the end 1..8 blocks and 64 bytes, of which what belongs to a
 *               second group that does not exist is zeros.
 *   BF16, F16: 1,024 bytes per 32 columns: 16 pairs of columns x 16 rows x 2.   F32: 64 bytes a column: 16 rows.
 *   FP8:   512 bytes per 32 columns, and behind all of them the 16 rows' F32 scales (64 bytes), each the scale of the cut.
 *          64-byte vector 4h + j (h 0..1, j 0..3) holds for row r (4 bytes at 4r) the columns 16h + 2j, 2j + 8, 2j + 1, 2j + 9:
 *          the 16-bit lanes' low bytes are a pair of columns, their high bytes another.
 *   Quants: byte quads along K.  Q4_x, Q4_HL, W4: 64-byte vector j (0..3) holds for row r (4 bytes at 4r) the quad of columns
 *   4j..4j+3 in its low nibbles and the quad of columns 16+4j..16+4j+3 in its high nibbles; Q2_HM the quads from 4j, 16+4j, 32+4j and
 *   48+4j, two bits each, the first lowest.  Q8_0, W8, Q8_M, Q8_H: 64-byte
 *   vector j (0..7) holds for row r the quad of columns 4j..4j+3. */
#define KERN_PANEL_ROWS 16u
/* Bytes of a matrix in panels; a multiple of 64.  Errors: PX_EUNSUP (type), PX_ERANGE (cols % 32 for quantised; overflow). */
px_code kern_panel_bytes(kern_dtype t, uint64_t rows, uint64_t cols, uint64_t *bytes, px_err *e);
/* Bytes of one panel of 16 rows. */
uint64_t kern_panel_stride(kern_dtype t, uint64_t cols);
/* Fill one panel from n_rows (1..16) rows, row r at src[r], each `cols` elements of type t in plain (GGUF block / flat)
 * order, starting at a block boundary; missing rows become zero. */
void kern_panel_pack(kern_dtype t, const void *const *src, uint32_t n_rows, uint64_t cols, void *panel);
/* Inverse for tests, verification and the embedding: row r of a panel as fp32. */
void kern_panel_row_to_f32(kern_dtype t, const void *panel, uint32_t row, uint64_t cols, float *dst);

float    kern_f16_to_f32(uint16_t h);
uint16_t kern_f32_to_f16(float f);          /* nearest even; saturates to +-65504, NaN -> 0 is the caller's business */
float    kern_bf16_to_f32(uint16_t h);
uint16_t kern_f32_to_bf16(float f);         /* nearest even */

#ifdef __cplusplus
}
#endif

#endif
