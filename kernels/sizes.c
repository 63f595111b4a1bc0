/* sizes.c - what activations, workspaces and the KV cache take on every backend, for planner and executor alike: pure. */
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/sizes.h"

kern_act kern_act_of(kern_dtype w)
{
    return w == KERN_F32 ? KERN_ACT_F32 : w == KERN_BF16 ? KERN_ACT_BF16 : w == KERN_F16 || w == KERN_FP8 ? KERN_ACT_F16 : KERN_ACT_Q12;
}

size_t kern_act_bytes(kern_backend b, kern_act t, uint32_t rows, uint32_t cols)
{
    size_t bytes;

    return px_mul(rows, b == KERN_ON_CUDA ? kern_cuda_act_stride(t, cols) : kern_cpu_act_stride(t, cols), &bytes) ? SIZE_MAX : bytes;
}

size_t kern_workspace_bytes(kern_backend b, const kern_shape *s)
{
    size_t n = b == KERN_ON_CUDA ? kern_cuda_workspace_bytes(s) : kern_cpu_workspace_bytes(s);

    return n > SIZE_MAX - 63 ? SIZE_MAX : px_align_up(n, 64);
}

size_t kern_kv_vector_bytes(kern_kv_dtype t, uint32_t head_dim)
{
    switch (t) {
    case KERN_KV_F32:  return 4 * (size_t)head_dim;
    case KERN_KV_F16:
    case KERN_KV_BF16: return 2 * (size_t)head_dim;
    case KERN_KV_INT8: return (size_t)head_dim + 4;
    case KERN_KV_FP8:  return head_dim;
    default:           return 0;
    }
}

size_t kern_kv_block_bytes(kern_kv_dtype t, uint32_t n_layer, uint32_t block, uint32_t n_kv_head, uint32_t head_dim)
{
    size_t n = kern_kv_vector_bytes(t, head_dim);

    if (px_mul(n, 2, &n) || px_mul(n, n_layer, &n) || px_mul(n, block, &n) || px_mul(n, n_kv_head, &n)) return SIZE_MAX;
    return n;
}
