/* runtime.h - what the runtime's two files share.  Layer: tests/cuda_host. */
#ifndef TESTS_CUDA_HOST_RUNTIME_H
#define TESTS_CUDA_HOST_RUNTIME_H

#include <cuda_runtime_api.h>
#include <functional>

namespace cuh {
/* Counts the call, and answers the error that was injected for it, that sticks, or that no device or driver means. */
cudaError_t called(const char *name);
cudaError_t remember(cudaError_t e);               /* for cudaGetLastError */
inline cudaError_t enter(const char *name) { return remember(called(name)); }
enum memory { UNKNOWN, DEVICE, PINNED };
/* reach.cpp: device memory, which only those reach who hold an on_device.  It begins as NaN. */
void *device_take(size_t bytes);                   /* NULL: there is none */
void device_give(void *p);
struct on_device { on_device(); ~on_device(); on_device(const on_device &) = delete; };
memory memory_of(const void *p, size_t bytes, bool *inside);   /* inside: all bytes are */
int device_of(const void *p);                      /* that was current when it was taken; -1: no memory of ours */
/* Runs `work` now, later, or in every replay of the graph that the stream records. */
cudaError_t enqueue(cudaStream_t stream, const std::function<void()> &work);
bool capturing(cudaStream_t stream);
void flush(void);                                  /* all that lazy streams hold */
/* What may not be called while a stream records: ends the recording with an error. */
cudaError_t not_while_capturing(void);
}
#endif
