/* panel.h - where a block of 32 columns lies within a panel of a quantised type.
 * Layer: kernels.  Pure. */
#ifndef KERN_PANEL_H
#define KERN_PANEL_H

#include "kernels/dtype.h"

/* Bytes of the quants of one block of 32 columns x 16 rows. */
static inline uint64_t kern_block_quants(kern_dtype t) { return t == KERN_Q8_0 ? 512 : 256; }

/* Offsets of block b of n: its quants, its 16 scales, and (Q4_1 only) its 16 minima.  Q4_0 and Q8_0 lie in pairs of
 * blocks with their scales behind both; an odd last block stands alone. */
typedef struct kern_block_at { uint64_t quants, scales, minima; } kern_block_at;
static inline kern_block_at kern_block_find(kern_dtype t, uint64_t n, uint64_t b)
{
    uint64_t q = kern_block_quants(t), pair = b / 2 * (2 * q + 64);

    if (t == KERN_Q4_1) return (kern_block_at){ b * 320, b * 320 + 256, b * 320 + 288 };
    if (b % 2 == 0 && b + 1 == n) return (kern_block_at){ pair, pair + q, 0 };
    return (kern_block_at){ pair + b % 2 * q, pair + 2 * q + b % 2 * 32, 0 };
}

#endif
