#include "kernels/cuda/sizes.h"
#include "kernels/cuda/attention.h"

size_t kern_cuda_act_stride(kern_act t, uint32_t cols)
{
    const size_t padded = ((size_t)cols + 31) / 32 * 32;

    switch (t) {
    case KERN_ACT_F32:  return padded * 4;
    case KERN_ACT_BF16: return padded * 2;
    default:            return 64 + padded * 2;      /* the row's scale, alone on its line, before the row */
    }
}

/* The most that a step of up to s->rows rows takes, deterministic or not; a table of blocks may hold 127 keys more than
 * the context. */
size_t kern_cuda_attention_workspace_bytes(const kern_shape *s)
{
    const uint32_t n_ctx = s->n_ctx > UINT32_MAX - 127 ? UINT32_MAX : s->n_ctx + 127;
    size_t most = 0, ml;

    for (int deterministic = 0; deterministic < 2; deterministic++)
        for (uint32_t rows = 1; rows <= s->rows; rows++) {
            const cu_attention_split split = cu_attention_split_of(rows, s->n_kv_head, n_ctx, deterministic);
            if (split.splits == 1) break;                    /* nor will more rows be split */
            const size_t n = cu_attention_parts_bytes(rows, s->n_head, s->head_dim, split.n_parts, &ml);
            if (n > most) most = n;
        }
    return most;
}

/* Ids lie in groups of four by their number: a slice may begin and end within one. */
size_t kern_cuda_candidates_row_bytes(uint32_t n_valid)
{
    const size_t groups = n_valid ? ((size_t)n_valid + 6) / 4 : 0;

    return (groups * 4 + KERN_CUDA_CAND_TILE - 1) / KERN_CUDA_CAND_TILE * KERN_CUDA_CAND_TILE_BYTES;
}

/* max_out: the head is one of the weights. */
size_t kern_cuda_candidates_workspace_bytes(const kern_shape *s)
{
    return kern_cuda_candidates_row_bytes(s->max_out) * (s->rows < KERN_CUDA_CAND_ROWS ? s->rows : KERN_CUDA_CAND_ROWS);
}

size_t kern_cuda_workspace_bytes(const kern_shape *s)
{
    const size_t a = kern_cuda_matmul_workspace_bytes(s), b = kern_cuda_attention_workspace_bytes(s);
    const size_t c = kern_cuda_candidates_workspace_bytes(s), most = a > b ? a : b;

    return most > c ? most : c;
}
