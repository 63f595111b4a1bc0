/* panel.h - where a block of 32 columns lies within a panel of a quantised type.
 * Layer: kernels.  Pure. */
#ifndef KERN_PANEL_H
#define KERN_PANEL_H

#include "kernels/dtype.h"

/* FP8: where column c of row r lies, and behind all columns the scales. */
static inline uint64_t kern_fp8_column(uint64_t c, uint32_t r)
{
    uint64_t at = 2 * (c % 8) + c / 8 % 2;                        /* of 16 columns */

    return c / 16 * 256 + at / 4 * 64 + 4 * r + at % 4;
}
static inline uint64_t kern_fp8_scales(uint64_t cols) { return (cols + 31) / 32 * 512; }

/* Q2_HM: bytes of a plain row, and where a unit of 64 columns, which may be half a one, lies in a panel; behind its quants (256 bytes) the
 * pairs of scale and minimum, 64 bytes for each 16 columns. */
#define KERN_Q2_HM_UNIT 512u
static inline uint64_t kern_q2_hm_row(uint64_t cols) { return cols / 64 * 32 + (cols % 64 ? 24 : 0); }

/* The other quantised types, blocks of 32 columns.  Bytes of the quants of one block of 32 columns x 16 rows. */
static inline uint64_t kern_block_quants(kern_dtype t)
{
    return t == KERN_Q8_0 || t == KERN_W8 || t == KERN_Q8_M || t == KERN_Q8_H ? 512 : 256;
}
/* A minimum beside the scale. */
static inline bool kern_block_minimum(kern_dtype t) { return t == KERN_Q4_1 || t == KERN_Q8_M; }
/* A scale for the first 16 columns and one for the last. */
static inline bool kern_block_halves(kern_dtype t) { return t == KERN_Q8_H || t == KERN_Q4_HL; }
/* Either way: two fp16 of each block, one behind the other. */
static inline bool kern_block_two(kern_dtype t) { return kern_block_minimum(t) || kern_block_halves(t); }
/* Blocks that share a scale. */
static inline uint64_t kern_block_group(kern_dtype t) { return t == KERN_W8 || t == KERN_W4 ? 4 : 1; }
/* Blocks of a unit: their quants lie one after the other, then 64 bytes of scales (and minima). */
static inline uint64_t kern_block_unit(kern_dtype t) { return kern_block_two(t) ? 1 : 2 * kern_block_group(t); }
/* Bytes of one row's block of 32 columns in plain order, without the scale of a group. */
static inline uint64_t kern_block_row(kern_dtype t) { return kern_block_quants(t) / KERN_PANEL_ROWS; }

/* Offsets of block b of n: its quants, the 16 scales that hold for it, and its 16 minima (Q4_1, Q8_M) or scales of the last
 * 16 columns (Q8_H, Q4_HL).  A last unit may have fewer blocks: its 64 bytes follow what it has. */
typedef struct kern_block_at { uint64_t quants, scales, second; } kern_block_at;
static inline kern_block_at kern_block_find(kern_dtype t, uint64_t n, uint64_t b)
{
    uint64_t q = kern_block_quants(t), unit = kern_block_unit(t), in = b % unit, first = b - in;
    uint64_t at = first / unit * (unit * q + 64), have = n - first < unit ? n - first : unit;

    return (kern_block_at){ at + in * q, at + have * q + in / kern_block_group(t) * 32, at + q + 32 };
}

#endif
