/* sizes.c - what activations take on CPU: pure. */
#include "kernels/cpu/cpu.h"

size_t kern_cpu_act_stride(kern_act t, uint32_t cols)
{
    return t == KERN_ACT_Q12 ? kern_q12_stride(cols) : kern_flat_stride(cols);
}
