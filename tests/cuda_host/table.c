#include "tests/cuda_host/table.h"

#include "kernels/cuda/plugin.h"

const kern_ops *cuda_host_ops(void)
{
    static kern_ops table;

    table = *phalanx_kern_plugin(KERN_ABI, sizeof(kern_ops));
    table.name = "cuda-host";
    return &table;
}
