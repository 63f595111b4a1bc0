/* add_norm.cu - partial sums in tree order, the residual, RMSNorm: one pass, one block a row.
 *
 * residual = first ? tree(views) : residual + tree(views);  y = (residual * r) * weight,  r = 1 / sqrt(ss / cols + eps).
 * A thread has quads of four columns, the first QUADS of them in registers.  Its part of ss is one chain of fmaf over ascending
 * columns, then a butterfly over the block: which columns a thread has depends on `cols` alone, so a row's bits do not depend
 * on the other rows, nor on where the row lies.  The residual has the bits of the CPU's definition.
 * Where a matmul reads y, it is left in that one's format alone, and never stands in memory as fp32. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/warp.h"

enum { MAX_THREADS = 512, QUADS = 4, LEVELS = 7 };
static_assert(KERN_MAX_VIEWS < 1 << LEVELS, "levels of the tree");

struct norm_args {
    const float *view[KERN_MAX_VIEWS], *weight;
    const uint32_t *live;
    float *residual, *out, eps;
    unsigned n_views, cols;
    bool first, aligned;
    cu_act_to act;
};

static __device__ __forceinline__ cu_quad add(const cu_quad &a, const cu_quad &b)
{
    cu_quad s;

    CU_UNROLL
    for (int i = 0; i < 4; i++) s.x[i] = a.x[i] + b.x[i];
    return s;
}

/* Of N views from `from`, a power of two: all loads first. */
template <int N>
static __device__ __forceinline__ cu_quad tree(const norm_args &a, int from, size_t at, unsigned c)
{
    if constexpr (N == 1) {
        return cu_quad_load(a.view[from] + at, c, a.cols, a.aligned);
    } else {
        const cu_quad left = tree<N / 2>(a, from, at, c), right = tree<N / 2>(a, from + N / 2, at, c);
        return add(left, right);
    }
}

/* Of any number (proto/base/tree.h): a binary counter, whose digit k is the sum of 2^k views; at the end the digits that are
 * left are added from the right. */
static __device__ __forceinline__ cu_quad any_tree(const norm_args &a, size_t at, unsigned c)
{
    cu_quad digit[LEVELS], sum = {};
    bool begun = false;

    for (unsigned v = 0; v < a.n_views; v++) {
        cu_quad x = cu_quad_load(a.view[v] + at, c, a.cols, a.aligned);
        bool carry = true;
        CU_UNROLL
        for (int k = 0; k < LEVELS; k++) {
            const bool taken = v >> k & 1;
            if (carry && taken) x = add(digit[k], x);
            if (carry && !taken) digit[k] = x;
            carry = carry && taken;
        }
    }
    CU_UNROLL
    for (int k = 0; k < LEVELS; k++) {
        if (!(a.n_views >> k & 1)) continue;
        sum = begun ? add(digit[k], sum) : digit[k];
        begun = true;
    }
    return sum;
}

/* The residual's new value. */
template <int VIEWS>
static __device__ __forceinline__ cu_quad value(const norm_args &a, size_t at, unsigned c)
{
    cu_quad sum, old = {};

    if (!a.first || (VIEWS == 0 && !a.n_views)) old = cu_quad_load(a.residual + at, c, a.cols, a.aligned);
    if constexpr (VIEWS == 0) {
        if (!a.n_views) return old;
        sum = any_tree(a, at, c);
    } else {
        sum = tree<VIEWS>(a, 0, at, c);
    }
    return a.first ? sum : add(old, sum);
}

static __device__ __forceinline__ float squares(const cu_quad &q, float ss)
{
    CU_UNROLL
    for (int i = 0; i < 4; i++) ss = fmaf(q.x[i], q.x[i], ss);
    return ss;
}

static __device__ __forceinline__ cu_quad normed(const cu_quad &q, float r, const cu_quad &w)
{
    cu_quad y;

    CU_UNROLL
    for (int i = 0; i < 4; i++) y.x[i] = q.x[i] * r * w.x[i];
    return y;
}

/* Of columns that no register holds: from the residual, which this thread has written. */
static __device__ __forceinline__ cu_quad normed_again(const norm_args &a, size_t at, unsigned c, unsigned n, float r)
{
    return normed(cu_quad_load(a.residual + at, c, n, a.aligned), r, cu_quad_load(a.weight, c, n, a.aligned));
}

/* gate: add_norm regs=112 shared=256 must=ld128,st128
 * VIEWS 0: any number, none included. */
