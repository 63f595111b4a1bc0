/* ptx.h - every instruction that has no CUDA C name, in wrappers that take ordinary pointers and arrays.  Each has a
 * twin for the tests' host build.  Layer: kernels/cuda.  Warp-wide: mma, ldmatrix (all 32 lanes, same call).
 *
 * Fragments of mma m16n8k16, as the PTX manual lays them out, with g = lane / 4, t = lane % 4, two values a register,
 * the lower k (or column) in the lower half:
 *   a[0] = A[g][2t, 2t+1]   a[1] = A[g+8][2t, 2t+1]   a[2] = A[g][2t+8, 2t+9]   a[3] = A[g+8][2t+8, 2t+9]
 *   b[0] = B[2t, 2t+1][g]   b[1] = B[2t+8, 2t+9][g]
 *   d[0], d[1] = D[g][2t, 2t+1]                       d[2], d[3] = D[g+8][2t, 2t+1]
 * ldmatrix: lane 8i + j names row j of matrix i (16 bytes, 16-byte aligned, in shared memory); lane l receives of each
 * matrix row l / 4, elements 2 (l % 4) and the next; transposed: of column l / 4. */
#ifndef KERN_CUDA_PTX_H
#define KERN_CUDA_PTX_H

#include "kernels/cuda/compat.h"

#include <string.h>

#ifndef PHALANX_CUDA_HOST

__device__ __forceinline__ unsigned cu_shared_address_(const void *p)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/* d += A B */
__device__ __forceinline__ void cu_mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], cu_site = cu_site())
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void cu_mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], cu_site = cu_site())
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void cu_ldmatrix_x4(unsigned (&r)[4], const void *row, cu_site = cu_site())
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(cu_shared_address_(row)) : "memory");
}

__device__ __forceinline__ void cu_ldmatrix_x4_trans(unsigned (&r)[4], const void *row, cu_site = cu_site())
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(cu_shared_address_(row)) : "memory");
}

/* x2: the rows of lanes 0 to 15 count; the others' pointers are not looked at. */
__device__ __forceinline__ void cu_ldmatrix_x2(unsigned (&r)[2], const void *row, cu_site = cu_site())
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(cu_shared_address_(row)) : "memory");
}

__device__ __forceinline__ void cu_ldmatrix_x2_trans(unsigned (&r)[2], const void *row, cu_site = cu_site())
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(cu_shared_address_(row)) : "memory");
}

/* 16 bytes from global to shared memory, both 16-byte aligned; not `valid`: 16 zero bytes, and `global` is not read. */
__device__ __forceinline__ void cu_cp_async16(void *shared, const void *global, bool valid = true, cu_site = cu_site())
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(cu_shared_address_(shared)), "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void cu_cp_async_commit(cu_site = cu_site())
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Of this thread's groups all but the last N have arrived, for this thread; for others after a barrier. */
template <int N>
__device__ __forceinline__ void cu_cp_async_wait(cu_site = cu_site())
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

/* 16 or 8 bytes that no kernel in flight writes and that are read once: past L1 (weights, KV). */
__device__ __forceinline__ uint4 cu_load16_stream(const void *p, cu_site = cu_site())
{
    uint4 v;

    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(p)));
    return v;
}

__device__ __forceinline__ uint2 cu_load8_stream(const void *p, cu_site = cu_site())
{
    uint2 v;

    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(__cvta_generic_to_global(p)));
    return v;
}

/* 16 bytes of any memory; the pointer is 16-byte aligned. */
__device__ __forceinline__ uint4 cu_load16(const void *p, cu_site = cu_site()) { return *static_cast<const uint4 *>(p); }
__device__ __forceinline__ void cu_store16(void *p, uint4 v, cu_site = cu_site()) { *static_cast<uint4 *>(p) = v; }

/* Bytes of b:a chosen by the four nibbles of `selector`; a nibble's top bit copies the chosen byte's sign. */
__device__ __forceinline__ unsigned cu_prmt(unsigned a, unsigned b, unsigned selector)
{
    unsigned d;

    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

/* Any function of three bits: TABLE is that function of a = 0xf0, b = 0xcc, c = 0xaa. */
template <int TABLE>
__device__ __forceinline__ unsigned cu_lop3(unsigned a, unsigned b, unsigned c)
{
    unsigned d;

    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
    return d;
}

/* 2^x to 2 ulp; below 2^-126: 0. */
__device__ __forceinline__ float cu_exp2(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ __half2 cu_fma2(__half2 a, __half2 b, __half2 c) { return __hfma2(a, b, c); }
__device__ __forceinline__ __nv_bfloat162 cu_fma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) { return __hfma2(a, b, c); }

#endif /* PHALANX_CUDA_HOST */

/* ---- the same text on both sides ---- */
template <typename To, typename From>
__device__ __forceinline__ To cu_bit_cast(From v)
{
    static_assert(sizeof(To) == sizeof(From), "the same size");
    To r;
    memcpy(static_cast<void *>(&r), &v, sizeof r);
    return r;
}
__device__ __forceinline__ unsigned cu_bits(__half2 v) { return cu_bit_cast<unsigned>(v); }
__device__ __forceinline__ unsigned cu_bits(__nv_bfloat162 v) { return cu_bit_cast<unsigned>(v); }
__device__ __forceinline__ __half2 cu_as_half2(unsigned v) { return cu_bit_cast<__half2>(v); }
__device__ __forceinline__ __nv_bfloat162 cu_as_bf162(unsigned v) { return cu_bit_cast<__nv_bfloat162>(v); }

/* Two fp8 values, the lower in the lower byte.  To fp8: nearest even, too large becomes the largest finite, NaN stays. */
__device__ __forceinline__ __half2 cu_e4m3x2_to_half2(uint16_t v) { return __half2(__nv_cvt_fp8x2_to_halfraw2(v, __NV_E4M3)); }
__device__ __forceinline__ __half2 cu_e5m2x2_to_half2(uint16_t v) { return __half2(__nv_cvt_fp8x2_to_halfraw2(v, __NV_E5M2)); }
__device__ __forceinline__ uint16_t cu_float2_to_e4m3x2(float2 v) { return __nv_cvt_float2_to_fp8x2(v, __NV_SATFINITE, __NV_E4M3); }
__device__ __forceinline__ uint16_t cu_float2_to_e5m2x2(float2 v) { return __nv_cvt_float2_to_fp8x2(v, __NV_SATFINITE, __NV_E5M2); }

#endif
