/* skinny_w4.cu - the skinny path for W4 weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_w4(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_W4>(m, tile, max_shared, s);
}