template <int VIEWS>
static __global__ void __launch_bounds__(MAX_THREADS) add_norm(const __grid_constant__ norm_args a)
{
    CU_SHARED(float, scratch, 32);
    CU_SHARED(unsigned, tops, 32);
    const unsigned n = blockIdx.x < *a.live ? a.cols : 0, step = 4 * blockDim.x, mine = 4 * threadIdx.x;
    const size_t at = (size_t)blockIdx.x * a.cols;
    const bool changed = VIEWS != 0 || a.n_views != 0;
    cu_quad x[QUADS], w[QUADS];
    float ss = 0.0f;

    CU_UNROLL
    for (int q = 0; q < QUADS; q++) {
        x[q] = {};
        if (mine + q * step < n) x[q] = value<VIEWS>(a, at, mine + q * step);
    }
    CU_UNROLL
    for (int q = 0; q < QUADS; q++) {
        if (mine + q * step < n && changed) cu_quad_store(a.residual + at, mine + q * step, n, a.aligned, x[q]);
        ss = squares(x[q], ss);
    }
    for (unsigned c = mine + QUADS * step; c < n; c += step) {
        const cu_quad v = value<VIEWS>(a, at, c);
        if (changed) cu_quad_store(a.residual + at, c, n, a.aligned, v);
        ss = squares(v, ss);
    }
    if (!a.weight) return;                                   /* in every thread */

    CU_UNROLL
    for (int q = 0; q < QUADS; q++) {                        /* under way while the block adds up */
        w[q] = {};
        if (mine + q * step < n) w[q] = cu_quad_load(a.weight, mine + q * step, n, a.aligned);
    }
    ss = cu_block_sum(ss, scratch);
    const float r = 1.0f / sqrtf(ss / __uint2float_rn(a.cols) + a.eps);
    if (a.act.out) {                                         /* in every thread */
        const unsigned padded = (n + 31) / 32 * 32;
        const cu_quad zeros = {};
        unsigned top = 0;

        CU_UNROLL
        for (int q = 0; q < QUADS; q++) {
            x[q] = mine + q * step < n ? normed(x[q], r, w[q]) : zeros;
            top = cu_magnitude(x[q], top);
        }
        for (unsigned c = mine + QUADS * step; c < n; c += step) top = cu_magnitude(normed_again(a, at, c, n, r), top);
        top = cu_block_max(top, 0u, tops);
        const cu_act_row to = cu_act_begin(a.act.act, top, a.act, blockIdx.x, n && threadIdx.x == 0);
        CU_UNROLL
        for (int q = 0; q < QUADS; q++)
            if (mine + q * step < padded) cu_act_store(a.act.act, to, mine + q * step, x[q]);
        for (unsigned c = mine + QUADS * step; c < padded; c += step)
            cu_act_store(a.act.act, to, c, c < n ? normed_again(a, at, c, n, r) : zeros);
        return;
    }
    CU_UNROLL
    for (int q = 0; q < QUADS; q++)
        if (mine + q * step < n) cu_quad_store(a.out + at, mine + q * step, n, a.aligned, normed(x[q], r, w[q]));
    for (unsigned c = mine + QUADS * step; c < n; c += step)
        cu_quad_store(a.out + at, c, n, a.aligned, normed_again(a, at, c, n, r));
}

static cu_status launch(const norm_args &a, unsigned rows, cu_stream s)
{
    const unsigned most = MAX_THREADS, want = cu_ceil_div(cu_ceil_div(a.cols, 4u * QUADS), 32u) * 32u;
    const dim3 grid(rows), block(want < most ? want : most);

    switch (a.n_views) {
    case 1:  return CU_LAUNCH(add_norm<1>, grid, block, 0, s, a);
    case 2:  return CU_LAUNCH(add_norm<2>, grid, block, 0, s, a);
    case 4:  return CU_LAUNCH(add_norm<4>, grid, block, 0, s, a);
    case 8:  return CU_LAUNCH(add_norm<8>, grid, block, 0, s, a);
    default: return CU_LAUNCH(add_norm<0>, grid, block, 0, s, a);
    }
}

extern "C" px_code kern_cuda_add_norm(kern_dev *d, const kern_add_norm_args *a, px_err *e)
{
    const size_t row = (size_t)a->cols * sizeof(float), rows = a->rows.max;
    norm_args n = {};
    px_code rc;

    if (a->n_views > KERN_MAX_VIEWS) return px_fail(e, PX_EINTERNAL, "add_norm.n_views", "%u views", a->n_views);
    if (a->cols > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "add_norm.cols", "%u columns, at most %u", a->cols, CU_MAX_COLS);
    if ((rc = kern_cuda_rows(&a->rows, "add_norm.rows", e)) || (rc = kern_cuda_need(a->residual, rows, row, 4, "add_norm.residual", e)))
        return rc;
    n.aligned = cu_rows_aligned(a->residual.h, a->cols);
    for (uint32_t i = 0; i < a->n_views; i++) {
        if ((rc = kern_cuda_need(a->view[i], rows, row, 4, "add_norm.view", e))) return rc;
        n.view[i] = static_cast<const float *>(a->view[i].h);
        n.aligned = n.aligned && cu_rows_aligned(a->view[i].h, a->cols);
    }
    if (a->weight.h) {
        if ((rc = kern_cuda_need(a->weight, 1, row, 4, "add_norm.weight", e)) || (rc = kern_cuda_need(a->out, rows, row, 4, "add_norm.out", e)))
            return rc;
        n.aligned = n.aligned && cu_rows_aligned(a->weight.h, a->cols) && cu_rows_aligned(a->out.h, a->cols);
    }
    if (a->act.out.h && !a->weight.h) return px_fail(e, PX_EINTERNAL, "act", "of rows that are not normed");
    if ((rc = kern_cuda_act_to(&a->act, &a->rows, a->cols, &n.act, e))) return rc;
    if (!a->rows.max || !a->cols) return PX_OK;
    n.weight = static_cast<const float *>(a->weight.h);
    n.live = static_cast<const uint32_t *>(a->rows.live.h);
    n.residual = static_cast<float *>(a->residual.h);
    n.out = static_cast<float *>(a->out.h);
    n.eps = a->eps;
    n.n_views = a->n_views;
    n.cols = a->cols;
    n.first = a->first;
    return kern_cuda_done(d, "add_norm", launch(n, a->rows.max, d->stream), e);
}
