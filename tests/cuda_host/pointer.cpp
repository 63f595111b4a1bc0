/* pointer.cpp - what the runtime says of an address. */
#include "runtime.h"

using namespace cuh;

extern "C" cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *p)
{
    if (cudaError_t e = enter(__func__)) return e;
    bool inside;
    const memory m = memory_of(p, 1, &inside);

    *out = {};
    out->type = m == DEVICE ? cudaMemoryTypeDevice : m == PINNED ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    out->device = m == UNKNOWN ? cudaInvalidDeviceId : device_of(p);
    out->devicePointer = m == UNKNOWN ? nullptr : const_cast<void *>(p);
    out->hostPointer = m == DEVICE ? nullptr : const_cast<void *>(p);
    return cudaSuccess;
}
