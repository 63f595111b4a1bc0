/* phalanx_cuda_host.h - kernels/cuda/compat.h in a host build: CUDA C by fibers.
 * Layer: tests; C++17.  device.h has the intrinsics, twins.h the twins of ptx.h and warp.h. */
#ifndef PHALANX_CUDA_HOST_H
#define PHALANX_CUDA_HOST_H

#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <functional>
#include <tuple>

#include "kernels/cuda/launch.h"

#undef __launch_bounds__
#define __launch_bounds__(...)

/* Made by the default argument of the outermost call, so it is the kernel's line and not the wrapper's. */
struct cu_site {
    const char *file;
    int line;
    cu_site(const char *f = __builtin_FILE(), int l = __builtin_LINE()) : file(f), line(l) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace cuh {
/* Ends the process: what is wrong, where, in which thread, under which schedule. */
[[noreturn]] void fail(cu_site at, const char *format, ...) __attribute__((format(printf, 2, 3)));

cudaError_t launch(cu_site at, const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                   void *stream, std::function<void()> body);

/* key: one a variable and template instance */
void *shared(const void *key, const char *name, size_t bytes, cu_site at);
void *dynamic_shared(void);

enum vote { NO_VOTE, COUNT, AND, OR };
int barrier(vote kind, bool value, cu_site at);

/* Every lane of the mask parks its arguments; the last one computes for all.  args[lane] is NULL outside the mask. */
typedef void (*warp_fn)(void *const *args);
void warp_call(const char *name, unsigned mask, void *args, warp_fn fn, cu_site at);
void warp_barrier(unsigned mask, cu_site at);
unsigned lane(void);
void fence(void);                  /* __threadfence */
void maybe_switch(void);           /* another thread may run here, under the random schedules */
}

#define CU_SHARED(type, name, count)                                                                             \
    static const char name##_key_ = 0;                                                                           \
    type *const name = static_cast<type *>(cuh::shared(&name##_key_, #name, sizeof(type) * (count), cu_site()))
#define CU_DYN_SHARED(type, name) type *const name = static_cast<type *>(cuh::dynamic_shared())
#define CU_UNROLL
#define CU_UNROLL_N(n)

template <typename... P, typename... A>
cu_status cuh_launch(cu_site at, const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                     cu_stream stream, A &&...args)
{
    static_assert((sizeof(P) + ... + 0) <= 4096, "a kernel's arguments are 4096 bytes at most");
    std::tuple<P...> kept(static_cast<A &&>(args)...);
    return cuh::launch(at, name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, stream,
                       [kernel, kept] { std::apply(kernel, kept); });
}
#define CU_LAUNCH(kernel, ...) cuh_launch(cu_site(), #kernel, kernel, __VA_ARGS__)

#include "device.h"
#include "twins.h"

#endif
