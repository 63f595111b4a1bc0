/* device.c - a CUDA device as a kern_dev: opening it, its memory, its queue, and what its errors are called. */
#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

/* Errors that a context does not survive: from then on every call answers the same. */
static bool is_for_good(cudaError_t s)
{
    switch (s) {
    case cudaErrorIllegalAddress: case cudaErrorLaunchTimeout: case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction: case cudaErrorMisalignedAddress: case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc: case cudaErrorLaunchFailure: case cudaErrorAssert: case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable: case cudaErrorContextIsDestroyed: case cudaErrorDevicesUnavailable:
    case cudaErrorExternalDevice: case cudaErrorUnknown:
#if CUDART_VERSION >= 12080
    case cudaErrorContained: case cudaErrorTensorMemoryLeak:
#endif
        return true;
    default:
        return false;
    }
}

px_code kern_cuda_done(kern_dev *d, const char *field, cu_status status, px_err *e)
{
    cudaError_t s = (cudaError_t)status;

    if (d->lost)
        return px_fail(e, PX_EDEVICE, field, "CUDA device %u is lost since %s: %s", d->device, d->lost_in,
                       cudaGetErrorName((cudaError_t)d->lost));
    if (!s) return PX_OK;
    (void)cudaGetLastError();                      /* told here: nobody else shall find it */
    if (is_for_good(s)) {
        d->lost = status;
        snprintf(d->lost_in, sizeof d->lost_in, "%s", field);
    }
    return px_fail(e, s == cudaErrorMemoryAllocation ? PX_ENOMEM : PX_EDEVICE, field, "CUDA device %u: %s: %s", d->device,
                   cudaGetErrorName(s), cudaGetErrorString(s));
}

px_code kern_cuda_need(kern_buf b, size_t n, size_t each, size_t align, const char *field, px_err *e)
{
    size_t bytes;

    if (px_mul(n, each, &bytes)) return px_fail(e, PX_EINTERNAL, field, "%zu x %zu bytes overflow", n, each);
    if (bytes > b.bytes || (bytes && !b.h))
        return px_fail(e, PX_EINTERNAL, field, "a buffer of %zu bytes where %zu are used", b.bytes, bytes);
    if ((uintptr_t)b.h % align) return px_fail(e, PX_EINTERNAL, field, "a buffer that is not aligned to %zu bytes", align);
    return PX_OK;
}

px_code kern_cuda_rows(const kern_rows *r, const char *field, px_err *e)
{
    return kern_cuda_need(r->live, 1, sizeof(uint32_t), sizeof(uint32_t), field, e);
}

px_code kern_cuda_act_to(const kern_act_rows *a, const kern_rows *r, uint32_t cols, cu_act_to *to, px_err *e)
{
    px_code rc;

    *to = (cu_act_to){ 0 };
    if (!a->out.h) return PX_OK;
    if ((unsigned)a->act >= KERN_N_ACTS) return px_fail(e, PX_EINTERNAL, "act", "no activation format %d", (int)a->act);
    *to = (cu_act_to){ .out = a->out.h, .stride = kern_cuda_act_stride(a->act, cols), .flags = a->flags.h, .act = a->act };
    if ((rc = kern_cuda_need(a->out, r->max, to->stride, 16, "act.out", e))) return rc;
    return kern_cuda_need(a->flags, r->max, 4, 4, "act.flags", e);
}

px_code kern_cuda_idle(kern_dev *d, const char *call, px_err *e)
{
    if (d->recording) return px_fail(e, PX_EINVAL, call, "%s inside record %u", call, d->record_id);
    return kern_cuda_done(d, call, 0, e);
}

static px_code ask(kern_dev *d, enum cudaDeviceAttr what, int *out, px_err *e)
{
    return kern_cuda_done(d, "device", cudaDeviceGetAttribute(out, what, (int)d->device), e);
}

