/* runtime.cpp - the CUDA runtime of a device that is the host: memory, errors, attributes.
 * Device memory is a heap block of exact size, filled with NaN.  Copies check which side their pointers are on. */
#include "runtime.h"
#include "block.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdlib.h>
#include <string.h>

namespace cuh {
namespace {
struct injection { const char *call; unsigned nth; cudaError_t error; bool sticky; };
std::mutex state;
std::vector<injection> injections;
std::vector<std::pair<const char *, unsigned long>> counts;
std::atomic<void (*)(const char *)> each;
cudaError_t stuck = cudaSuccess;
thread_local cudaError_t last = cudaSuccess;
thread_local int device;                                 /* cudaSetDevice: of this thread */
struct extent { uintptr_t at; size_t bytes; memory kind; int device; };
std::vector<extent> extents;       /* no std::map: MSan does not see into the C++ library */
size_t live;

/* The one that holds `p`, or the end.  Under the lock. */
std::vector<extent>::iterator extent_of(const void *p)
{
    const uintptr_t a = reinterpret_cast<uintptr_t>(p);

    return std::find_if(extents.begin(), extents.end(), [a](const extent &x) { return a >= x.at && a - x.at < x.bytes; });
}

cudaError_t take(void **out, size_t bytes, memory kind)
{
    std::lock_guard<std::mutex> lock(state);
    void *p;

    *out = NULL;
    if (!bytes) return cudaSuccess;
    if (kind == DEVICE && bytes > config.memory_bytes - config.context_bytes - live) return cudaErrorMemoryAllocation;
    if (kind == DEVICE ? !(p = device_take(bytes)) : posix_memalign(&p, 256, bytes)) return cudaErrorMemoryAllocation;
    if (kind != DEVICE) memset(p, 0xff, bytes);
    poison_uninitialised(p, bytes);
    extents.push_back(extent{ reinterpret_cast<uintptr_t>(p), bytes, kind, device });
    if (kind == DEVICE) live += bytes;
    *out = p;
    return cudaSuccess;
}

cudaError_t give(void *p, memory kind)
{
    if (!p) return cudaSuccess;
    flush();
    std::lock_guard<std::mutex> lock(state);
    const auto it = extent_of(p);
    if (it == extents.end() || it->at != reinterpret_cast<uintptr_t>(p) || it->kind != kind) return cudaErrorInvalidValue;
    if (kind == DEVICE) live -= it->bytes;
    extents.erase(it);
    if (kind == DEVICE) device_give(p);
    else free(p);
    return cudaSuccess;
}

/* Is `p` where `want` says, with room? */
bool fits(const void *p, size_t bytes, bool device)
{
    bool inside;
    const memory m = memory_of(p, bytes, &inside);

    return device ? m == DEVICE && inside : m != DEVICE && (m == UNKNOWN || inside);
}

bool legal_copy(const void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    switch (kind) {
    case cudaMemcpyHostToDevice:   return fits(dst, bytes, true) && fits(src, bytes, false);
    case cudaMemcpyDeviceToHost:   return fits(dst, bytes, false) && fits(src, bytes, true);
    case cudaMemcpyDeviceToDevice: return fits(dst, bytes, true) && fits(src, bytes, true);
    case cudaMemcpyHostToHost:     return fits(dst, bytes, false) && fits(src, bytes, false);
    case cudaMemcpyDefault:        return (fits(dst, bytes, true) || fits(dst, bytes, false)) && (fits(src, bytes, true) || fits(src, bytes, false));
    }
    return false;
}

/* What a kernel may have: dynamic memory that it asked for on a device, 0: it did not; static memory, known when it has run. */
struct limit { const void *kernel; size_t asked, fixed; int sm; bool has_run; };
std::vector<limit> limits;

/* Under the lock. */
limit *limit_of(const void *kernel)
{
    for (limit &l : limits) {
        if (l.kernel != kernel) continue;
        if (l.sm != config.sm) l.asked = 0;                /* another device */
        l.sm = config.sm;
        return &l;
    }
    limits.push_back({ kernel, 0, 0, config.sm, false });
    return &limits.back();
}
}

cudaError_t called(const char *name)
{
    if (void (*fn)(const char *) = each) fn(name);
    std::lock_guard<std::mutex> lock(state);
    bool counted = false;

    for (auto &c : counts)
        if (!strcmp(c.first, name)) {
            c.second++;
            counted = true;
        }
    if (!counted) counts.push_back({ name, 1 });
    if (stuck) return stuck;
    for (size_t i = 0; i < injections.size(); i++) {
        injection *in = &injections[i];
        if (strcmp(in->call, name) || --in->nth) continue;
        const cudaError_t e = in->error;
        if (in->sticky) stuck = e;
        injections.erase(injections.begin() + static_cast<std::ptrdiff_t>(i));
        return e;
    }
    if (!config.driver) return cudaErrorInsufficientDriver;
    return config.devices ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t remember(cudaError_t e)
{
    if (e) last = e;
    return e;
}

int device_of(const void *p)
{
    std::lock_guard<std::mutex> lock(state);
    const auto it = extent_of(p);

    return it == extents.end() ? -1 : it->device;
}

memory memory_of(const void *p, size_t bytes, bool *inside)
{
    std::lock_guard<std::mutex> lock(state);
    const auto it = extent_of(p);

    *inside = false;
    if (it == extents.end()) return UNKNOWN;
    *inside = it->bytes - (reinterpret_cast<uintptr_t>(p) - it->at) >= bytes;
    return it->kind;
}

cudaError_t launch(cu_site at, const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, void *stream,
                   std::function<void()> body)
{
    const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    cudaError_t e = called("cudaLaunchKernel");
    size_t dynamic = WITHOUT_ASKING, both = WITHOUT_ASKING;

    if (in_kernel) fail(at, "a kernel launches %s", name);
    if (e) return remember(e);
    if (!threads || threads > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return remember(cudaErrorInvalidConfiguration);
    {
        std::lock_guard<std::mutex> lock(state);
        if (const size_t asked = limit_of(kernel)->asked) {
            dynamic = asked;
            both = optin_bytes();
        }
    }
    if (shared_bytes > dynamic) return remember(cudaErrorInvalidValue);
    return remember(enqueue(static_cast<cudaStream_t>(stream), [name, kernel, grid, block, shared_bytes, both, body] {
        called("launch");
        const size_t fixed = run_grid(name, grid, block, shared_bytes, both, body);
        std::lock_guard<std::mutex> lock(state);
        limit *const l = limit_of(kernel);
        l->fixed = fixed;
        l->has_run = true;
    }));
}
}

using namespace cuh;

extern "C" void cuh_inject(const char *call, unsigned nth, int error, bool sticky)
{
    std::lock_guard<std::mutex> lock(cuh::state);
    injections.push_back(injection{ call, nth, static_cast<cudaError_t>(error), sticky });
}
extern "C" void cuh_inject_nothing(void)
{
    std::lock_guard<std::mutex> lock(cuh::state);
    injections.clear();
    stuck = last = cudaSuccess;
}
extern "C" void cuh_each_call(void (*fn)(const char *call)) { cuh::each = fn; }
extern "C" unsigned long cuh_calls(const char *call)
{
    std::lock_guard<std::mutex> lock(cuh::state);
    for (const auto &c : counts)
        if (!strcmp(c.first, call)) return c.second;
    return 0;
}
extern "C" size_t cuh_live_bytes(void) { return live; }

/* ---- errors, device ---- */
cudaError_t cudaGetLastError(void) { const cudaError_t e = last; last = stuck; return e; }
cudaError_t cudaPeekAtLastError(void) { return last; }
const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:                        return "cudaSuccess";
    case cudaErrorInvalidValue:              return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:          return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:        return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:                  return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:             return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:                  return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:            return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:             return "cudaErrorLaunchFailure";
    case cudaErrorECCUncorrectable:          return "cudaErrorECCUncorrectable";
    case cudaErrorStreamCaptureUnsupported:  return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:  return "cudaErrorStreamCaptureInvalidated";
    default:                                 return "an error";
    }
}
const char *cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
cudaError_t cudaDriverGetVersion(int *v) { *v = config.driver; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) { *n = 0; if (cudaError_t e_ = enter(__func__)) return e_; *n = config.devices; return cudaSuccess; }
cudaError_t cudaSetDevice(int d)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (d < 0 || d >= config.devices) return remember(cudaErrorInvalidDevice);
    cuh::device = d;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *d) { if (cudaError_t e_ = enter(__func__)) return e_; *d = cuh::device; return cudaSuccess; }
