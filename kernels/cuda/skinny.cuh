/* skinny.cuh - weights in panels times up to some hundred rows, on mma, from decode's one row upward: the kernel and its launcher,
 * one instance a weight type and tile of rows (skinny_*.cu).
 *
 * A block is 8 warps, wm along the panels and wk along K; a warp has two panels (32 output rows) and `tile` activation
 * rows.  K goes in chunks of 4 16-byte vectors a lane (Q2_HM: 2), dealt to the wk warps in turn; four (or three, where there is not the
 * memory two) rounds of chunks are under way at a time, copied by cp.async into a ring in shared memory, so no registers wait for memory.  Each lane reads back
 * the quants that it copied; activations and scales are shared.  No quant is widened before it is in registers, and widening
 * is exact: fp16 holds every quant.  Per group of columns with one scale (Q8_H, Q2_HM, Q4_HL: 16, one mma):
 *     acc = fmaf(sum of w * x, d, acc)                 the sum by mma, from zero, in fp32
 *     acc = fmaf(sum of x, m, acc)                     Q4_1, Q8_M, Q2_HM; the sum by mma with ones
 * and a row's scale, a power of two, at the end.  BF16, F16 and FP8: acc is mma's own, FP8's times the scale of its row of weights.
 *
 * Order of a sum over K, whatever the number of rows: a split has a contiguous run of chunks, of which warp j of wk takes
 * chunks j, j + wk, ...; the warps' sums are added in ascending order, then the splits' (cu_skinny_combine). */
#ifndef KERN_CUDA_SKINNY_CUH
#define KERN_CUDA_SKINNY_CUH

#include "kernels/cuda/matmul.h"
#include "kernels/cuda/panel.cuh"

enum { SKINNY_WARPS = CU_MM_WARPS };

/* Sizes of one round in shared memory: quants, then scales, then activations, whose rows are 64 bytes off a multiple of 128
 * apart: eight lanes' 16-byte reads, of two rows, then meet every bank once.  A last row is zeros.  Of two bits half as many vectors:
 * activations are then as many as beside nibbles, and scales and minima, half of the bytes, take the place of the others. */
template <kern_dtype D>
struct cu_round {
    static constexpr unsigned VECS = cu_panel<D>::TWO_BITS ? 2 : 4;                   /* a lane */
    static constexpr unsigned BLOCKS = VECS / cu_panel<D>::VECS * cu_panel<D>::SPAN;  /* a chunk */
    static constexpr unsigned GROUPS = BLOCKS > cu_panel<D>::GROUP ? BLOCKS / cu_panel<D>::GROUP : 1;
    static constexpr unsigned META = GROUPS * cu_panel<D>::GROUP_META;                /* of a panel */
    static constexpr unsigned QUANTS = SKINNY_WARPS * VECS * 512;
    static constexpr unsigned ACT = QUANTS + 2 * SKINNY_WARPS * META;                 /* where activations begin */

    static __host__ __device__ constexpr unsigned act_stride(unsigned wk) { return wk * BLOCKS * 64 % 128 ? wk * BLOCKS * 64 : wk * BLOCKS * 64 + 64; }
    static __host__ __device__ constexpr unsigned bytes(unsigned wk, unsigned rows) { return (ACT + (rows + 1) * act_stride(wk) + 127) / 128 * 128; }
};

/* Rounds that the ring holds, at most. */
template <int NT> struct cu_stages { static constexpr int N = NT == 8 ? 3 : 4; };

/* Blocks of a chunk at a time: four of them, each with sums of its own, or two that have minima, too, would want more registers
 * than there are. */
template <kern_dtype D, int NT> struct cu_unrolled {
    static constexpr bool MANY = cu_panel<D>::GROUP == 1 && (cu_round<D>::BLOCKS == 4 || cu_panel<D>::MINIMA);
    static constexpr int N = MANY && NT > 1 ? 1 : cu_round<D>::BLOCKS;
};

