/* decode.cuh - paged attention of single rows, head_dim 64 or 128, on tensor cores: the memory's speed is what counts.
 * A block of four warps takes one row, one KV head with the query heads that read it (padded to 16; more go in turn), and
 * a split of the row's keys.  Leaves of 64 keys come into STAGES stages by cp.async, warp w asking for group w.  Warp w
 * makes the scores with group w, the warps agree on the largest, p takes the place of K in shared memory, and warp w adds p V for its
 * quarter of head_dim: the sums' order is that of prefill.cu, where one warp does all of it.
 * Layer: kernels/cuda, device code: decode.cu, and decode_window.cu for rows with a window, which are compiled apart. */
#ifndef KERN_CUDA_DECODE_CUH
#define KERN_CUDA_DECODE_CUH

#include "kernels/cuda/attention_tile.cuh"

static constexpr unsigned WARPS = CU_GROUPS, THREADS = 32 * WARPS, QUERIES = 16;

template <int KV, int HD> struct decode_shape {
    /* Two blocks of a multiprocessor of compute capability 9.0 hold a little less than 228 KB between them. */
    static constexpr unsigned stages = HD == 64 ? 5 : cu_leaf<KV, HD>::spread ? 4 : 3;
    static constexpr unsigned shared = stages * cu_leaf<KV, HD>::stage + cu_leaf<KV, HD>::tile, fixed = 384;      /* static, as the gate line says */
    static_assert(shared + fixed <= CU_LEAST_SHARED, "a GPU that has less");
};

/* The leaves of a block, one after the other: those of parts z, z + splits, ... */
struct leaves { unsigned at, left, skip, part; };         /* this leaf; leaves left in its part; from part to part; a part's */

static __device__ __forceinline__ void next_leaf(leaves *l)
{
    l->at++;
    if (--l->left == 0) {
        l->left = l->part;
        l->at += l->skip;
    }
}

