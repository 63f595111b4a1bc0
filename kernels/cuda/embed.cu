/* embed.cu - rows of the table as fp32.  d * q is exact, with a minimum there is one rounded addition: the bits of the CPU.  Ids of
 * other ranks give rows of +0.
 *
 * A thread makes four neighbouring columns of one row.  In a panel they are one word (bytes; nibbles and two bits, whose others are
 * sixteen columns further on each), two (16-bit types, FP8) or four (F32), 64 bytes apart: of every sector that is read, an eighth is used.  A step
 * reads a row a token, so that costs less than a table in a layout of its own. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/panel.cuh"
#include "kernels/cuda/rows.cuh"

enum { THREADS = 256, PER_BLOCK = 4 * THREADS };

struct embed_args {
    const uint8_t *panels; size_t stride;                    /* bytes a panel */
    const uint32_t *ids, *live;
    float *out;
    uint32_t begin, end, rows, cols;
    bool aligned;
};

static __device__ __forceinline__ unsigned word(const uint8_t *p) { return *reinterpret_cast<const unsigned *>(p); }

static __device__ __forceinline__ float half_at(const uint8_t *p)
{
    return __half2float(__ushort_as_half(*reinterpret_cast<const unsigned short *>(p)));
}

/* Columns c .. c + 3 (c a multiple of 4) of row r of a panel; blocks: of 32 columns in a row. */
template <kern_dtype D>
static __device__ __forceinline__ cu_quad quad_at(const uint8_t *panel, unsigned r, unsigned blocks, unsigned c)
{
    typedef cu_panel<D> P;
    const unsigned block = c / 32, j = c % 32 / 4;
    cu_quad q;

    if constexpr (D == KERN_F32) {
        CU_UNROLL
        for (unsigned i = 0; i < 4; i++) q.x[i] = __uint_as_float(word(panel + 64 * (size_t)(c + i) + 4 * r));
    } else if constexpr (P::PAIRS) {
        CU_UNROLL
        for (unsigned i = 0; i < 2; i++) {
            const unsigned v = word(panel + 64 * (size_t)(c / 2 + i) + 4 * r);
            const float2 f = D == KERN_F16 ? __half22float2(cu_as_half2(v)) : make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
            q.x[2 * i] = f.x;
            q.x[2 * i + 1] = f.y;
        }
    } else if constexpr (P::FP8) {                       /* kern_fp8_column: two columns in each of two words, in every second byte */
        const unsigned k = c % 16, at = c / 16 * 256 + k % 8 / 2 * 64 + 4 * r, high = k < 8 ? 8 : 0;
        const float d = __uint_as_float(word(panel + blocks * 512 + 4 * r));
        CU_UNROLL
        for (unsigned i = 0; i < 2; i++) {
            const float2 f = __half22float2(cu_as_half2(cu_fp8_to_half2(word(panel + at + 64 * i) << high)));
            q.x[2 * i] = d * (f.x * 256.0f);
            q.x[2 * i + 1] = d * (f.y * 256.0f);
        }
    } else if constexpr (P::TWO_BITS) {
        const uint8_t *const pair = panel + P::meta(blocks, block) + 64 * (j / 4) + 4 * r;
        const unsigned v = word(panel + P::quants(block) + 64 * (j % 4) + 4 * r) >> (c % 64 / 16 * 2);
        const float d = half_at(pair), m = half_at(pair + 2);
        CU_UNROLL
        for (int i = 0; i < 4; i++) q.x[i] = d * __int2float_rn(static_cast<int>(v >> (8 * i) & 3)) + m;
    } else {
        const uint8_t *const meta = panel + P::meta(blocks, block) + 2 * r + (P::HALVES && j >= 4 ? 32 : 0);
        const unsigned v = word(panel + P::quants(block) + 64 * (P::BYTES ? j : j % 4) + 4 * r) >> (!P::BYTES && j >= 4 ? 4 : 0);
        const float d = half_at(meta), m = P::MINIMA ? half_at(meta + 32) : 0.0f;
        CU_UNROLL
        for (int i = 0; i < 4; i++) {
            const int b = static_cast<int>(v >> (8 * i) & 0xff);
            if (P::UNSIGNED) q.x[i] = d * __int2float_rn(b) + m;
            else if (P::BYTES) q.x[i] = d * __int2float_rn(static_cast<signed char>(b));
            else if (P::LEVELS) q.x[i] = d * __int2float_rn(static_cast<int>(cu_levels(v >> (8 * i)) & 0xff) - CU_LEVEL_BIAS);
            else if (P::MINIMA) q.x[i] = d * __int2float_rn(b & 15) + m;
            else q.x[i] = d * __int2float_rn((b & 15) - 8);
        }
    }
    return q;
}

