/* ptx_link.cpp - what nvcc's object files call to make their kernels known and to launch them: here their PTX is run. */
#include "ptx.h"

#include <map>
#include <string.h>

namespace {
std::map<const void *, const ptx::kernel *> &launched()    /* by the host's function; filled before main */
{
    static std::map<const void *, const ptx::kernel *> m;
    return m;
}

struct module { std::vector<ptx::kernel> kernels; };
struct wrapper { int magic, version; const unsigned char *data; void *unused; };     /* what __cudaRegisterFatBinary is given */

template <typename T> T at(const unsigned char *p)
{
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* A container (u32 magic, u16 version, u16 bytes of this head, u64 of its images) of images (u16 kind, u16 version, u32 bytes of this
 * head, u64 of what follows).  Kind 1 is PTX, uncompressed as the build asks (kernels/cuda/CMakeLists.txt). */
std::string text_of(const unsigned char *p)
{
    const unsigned char *const end = p + at<uint16_t>(p + 6) + at<uint64_t>(p + 8);
    std::string text;

    for (p += at<uint16_t>(p + 6); p < end; p += at<uint32_t>(p + 4) + at<uint64_t>(p + 8))
        if (at<uint16_t>(p) == 1) text = std::string(reinterpret_cast<const char *>(p) + at<uint32_t>(p + 4), at<uint64_t>(p + 8));
    return text.substr(0, text.find('\0'));
}
}

extern "C" {
void **__cudaRegisterFatBinary(void *fatbin)
{
    module *const m = new module;                          /* for the life of the process */
    const std::string text = text_of(static_cast<const wrapper *>(fatbin)->data);

    if (text.find(".version") == std::string::npos) ptx::unknown("an object file", "its PTX");
    m->kernels = ptx::read(text);
    return reinterpret_cast<void **>(m);
}
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterFunction(void **handle, const char *host, char *, const char *name, int, uint3 *, uint3 *, dim3 *, dim3 *, int *)
{
    for (const ptx::kernel &k : reinterpret_cast<module *>(handle)->kernels)
        if (k.name == name) launched()[host] = &k;
    if (!launched().count(host)) ptx::unknown("an object file", name);
}
/* Of launches by <<<>>>, which no file has. */
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, void *) { ptx::unknown("an object file", "__cudaPushCallConfiguration"); }
cudaError_t __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void *) { ptx::unknown("an object file", "__cudaPopCallConfiguration"); }
cudaError_t __cudaGetKernel(cudaKernel_t *, const void *) { return cudaErrorInvalidDeviceFunction; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void **, size_t, cudaStream_t) { ptx::unknown("an object file", "__cudaLaunchKernel"); }
}

/* A block's first thread runs all of it; the others end at once. */
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *host, void **args)
{
    const auto it = launched().find(host);
    if (it == launched().end()) return cudaErrorInvalidDeviceFunction;
    const ptx::kernel *const k = it->second;
    std::vector<std::vector<uint64_t>> params;
    const cu_site site(k->name.c_str(), 0);

    if (c->numAttrs) ptx::unknown(k->name, "a launch attribute");
    for (size_t i = 0; i < k->params.size(); i++) {
        params.push_back(std::vector<uint64_t>(k->params[i] / 8 + 2));
        memcpy(params.back().data(), args[i], k->params[i]);
    }
    return cuh::launch(site, k->name.c_str(), host, c->gridDim, c->blockDim, c->dynamicSmemBytes, c->stream, [k, params, site] {
        if (!threadIdx.x && !threadIdx.y && !threadIdx.z) ptx::run_block(*k, params, site);
    });
}
