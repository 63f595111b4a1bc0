/* blas.cu - kernels/cuda/blas.h in the host build: plain loops, one thread a weight row, fmaf over ascending columns.  For FP8 it has
 * an algorithm where cuBLASLt's manual promises one: columns, and rows of the output and from one to the next, of whole 16 bytes. */
#include "kernels/cuda/blas.h"
#include "kernels/cuda/ptx.h"

enum { THREADS = 64 };

static float element(const void *p, size_t i, kern_gemm_type t)
{
    if (t == KERN_GEMM_E4M3) return __low2float(cu_e4m3x2_to_half2(static_cast<const unsigned char *>(p)[i]));
    const unsigned v = static_cast<const unsigned short *>(p)[i];
    return t == KERN_GEMM_BF16 ? __uint_as_float(v << 16) : __low2float(cu_as_half2(v));
}

static __global__ void plain_gemm(const kern_gemm g)
{
    const unsigned r = blockIdx.x * THREADS + threadIdx.x;

    if (r >= g.m) return;
    for (unsigned t = 0; t < g.n; t++) {
        float sum = 0.0f;
        for (unsigned k = 0; k < g.k; k++) sum = fmaf(element(g.w, (size_t)r * g.k + k, g.type), element(g.x, t * g.x_stride + k, g.type), sum);
        g.out[(size_t)t * g.out_stride + r] = sum;
    }
}

px_code kern_cuda_blas_open(kern_dev *d, px_err *e)
{
    (void)d, (void)e;
    return PX_OK;
}

void kern_cuda_blas_close(kern_dev *d) { (void)d; }

px_code kern_cuda_gemm_has(kern_dev *d, const kern_gemm *g, bool *has, px_err *e)
{
    (void)d, (void)e;
    *has = g->type != KERN_GEMM_E4M3 || !(g->k % 16 || g->x_stride % 16 || g->m % 4 || g->out_stride % 4 || (uintptr_t)g->out % 16);
    return PX_OK;
}

px_code kern_cuda_gemm(kern_dev *d, const kern_gemm *g, px_err *e)
{
    bool has;

    if (!kern_cuda_gemm_has(d, g, &has, e) && !has) return px_fail(e, PX_EUNSUP, "matmul", "no algorithm for %u x %u x %u", g->m, g->n, g->k);
    /* What cuBLASLt was promised. */
    if ((uintptr_t)g->w % 256 || (uintptr_t)g->workspace % 256 || (uintptr_t)g->x % 16 || g->x_stride < g->k || g->out_stride < g->m)
        return px_fail(e, PX_EINTERNAL, "gemm", "operands that are not aligned, or rows that overlap");
    return kern_cuda_done(d, "matmul", CU_LAUNCH(plain_gemm, dim3(cu_ceil_div(g->m, (uint32_t)THREADS)), dim3(THREADS), 0, d->stream, *g), e);
}
