/* attention_tile.cuh - a leaf of 64 keys in shared memory, and the products with it, for decode and prefill alike: that both
 * write the same bits rests on there being one text for every product.  Layer: kernels/cuda, device code.
 *
 * A leaf lies as four groups of 16 keys: K of a group [head_dim][16], V of a group [16][head_dim], in 16-bit numbers.
 * Pieces of 16 bytes are permuted so that the eight rows that ldmatrix reads at once lie in different banks: of K's two
 * halves of a row the one is swapped for the other in every second four rows; of V piece c of key j stands at c ^ (j % 8).
 * int8 and fp8 come into a stage as they are, and are spread to fp16 in a tile of their own: quants of K exactly (the
 * scale goes to the score), of V times its scale, rounded once. */
#ifndef KERN_CUDA_ATTENTION_TILE_CUH
#define KERN_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/attention.cuh"

#define CU_LOG2_E 1.44269504088896341f

static constexpr unsigned CU_GROUPS = CU_LEAF / CU_KV_GROUP;

/* Bytes of shared memory. */
template <int KV, int HD> struct cu_leaf {
    static constexpr unsigned bytes = cu_kv_type<KV>::bytes;
    static constexpr bool spread = bytes == 1;                           /* goes through a tile */
    static constexpr unsigned k = CU_LEAF * HD * bytes, v = k;           /* a stage: K, V, then both scales */
    static constexpr unsigned scales = cu_kv_type<KV>::scaled ? CU_LEAF * 4 : 0, stage = k + v + 2 * scales;
    static constexpr unsigned tile_k = CU_LEAF * HD * 2, tile = spread ? 2 * tile_k : 0;
    static constexpr unsigned group = CU_KV_GROUP * HD * 2;              /* of K or V, spread */
};

/* Ask for group `j` of a leaf, of which keys [from, seen) are visible: V of others is zeros, since 0 times a NaN that
 * was left there would be one; their scores are masked.  By `lanes` threads. */
template <int KV, int HD>
static __device__ __forceinline__ void cu_leaf_load(unsigned char *stage, unsigned j, const cu_kv_group &g, unsigned from, unsigned seen,
                                                    unsigned lane, unsigned lanes)
{
    typedef cu_leaf<KV, HD> leaf;
    constexpr unsigned PIECES = HD * leaf::bytes, ROW = PIECES / 16;     /* of 16 bytes: of a group's K or V, of a key's V */
    unsigned char *k = stage + j * 16 * PIECES, *v = k + leaf::k;

    CU_UNROLL_N(8)
    for (unsigned c = lane; c < PIECES; c += lanes)
        cu_cp_async16(k + 16 * (leaf::spread ? c : c ^ ((c >> 3) & 1)), g.k + 16 * c, seen > 0);
    CU_UNROLL_N(8)
    for (unsigned c = lane; c < PIECES; c += lanes) {
        const unsigned key = c / ROW;
        cu_cp_async16(v + 16 * (leaf::spread ? c : c ^ (key & 7)), g.v + 16 * c, key >= from && key < seen);
    }
    if (cu_kv_type<KV>::scaled && lane < 8) {                                      /* four keys' scales a piece; the unseen are not looked at */
        unsigned char *s = stage + leaf::k + leaf::v + (lane / 4) * leaf::scales + j * 64 + lane % 4 * 16;
        cu_cp_async16(s, (lane < 4 ? g.k_scale : g.v_scale) + lane % 4 * 16, lane % 4 * 4 < seen);
    }
}

/* Four bytes as four fp16. */
template <int KV>
static __device__ __forceinline__ void cu_spread4(unsigned x, __half2 *lo, __half2 *hi)
{
    if (KV == CU_KV_INT8) {                                              /* 1024 + 128 + q, less 1152: exact */
        const unsigned u = x ^ 0x80808080u;
        *lo = __hsub2(cu_as_half2(cu_prmt(u, 0x64646464u, 0x4140)), cu_as_half2(0x64806480u));
        *hi = __hsub2(cu_as_half2(cu_prmt(u, 0x64646464u, 0x4342)), cu_as_half2(0x64806480u));
    } else {                                                             /* the bits of e4m3 are those of fp16 of x / 256 */
        const unsigned a = cu_prmt(x, 0, 0x1404), b = cu_prmt(x, 0, 0x3424);
        *lo = __hmul2(cu_as_half2((a & 0x80008000u) | ((a >> 1) & 0x3f803f80u)), cu_as_half2(0x5c005c00u));
        *hi = __hmul2(cu_as_half2((b & 0x80008000u) | ((b >> 1) & 0x3f803f80u)), cu_as_half2(0x5c005c00u));
    }
}

