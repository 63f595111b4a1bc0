/* rope_append.cu - biases, norms of single heads, rotate q and k, scale q, store k and v in the cache: the definition of
 * kernels/cpu/rope.c, to the bit.
 * A warp takes one head of one row, a lane the pairs (i, i + head_dim/2) with i = lane, lane + 32, ...  What is stored:
 * a NaN is 0; it and an infinity set NONFINITE.  f16, bf16 and fp8: what would round to more than the largest finite
 * number (fp8: what is beyond 448) becomes that number and sets KV_SATURATED.  int8: an infinity counts as the largest
 * finite number; scale = max |x| / 127, q = nearest even of x * (127 / max |x|); max |x| < 2^-100: zeros, scale 0. */
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/warp.h"

enum { WARPS = 4, MAX_PAIRS = CU_MAX_HEAD_DIM / 64, NONFINITE = 1, SATURATED = 2 };   /* bits: kernels.h, KERN_FLAG_* */

struct pairs { float a[MAX_PAIRS], b[MAX_PAIRS]; };      /* elements i and i + head_dim/2 of a vector */

static __device__ __forceinline__ pairs load_pairs(const float *x, unsigned half, unsigned lane, bool valid)
{
    pairs p;

    CU_UNROLL
    for (int j = 0; j < MAX_PAIRS; j++) {
        const unsigned i = lane + 32 * j;
        p.a[j] = valid && i < half ? x[i] : 0.0f;
        p.b[j] = valid && i < half ? x[i + half] : 0.0f;
    }
    return p;
}

/* A vector at x, with its bias if there is one, and if `norm` its RMS norm: x^2 is summed as kernels/cpu/norm.h does, by lanes
 * l and l + 16 alike. */
static __device__ __forceinline__ pairs prepare(const float *x, const float *bias, const float *norm, float eps, unsigned h,
                                                unsigned lane, bool valid)
{
    const unsigned half = h / 2;
    pairs p = load_pairs(x, half, lane, valid);

    if (bias) {                                                          /* the same for all lanes of a warp, as is norm */
        const pairs b = load_pairs(bias, half, lane, valid);
        CU_UNROLL
        for (int j = 0; j < MAX_PAIRS; j++) {
            p.a[j] += b.a[j];
            p.b[j] += b.b[j];
        }
    }
    if (norm) {
        const pairs w = load_pairs(norm, half, lane, valid);
        float ss = 0.0f;
        for (unsigned i = lane % 16; valid && i < h; i += 16) {
            const float y = bias ? x[i] + bias[i] : x[i];
            ss = fmaf(y, y, ss);
        }
        __syncwarp();                                                    /* all have read: q is written in place */
        CU_UNROLL
        for (int step = 8; step; step /= 2) ss += cu_shfl_xor(ss, step);
        const float r = 1.0f / sqrtf(ss / static_cast<float>(h) + eps);
        CU_UNROLL
        for (int j = 0; j < MAX_PAIRS; j++) {
            p.a[j] = p.a[j] * r * w.a[j];
            p.b[j] = p.b[j] * r * w.b[j];
        }
    }
    return p;
}

/* a' = fmaf(a, c, -(b * s)), b' = fmaf(b, c, a * s) */
static __device__ __forceinline__ pairs rotate(pairs x, pairs cs)
{
    pairs y;

    CU_UNROLL
    for (int j = 0; j < MAX_PAIRS; j++) {
        y.a[j] = fmaf(x.a[j], cs.a[j], -(x.b[j] * cs.b[j]));
        y.b[j] = fmaf(x.b[j], cs.a[j], x.a[j] * cs.b[j]);
    }
    return y;
}

/* x as it may be stored. */
template <int KV>
static __device__ __forceinline__ float clean(float x, unsigned *flags)
{
    const float most = KV == CU_KV_F16 ? 65504.0f : KV == CU_KV_FP8 ? 448.0f : __uint_as_float(KV == CU_KV_BF16 ? 0x7f7f0000u : 0x7f7fffffu);
    const float over = KV == CU_KV_F16 ? 65520.0f : KV == CU_KV_FP8 ? __uint_as_float(0x43e00001u) : KV == CU_KV_BF16 ? __uint_as_float(0x7f7f8000u) : __uint_as_float(0x7f800000u);

    if ((__float_as_uint(x) & 0x7f800000u) == 0x7f800000u) *flags |= NONFINITE;
    if (x != x) return 0.0f;
    if (KV == CU_KV_F32 || !(fabsf(x) >= over)) return x;
    if (KV != CU_KV_INT8) *flags |= SATURATED;
    return copysignf(most, x);
}

template <int KV>
static __device__ __forceinline__ void store(unsigned char *p, unsigned i, float x)
{
    if (KV == CU_KV_F32) reinterpret_cast<float *>(p)[i] = x;
    else if (KV == CU_KV_F16) reinterpret_cast<__half *>(p)[i] = __float2half_rn(x);
    else if (KV == CU_KV_BF16) reinterpret_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16_rn(x);
    else if (KV == CU_KV_INT8) reinterpret_cast<signed char *>(p)[i] = static_cast<signed char>(__float2int_rn(x));
    else p[i] = static_cast<unsigned char>(cu_float2_to_e4m3x2(make_float2(x, 0.0f)) & 0xffu);
}

