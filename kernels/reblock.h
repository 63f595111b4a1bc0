/* reblock.h - blocks of GGUF that are only read, as blocks that backends multiply with: the same levels, scales in fp16.
 * Layer: kernels.  Pure. */
#ifndef KERN_REBLOCK_H
#define KERN_REBLOCK_H

#include "kernels/dtype.h"

/* The type that keeps the levels of `t`; KERN_N_DTYPES: none does, or it needs none.
 *   Q5_0, IQ4_NL -> Q8_0; Q5_1 -> Q8_M     the same values
 *   Q4_K -> Q4_1; Q5_K -> Q8_M             the scale d * sc to the nearest fp16; the minimum -dmin * m, plus what the scale lost times
 *                                          the mean of the 32 quants, to the nearest fp16
 *   IQ4_XS -> Q8_0                         the scale d * (ls - 32) to the nearest fp16
 *   Q3_K, IQ2_XS -> Q4_HL                  the scale d * sc of 16 columns to the nearest fp16
 *   Q6_K -> Q8_H                           the same; or its third, and three times the quants, where that is nearer
 *   Q2_K -> Q2_HM                          the scale d * sc and the minimum -dmin * m of 16 columns, as with Q4_K
 * A product of an fp16 and an integer is a multiple of 2^-24, and so are all fp16: the rounding is 2^-11 of the product at most, and
 * none below 2^-13, where fp16 run out of digits; IQ2_XS has eighths of integers, and there 2^-25 at most. */
kern_dtype kern_reblock_to(kern_dtype t);

/* Columns [col, col + n) of a plain row of `from`, col and n multiples of 32, as kern_reblock_to(from) into dst.  Adds to sums[0] the
 * squares of what that changed, and to sums[1] those of the values.  false: there is no such type, or a scale or minimum is not finite
 * or beyond fp16. */
bool kern_row_reblock(kern_dtype from, const void *row, size_t col, size_t n, void *dst, double sums[2]);

#endif