/* Four quants times a scale, rounded once. */
static __device__ __forceinline__ void cu_scale4(unsigned x, float scale, __half2 *lo, __half2 *hi)
{
    const unsigned u = x ^ 0x80808080u;                                  /* 2^23 + 128 + q, less 2^23 + 128: exact */
    float f[4];

    f[0] = (__uint_as_float(cu_prmt(u, 0x4b000000u, 0x7440)) - 8388736.0f) * scale;
    f[1] = (__uint_as_float(cu_prmt(u, 0x4b000000u, 0x7441)) - 8388736.0f) * scale;
    f[2] = (__uint_as_float(cu_prmt(u, 0x4b000000u, 0x7442)) - 8388736.0f) * scale;
    f[3] = (__uint_as_float(cu_prmt(u, 0x4b000000u, 0x7443)) - 8388736.0f) * scale;
    *lo = __floats2half2_rn(f[0], f[1]);
    *hi = __floats2half2_rn(f[2], f[3]);
}

static __device__ __forceinline__ void cu_store_halves(unsigned char *p, __half2 a, __half2 b, __half2 c, __half2 d)
{
    cu_store16(p, make_uint4(cu_bits(a), cu_bits(b), cu_bits(c), cu_bits(d)));
}

/* Group `j` of a stage of int8 or fp8 -> the tile.  By `lanes` threads. */
template <int KV, int HD>
static __device__ __forceinline__ void cu_leaf_spread(unsigned char *tile, const unsigned char *stage, unsigned j, unsigned from,
                                                      unsigned seen, unsigned lane, unsigned lanes)
{
    typedef cu_leaf<KV, HD> leaf;
    const unsigned char *k = stage + j * 16 * HD, *v = k + leaf::k;
    const float *scale = reinterpret_cast<const float *>(stage + leaf::k + leaf::v + leaf::scales) + 16 * j;
    unsigned char *to_k = tile + j * leaf::group, *to_v = to_k + leaf::tile_k;

    CU_UNROLL_N(2)
    for (unsigned d = lane; d < HD; d += lanes) {
        const uint4 x = cu_load16(k + 16 * d);
        const unsigned swap = (d >> 2) & 1;
        __half2 h[8];
        cu_spread4<KV>(x.x, h + 0, h + 1);
        cu_spread4<KV>(x.y, h + 2, h + 3);
        cu_spread4<KV>(x.z, h + 4, h + 5);
        cu_spread4<KV>(x.w, h + 6, h + 7);
        cu_store_halves(to_k + 16 * (2 * d + swap), h[0], h[1], h[2], h[3]);
        cu_store_halves(to_k + 16 * (2 * d + 1 - swap), h[4], h[5], h[6], h[7]);
    }
    CU_UNROLL_N(2)
    for (unsigned c = lane; c < HD; c += lanes) {                        /* 16 elements of key c / (HD / 16) */
        const unsigned key = c / (HD / 16), piece = 2 * (c % (HD / 16));
        const uint4 x = cu_load16(v + 16 * c);
        __half2 h[8];
        if (KV == CU_KV_INT8) {                                          /* a scale from which fp16 would overflow is cut */
            const float s = key >= from && key < seen ? fminf(scale[key], 65504.0f / 127.0f) : 0.0f;
            cu_scale4(x.x, s, h + 0, h + 1);
            cu_scale4(x.y, s, h + 2, h + 3);
            cu_scale4(x.z, s, h + 4, h + 5);
            cu_scale4(x.w, s, h + 6, h + 7);
        } else {
            cu_spread4<KV>(x.x, h + 0, h + 1);
            cu_spread4<KV>(x.y, h + 2, h + 3);
            cu_spread4<KV>(x.z, h + 4, h + 5);
            cu_spread4<KV>(x.w, h + 6, h + 7);
        }
        unsigned char *row = to_v + key * HD * 2;
        cu_store_halves(row + 16 * (piece ^ (key & 7)), h[0], h[1], h[2], h[3]);
        cu_store_halves(row + 16 * ((piece + 1) ^ (key & 7)), h[4], h[5], h[6], h[7]);
    }
}