/* What a thread knows of its place. */
struct cu_place {
    unsigned warp, lane, wm, wk;               /* wm, wk: this warp's */
    const uint8_t *panel;                      /* of this lane; not `exists`: nothing is read */
    bool exists;
    unsigned lo, hi;                           /* chunks of this split */
};

template <kern_dtype D>
static __device__ __forceinline__ void skinny_load(const cu_mm &a, const cu_place &at, unsigned round, unsigned row0, unsigned rows,
                                                   uint8_t *to)
{
    typedef cu_panel<D> P;
    typedef cu_round<D> R;
    const unsigned chunk = at.lo + round * a.wk + at.wk, half = at.lane % 16;
    const bool mine = at.exists && chunk < at.hi;

    CU_UNROLL
    for (unsigned i = 0; i < R::VECS; i++) {
        const unsigned block = chunk * R::BLOCKS + i / P::VECS * P::SPAN;
        const uint8_t *from = at.panel + P::quants(block) + 256 * (i % P::VECS) + 64 * (at.lane % 4) + 16 * (at.lane / 4 % 4);
        cu_cp_async16(to + ((at.warp * R::VECS + i) * 32 + at.lane) * 16, from, mine && block < a.blocks);
    }
    if constexpr (!P::FLAT) {
        constexpr unsigned PIECES = P::GROUP_META / 16;
        CU_UNROLL
        for (unsigned i = 0; i < R::META / 16; i += 16) {
            const unsigned piece = i + half, block = chunk * R::BLOCKS + piece / PIECES * P::GROUP;
            const bool valid = mine && block < a.blocks;
            if (piece < R::META / 16)
                cu_cp_async16(to + R::QUANTS + (at.warp * 2 + at.lane / 16) * R::META + 16 * piece,
                              at.panel + (valid ? P::meta(a.blocks, block) + 16 * (piece % PIECES) : 0), valid);
        }
    }
    const unsigned shift = 31 - __clz(a.wk * R::BLOCKS * 4), first = (at.lo + round * a.wk) * R::BLOCKS;   /* 2^shift pieces a row */
    const unsigned end = at.hi * R::BLOCKS < a.blocks ? at.hi * R::BLOCKS : a.blocks;
    for (unsigned i = threadIdx.x; i < rows << shift; i += SKINNY_WARPS * 32) {
        const unsigned row = i >> shift, piece = i - (row << shift);
        cu_cp_async16(to + R::ACT + row * R::act_stride(a.wk) + 16 * piece,
                      a.act + (row0 + row) * a.act_stride + a.head + (size_t)first * 64 + 16 * piece, first + piece / 4 < end);
    }
}