static px_code check_fp8_activations(const kern_dev *d, px_err *e)
{
    char found[48];

    if (!d->fp8_activations) return PX_OK;
    if (d->deterministic)
        return px_refuse(e, PX_EINVAL, "fp8_activations", "true with deterministic: true", "one of them",
                         "products of up to 64 rows keep activations of 16 bits, so a row's bits would depend on the others");
    snprintf(found, sizeof found, "compute capability %u.%u", d->arch / 10, d->arch % 10);
    if (d->arch < KERN_CUDA_FP8_ARCH)
        return px_refuse(e, PX_EUNSUP, "fp8_activations", found, "8.9 or more", "CUDA device %u does not multiply FP8", d->device);
    return PX_OK;
}

px_code kern_cuda_open(kern_dev **out, px_alloc *a, const kern_open_args *args, px_err *e)
{
    int n = 0, major = 0, minor = 0, sms = 0, shared = 0;
    px_code rc;
    kern_dev *d;

    *out = NULL;
    if (!(d = px_new(a, kern_dev, 1))) return px_fail(e, PX_ENOMEM, "kern_dev", "%zu bytes", sizeof *d);
    d->a = a;
    d->device = args->device;
    d->deterministic = args->deterministic;
    d->fp8_activations = args->fp8_activations;
    d->threads = args->threads ? args->threads : 1;
    if ((rc = kern_cuda_done(d, "device", cudaGetDeviceCount(&n), e))) goto fail;
    if (args->device >= (uint32_t)n) {
        rc = px_fail(e, PX_ERANGE, "device", "there is no CUDA device %u: %d are visible", args->device, n);
        goto fail;
    }
    if ((rc = kern_cuda_done(d, "device", cudaSetDevice((int)args->device), e)) ||
        (rc = ask(d, cudaDevAttrComputeCapabilityMajor, &major, e)) ||
        (rc = ask(d, cudaDevAttrComputeCapabilityMinor, &minor, e)) ||
        (rc = ask(d, cudaDevAttrMultiProcessorCount, &sms, e)) ||
        (rc = ask(d, cudaDevAttrMaxSharedMemoryPerBlockOptin, &shared, e))) goto fail;
    d->arch = (uint32_t)(major * 10 + minor);
    d->n_sm = (uint32_t)sms;
    d->max_shared = (size_t)shared;
    if (d->arch < KERN_CUDA_MIN_ARCH) {
        rc = px_fail(e, PX_EUNSUP, "device", "CUDA device %u has compute capability %d.%d, 8.0 is the least", d->device, major,
                     minor);
        goto fail;
    }
    if ((rc = check_fp8_activations(d, e))) goto fail;
    if ((rc = kern_cuda_done(d, "stream", cudaStreamCreateWithFlags((cudaStream_t *)&d->stream, cudaStreamNonBlocking), e)) ||
        (rc = kern_cuda_ring_open(d, e)) || (rc = kern_cuda_blas_open(d, e))) goto fail;
    *out = d;
    return PX_OK;

fail:
    kern_cuda_close(d);
    return rc;
}

/* What cannot be undone is a lost device's, and goes with the process. */
void kern_cuda_close(kern_dev *d)
{
    if (!d) return;
    if (d->stream && !d->recording) (void)cudaStreamSynchronize((cudaStream_t)d->stream);
    kern_cuda_graphs_close(d);
    kern_cuda_blas_close(d);
    kern_cuda_ring_close(d);
    if (d->stream) (void)cudaStreamDestroy((cudaStream_t)d->stream);
    (void)cudaGetLastError();
    px_del(d->a, d, 1);
}

static void version(char *out, size_t cap, int v)
{
    snprintf(out, cap, "%d.%d", v / 1000, v % 1000 / 10);
}