/* Element i of the vector goes to p[i * step]; the scale, if there is one, to *scale. */
template <int KV>
static __device__ __forceinline__ void store_vector(unsigned char *p, unsigned step, unsigned char *scale, pairs x, unsigned half,
                                                    unsigned lane, bool valid, unsigned *flags)
{
    float inv = 1.0f;

    CU_UNROLL
    for (int j = 0; j < MAX_PAIRS; j++) {
        x.a[j] = clean<KV>(x.a[j], flags);
        x.b[j] = clean<KV>(x.b[j], flags);
    }
    if (KV == CU_KV_INT8) {
        float m = 0.0f;
        CU_UNROLL
        for (int j = 0; j < MAX_PAIRS; j++) m = fmaxf(m, fmaxf(fabsf(x.a[j]), fabsf(x.b[j])));
        m = cu_warp_max(m);
        const bool zero = m < __uint_as_float(0x0d800000u);              /* 2^-100 */
        inv = zero ? 0.0f : 127.0f / m;
        if (valid && lane == 0) *reinterpret_cast<float *>(scale) = zero ? 0.0f : m / 127.0f;
    }
    CU_UNROLL
    for (int j = 0; j < MAX_PAIRS; j++) {
        const unsigned i = lane + 32 * j;
        if (valid && i < half) {
            store<KV>(p, i * step, x.a[j] * inv);
            store<KV>(p, (i + half) * step, x.b[j] * inv);
        }
    }
}

/* gate: rope_append regs=56 */
template <int KV>
static __global__ void __launch_bounds__(32 * WARPS) rope_append(cu_rope a)
{
    const cu_kv &kv = a.kv;
    const unsigned row = blockIdx.x, head = blockIdx.y * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned h = kv.head_dim, half = h / 2, live = *a.live, pos = a.pos[row], slot = a.row_slot[row];
    const bool is_q = head < a.n_head, here = row < live && pos < a.n_pos;
    const bool is_kv = !is_q && head < a.n_head + kv.n_kv_head;
    const unsigned kv_head = is_kv ? head - a.n_head : 0;
    const size_t at = is_q ? (static_cast<size_t>(row) * a.n_head + head) * h
                           : (static_cast<size_t>(row) * kv.n_kv_head + kv_head) * h;
    pairs cs;

    CU_UNROLL
    for (int j = 0; j < MAX_PAIRS; j++) {
        const unsigned i = lane + 32 * j;
        const bool in = here && i < half;
        cs.a[j] = in ? a.cos[static_cast<size_t>(pos) * half + i] : 0.0f;
        cs.b[j] = in ? a.sin[static_cast<size_t>(pos) * half + i] : 0.0f;
    }
    if (is_q) {                                                          /* the same for all lanes of a warp */
        const float *const bias = a.q_bias ? a.q_bias + static_cast<size_t>(head) * h : nullptr;
        const pairs y = rotate(prepare(a.q + at, bias, a.q_norm, a.eps, h, lane, here), cs);
        const float scale = 1.0f / sqrtf(static_cast<float>(h));
        CU_UNROLL
        for (int j = 0; j < MAX_PAIRS; j++) {
            const unsigned i = lane + 32 * j;
            if (here && i < half) {
                a.q[at + i] = y.a[j] * scale;
                a.q[at + i + half] = y.b[j] * scale;
            }
        }
    } else if (is_kv) {
        const bool placed = here && slot < kv.n_slots && (pos >> kv.block_shift) < kv.table_stride;
        const unsigned block = placed ? cu_kv_block(kv, slot, pos) : 0, off = pos % CU_KV_GROUP;
        const cu_kv_group g = cu_kv_group_at<KV>(kv, block, kv_head, pos);
        const size_t of_head = static_cast<size_t>(kv_head) * h;
        const float *const k_bias = a.k_bias ? a.k_bias + of_head : nullptr, *const v_bias = a.v_bias ? a.v_bias + of_head : nullptr;
        unsigned flags = 0;

        store_vector<KV>(g.k + off * cu_kv_type<KV>::bytes, CU_KV_GROUP, g.k_scale + 4 * off,
                         rotate(prepare(a.k + at, k_bias, a.k_norm, a.eps, h, lane, here), cs), half, lane, placed, &flags);
        store_vector<KV>(g.v + static_cast<size_t>(off) * h * cu_kv_type<KV>::bytes, 1, g.v_scale + 4 * off,
                         prepare(a.v + at, v_bias, nullptr, 0.0f, h, lane, here), half, lane, placed, &flags);
        flags = __reduce_or_sync(CU_FULL_MASK, flags);
        if (lane == 0 && flags) atomicOr(a.flags + row, flags);
    }
}

CU_API cu_status cu_rope_append(const cu_rope *a, cu_stream s)
{
    const dim3 grid(a->rows, cu_ceil_div<unsigned>(a->n_head + a->kv.n_kv_head, WARPS)), block(32 * WARPS);

    if (a->rows == 0) return 0;
    switch (a->kv.dtype) {
    case CU_KV_F32:  return CU_LAUNCH(rope_append<CU_KV_F32>, grid, block, 0, s, *a);
    case CU_KV_BF16: return CU_LAUNCH(rope_append<CU_KV_BF16>, grid, block, 0, s, *a);
    case CU_KV_INT8: return CU_LAUNCH(rope_append<CU_KV_INT8>, grid, block, 0, s, *a);
    case CU_KV_FP8:  return CU_LAUNCH(rope_append<CU_KV_FP8>, grid, block, 0, s, *a);
    default:         return CU_LAUNCH(rope_append<CU_KV_F16>, grid, block, 0, s, *a);
    }
}
