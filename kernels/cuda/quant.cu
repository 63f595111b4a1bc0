/* quant.cu - fp32 rows into what matmul reads: bf16; fp16 behind a scale of the row; fp32.
 *
 * Q12 and F16: scale = 1 if max |x| <= 32768, else the smallest power of two that brings it there; fp16 of x / scale, to nearest
 * even.  The division is exact but for what underflows fp16 anyway.  BF16: nearest even.  A row with a value that is not finite
 * (for BF16 after rounding, too) is zeros, with scale 1, and flagged.  Values that pad a row to 32 columns are zeros; within a
 * block of 32 they stand in the order that a matmul's lanes want (panel.cuh), F32 in their own.  The same is done at the end of
 * add_norm and of swiglu, where they are asked for it (act.cuh). */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/warp.h"

enum { THREADS = 256 };

/* x[column], 0 beyond the row. */
static __device__ __forceinline__ float at(const float *x, unsigned column, unsigned cols) { return column < cols ? x[column] : 0.0f; }

/* The eight values of lane t of a block of 32 in activation order, as four pairs. */
template <bool PAIRS>
static __device__ __forceinline__ void gather(const float *x, unsigned block, unsigned t, unsigned cols, bool aligned, float2 (&v)[4])
{
    const unsigned c = 32 * block;

    if (!PAIRS && aligned && c + 32 <= cols) {           /* 4t..4t+3 and 16 further on */
        CU_UNROLL
        for (unsigned i = 0; i < 2; i++) {
            const uint4 q = cu_load16(x + c + 16 * i + 4 * t);
            v[2 * i] = make_float2(__uint_as_float(q.x), __uint_as_float(q.z));
            v[2 * i + 1] = make_float2(__uint_as_float(q.y), __uint_as_float(q.w));
        }
        return;
    }
    CU_UNROLL
    for (unsigned i = 0; i < 4; i++)
        v[i] = make_float2(at(x, c + cu_act_column<PAIRS>(t, 2 * i), cols), at(x, c + cu_act_column<PAIRS>(t, 2 * i + 1), cols));
}

/* gate: quant regs=40 shared=128 some=st128,ld128
 * One block a row: its largest magnitude, by bits, in which infinities and NaN come last; then the values. */
template <kern_act ACT>
static __global__ void __launch_bounds__(THREADS) quant(const float *in, unsigned cols, const uint32_t *live, const cu_act_to a)
{
    CU_SHARED(unsigned, scratch, 32);
    const unsigned row = blockIdx.x, blocks = (cols + 31) / 32;
    const bool valid = row < *live;
    const float *x = in + (size_t)row * cols;
    const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
    unsigned top = 0;

    for (unsigned c = threadIdx.x; valid && c < cols; c += THREADS) top = cu_larger(top, cu_magnitude(x[c]));
    top = cu_block_max(top, 0u, scratch);

    const cu_act_row r = cu_act_begin(ACT, top, a, row, valid && threadIdx.x == 0);
    if constexpr (ACT == KERN_ACT_F32) {
        for (unsigned c = threadIdx.x; valid && c < 32 * blocks; c += THREADS)
            reinterpret_cast<float *>(r.to)[c] = r.bad ? 0.0f : at(x, c, cols);
    } else {
        for (unsigned i = threadIdx.x; valid && i < 4 * blocks; i += THREADS) {
            float2 v[4];
            unsigned w[4];

            gather<ACT != KERN_ACT_Q12>(x, i / 4, i % 4, cols, aligned, v);
            CU_UNROLL
            for (unsigned j = 0; j < 4; j++) w[j] = cu_act_pair(ACT, r, v[j].x, v[j].y);
            cu_store16(r.to + 16 * (size_t)i, make_uint4(w[0], w[1], w[2], w[3]));
        }
    }
}

template <kern_act ACT>
static cu_status launch(const kern_quant_args *a, const cu_act_to *to, cu_stream s)
{
    return CU_LAUNCH(quant<ACT>, dim3(a->rows.max), dim3(THREADS), 0, s, static_cast<const float *>(a->in.h), a->cols,
                     static_cast<const uint32_t *>(a->rows.live.h), *to);
}

extern "C" px_code kern_cuda_quant(kern_dev *d, const kern_quant_args *a, px_err *e)
{
    cu_status (*const fn[KERN_N_ACTS])(const kern_quant_args *, const cu_act_to *, cu_stream) = {
        launch<KERN_ACT_F32>, launch<KERN_ACT_BF16>, launch<KERN_ACT_Q12>, launch<KERN_ACT_F16>,
    };
    const kern_act_rows rows = { a->act, a->out, a->flags };
    cu_act_to to;
    px_code rc;

    if (a->cols > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "quant.cols", "%u columns, at most %u", a->cols, CU_MAX_COLS);
    if ((rc = kern_cuda_rows(&a->rows, "quant.rows", e))) return rc;
    if ((rc = kern_cuda_need(a->in, a->rows.max, (size_t)a->cols * 4, 4, "quant.in", e))
        || (rc = kern_cuda_act_to(&rows, &a->rows, a->cols, &to, e)))
        return rc;
    if (!a->rows.max || !a->cols) return PX_OK;
    if (!to.out) return px_fail(e, PX_EINTERNAL, "act.out", "no buffer");
    return kern_cuda_done(d, "quant", fn[a->act](a, &to, d->stream), e);
}