/* gate: embed regs=40 must=st128 */
template <kern_dtype D>
static __global__ void __launch_bounds__(THREADS) embed(const embed_args a)
{
    const unsigned t = blockIdx.x, blocks = (a.cols + 31) / 32;
    const bool valid = t < *a.live;
    const unsigned id = valid ? a.ids[t] : 0, row = id - a.begin;
    const bool ours = id >= a.begin && id < a.end && row < a.rows;
    const uint8_t *const panel = a.panels + (ours ? row / KERN_PANEL_ROWS : 0) * a.stride;

    for (unsigned c = blockIdx.y * PER_BLOCK + 4 * threadIdx.x; valid && c < a.cols; c += gridDim.y * PER_BLOCK) {
        cu_quad q = {};
        if (ours) q = quad_at<D>(panel, row % KERN_PANEL_ROWS, blocks, c);
        cu_quad_store(a.out + (size_t)t * a.cols, c, a.cols, a.aligned, q);
    }
}

template <kern_dtype D>
static cu_status launch(const embed_args &a, unsigned rows, cu_stream s)
{
    return CU_LAUNCH(embed<D>, dim3(rows, cu_row_parts(a.cols, PER_BLOCK)), dim3(THREADS), 0, s, a);
}

typedef cu_status launch_fn(const embed_args &a, unsigned rows, cu_stream s);
static const struct { kern_dtype dtype; launch_fn *fn; } variant[] = {
    { KERN_F32, launch<KERN_F32> },   { KERN_F16, launch<KERN_F16> },   { KERN_BF16, launch<KERN_BF16> }, { KERN_Q8_0, launch<KERN_Q8_0> },
    { KERN_FP8, launch<KERN_FP8> },
    { KERN_Q8_M, launch<KERN_Q8_M> }, { KERN_Q8_H, launch<KERN_Q8_H> }, { KERN_Q2_HM, launch<KERN_Q2_HM> },
    { KERN_Q4_HL, launch<KERN_Q4_HL> }, { KERN_Q4_0, launch<KERN_Q4_0> }, { KERN_Q4_1, launch<KERN_Q4_1> },
    { KERN_W8, launch<KERN_W8> },     { KERN_W4, launch<KERN_W4> },
};

static launch_fn *find(kern_dtype t)
{
    for (size_t i = 0; i < sizeof variant / sizeof *variant; i++)
        if (variant[i].dtype == t) return variant[i].fn;
    return nullptr;
}

extern "C" px_code kern_cuda_embed(kern_dev *d, const kern_embed_args *a, px_err *e)
{
    const kern_weight *w = &a->table;
    launch_fn *const fn = find(w->dtype);
    uint64_t bytes;
    px_code rc;

    if (!fn) {
        const kern_dtype_info *f = kern_dtype_get(w->dtype);
        char want[128];
        return px_refuse(e, PX_EUNSUP, "embed.table", f ? f->name : "?", kern_dtype_weights(want, sizeof want),
                         "the CUDA backend reads no table of this type");
    }
    if ((rc = kern_panel_bytes(w->dtype, w->rows, w->cols, &bytes, e))) return rc;
    if (w->cols > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "embed.cols", "%u columns, at most %u", w->cols, CU_MAX_COLS);
    if ((rc = kern_cuda_rows(&a->rows, "embed.rows", e)) || (rc = kern_cuda_need(w->panels, bytes, 1, 4, "embed.table", e))
        || (rc = kern_cuda_need(a->ids, a->rows.max, 4, 4, "embed.ids", e))
        || (rc = kern_cuda_need(a->out, a->rows.max, (size_t)w->cols * 4, 4, "embed.out", e)))
        return rc;
    if (!a->rows.max || !w->cols) return PX_OK;
    embed_args k = {};
    k.panels = static_cast<const uint8_t *>(w->panels.h);
    k.stride = kern_panel_stride(w->dtype, w->cols);
    k.ids = static_cast<const uint32_t *>(a->ids.h);
    k.live = static_cast<const uint32_t *>(a->rows.live.h);
    k.out = static_cast<float *>(a->out.h);
    k.begin = a->vocab_begin;
    k.end = a->vocab_end;
    k.rows = w->rows;
    k.cols = w->cols;
    k.aligned = cu_rows_aligned(a->out.h, w->cols);
    return kern_cuda_done(d, "embed", fn(k, a->rows.max, d->stream), e);
}
