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

size_t kern_cuda_workspace_bytes(const kern_shape *s)
{
    const size_t a = kern_cuda_matmul_workspace_bytes(s), b = kern_cuda_attention_workspace_bytes(s);

    return a > b ? a : b;
}
