/* matmul.h - between the dispatch of matmul (matmul.cu) and the kernels of its paths.
 * Layer: kernels/cuda, private to it.  Plain C types; every function puts work on the stream and returns. */
#ifndef KERN_CUDA_MATMUL_H
#define KERN_CUDA_MATMUL_H

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One weight of a call. */
typedef struct cu_mm_weight {
    const uint8_t *panels; size_t stride;      /* bytes a panel */
    uint32_t n_panels, rows;                   /* rows: true output rows; what pads the last panel is not written */
    uint32_t group0;                           /* first group of panels; UINT32_MAX: no such weight */
    float *out; size_t out_stride;             /* elements a row */
} cu_mm_weight;

/* Weights of one type on the same activations. */
typedef struct cu_mm {
    cu_mm_weight w[KERN_MAX_MATMULS];
    uint32_t n_groups;                         /* of all weights; a group is 2 * wm panels of one weight */
    uint32_t blocks;                           /* of 32 columns */
    const uint8_t *act; size_t act_stride;     /* as quant leaves them */
    uint32_t head;                             /* bytes before a row's values: 64, with the row's scale first, or 0 */
    const uint32_t *live;                      /* on the device */
    uint32_t row0, row1;                       /* rows of this launch: [row0, min(row1, *live)) */
    /* The skinny path's shape: wm x wk warps a block, wm along the panels, wk along K; K is cut in `splits`. */
    uint32_t wm, wk, splits;
    float *partial;                            /* splits > 1: (splits, row1 - row0, 32 wm n_groups) */
} cu_mm;

#define CU_MM_WARPS 8u                         /* wm * wk */

/* out = weights x activations for all rows of [row0, row1), `tile` (8, 16, 32 or 64) at a time; with splits > 1 into
 * `partial`.  max_shared: what a block can have; a tile of 64 that does not fit becomes two of 32.  Which tile is taken
 * changes no bit: the order of a sum depends on wm, wk, splits and the type alone. */
typedef cu_status cu_skinny_fn(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s);
cu_skinny_fn cu_skinny_bf16, cu_skinny_f16, cu_skinny_fp8, cu_skinny_q8_0, cu_skinny_q8_m, cu_skinny_q8_h, cu_skinny_q2_hm, cu_skinny_q4_hl,
    cu_skinny_q4_0, cu_skinny_q4_1, cu_skinny_w8, cu_skinny_w4;

/* out = the sum over splits, ascending, times the row's scale. */
cu_status cu_skinny_combine(const cu_mm *m, cu_stream s);

/* F32 weights, any number of rows, in fp32; n_groups counts panels (wm = 0). */
cu_status cu_matmul_f32(const cu_mm *m, cu_stream s);

/* Panels [panel0, panel0 + n) as plain rows of 32 * blocks 16-bit values: bf16 for BF16, else fp16, each block of 32
 * columns in the order of the type's activations. */
typedef cu_status cu_unpack_fn(const uint8_t *panels, size_t stride, uint32_t n, uint32_t blocks, void *rows, cu_stream s);
cu_unpack_fn cu_unpack_bf16, cu_unpack_f16, cu_unpack_fp8, cu_unpack_q8_0, cu_unpack_q8_m, cu_unpack_q8_h, cu_unpack_q2_hm, cu_unpack_q4_hl,
    cu_unpack_q4_0, cu_unpack_q4_1, cu_unpack_w8, cu_unpack_w4;

/* What a library's sums are multiplied by.  Row t: the float at row + t * row_stride.  Column c: that at column + c / 16 * column_stride +
 * 4 (c % 16), the scales behind the panels of FP8; column NULL: 1. */
typedef struct cu_mm_scales { const void *row; size_t row_stride; const uint8_t *column; size_t column_stride; } cu_mm_scales;
/* The m->live first rows of out, `cols` columns: out * column's * row's; those whose scales are 1 are not touched. */
cu_status cu_scale_rows(const cu_mm *m, const cu_mm_scales *by, float *out, size_t out_stride, uint32_t cols, cu_stream s);

/* ---- w8a8.cu: FP8 on FP8 ---- */
#define CU_FP8_MOST 448.0f                     /* of e4m3 */
cu_unpack_fn cu_unpack_fp8_bytes;              /* rows of bytes */
/* Rows [0, m->row1) of F16's activations as e4m3 rows of 32 * blocks bytes, and what each row's product is to be multiplied by. */
cu_status cu_fp8_rows(const cu_mm *m, uint8_t *out, float *scales, cu_stream s);

/* ---- matmul_plan.c: pure ---- */
#define CU_MM_MANY_ROWS    64u                 /* above it a library multiplies, unless bits may not depend on the rows */
#define CU_MM_MAX_SM       256u                /* a larger device is cut up as if it had so many */
#define CU_MM_UNPACK_BYTES (128u << 20)        /* weights that are unpacked at a time, at most */
#define CU_MM_ALIGN        256u                /* of the two */
#define CU_MM_BLAS_BYTES   (32u << 20)         /* the library's own workspace */

/* Fill wm, wk, each weight's group0, n_groups and splits for up to `rows` rows (at most CU_MM_MANY_ROWS at a time); the
 * answer is the tile of rows.  chunk_blocks: blocks of 32 columns that a warp takes in a turn.  `deterministic`: all but the
 * tile is a function of the weights and the device. */
uint32_t cu_mm_cut(cu_mm *m, uint32_t rows, uint32_t chunk_blocks, uint32_t n_sm, bool deterministic);
/* Bytes of partial sums for that many rows. */
size_t cu_mm_partial_bytes(const cu_mm *m, uint32_t rows);
/* Panels of `blocks` blocks that are unpacked at a time, of n. */
uint32_t cu_mm_unpack_panels(uint32_t n, uint32_t blocks);
/* What so many rows take as e4m3: their bytes, from scales_at on a float a row; both ends are multiples of CU_MM_ALIGN. */
size_t cu_mm_fp8_bytes(uint32_t rows, uint32_t blocks, size_t *scales_at);

#ifdef __cplusplus
}
#endif

#endif
