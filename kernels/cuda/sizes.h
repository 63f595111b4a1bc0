/* sizes.h - what the CUDA backend takes on the device, as pure functions that need no toolkit: the plan is made with them.
 * Layer: kernels/cuda. */
#ifndef KERN_CUDA_SIZES_H
#define KERN_CUDA_SIZES_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Pinned host memory through which uploads go, taken at open. */
#define KERN_CUDA_RING_BYTES (64u << 20)
/* ... and where downloads land, behind it. */
#define KERN_CUDA_LANDING_BYTES (1u << 20)

/* Candidates: ids that a block takes, what it leaves in the workspace, and the rows that have a place there at a time. */
#define KERN_CUDA_CAND_TILE       4096u
#define KERN_CUDA_CAND_TILE_BYTES (32u + 8u * KERN_MAX_CANDIDATES)
#define KERN_CUDA_CAND_ROWS       64u
size_t kern_cuda_candidates_row_bytes(uint32_t n_valid);     /* a row of a slice of so many ids, wherever it begins */

/* Bytes from one row of activations to the next. */
size_t kern_cuda_act_stride(kern_act t, uint32_t cols);
/* Each op's part of the workspace; the ops of a step use it one after the other, so the largest counts. */
size_t kern_cuda_matmul_workspace_bytes(const kern_shape *s);
size_t kern_cuda_attention_workspace_bytes(const kern_shape *s);
size_t kern_cuda_candidates_workspace_bytes(const kern_shape *s);
size_t kern_cuda_workspace_bytes(const kern_shape *s);

#ifdef __cplusplus
}
#endif

#endif