/* One chunk of this warp: acc[rows 0,1 | rows 2,3][8 tokens][mma's D]. */
template <kern_dtype D, int NT>
static __device__ __forceinline__ void skinny_multiply(const cu_place &at, const uint8_t *from, const unsigned (&row)[NT], float (&acc)[2][NT][4])
{
    typedef cu_panel<D> P;
    typedef cu_round<D> R;
    float sum[2][NT][4];

    CU_UNROLL_N((cu_unrolled<D, NT>::N))
    for (unsigned j = 0; j < R::BLOCKS; j++) {
        const bool first = j % P::GROUP == 0, last = j % P::GROUP == P::GROUP - 1 || j == R::BLOCKS - 1;
        uint4 v[P::VECS];
        unsigned w[4][4];
        float d[2][4] = {}, m[2][4] = {};          /* scales and minima of each half, or in the first of all */

        CU_UNROLL
        for (unsigned i = 0; i < P::VECS; i++)
            v[i] = cu_load16(from + ((at.warp * R::VECS + j / P::SPAN * P::VECS + i) * 32 + at.lane) * 16);
        cu_panel_values<D>(v, j, w);
        if constexpr (!P::FLAT) {
            const uint8_t *meta = from + R::QUANTS + (at.warp * 2 + at.lane / 16) * R::META + j / P::GROUP * P::GROUP_META + P::FOUR_ROWS * (at.lane / 4 % 4);
            if constexpr (P::TWO_BITS) {
                cu_four_pairs(meta, d[0], m[0]);
                cu_four_pairs(meta + 64, d[1], m[1]);
            } else {
                cu_four_halves(meta, d[0]);
                if (P::TWO) cu_four_halves(meta + 32, P::HALVES ? d[1] : m[0]);
            }
        }
        CU_UNROLL
        for (int n = 0; n < NT; n++) {
            const uint4 x = cu_load16(from + R::ACT + row[n] + (at.wk * R::BLOCKS + j) * 64);
            const unsigned b[2][2] = { { x.x, x.y }, { x.z, x.w } }, ones[4] = { 0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u };
            float total[2][4] = {};                /* sums of x: of each half, or in the first of all */

            if constexpr (P::MINIMA && P::HALVES) {
                cu_mma_f16(total[0], ones, b[0]);
                cu_mma_f16(total[1], ones, b[1]);
            }
            CU_UNROLL
            for (int i = 0; i < 2; i++) {
                CU_UNROLL
                for (int k = 0; k < 2; k++) {
                    const unsigned f[4] = { w[2 * i][2 * k], w[2 * i + 1][2 * k], w[2 * i][2 * k + 1], w[2 * i + 1][2 * k + 1] };

                    if constexpr (D == KERN_BF16) cu_mma_bf16(acc[i][n], f, b[k]);
                    else if constexpr (P::FLAT) cu_mma_f16(acc[i][n], f, b[k]);
                    else {
                        if (P::HALVES || (first && k == 0)) sum[i][n][0] = sum[i][n][1] = sum[i][n][2] = sum[i][n][3] = 0.0f;
                        cu_mma_f16(sum[i][n], f, b[k]);
                        if constexpr (P::HALVES) {
                            CU_UNROLL
                            for (int e = 0; e < 4; e++) {
                                const int r = 2 * i + e / 2;
                                acc[i][n][e] = fmaf(sum[i][n][e], d[k][r], acc[i][n][e]);
                                if (P::MINIMA) acc[i][n][e] = fmaf(total[k][e % 2], m[k][r], acc[i][n][e]);
                            }
                        }
                    }
                }
            }
            if constexpr (!P::FLAT && !P::HALVES) {
                if (last) {
                    CU_UNROLL
                    for (int e = 0; e < 8; e++) {
                        const int i = e / 4, r = 2 * i + e % 4 / 2;
                        acc[i][n][e % 4] = fmaf(sum[i][n][e % 4], d[0][r], acc[i][n][e % 4]);
                    }
                }
            }
            if constexpr (P::MINIMA && !P::HALVES) {
                cu_mma_f16(total[0], ones, b[0]);
                cu_mma_f16(total[0], ones, b[1]);
                CU_UNROLL
                for (int e = 0; e < 8; e++) {
                    const int i = e / 4, r = 2 * i + e % 4 / 2;
                    acc[i][n][e % 4] = fmaf(total[0][e % 2], m[0][r], acc[i][n][e % 4]);
                }
            }
        }
    }
}

/* The sums of the wk warps of the same panels, ascending; warp 0 of them gets the whole.  Every thread comes by. */
template <int NT>
static __device__ __forceinline__ void skinny_reduce(const cu_mm &a, const cu_place &at, float *scratch, float (&acc)[2][NT][4])
{
    __syncthreads();                          /* the ring is free */
    if (at.wk > 0) {
        CU_UNROLL
        for (int e = 0; e < 8 * NT; e++)
            scratch[(((at.wk - 1) * a.wm + at.wm) * 8 * NT + e) * 32 + at.lane] = acc[e / (4 * NT)][e / 4 % NT][e % 4];
    }
    __syncthreads();
    if (at.wk == 0) {
        for (unsigned k = 1; k < a.wk; k++) {
            CU_UNROLL
            for (int e = 0; e < 8 * NT; e++)
                acc[e / (4 * NT)][e / 4 % NT][e % 4] += scratch[(((k - 1) * a.wm + at.wm) * 8 * NT + e) * 32 + at.lane];
        }
    }
}

