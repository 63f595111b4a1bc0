/* kv.cuh - where a key lies, and numbers as they lie there.  Layer: kernels/cuda, device code.
 * A block of a head: K in groups of 16 keys, [head_dim][16] each; int8: its [block] scales; V [block][head_dim]; its scales. */
#ifndef KERN_CUDA_KV_CUH
#define KERN_CUDA_KV_CUH

#include "kernels/cuda/kv.h"
#include "kernels/cuda/ptx.h"

template <int KV> struct cu_kv_type;
template <> struct cu_kv_type<CU_KV_F16>  { static constexpr unsigned bytes = 2; static constexpr bool scaled = false; };
template <> struct cu_kv_type<CU_KV_F32>  { static constexpr unsigned bytes = 4; static constexpr bool scaled = false; };
template <> struct cu_kv_type<CU_KV_BF16> { static constexpr unsigned bytes = 2; static constexpr bool scaled = false; };
template <> struct cu_kv_type<CU_KV_INT8> { static constexpr unsigned bytes = 1; static constexpr bool scaled = true; };
template <> struct cu_kv_type<CU_KV_FP8>  { static constexpr unsigned bytes = 1; static constexpr bool scaled = false; };

/* Bytes of the K, or of the V, of a block of one head. */
template <int KV>
__device__ __forceinline__ size_t cu_kv_half(const cu_kv &kv)
{
    return static_cast<size_t>(cu_kv_type<KV>::bytes * kv.head_dim + (cu_kv_type<KV>::scaled ? 4 : 0)) << kv.block_shift;
}

/* Keys of the row's slot that have a place: a position beyond the table is cut off. */
__device__ __forceinline__ unsigned cu_kv_keys(const cu_kv &kv, unsigned slot, unsigned pos)
{
    const unsigned most = kv.table_stride << kv.block_shift;

    return slot >= kv.n_slots ? 0 : pos < most ? pos + 1 : most;
}

/* The block of a key: slot and key are within the table; an id beyond the pool is taken for its last block. */
__device__ __forceinline__ unsigned cu_kv_block(const cu_kv &kv, unsigned slot, unsigned key)
{
    const unsigned id = __ldg(kv.table + static_cast<size_t>(slot) * kv.table_stride + (key >> kv.block_shift));

    return id < kv.n_blocks ? id : kv.n_blocks - 1;
}

/* Where the group of 16 keys lies that `key` belongs to. */
struct cu_kv_group { unsigned char *k, *v, *k_scale, *v_scale; };

template <int KV>
__device__ __forceinline__ cu_kv_group cu_kv_group_at(const cu_kv &kv, unsigned block, unsigned head, unsigned key)
{
    const unsigned in = (key >> 4) & ((1u << (kv.block_shift - 4)) - 1);
    const size_t half = cu_kv_half<KV>(kv), group = static_cast<size_t>(16 * cu_kv_type<KV>::bytes) * kv.head_dim;
    const size_t values = static_cast<size_t>(cu_kv_type<KV>::bytes * kv.head_dim) << kv.block_shift;
    cu_kv_group g;

    g.k = kv.pool + (static_cast<size_t>(block) * kv.n_kv_head + head) * 2 * half + in * group;
    g.v = g.k + half;
    g.k_scale = g.k - in * group + values + in * 64u;
    g.v_scale = g.k_scale + half;
    return g;
}

/* One element as fp32; int8 without its scale. */
template <int KV>
__device__ __forceinline__ float cu_kv_value(const unsigned char *p, unsigned i)
{
    if (KV == CU_KV_F32) return reinterpret_cast<const float *>(p)[i];
    if (KV == CU_KV_F16) return __half2float(reinterpret_cast<const __half *>(p)[i]);
    if (KV == CU_KV_BF16) return __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(p)[i]);
    if (KV == CU_KV_INT8) return static_cast<float>(reinterpret_cast<const signed char *>(p)[i]);
    return __half2float(__low2half(cu_e4m3x2_to_half2(p[i])));
}

#endif
