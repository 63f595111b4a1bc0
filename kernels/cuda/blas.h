/* blas.h - the seam to the library of large matrix products: cuBLASLt (blas.c); in the tests' host build, plain loops.
 * Layer: kernels/cuda, private to it.  kern_cuda_blas_open and _close stand in device.h. */
#ifndef KERN_CUDA_BLAS_H
#define KERN_CUDA_BLAS_H

#include "kernels/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kern_gemm {
    bool bf16;                                 /* of w and x; else fp16 */
    uint32_t m, n, k;                          /* weight rows, activation rows, columns */
    const void *w;                             /* (m, k), 256-byte aligned */
    const void *x; size_t x_stride;            /* (n, x_stride) elements */
    float *out; size_t out_stride;             /* (n, out_stride): out[t][r] = sum over k of x[t][k] * w[r][k], in fp32 */
    void *workspace; size_t workspace_bytes;   /* 256-byte aligned */
} kern_gemm;

/* Put on the device's stream.  The first call of a shape chooses an algorithm; later ones allocate and choose nothing. */
px_code kern_cuda_gemm(kern_dev *d, const kern_gemm *g, px_err *e);

#ifdef __cplusplus
}
#endif

#endif