/* Four neighbouring outputs of one row, of which those before column `end` exist. */
static __device__ __forceinline__ void skinny_store(float *row, unsigned column, unsigned end, float x, float y, float z, float w)
{
    float *to = row + column;

    if (column + 4 <= end && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        cu_store16(to, make_uint4(__float_as_uint(x), __float_as_uint(y), __float_as_uint(z), __float_as_uint(w)));
        return;
    }
    if (column < end) to[0] = x;
    if (column + 1 < end) to[1] = y;
    if (column + 2 < end) to[2] = z;
    if (column + 3 < end) to[3] = w;
}

static __device__ __forceinline__ cu_mm_weight skinny_weight(const cu_mm &a, unsigned group)
{
    return group >= a.w[2].group0 ? a.w[2] : group >= a.w[1].group0 ? a.w[1] : a.w[0];
}

/* gate: skinny regs=255 must=mma,cp.async,ld128 some=st128 */
template <kern_dtype D, int NT>
static __global__ void __launch_bounds__(SKINNY_WARPS * 32, NT <= 2 ? 2 : 1) skinny(const cu_mm a, unsigned act_rows, unsigned stages)
{
    typedef cu_round<D> R;
    constexpr int STAGES = cu_stages<NT>::N;
    CU_DYN_SHARED(uint8_t, ring);
    const unsigned row0 = a.row0 + blockIdx.x * 8 * NT, live = *a.live < a.row1 ? *a.live : a.row1;
    const unsigned rows = live > row0 ? (live - row0 < 8 * NT ? live - row0 : 8 * NT) : 0;
    const unsigned chunks = (a.blocks + R::BLOCKS - 1) / R::BLOCKS, round_bytes = R::bytes(a.wk, act_rows);
    const cu_mm_weight w = skinny_weight(a, blockIdx.y);
    cu_place at;

    if (rows == 0) return;                     /* the whole block */
    at.warp = threadIdx.x / 32, at.lane = threadIdx.x % 32;
    at.wm = at.warp / a.wk, at.wk = at.warp % a.wk;
    at.lo = (unsigned)((uint64_t)chunks * blockIdx.z / a.splits), at.hi = (unsigned)((uint64_t)chunks * (blockIdx.z + 1) / a.splits);
    const unsigned panel = ((blockIdx.y - w.group0) * a.wm + at.wm) * 2 + at.lane / 16, rounds = (at.hi - at.lo + a.wk - 1) / a.wk;
    at.exists = panel < w.n_panels;
    at.panel = w.panels + (at.exists ? panel : 0) * w.stride;

    float acc[2][NT][4] = {};
    unsigned row[NT];                          /* where this lane's activations lie: 16 bytes of its block */
    CU_UNROLL
    for (int n = 0; n < NT; n++) {
        const unsigned r = 8 * n + at.lane / 4;
        row[n] = (r < rows ? r : act_rows) * R::act_stride(a.wk) + 16 * (at.lane % 4);
    }
    for (unsigned s = 0; s < stages; s++)
        for (unsigned i = threadIdx.x; i < R::act_stride(a.wk) / 16; i += SKINNY_WARPS * 32)
            cu_store16(ring + s * round_bytes + R::ACT + act_rows * R::act_stride(a.wk) + 16 * i, make_uint4(0, 0, 0, 0));

    for (unsigned s = 0; s < stages - 1; s++) {
        if (s < rounds) skinny_load<D>(a, at, s, row0, rows, ring + s * round_bytes);
        cu_cp_async_commit();
    }
    for (unsigned i = 0, stage = 0; i < rounds; i++) {
        CU_UNROLL
        for (unsigned s = 2; s < STAGES; s++)
            if (s >= stages) cu_cp_async_commit();    /* empty groups in the place of rounds that a smaller ring has not */
        cu_cp_async_wait<STAGES - 2>();
        __syncthreads();                      /* round i is there for all, and round i - 1 is done with */
        if (i + stages - 1 < rounds)
            skinny_load<D>(a, at, i + stages - 1, row0, rows, ring + (stage == 0 ? stages - 1 : stage - 1) * round_bytes);
        cu_cp_async_commit();
        skinny_multiply<D, NT>(at, ring + stage * round_bytes, row, acc);
        stage = stage + 1 == stages ? 0 : stage + 1;
    }
    skinny_reduce<NT>(a, at, reinterpret_cast<float *>(ring), acc);

    if (at.wk == 0 && at.exists) {
        const unsigned column = panel * 16 + at.lane / 4 % 4 * 4;
        if constexpr (cu_panel<D>::FP8) {
            float d[4];
            cu_fp8_scales(at.panel + w.stride, at.lane / 4 % 4, d);
            CU_UNROLL
            for (int e = 0; e < 8 * NT; e++) acc[e / (4 * NT)][e / 4 % NT][e % 4] *= d[e / (4 * NT) * 2 + e % 4 / 2];
        }
        CU_UNROLL
        for (int e = 0; e < 2 * NT; e++) {
            const int n = e / 2, h = e % 2;
            const unsigned r = 8 * n + at.lane % 4 * 2 + h;
            if (r >= rows) continue;
            if (a.splits > 1) {
                const unsigned width = 32 * a.wm * a.n_groups, padded = (blockIdx.y * a.wm + at.wm) * 32 + at.lane / 4 * 4;
                float *to = a.partial + ((size_t)blockIdx.z * (a.row1 - a.row0) + (row0 - a.row0 + r)) * width;
                skinny_store(to, padded, width, acc[0][n][h], acc[0][n][2 + h], acc[1][n][h], acc[1][n][2 + h]);
            } else {
                const float s = a.head ? *reinterpret_cast<const float *>(a.act + (row0 + r) * a.act_stride) : 1.0f;
                skinny_store(w.out + (row0 + r) * w.out_stride, column, w.rows, acc[0][n][h] * s, acc[0][n][2 + h] * s,
                             acc[1][n][h] * s, acc[1][n][2 + h] * s);
            }
        }
    }
}

