/* skinny_f16.cu - the skinny path for F16 weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_f16(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_F16>(m, tile, max_shared, s);
}