/* WINDOW: rows have one.  A text of its own for those, so that others do not pay for it in registers. */
template <int KV, int HD, bool WINDOW>
static __device__ __forceinline__ void decode_rows(const cu_attention &a)
{
    typedef cu_leaf<KV, HD> leaf;
    constexpr unsigned STAGES = decode_shape<KV, HD>::stages, N = HD / 8 / WARPS;
    CU_DYN_SHARED(unsigned char, shared);
    CU_SHARED(uint16_t, heads, QUERIES);
    CU_SHARED(unsigned, n_heads, 1);
    CU_SHARED(float, tops, WARPS * QUERIES);
    unsigned char *const tile = shared + STAGES * leaf::stage;
    const unsigned row = blockIdx.x, kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const unsigned live = *a.live, slot = a.row_slot[row], pos = a.pos[row];
    const bool run = cu_row_in_run(a, row, live);
    const unsigned n_keys = row < live && !run ? cu_kv_keys(a.kv, slot, pos) : 0;
    const unsigned unseen = WINDOW ? cu_first_key(a, n_keys) : 0, begin = WINDOW ? cu_first_part(a, n_keys) / CU_LEAF : 0;   /* keys; leaves */
    const unsigned n_leaves = cu_ceil_div(n_keys, CU_LEAF), part = cu_part_keys(a, n_keys - begin * CU_LEAF) / CU_LEAF;
    const unsigned skip = blockIdx.z == 0 ? unseen / CU_LEAF - begin : 0;                               /* of the first part */
    const leaves from = { begin + blockIdx.z * part + skip, part - skip, (a.splits - 1) * part, part };

    for (unsigned first = 0; n_keys; first += QUERIES) {
        cu_group_heads(a, kv_head, first, QUERIES, heads, n_heads);
        __syncthreads();
        const unsigned group = *n_heads;
        if (first >= group) break;                                           /* the whole block */
        cu_queries<HD> q;
        cu_sums<N> s, all;
        leaves load = from, now = from;
        const unsigned column = warp * N * 8 + 2 * t;                    /* of head_dim: the lane's first */
        unsigned stage = 0;
        const float *query[2];
        float *out[2];
        size_t parts[2];

        CU_UNROLL
        for (int r = 0; r < 2; r++) {
            const bool is = first + g + 8 * r < group;
            const unsigned head = is ? heads[g + 8 * r] : 0;
            const size_t at = (static_cast<size_t>(row) * a.n_head + head) * HD;
            query[r] = is ? a.q + at : nullptr;
            out[r] = is ? a.out + at : nullptr;
            parts[r] = cu_part_index(a, row, head, 0);
        }
        cu_load_queries<KV, HD>(&q, query[0], query[1]);
        cu_sums_clear(&s);
        cu_sums_clear(&all);

        /* The next leaf's group of this warp into a stage; its block is looked up a leaf ahead. */
        unsigned block = 0;
        const auto look_up = [&]() {
            const unsigned key = load.at * CU_LEAF + warp * CU_KV_GROUP;
            if (key < n_keys) block = cu_kv_block(a.kv, slot, key);
        };
        const auto ask = [&](unsigned to) {
            const unsigned key = load.at * CU_LEAF + warp * CU_KV_GROUP, seen = cu_keys_between(key, n_keys);
            const unsigned low = cu_keys_between(key, unseen);
            if (load.at < n_leaves) {
                cu_leaf_load<KV, HD>(shared + to * leaf::stage, warp, cu_kv_group_at<KV>(a.kv, block, kv_head, key), low, seen, lane, 32);
                next_leaf(&load);
                look_up();
            }
            cu_cp_async_commit();
        };

        __syncthreads();                                                 /* the list has been read; the stages are free */
        look_up();
        CU_UNROLL
        for (unsigned i = 0; i + 1 < STAGES; i++) ask(i);

        while (now.at < n_leaves) {
            unsigned char *const at = shared + stage * leaf::stage, *const k = leaf::spread ? tile : at, *const ps = k;
            const unsigned char *const v = k + (leaf::spread ? leaf::tile_k : leaf::k);
            const float *const k_scale = reinterpret_cast<const float *>(at + leaf::k + leaf::v) + warp * CU_KV_GROUP;
            const int seen = static_cast<int>(n_keys - now.at * CU_LEAF) - static_cast<int>(warp * CU_KV_GROUP);
            const int low = !WINDOW ? 0 : static_cast<int>(unseen) - static_cast<int>(now.at * CU_LEAF + warp * CU_KV_GROUP);
            const int keys[2] = { seen, seen }, lows[2] = { low, low };
            float x[2][4], top[2], base[2];

            cu_cp_async_wait<STAGES - 2>();
            __syncthreads();                                             /* the leaf is there; all are done with the last one */
            ask(stage == 0 ? STAGES - 1 : stage - 1);
            if (leaf::spread) {
                cu_leaf_spread<KV, HD>(tile, at, warp, low > 0 ? static_cast<unsigned>(low) : 0, seen > 0 ? static_cast<unsigned>(seen) : 0, lane, 32);
                __syncwarp();                                            /* a warp makes scores with what it spread */
            }
            cu_scores<KV, HD>(x, q, k + warp * leaf::group);
            cu_scale_scores<KV>(x, q.mult, k_scale, lows, keys, low > 0 || seen < static_cast<int>(CU_KV_GROUP));
            CU_UNROLL
            for (int r = 0; r < 2; r++) {
                top[r] = cu_warp_max<4>(fmaxf(fmaxf(x[0][2 * r], x[0][2 * r + 1]), fmaxf(x[1][2 * r], x[1][2 * r + 1])));
                if (t == 0) tops[warp * QUERIES + g + 8 * r] = top[r];
            }
            __syncthreads();
            CU_UNROLL
            for (int r = 0; r < 2; r++)
                CU_UNROLL
                for (unsigned w = 0; w < WARPS; w++) top[r] = fmaxf(top[r], tops[w * QUERIES + g + 8 * r]);
            cu_sums_raise(&s, top, base);
            CU_UNROLL
            for (int i = 0; i < 2; i++)                                  /* p: [16][64], piece c of query j at c ^ (j % 8) */
                CU_UNROLL
                for (int r = 0; r < 2; r++) {                            /* all have made their scores: K is not read again */
                    unsigned char *p = ps + (g + 8 * r) * 2 * CU_LEAF + 16 * ((2 * warp + i) ^ g) + 4 * t;
                    *reinterpret_cast<unsigned *>(p) = cu_pack<KV>(cu_exp2(x[i][2 * r] - base[r]), cu_exp2(x[i][2 * r + 1] - base[r]));
                }
            __syncthreads();
            CU_UNROLL
            for (unsigned j = 0; j < CU_GROUPS; j++) {
                const unsigned m = lane / 8, query_of = m % 2 * 8 + lane % 8;
                unsigned p[4];
                cu_ldmatrix_x4(p, ps + query_of * 2 * CU_LEAF + 16 * ((2 * j + m / 2) ^ (lane % 8)));
                cu_sums_add<KV, HD, N>(&s, p, v + j * leaf::group, warp * N);
            }
            stage = stage + 1 == STAGES ? 0 : stage + 1;

            const unsigned done = (now.at - begin) / part;
            const bool part_ends = now.left == 1 || now.at + 1 == n_leaves;
            next_leaf(&now);
            if (!part_ends) continue;
            if (a.n_parts) {
                CU_UNROLL
                for (int r = 0; r < 2; r++) {
                    const size_t p = parts[r] + done;
                    if (!out[r]) continue;
                    CU_UNROLL
                    for (unsigned i = 0; i < N; i++)
                        *reinterpret_cast<float2 *>(a.part_o + p * HD + column + 8 * i) = make_float2(s.o[i][2 * r], s.o[i][2 * r + 1]);
                    if (warp == 0 && t == 0) {
                        a.part_ml[2 * p] = s.m[r];
                        a.part_ml[2 * p + 1] = s.l[2 * r];
                    }
                }
            } else {
                cu_sums_merge(&all, s);
            }
            cu_sums_clear(&s);
        }
        if (!a.n_parts)
            CU_UNROLL
            for (int r = 0; r < 2; r++)
                if (out[r])
                    CU_UNROLL
                    for (unsigned i = 0; i < N; i++)
                        *reinterpret_cast<float2 *>(out[r] + column + 8 * i) = cu_quotient(all.o[i][2 * r], all.o[i][2 * r + 1], all.l[2 * r]);
    }
}

#endif
