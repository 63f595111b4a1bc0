/* sizes.c - what activations and the KV cache take, for planner and executor alike: pure. */
#include "kernels/cpu/cpu.h"

kern_act kern_act_of(kern_dtype w)
{
    return w == KERN_F32 ? KERN_ACT_F32 : w == KERN_BF16 ? KERN_ACT_BF16 : KERN_ACT_Q12;
}

size_t kern_act_bytes(kern_act t, uint32_t rows, uint32_t cols)
{
    size_t bytes;

    return px_mul(rows, t == KERN_ACT_Q12 ? kern_q12_stride(cols) : kern_flat_stride(cols), &bytes) ? SIZE_MAX : bytes;
}

size_t kern_kv_block_bytes(kern_kv_dtype t, uint32_t n_layer, uint32_t block, uint32_t n_kv_head, uint32_t head_dim)
{
    size_t n = t == KERN_KV_F32 ? 8 : 4;       /* K and V */

    if (px_mul(n, n_layer, &n) || px_mul(n, block, &n) || px_mul(n, n_kv_head, &n) || px_mul(n, head_dim, &n))
        return SIZE_MAX;
    return n;
}
