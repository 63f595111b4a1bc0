/* launch.h - what a kernel file's launchers look like from outside: plain C functions with no CUDA type in them.
 * Layer: kernels/cuda.  A launcher puts its work on the stream and returns; it allocates and waits for nothing.
 * cu_status is 0 or the value of a cudaError_t; the backend makes a px_err of it. */
#ifndef KERN_CUDA_LAUNCH_H
#define KERN_CUDA_LAUNCH_H

#include <stddef.h>
#include <stdint.h>

typedef void *cu_stream;            /* a cudaStream_t; NULL is the default stream */
typedef int   cu_status;            /* 0, or a cudaError_t */

#ifdef __cplusplus
#define CU_API extern "C"
#else
#define CU_API
#endif

#endif
