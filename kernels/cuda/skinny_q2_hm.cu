/* skinny_q2_hm.cu - the skinny path for Q2_HM weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_q2_hm(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_Q2_HM>(m, tile, max_shared, s);
}
