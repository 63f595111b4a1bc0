/* matmul.h - the part of `matmul` that every path shares: checks, and the deal of panels to threads.
 * Layer: kernels, private to kernels/cpu. */
#ifndef KERN_CPU_MATMUL_H
#define KERN_CPU_MATMUL_H

#include "kernels/cpu/cpu.h"

/* One thread's share of one weight: its panels [lo, hi) times all rows. */
typedef struct kern_mm {
    const uint8_t *panels;  size_t stride;         /* of the whole weight; bytes a panel */
    uint32_t lo, hi, w_rows;                       /* w_rows: true output rows; what a last panel pads is not written */
    uint32_t blocks;                               /* of 32 columns */
    const uint8_t *act;     size_t act_stride;     /* bytes a row */
    uint32_t rows;
    float *out;             size_t out_stride;     /* elements a row */
} kern_mm;

typedef void kern_mm_fn(const kern_mm *m);
typedef struct kern_mm_table { kern_mm_fn *fn[KERN_N_DTYPES]; } kern_mm_table;    /* NULL: no weights in this type */
px_code kern_cpu_matmul_run(kern_dev *d, const kern_matmul_args *a, const kern_mm_table *table, px_err *e);

/* Rows in chunks of at most 8 (or 4) at a time: a chunk's accumulators stay in registers. */
static inline uint32_t kern_mm_chunk(uint32_t left, uint32_t most) { return left < most ? left : most; }

#endif
