/* skinny_q8_h.cu - the skinny path for Q8_H weights. */
#include "kernels/cuda/skinny.cuh"

CU_API cu_status cu_skinny_q8_h(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    return skinny_of<KERN_Q8_H>(m, tile, max_shared, s);
}
