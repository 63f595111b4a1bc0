/* blas.h - the seam to the library of large matrix products: cuBLASLt (blas.c); in the tests' host build, plain loops.
 * Layer: kernels/cuda, private to it.  kern_cuda_blas_open and _close stand in device.h. */
#ifndef KERN_CUDA_BLAS_H
#define KERN_CUDA_BLAS_H

#include "kernels/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kern_gemm_type { KERN_GEMM_BF16, KERN_GEMM_F16, KERN_GEMM_E4M3 } kern_gemm_type;
typedef struct kern_gemm {
    kern_gemm_type type;                       /* of w and x */
    uint32_t m, n, k;                          /* weight rows, activation rows, columns */
    const void *w;                             /* (m, k), 256-byte aligned */
    const void *x; size_t x_stride;            /* (n, x_stride) elements */
    float *out; size_t out_stride;             /* (n, out_stride): out[t][r] = sum over k of x[t][k] * w[r][k], in fp32 */
    void *workspace; size_t workspace_bytes;   /* 256-byte aligned */
} kern_gemm;

/* Put on the device's stream.  The first call of a shape chooses an algorithm; later ones allocate and choose nothing.  PX_EUNSUP: the
 * library has none. */
px_code kern_cuda_gemm(kern_dev *d, const kern_gemm *g, px_err *e);
/* Whether the library has one, for types of which it has not for every shape: asked once, as above.  Operands are not read. */
px_code kern_cuda_gemm_has(kern_dev *d, const kern_gemm *g, bool *has, px_err *e);

#ifdef __cplusplus
}
#endif

#endif
