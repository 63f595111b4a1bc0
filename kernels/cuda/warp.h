/* warp.h - shuffles, and sums and maxima over a warp or a block.  Layer: kernels/cuda.
 * All lanes of the mask call with the same arguments but the value; block-wide ones are called by all threads of the
 * block.  Every lane gets the result, and it has the same bits in every lane: a butterfly, so a sum's order is fixed by
 * the number of lanes alone. */
#ifndef KERN_CUDA_WARP_H
#define KERN_CUDA_WARP_H

#include "kernels/cuda/compat.h"

#ifndef PHALANX_CUDA_HOST
template <typename T>
__device__ __forceinline__ T cu_shfl_xor(T v, int lanes, unsigned mask = CU_FULL_MASK, cu_site = cu_site())
{
    return __shfl_xor_sync(mask, v, lanes);
}
template <typename T>
__device__ __forceinline__ T cu_shfl_down(T v, unsigned by, unsigned mask = CU_FULL_MASK, cu_site = cu_site())
{
    return __shfl_down_sync(mask, v, by);
}
template <typename T>
__device__ __forceinline__ T cu_shfl(T v, int lane, unsigned mask = CU_FULL_MASK, cu_site = cu_site())
{
    return __shfl_sync(mask, v, lane);
}
__device__ __forceinline__ void cu_syncthreads(cu_site = cu_site()) { __syncthreads(); }
#endif

__device__ __forceinline__ float    cu_larger(float a, float b) { return fmaxf(a, b); }      /* a NaN loses */
__device__ __forceinline__ int      cu_larger(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ unsigned cu_larger(unsigned a, unsigned b) { return a > b ? a : b; }
__device__ __forceinline__ uint64_t cu_larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Over groups of LANES neighbouring lanes, a power of two. */
template <int LANES = 32, typename T>
__device__ __forceinline__ T cu_warp_sum(T v, cu_site at = cu_site())
{
    static_assert(LANES >= 1 && LANES <= 32 && (LANES & (LANES - 1)) == 0, "a power of two");
    CU_UNROLL
    for (int d = LANES / 2; d > 0; d /= 2) v += cu_shfl_xor(v, d, CU_FULL_MASK, at);
    return v;
}

template <int LANES = 32, typename T>
__device__ __forceinline__ T cu_warp_max(T v, cu_site at = cu_site())
{
    static_assert(LANES >= 1 && LANES <= 32 && (LANES & (LANES - 1)) == 0, "a power of two");
    CU_UNROLL
    for (int d = LANES / 2; d > 0; d /= 2) v = cu_larger(v, cu_shfl_xor(v, d, CU_FULL_MASK, at));
    return v;
}

/* Over a one-dimensional block of whole warps.  `scratch`: shared memory, a T a warp, free again when the call returns;
 * the first barrier also orders what the block did before. */
template <typename T>
__device__ __forceinline__ T cu_block_sum(T v, T *scratch, cu_site at = cu_site())
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;

    v = cu_warp_sum(v, at);
    if (lane == 0) scratch[warp] = v;
    cu_syncthreads(at);
    v = cu_warp_sum(lane < warps ? scratch[lane] : T(0), at);
    cu_syncthreads(at);
    return v;
}

/* `least`: a value that is no larger than any. */
template <typename T>
__device__ __forceinline__ T cu_block_max(T v, T least, T *scratch, cu_site at = cu_site())
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;

    v = cu_warp_max(v, at);
    if (lane == 0) scratch[warp] = v;
    cu_syncthreads(at);
    v = cu_warp_max(lane < warps ? scratch[lane] : least, at);
    cu_syncthreads(at);
    return v;
}

#endif