/* Two numbers as the type in which the tensor cores multiply. */
template <int KV>
static __device__ __forceinline__ unsigned cu_pack(float lo, float hi)
{
    return KV == CU_KV_BF16 ? cu_bits(__floats2bfloat162_rn(lo, hi)) : cu_bits(__floats2half2_rn(lo, hi));
}

template <int KV>
static __device__ __forceinline__ void cu_mma_kv(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    if (KV == CU_KV_BF16) cu_mma_bf16(d, a, b);
    else cu_mma_f16(d, a, b);
}

/* Sixteen queries as fragments, of which a lane holds parts of two: g = lane / 4 and g + 8.  fp16 has less range than fp32: a
 * query of which an element is over 32768 is taken down by a power of two, which `mult` (a score's factor) takes back. */
template <int HD> struct cu_queries { unsigned a[HD / 16][4]; float mult[2]; };

/* q: the lane's two queries, NULL: zeros. */
template <int KV, int HD>
static __device__ __forceinline__ void cu_load_queries(cu_queries<HD> *out, const float *q0, const float *q1)
{
    const unsigned t = threadIdx.x % 4;
    const float *q[2] = { q0, q1 };

    CU_UNROLL
    for (int r = 0; r < 2; r++) {
        float2 x[HD / 8];
        float most = 0.0f, down = 1.0f;
        CU_UNROLL
        for (int i = 0; i < HD / 8; i++) {
            x[i] = q[r] ? *reinterpret_cast<const float2 *>(q[r] + 8 * i + 2 * t) : make_float2(0.0f, 0.0f);
            most = fmaxf(most, fmaxf(fabsf(x[i].x), fabsf(x[i].y)));
        }
        out->mult[r] = CU_LOG2_E;
        if (KV != CU_KV_BF16) {
            most = cu_warp_max<4>(most);
            const int power = static_cast<int>(__float_as_uint(most) >> 23) - 127 - 14;
            if (most > 32768.0f && power < 114) {
                down = __uint_as_float(static_cast<unsigned>(127 - power) << 23);
                out->mult[r] = CU_LOG2_E * __uint_as_float(static_cast<unsigned>(127 + power) << 23);
            }
        }
        CU_UNROLL
        for (int i = 0; i < HD / 8; i++) out->a[i / 2][r + 2 * (i % 2)] = cu_pack<KV>(x[i].x * down, x[i].y * down);
    }
}

/* Scores of 16 queries with the 16 keys of a group, as they come from the tensor cores: s[i] keys 8 i + 2 (lane % 4), + 1. */
template <int KV, int HD>
static __device__ __forceinline__ void cu_scores(float (&s)[2][4], const cu_queries<HD> &q, const unsigned char *k)
{
    const unsigned lane = threadIdx.x % 32, m = lane / 8, d = m % 2 * 8 + lane % 8;
    const unsigned char *row = k + 16 * (2 * d + ((m / 2) ^ ((d >> 2) & 1)));

    CU_UNROLL
    for (int i = 0; i < 2; i++)
        CU_UNROLL
        for (int e = 0; e < 4; e++) s[i][e] = 0.0f;
    CU_UNROLL
    for (int i = 0; i < HD / 16; i++) {
        unsigned b[4];
        cu_ldmatrix_x4_trans(b, row + 512 * i);
        const unsigned b0[2] = { b[0], b[1] }, b1[2] = { b[2], b[3] };
        cu_mma_kv<KV>(s[0], q.a[i], b0);
        cu_mma_kv<KV>(s[1], q.a[i], b1);
    }
}

/* Scores -> in powers of two, masked.  The lane's two queries see keys [from, keys) of the group, both of which may lie beyond
 * its ends; k_scale: the group's, or NULL.  `masked` false: they see all. */
template <int KV>
static __device__ __forceinline__ void cu_scale_scores(float (&s)[2][4], const float (&mult)[2], const float *k_scale,
                                                       const int (&from)[2], const int (&keys)[2], bool masked)
{
    const int t = static_cast<int>(threadIdx.x % 4);

    CU_UNROLL
    for (int i = 0; i < 2; i++)
        CU_UNROLL
        for (int e = 0; e < 4; e++) {
            const int key = 8 * i + 2 * t + e % 2;
            float x = s[i][e] * mult[e / 2];
            if (cu_kv_type<KV>::scaled) x *= k_scale[key];
            s[i][e] = !masked || (key >= from[e / 2] && key < keys[e / 2]) ? x : -INFINITY;
        }
}

