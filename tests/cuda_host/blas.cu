/* blas.cu - kernels/cuda/blas.h in the host build: plain loops, one thread a weight row, fmaf over ascending columns. */
#include "kernels/cuda/blas.h"
#include "kernels/cuda/ptx.h"

enum { THREADS = 64 };

static float widened(unsigned short v, bool bf16)
{
    return bf16 ? __uint_as_float((unsigned)v << 16) : __low2float(cu_as_half2(v));
}

static __global__ void plain_gemm(const kern_gemm g)
{
    const unsigned r = blockIdx.x * THREADS + threadIdx.x;
    const unsigned short *w = static_cast<const unsigned short *>(g.w) + (size_t)r * g.k;

    if (r >= g.m) return;
    for (unsigned t = 0; t < g.n; t++) {
        const unsigned short *x = static_cast<const unsigned short *>(g.x) + (size_t)t * g.x_stride;
        float sum = 0.0f;
        for (unsigned k = 0; k < g.k; k++) sum = fmaf(widened(w[k], g.bf16), widened(x[k], g.bf16), sum);
        g.out[(size_t)t * g.out_stride + r] = sum;
    }
}

px_code kern_cuda_blas_open(kern_dev *d, px_err *e)
{
    (void)d, (void)e;
    return PX_OK;
}

void kern_cuda_blas_close(kern_dev *d) { (void)d; }

px_code kern_cuda_gemm(kern_dev *d, const kern_gemm *g, px_err *e)
{
    /* What cuBLASLt was promised. */
    if ((uintptr_t)g->w % 256 || (uintptr_t)g->workspace % 256 || (uintptr_t)g->x % 16 || g->x_stride < g->k || g->out_stride < g->m)
        return px_fail(e, PX_EINTERNAL, "gemm", "operands that are not aligned, or rows that overlap");
    return kern_cuda_done(d, "matmul", CU_LAUNCH(plain_gemm, dim3(cu_ceil_div(g->m, (uint32_t)THREADS)), dim3(THREADS), 0, d->stream, *g), e);
}