px_code kern_cuda_info(kern_dev *d, kern_info *out, px_err *e)
{
    struct cudaDeviceProp p;
    size_t unused = 0, total = 0;
    int driver = 0, runtime = 0;
    px_code rc;

    *out = (kern_info){ .arch = d->arch, .held_bytes = d->held_bytes, .products_fp8 = d->products[1], .products_f16 = d->products[0] };
    if ((rc = kern_cuda_idle(d, "info", e)) ||
        (rc = kern_cuda_done(d, "info", cudaGetDeviceProperties(&p, (int)d->device), e)) ||
        (rc = kern_cuda_done(d, "info", cudaDriverGetVersion(&driver), e)) ||
        (rc = kern_cuda_done(d, "info", cudaRuntimeGetVersion(&runtime), e)) ||
        (rc = kern_cuda_done(d, "info", cudaMemGetInfo(&unused, &total), e))) return rc;
    snprintf(out->name, sizeof out->name, "%.63s", p.name);
    version(out->driver, sizeof out->driver, driver);
    version(out->runtime, sizeof out->runtime, runtime);
    out->free_bytes = unused;
    out->total_bytes = total;
    return PX_OK;
}

px_code kern_cuda_alloc(kern_dev *d, size_t bytes, kern_buf *out, px_err *e)
{
    const cudaStream_t s = (cudaStream_t)d->stream;
    void *p = NULL;
    cudaError_t got;
    px_code rc;

    *out = (kern_buf){0};
    if ((rc = kern_cuda_idle(d, "alloc", e))) return rc;
    if ((got = cudaMalloc(&p, bytes ? bytes : 1)) == cudaErrorMemoryAllocation) {
        size_t unused = 0, total = 0;

        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&unused, &total);
        return px_fail(e, PX_ENOMEM, "kern_buf", "%zu bytes on CUDA device %u, where %zu of %zu are free", bytes, d->device,
                       unused, total);
    }
    if ((rc = kern_cuda_done(d, "alloc", got, e))) return rc;
    if ((rc = kern_cuda_done(d, "alloc", cudaMemsetAsync(p, 0, bytes ? bytes : 1, s), e)) ||
        (rc = kern_cuda_done(d, "alloc", cudaStreamSynchronize(s), e))) {
        (void)cudaFree(p);
        return rc;
    }
    d->held_bytes += bytes;
    *out = (kern_buf){ p, bytes };
    return PX_OK;
}

void kern_cuda_free(kern_dev *d, kern_buf *b)
{
    if (b->h) {
        if (cudaFree(b->h)) (void)cudaGetLastError();      /* waits for the device; an error of its work is told by `wait` */
        d->held_bytes -= b->bytes;
    }
    *b = (kern_buf){0};
}

px_code kern_cuda_wrap(kern_dev *d, void *host, size_t bytes, kern_buf *out, px_err *e)
{
    struct cudaPointerAttributes at;
    px_code rc;

    *out = (kern_buf){0};
    if (!bytes) return PX_OK;
    if (!host) return px_fail(e, PX_EINTERNAL, "wrap.host", "no memory to wrap");
    if ((rc = kern_cuda_done(d, "wrap", cudaPointerGetAttributes(&at, host), e))) return rc;
    if (at.type == cudaMemoryTypeUnregistered || !at.devicePointer)
        return px_fail(e, PX_EINTERNAL, "wrap.host", "pageable host memory, which a CUDA device cannot read");
    if (at.type == cudaMemoryTypeDevice && at.device != (int)d->device)
        return px_fail(e, PX_EINTERNAL, "wrap.host", "memory of CUDA device %d, expected of %u", at.device, d->device);
    *out = (kern_buf){ at.devicePointer, bytes };
    return PX_OK;
}

px_code kern_cuda_wait(kern_dev *d, px_err *e)
{
    px_code rc = kern_cuda_idle(d, "wait", e);

    return rc ? rc : kern_cuda_done(d, "wait", cudaStreamSynchronize((cudaStream_t)d->stream), e);
}

void *kern_cuda_native_queue(kern_dev *d) { return d->stream; }