/* What 16 queries have so far, of N * 8 elements of head_dim; l as the tensor cores sum it: of the rounded p. */
template <unsigned N> struct cu_sums { float o[N][4], l[4], m[2]; };

template <unsigned N>
static __device__ __forceinline__ void cu_sums_clear(cu_sums<N> *s)
{
    CU_UNROLL
    for (int e = 0; e < 4; e++) {
        s->l[e] = 0.0f;
        CU_UNROLL
        for (unsigned i = 0; i < N; i++) s->o[i][e] = 0.0f;
    }
    s->m[0] = s->m[1] = -INFINITY;
}

/* The largest score is now also that of a leaf; gives what p is relative to. */
template <unsigned N>
static __device__ __forceinline__ void cu_sums_raise(cu_sums<N> *s, const float (&leaf_m)[2], float (&base)[2])
{
    CU_UNROLL
    for (int r = 0; r < 2; r++) {
        const float m = fmaxf(s->m[r], leaf_m[r]);
        base[r] = m == -INFINITY ? 0.0f : m;
        const float old = cu_exp2(s->m[r] - base[r]);
        s->m[r] = m;
        CU_UNROLL
        for (int e = 2 * r; e < 2 * r + 2; e++) {
            s->l[e] *= old;
            CU_UNROLL
            for (unsigned i = 0; i < N; i++) s->o[i][e] *= old;
        }
    }
}

/* o += p V, l += p 1, for 16 keys; v: the group's rows; columns [8 first, 8 (first + N)) of head_dim. */
template <int KV, int HD, unsigned N>
static __device__ __forceinline__ void cu_sums_add(cu_sums<N> *s, const unsigned (&p)[4], const unsigned char *v, unsigned first)
{
    const unsigned lane = threadIdx.x % 32, m = lane / 8, j = lane % 8;
    const unsigned char *row = v + (m % 2 * 8 + j) * HD * 2;
    const unsigned ones = KV == CU_KV_BF16 ? 0x3f803f80u : 0x3c003c00u;
    const unsigned one[2] = { ones, ones };

    CU_UNROLL
    for (unsigned i = 0; i < N; i += 2) {
        unsigned b[4];
        cu_ldmatrix_x4_trans(b, row + 16 * ((first + i + m / 2) ^ j));
        const unsigned b0[2] = { b[0], b[1] }, b1[2] = { b[2], b[3] };
        cu_mma_kv<KV>(s->o[i], p, b0);
        cu_mma_kv<KV>(s->o[i + 1], p, b1);
    }
    cu_mma_kv<KV>(s->l, p, one);
}

/* A part is over: it is merged into what is there (attention.h). */
template <unsigned N>
static __device__ __forceinline__ void cu_sums_merge(cu_sums<N> *all, const cu_sums<N> &part)
{
    CU_UNROLL
    for (int r = 0; r < 2; r++) {
        const cu_merge f = cu_merge_with(all->m[r], part.m[r]);
        all->m[r] = f.m;
        CU_UNROLL
        for (int e = 2 * r; e < 2 * r + 2; e++) {
            all->l[e] = fmaf(part.l[e], f.part, all->l[e] * f.old);
            CU_UNROLL
            for (unsigned i = 0; i < N; i++) all->o[i][e] = fmaf(part.o[i][e], f.part, all->o[i][e] * f.old);
        }
    }
}

/* F<type, head_dim>::launch of what the cache holds. */
template <template <int, int> class F>
static cu_status cu_for_type(const cu_attention *a, cu_stream s)
{
    const bool wide = a->kv.head_dim == 128;

    switch (a->kv.dtype) {
    case CU_KV_BF16: return wide ? F<CU_KV_BF16, 128>::launch(a, s) : F<CU_KV_BF16, 64>::launch(a, s);
    case CU_KV_INT8: return wide ? F<CU_KV_INT8, 128>::launch(a, s) : F<CU_KV_INT8, 64>::launch(a, s);
    case CU_KV_FP8:  return wide ? F<CU_KV_FP8, 128>::launch(a, s) : F<CU_KV_FP8, 64>::launch(a, s);
    default:         return wide ? F<CU_KV_F16, 128>::launch(a, s) : F<CU_KV_F16, 64>::launch(a, s);
    }
}

static __device__ __forceinline__ float2 cu_quotient(float x, float y, float l)
{
    return make_float2(x / l + 0.0f, y / l + 0.0f);                      /* + 0: a sum of nothing but -0 is +0 */
}

#endif
