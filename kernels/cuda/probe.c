/* probe.c - what is said where there is no GPU: is the driver missing, too old, or has it no device? */
#include "kernels/cuda/plugin.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

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
