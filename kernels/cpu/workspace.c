/* workspace.c - the one workspace that a step's ops use one after the other: as large as the largest of them. */
#include "kernels/cpu/cpu.h"

size_t kern_cpu_workspace_bytes(const kern_shape *s)
{
    return kern_cpu_attention_workspace_bytes(s);      /* matmul keeps everything in registers */
}
