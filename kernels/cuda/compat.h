/* compat.h - CUDA C as every .cu file sees it: compiled by nvcc for a GPU, and by a C++ compiler for the tests, where
 * PHALANX_CUDA_HOST is defined and each CUDA thread is a fiber that watches barriers, masks and shared memory.
 * Layer: kernels/cuda.  README.md beside this file says how a kernel file is written.
 *
 *   CU_LAUNCH(kernel, grid, block, shared_bytes, stream, args...)   a cu_status; a template in parentheses: (gemv<T, 4>)
 *   CU_SHARED(type, name, count)      shared memory of fixed size, 16-byte aligned; `name` is a pointer: no sizeof
 *   CU_DYN_SHARED(type, name)         the launch's dynamic shared memory, 128-byte aligned, seen as `type`
 *   CU_UNROLL, CU_UNROLL_N(n)         before a loop */
#ifndef KERN_CUDA_COMPAT_H
#define KERN_CUDA_COMPAT_H

#include "kernels/cuda/launch.h"

#define CU_FULL_MASK 0xffffffffu

#ifdef PHALANX_CUDA_HOST
#include <phalanx_cuda_host.h>
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

/* Where a call stands in the source.  Empty on a GPU; the last argument, defaulted, of what the tests name in errors. */
struct cu_site {};

#define CU_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define CU_DYN_SHARED(type, name)                                   \
    extern __shared__ __align__(128) unsigned char cu_dyn_shared_[]; \
    type *const name = reinterpret_cast<type *>(cu_dyn_shared_)
#define CU_PRAGMA_(text) _Pragma(#text)
#define CU_UNROLL        _Pragma("unroll")
#define CU_UNROLL_N(n)   CU_PRAGMA_(unroll n)

template <typename... P, typename... A>
cu_status cu_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cu_stream stream, A &&...args)
{
    cudaLaunchConfig_t c = {};

    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = shared_bytes;
    c.stream = static_cast<cudaStream_t>(stream);
    return cudaLaunchKernelEx(&c, kernel, static_cast<A &&>(args)...);
}
#define CU_LAUNCH(kernel, ...) cu_launch(kernel, __VA_ARGS__)

#endif /* PHALANX_CUDA_HOST */

/* More than 48 KB of shared memory, static and dynamic together, has to be asked for, per kernel and device, before the launch.  It is
 * asked for once, and then for all that a block can have: a limit that follows each launch's `bytes` may be lowered by another thread (a
 * rank of the same process) between asking and launching. */
template <typename K>
cu_status cu_allow_shared(K *kernel, size_t bytes)
{
    const void *const k = reinterpret_cast<const void *>(kernel);
    cudaFuncAttributes has = {};
    int device = 0, most = 0;

    if (cudaError_t rc = cudaFuncGetAttributes(&has, k)) return rc;
    if (bytes + has.sharedSizeBytes <= static_cast<size_t>(has.maxDynamicSharedSizeBytes)) return cudaSuccess;
    if (cudaError_t rc = cudaGetDevice(&device)) return rc;
    if (cudaError_t rc = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return rc;
    return cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, most - static_cast<int>(has.sharedSizeBytes));
}

template <typename T>
__host__ __device__ constexpr T cu_ceil_div(T a, T b) { return (a + b - 1) / b; }

#endif