template <kern_dtype D, int NT>
static cu_status skinny_launch(const cu_mm *m, size_t max_shared, cu_stream s)
{
    const unsigned n = m->row1 - m->row0, rows = n < 8 * NT ? n : 8 * NT;
    const size_t round = cu_round<D>::bytes(m->wk, rows), sums = (size_t)(m->wk - 1) * m->wm * NT * 1024;
    unsigned stages = cu_stages<NT>::N;
    cu_status status;

    if constexpr (NT == 8) {
        if (stages * round > max_shared) return skinny_launch<D, 4>(m, max_shared, s);
    }
    while (stages > 2 && stages * round > max_shared) stages--;
    const size_t bytes = stages * round > sums ? stages * round : sums;
    if ((status = cu_allow_shared(skinny<D, NT>, bytes))) return status;
    return CU_LAUNCH((skinny<D, NT>), dim3(cu_ceil_div(n, 8u * NT), m->n_groups, m->splits), dim3(SKINNY_WARPS * 32), bytes, s,
                     *m, rows, stages);
}

template <kern_dtype D>
static cu_status skinny_of(const cu_mm *m, uint32_t tile, size_t max_shared, cu_stream s)
{
    if (tile == 8) return skinny_launch<D, 1>(m, max_shared, s);
    if (tile == 16) return skinny_launch<D, 2>(m, max_shared, s);
    if (tile == 32) return skinny_launch<D, 4>(m, max_shared, s);
    return skinny_launch<D, 8>(m, max_shared, s);
}

#endif
