/* skinny_q4_1.cu - the skinny path for Q4_1 weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_q4_1(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_Q4_1>(m, tile, max_shared, s);
}