cudaError_t cudaDeviceReset(void) { if (cudaError_t e_ = enter(__func__)) return e_; return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    *total = config.memory_bytes;
    *unused = config.memory_bytes - config.context_bytes - live;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int device)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (device < 0 || device >= config.devices) return remember(cudaErrorInvalidDevice);
    switch (a) {
    case cudaDevAttrMaxThreadsPerBlock:             *v = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock:        *v = 48 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:   *v = static_cast<int>(optin_bytes()); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = static_cast<int>(optin_bytes()) + 1024; break;
    case cudaDevAttrWarpSize:                       *v = 32; break;
    case cudaDevAttrMultiProcessorCount:            *v = 4; break;
    case cudaDevAttrComputeCapabilityMajor:         *v = config.sm / 10; break;
    case cudaDevAttrComputeCapabilityMinor:         *v = config.sm % 10; break;
    case cudaDevAttrL2CacheSize:                    *v = 32 << 20; break;
    case cudaDevAttrClockRate: case cudaDevAttrMemoryClockRate: case cudaDevAttrGlobalMemoryBusWidth: *v = 0; break;
    default: return remember(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (device < 0 || device >= config.devices) return remember(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    memcpy(p->name, "host", 5);
    p->totalGlobalMem = config.memory_bytes;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = optin_bytes();
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->major = config.sm / 10;
    p->minor = config.sm % 10;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 32 << 20;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute a, int v)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    std::lock_guard<std::mutex> lock(cuh::state);
    limit *const l = limit_of(kernel);
    if (v <= 0 || static_cast<size_t>(v) + l->fixed > optin_bytes()) return remember(cudaErrorInvalidValue);
    l->asked = static_cast<size_t>(v);
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *kernel)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    std::lock_guard<std::mutex> lock(cuh::state);
    const limit *const l = limit_of(kernel);
    memset(out, 0, sizeof *out);
    out->sharedSizeBytes = l->fixed;
    out->maxDynamicSharedSizeBytes = static_cast<int>(l->asked ? l->asked : l->has_run ? WITHOUT_ASKING : 0);   /* 0: let it ask */
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *, int, size_t) { if (cudaError_t e_ = enter(__func__)) return e_; *n = 2; return cudaSuccess; }

