/* plugin.c - the CUDA backend's table, and what is said where there is no GPU. */
#include "kernels/cuda/plugin.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

#include "kernels/cuda/device.h"

static const kern_ops table = {
    .size = sizeof(kern_ops), .abi = KERN_ABI, .backend = KERN_ON_CUDA, .name = "cuda",
    .open = kern_cuda_open, .close = kern_cuda_close, .info = kern_cuda_info, .alloc = kern_cuda_alloc, .free = kern_cuda_free,
    .wrap = kern_cuda_wrap, .upload = kern_cuda_upload, .download = kern_cuda_download, .wait = kern_cuda_wait,
    .native_queue = kern_cuda_native_queue, .record = kern_cuda_record, .end = kern_cuda_end, .replay = kern_cuda_replay,
    .embed = kern_cuda_embed, .add_norm = kern_cuda_add_norm, .gather = kern_cuda_gather, .quant = kern_cuda_quant,
    .matmul = kern_cuda_matmul, .rope_append = kern_cuda_rope_append, .attention = kern_cuda_attention,
    .swiglu = kern_cuda_swiglu, .candidates = kern_cuda_candidates,
};

__attribute__((visibility("default"))) const kern_ops *phalanx_kern_plugin(uint32_t abi, uint32_t size)
{
    (void)abi, (void)size;
    return &table;
}

static void name_version(char out[32], int v) { snprintf(out, 32, "%d.%d", v / 1000, v % 1000 / 10); }

__attribute__((visibility("default"))) px_code phalanx_kern_probe(px_err *e)
{
    char found[32], expected[32];
    int n = 0, driver = 0;
    cudaError_t s = cudaGetDeviceCount(&n);

    if (!s && n > 0) return PX_OK;
    (void)cudaGetLastError();
    if (!s || s == cudaErrorNoDevice)
        return px_fail(e, PX_ENOTFOUND, "device", "no CUDA device is visible to this process");
    if (s != cudaErrorInsufficientDriver)
        return px_fail(e, PX_EDEVICE, "driver", "the NVIDIA driver answers %s: %s", cudaGetErrorName(s), cudaGetErrorString(s));
    if (cudaDriverGetVersion(&driver) || !driver)          /* both have the same error: the version tells them apart */
        return px_fail(e, PX_ENOTFOUND, "driver", "no NVIDIA driver is installed (libcuda.so.1)");
    name_version(found, driver);
    name_version(expected, CUDART_VERSION);
    return px_refuse(e, PX_EUNSUP, "driver", found, expected, "the NVIDIA driver is too old: it serves CUDA %s, at least %s is needed",
                     found, expected);
}
