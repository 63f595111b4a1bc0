/* skinny_bf16.cu - the skinny path for BF16 weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_bf16(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_BF16>(m, tile, max_shared, s);
}