/* ---- memory ---- */
cudaError_t cudaMalloc(void **p, size_t bytes)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (cudaError_t e = not_while_capturing()) return remember(e);
    return remember(take(p, bytes, DEVICE));
}
cudaError_t cudaFree(void *p)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (cudaError_t e = not_while_capturing()) return remember(e);
    return remember(give(p, DEVICE));
}
cudaError_t cudaMallocHost(void **p, size_t bytes) { if (cudaError_t e_ = enter(__func__)) return e_; return remember(take(p, bytes, PINNED)); }
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) { if (cudaError_t e_ = enter(__func__)) return e_; return remember(take(p, bytes, PINNED)); }
cudaError_t cudaFreeHost(void *p) { if (cudaError_t e_ = enter(__func__)) return e_; return remember(give(p, PINNED)); }
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    std::lock_guard<std::mutex> lock(cuh::state);
    if (extent_of(p) != extents.end()) return remember(cudaErrorHostMemoryAlreadyRegistered);
    extents.push_back(extent{ reinterpret_cast<uintptr_t>(p), bytes, PINNED, cuh::device });
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    flush();
    std::lock_guard<std::mutex> lock(cuh::state);
    const auto it = extent_of(p);
    if (it == extents.end() || it->at != reinterpret_cast<uintptr_t>(p)) return remember(cudaErrorHostMemoryNotRegistered);
    extents.erase(it);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (cudaError_t e = not_while_capturing()) return remember(e);
    if (bytes && !legal_copy(dst, src, bytes, kind)) return remember(cudaErrorInvalidValue);
    flush();
    on_device here;
    memmove(dst, src, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    bool inside;

    if (cudaError_t e_ = enter(__func__)) return e_;
    if (bytes && !legal_copy(dst, src, bytes, kind)) return remember(cudaErrorInvalidValue);
    /* Memory that is not pinned: the driver has taken or written the bytes when the call returns. */
    if (!capturing(stream) && (memory_of(dst, bytes, &inside) == UNKNOWN || memory_of(src, bytes, &inside) == UNKNOWN)) {
        flush();
        on_device here;
        memmove(dst, src, bytes);
        return cudaSuccess;
    }
    return remember(enqueue(stream, [dst, src, bytes] { memmove(dst, src, bytes); }));
}
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (width > dst_pitch || width > src_pitch) return remember(cudaErrorInvalidPitchValue);
    if (width && height && !legal_copy(dst, src, width, kind)) return remember(cudaErrorInvalidValue);
    return remember(enqueue(stream, [=] {
        for (size_t i = 0; i < height; i++)
            memcpy(static_cast<char *>(dst) + i * dst_pitch, static_cast<const char *>(src) + i * src_pitch, width);
    }));
}
cudaError_t cudaMemset(void *p, int v, size_t bytes)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (cudaError_t e = not_while_capturing()) return remember(e);
    if (bytes && !fits(p, bytes, true)) return remember(cudaErrorInvalidValue);
    flush();
    on_device here;
    memset(p, v, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int v, size_t bytes, cudaStream_t stream)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (bytes && !fits(p, bytes, true)) return remember(cudaErrorInvalidValue);
    return remember(enqueue(stream, [=] { memset(p, v, bytes); }));
}
