/* blas.c - products of many rows by cuBLASLt.  An algorithm is chosen once a shape and kept; descriptors lie on the stack.
 * In the library's words, whose matrices are column-major: D (m x n, ld out_stride) = W^T (w is k x m, ld k) X (k x n, ld
 * x_stride).
 * FP8 wants it just so: the left one transposed, the right one not, sums and scales in fp32, columns and row strides of whole 16 bytes.
 * Its scales are not the library's, which has one a matrix: the caller multiplies.  CUBLASLT_MATMUL_DESC_FAST_ACCUM stays 0: with it sums
 * are not carried on in fp32, and rows here have thousands of columns. */
#include "kernels/cuda/blas.h"

#include <cublasLt.h>
#include <string.h>

#define MAX_PLANS 512u

typedef struct plan_key {
    uint32_t m, n, k, type, align[3];          /* align: bytes that w, x and out are aligned to, at most 256 */
    uint64_t x_stride, out_stride, workspace_bytes;
} plan_key;
typedef struct plan { plan_key key; bool none; cublasLtMatmulAlgo_t algo; size_t workspace_bytes; } plan;      /* none: the library has no algorithm */
typedef struct blas {
    cublasLtHandle_t lt;
    uint32_t n_plans, next;                    /* next: overwritten first once all places are taken */
    plan plans[MAX_PLANS];
} blas;

/* Matrices and operation of one product. */
typedef struct product {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t w, x, out;
} product;

static px_code done(cublasStatus_t s, const char *call, px_err *e)
{
    if (s == CUBLAS_STATUS_SUCCESS) return PX_OK;
    return px_fail(e, s == CUBLAS_STATUS_ALLOC_FAILED ? PX_ENOMEM : PX_EDEVICE, "matmul", "%s: %s: %s", call,
                   cublasLtGetStatusName(s), cublasLtGetStatusString(s));
}

px_code kern_cuda_blas_open(kern_dev *d, px_err *e)
{
    blas *b = px_new(d->a, blas, 1);
    px_code rc;

    if (!b) return px_fail(e, PX_ENOMEM, "matmul", "%zu bytes of plans", sizeof *b);
    if ((rc = done(cublasLtCreate(&b->lt), "cublasLtCreate", e))) {
        px_del(d->a, b, 1);
        return rc;
    }
    d->blas = b;
    return PX_OK;
}

void kern_cuda_blas_close(kern_dev *d)
{
    blas *b = d->blas;

    if (!b) return;
    (void)cublasLtDestroy(b->lt);
    px_del(d->a, b, 1);
    d->blas = NULL;
}

static px_code describe(const kern_gemm *g, product *p, px_err *e)
{
    static const cudaDataType_t types[] = { [KERN_GEMM_BF16] = CUDA_R_16BF, [KERN_GEMM_F16] = CUDA_R_16F, [KERN_GEMM_E4M3] = CUDA_R_8F_E4M3 };
    const cudaDataType_t t = types[g->type];
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t s;

    if ((s = cublasLtMatmulDescInit(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F))
        || (s = cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed))
        || (s = cublasLtMatrixLayoutInit(&p->w, t, g->k, g->m, g->k))
        || (s = cublasLtMatrixLayoutInit(&p->x, t, g->k, g->n, (int64_t)g->x_stride))
        || (s = cublasLtMatrixLayoutInit(&p->out, CUDA_R_32F, g->m, g->n, (int64_t)g->out_stride)))
        return done(s, "descriptors", e);
    return PX_OK;
}

static uint32_t alignment(const void *p)
{
    const uintptr_t low = (uintptr_t)p & -(uintptr_t)p;

    return low && low < 256 ? (uint32_t)low : 256;
}

static px_code choose(blas *b, const plan_key *k, product *p, plan *out, px_err *e)
{
    static const cublasLtMatmulPreferenceAttributes_t what[4] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES };
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasLtMatmulHeuristicResult_t best;
    cublasStatus_t s = cublasLtMatmulPreferenceInit(&pref);
    int n = 0;

    if (!s) s = cublasLtMatmulPreferenceSetAttribute(&pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &k->workspace_bytes,
                                                     sizeof k->workspace_bytes);
    for (uint32_t i = 0; i < 4 && !s; i++)
        s = cublasLtMatmulPreferenceSetAttribute(&pref, what[i], &k->align[i < 2 ? i : 2], sizeof k->align[0]);
    if (!s) s = cublasLtMatmulAlgoGetHeuristic(b->lt, &p->op, &p->w, &p->x, &p->out, &p->out, &pref, 1, &best, &n);
    if (!s) s = n ? best.state : CUBLAS_STATUS_NOT_SUPPORTED;
    *out = (plan){ .key = *k, .none = s == CUBLAS_STATUS_NOT_SUPPORTED };
    if (out->none) return PX_OK;
    if (s) return done(s, "cublasLtMatmulAlgoGetHeuristic", e);
    out->algo = best.algo;
    out->workspace_bytes = best.workspaceSize;
    return PX_OK;
}

/* Fills *p; *out: the plan of its shape. */
static px_code find(blas *b, const kern_gemm *g, product *p, const plan **out, px_err *e)
{
    plan_key key, *k = &key;
    px_code rc;
    plan fresh;

    memset(k, 0, sizeof *k);                   /* compared as bytes */
    k->m = g->m, k->n = g->n, k->k = g->k, k->type = (uint32_t)g->type;
    k->align[0] = alignment(g->w), k->align[1] = alignment(g->x), k->align[2] = alignment(g->out);
    k->x_stride = g->x_stride, k->out_stride = g->out_stride, k->workspace_bytes = g->workspace_bytes;
    if ((rc = describe(g, p, e))) return rc;
    for (uint32_t i = 0; i < b->n_plans; i++)
        if (!memcmp(&b->plans[i].key, k, sizeof *k)) {
            *out = &b->plans[i];
            return PX_OK;
        }
    if ((rc = choose(b, k, p, &fresh, e))) return rc;
    if (b->n_plans < MAX_PLANS) b->n_plans++;
    b->plans[b->next] = fresh;
    *out = &b->plans[b->next];
    b->next = (b->next + 1) % MAX_PLANS;
    return PX_OK;
}

px_code kern_cuda_gemm(kern_dev *d, const kern_gemm *g, px_err *e)
{
    static const float one = 1.0f, zero = 0.0f;
    blas *b = d->blas;
    const plan *chosen;
    product p;
    px_code rc;

    if ((rc = find(b, g, &p, &chosen, e))) return rc;
    if (chosen->none) return px_fail(e, PX_EUNSUP, "matmul", "cuBLASLt has no algorithm for %u x %u x %u", g->m, g->n, g->k);
    return done(cublasLtMatmul(b->lt, &p.op, &one, g->w, &p.w, g->x, &p.x, &zero, g->out, &p.out, g->out, &p.out, &chosen->algo,
                               g->workspace, chosen->workspace_bytes, d->stream), "cublasLtMatmul", e);
}

px_code kern_cuda_gemm_has(kern_dev *d, const kern_gemm *g, bool *has, px_err *e)
{
    const plan *chosen;
    product p;
    px_code rc = find(d->blas, g, &p, &chosen, e);

    if (!rc) *has = !chosen->none;
    return rc;
}
