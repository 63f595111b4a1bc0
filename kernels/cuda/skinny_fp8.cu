/* skinny_fp8.cu - the skinny path for FP8 weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_fp8(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_FP8>(m, tile, max_shared, s);
}
