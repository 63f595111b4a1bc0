/* kv.h - the KV cache as a kernel sees it, and what the launchers of rope_append and attention are given.  Plain C.
 * Layer: kernels/cuda.  The layout is the one of kernels/kernels.h. */
#ifndef KERN_CUDA_KV_H
#define KERN_CUDA_KV_H

#include "kernels/cuda/launch.h"

/* The numbers of kern_kv_dtype; kv_ops.c holds them against it. */
enum { CU_KV_F16, CU_KV_F32, CU_KV_BF16, CU_KV_INT8, CU_KV_FP8 };

#define CU_KV_GROUP 16u                      /* keys that lie together: a tile of K, and as many rows of V */
#define CU_MAX_HEAD_DIM 256u
#define CU_MAX_HEADS 512u                    /* query heads of a rank */

/* One layer.  What the device reads from pos, row_slot and block_table is bounded by these before it becomes an address. */
typedef struct cu_kv {
    unsigned char *pool;                     /* of this layer */
    const uint32_t *table;                   /* (n_slots, table_stride) block ids */
    uint32_t table_stride, n_slots, n_blocks, n_kv_head, head_dim;
    uint32_t block_shift;                    /* a block holds 1 << block_shift keys, 16 at least */
    uint32_t dtype;
} cu_kv;

typedef struct cu_rope {
    cu_kv kv;
    const uint32_t *live, *pos, *row_slot;
    float *q;
    const float *k, *v, *cos, *sin;
    const float *q_bias, *k_bias, *v_bias;   /* (heads, head_dim), or NULL */
    const float *q_norm, *k_norm;            /* (head_dim), or NULL */
    float eps;
    uint32_t *flags;
    uint32_t rows, n_head, n_pos;            /* rows at most; positions that the tables hold */
} cu_rope;

CU_API cu_status cu_rope_append(const cu_rope *a, cu_stream s);

#endif
