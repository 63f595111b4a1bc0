/* skinny_q4_hl.cu - the skinny path for Q4_HL weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_q4_hl(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_Q4_HL>(m, tile, max_shared, s);
}
