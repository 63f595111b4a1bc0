/* quant.h - the part of `quant` that every path shares: checks, the split over rows, F32 and BF16 activations.
 * Layer: kernels, private to kernels/cpu. */
#ifndef KERN_CPU_QUANT_H
#define KERN_CPU_QUANT_H

#include "kernels/cpu/cpu.h"

#define KERN_Q12_TINY 0x0d800000u      /* bits of 2^-100: a block whose largest value is below it is zero */

/* One row of n columns to Q12 at out (kern_q12_stride(n) bytes); true: a value was not finite. */
typedef bool kern_quant_row(const float *x, uint32_t n, uint8_t *out);
px_code kern_cpu_quant_run(kern_dev *d, const kern_quant_args *a, kern_quant_row *row, px_err *e);

#endif
