/* norm.h - the sum that an RMS norm divides by, for add_norm and for the norms of single heads: the definition.
 * Layer: kernels/cpu. */
#ifndef KERN_CPU_NORM_H
#define KERN_CPU_NORM_H

#include <math.h>
#include <stdint.h>

/* x^2 summed in 16 lanes by index mod 16, each a chain of fmaf in ascending order; lanes i and i+8, i+4, i+2, i+1 added. */
static inline float kern_sum_of_squares(const float *x, uint32_t n)
{
    float lane[16] = {0};

    for (uint32_t i = 0; i < n; i++) lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    for (uint32_t step = 8; step; step /= 2)
        for (uint32_t i = 0; i < step; i++) lane[i] = lane[i] + lane[i + step];
    return lane[0];
}

#endif
