/* prefill.cuh - paged flash attention for chunks of prompts, head_dim 64 or 128, on tensor cores.
 * A block of eight warps takes a tile of `run_tile` consecutive rows and one KV head, and in it the runs (attention.h) one
 * after the other.  A query is a head of a row; 128 of them, rows outermost, share the leaves that they see: each warp has
 * sixteen and makes scores, p and p V for whole leaves, all in registers.  Leaves come by cp.async into STAGES stages, two
 * warps asking for a group.  Under `deterministic` what whole parts have summed to lies in shared memory.
 * Layer: kernels/cuda, device code: prefill.cu, and prefill_window.cu for rows with a window, which are compiled apart. */
#ifndef KERN_CUDA_PREFILL_CUH
#define KERN_CUDA_PREFILL_CUH

#include "kernels/cuda/attention_tile.cuh"

static constexpr unsigned WARPS = 8, THREADS = 32 * WARPS, QUERIES = 16 * WARPS, MAX_TILE = 128, PER_GROUP = THREADS / CU_GROUPS;

template <int KV, int HD> struct prefill_shape {
    static constexpr unsigned stages = 3, leaves = stages * cu_leaf<KV, HD>::stage + cu_leaf<KV, HD>::tile;
    static constexpr unsigned sums = THREADS * (HD / 8) * 4 * 4;         /* of whole parts */
    static constexpr unsigned fixed = 1152;                              /* static, as the gate line says */
    static_assert(leaves + fixed <= CU_LEAST_SHARED, "a GPU that has less");
    static_assert(leaves + sums + fixed <= (HD == 128 ? CU_PREFILL_SHARED : CU_LEAST_SHARED), "cu_attention_run_tile");
};

/* Row i of the tile does not go on from row i - 1: bit i % 32 of word i / 32.  The next such row after i, at most n. */
static __device__ __forceinline__ unsigned run_end(const unsigned *starts, unsigned i, unsigned n)
{
    for (i++; i < n; i = (i / 32 + 1) * 32) {
        const unsigned bits = starts[i / 32] >> (i % 32);
        if (bits) {
            i += __ffs(bits) - 1;
            break;
        }
    }
    return i < n ? i : n;
}

/* The parts so far, where a thread keeps them: o in shared memory, each thread its own column. */
template <unsigned N>
static __device__ __forceinline__ void merge_part(float *kept, float (&l)[4], float (&m)[2], const cu_sums<N> &part)
{
    CU_UNROLL
    for (int r = 0; r < 2; r++) {
        const cu_merge f = cu_merge_with(m[r], part.m[r]);
        m[r] = f.m;
        CU_UNROLL
        for (int e = 2 * r; e < 2 * r + 2; e++) {
            l[e] = fmaf(part.l[e], f.part, l[e] * f.old);
            CU_UNROLL
            for (unsigned i = 0; i < N; i++) {
                float *o = kept + (i * 4 + e) * THREADS + threadIdx.x;
                *o = fmaf(part.o[i][e], f.part, *o * f.old);
            }
        }
    }
}

/* WINDOW: rows have one.  A text of its own for those, so that others do not pay for it in registers. */
template <int KV, int HD, bool WINDOW>
static __device__ __forceinline__ void prefill_rows(const cu_attention &a)
{
    typedef cu_leaf<KV, HD> leaf;
    constexpr unsigned STAGES = prefill_shape<KV, HD>::stages, N = HD / 8;
    CU_DYN_SHARED(unsigned char, shared);
    CU_SHARED(uint16_t, heads, CU_MAX_HEADS);
    CU_SHARED(unsigned, n_heads, 1);
    CU_SHARED(unsigned, starts, MAX_TILE / 32);
    unsigned char *const tile = shared + STAGES * leaf::stage;
    float *const kept = reinterpret_cast<float *>(shared + prefill_shape<KV, HD>::leaves);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const unsigned mine = threadIdx.x / PER_GROUP, nth = threadIdx.x % PER_GROUP;      /* the group that it asks for */
    const unsigned tile_row = (gridDim.x - 1 - blockIdx.x) * a.run_tile, kv_head = blockIdx.y, live = *a.live;   /* long ones first */
    const unsigned n_rows = tile_row >= live ? 0 : live - tile_row < a.run_tile ? live - tile_row : a.run_tile;

    if (threadIdx.x < MAX_TILE) {
        const unsigned i = threadIdx.x;
        const bool start = i == 0 || i >= n_rows || !cu_row_joins(a, tile_row + i);
        const unsigned bits = __ballot_sync(CU_FULL_MASK, start);
        if (lane == 0) starts[warp] = bits;
    }
    cu_group_heads(a, kv_head, 0, CU_MAX_HEADS, heads, n_heads);
    __syncthreads();
    const unsigned group = *n_heads;

    for (unsigned run = 0, end; run < n_rows; run = end) {
        end = run_end(starts, run, n_rows);
        const unsigned row = tile_row + run, slot = a.row_slot[row], pos = a.pos[row];
        const unsigned total = end - run >= CU_MIN_RUN ? (end - run) * group : 0;

        for (unsigned first = 0; first < total; first += QUERIES) {      /* queries [first, first + QUERIES) of the run */
            const unsigned last = total - first < QUERIES ? total - 1 : first + QUERIES - 1, here = first + 16 * warp;
            const unsigned warp_last = last < here + 15 ? last : here + 15;
            const unsigned n_keys = cu_kv_keys(a.kv, slot, pos + last / group), n_leaves = cu_ceil_div(n_keys, CU_LEAF);
            const unsigned most = here <= last ? cu_kv_keys(a.kv, slot, pos + warp_last / group) : 0;    /* keys that its queries see */
            const unsigned least = here <= last ? cu_kv_keys(a.kv, slot, pos + here / group) : 0;
            /* with a window: keys that no query sees, none of the warp's, and not all of the warp's */
            const unsigned unseen = !WINDOW ? 0 : cu_first_key(a, cu_kv_keys(a.kv, slot, pos + first / group));
            const unsigned unseen_here = WINDOW ? cu_first_key(a, least) : 0, unseen_last = WINDOW ? cu_first_key(a, most) : 0;
            const unsigned part = a.part ? a.part / CU_LEAF : n_leaves;
            const bool in_parts = n_leaves > part;
            cu_queries<HD> q;
            cu_sums<N> s;
            float l[4] = { 0.0f, 0.0f, 0.0f, 0.0f }, m[2] = { -INFINITY, -INFINITY };
            size_t at[2];
            unsigned keys[2], stage = 0, block = 0, ask_leaf = unseen / CU_LEAF;

            CU_UNROLL
            for (int r = 0; r < 2; r++) {
                const unsigned i = here + g + 8 * r, in = i <= last ? i : last;
                at[r] = (static_cast<size_t>(row + in / group) * a.n_head + heads[in % group]) * HD;
                keys[r] = i <= last ? cu_kv_keys(a.kv, slot, pos + in / group) : 0;
            }
            cu_load_queries<KV, HD>(&q, keys[0] ? a.q + at[0] : nullptr, keys[1] ? a.q + at[1] : nullptr);
            cu_sums_clear(&s);
            if (in_parts)
                for (unsigned i = 0; i < N * 4; i++) kept[i * THREADS + threadIdx.x] = 0.0f;

            const auto look_up = [&]() {
                const unsigned key = ask_leaf * CU_LEAF + mine * CU_KV_GROUP;
                if (key < n_keys) block = cu_kv_block(a.kv, slot, key);
            };
            const auto ask = [&](unsigned to) {
                const unsigned key = ask_leaf * CU_LEAF + mine * CU_KV_GROUP, seen = cu_keys_between(key, n_keys);
                const unsigned low = cu_keys_between(key, unseen);
                if (ask_leaf < n_leaves) {
                    cu_leaf_load<KV, HD>(shared + to * leaf::stage, mine, cu_kv_group_at<KV>(a.kv, block, kv_head, key), low, seen, nth, PER_GROUP);
                    ask_leaf++;
                    look_up();
                }
                cu_cp_async_commit();
            };

            __syncthreads();                                             /* the stages are free */
            look_up();
            CU_UNROLL
            for (unsigned i = 0; i + 1 < STAGES; i++) ask(i);

            for (unsigned now = unseen / CU_LEAF; now < n_leaves; now++) {
                const unsigned char *const from = shared + stage * leaf::stage;
                const unsigned char *const k = leaf::spread ? tile : from, *const v = k + (leaf::spread ? leaf::tile_k : leaf::k);
                const float *const k_scale = reinterpret_cast<const float *>(from + leaf::k + leaf::v);
                const unsigned begin = now * CU_LEAF;

                cu_cp_async_wait<STAGES - 2>();
                __syncthreads();                                         /* the leaf is there; all are done with the last one */
                ask(stage == 0 ? STAGES - 1 : stage - 1);
                if (leaf::spread) {
                    const unsigned key = begin + mine * CU_KV_GROUP;
                    cu_leaf_spread<KV, HD>(tile, from, mine, cu_keys_between(key, unseen), cu_keys_between(key, n_keys), nth, PER_GROUP);
                    __syncthreads();
                }
                if (begin < most && begin + CU_LEAF > unseen_here) {     /* the same for all lanes of a warp */
                    float x[CU_GROUPS][2][4], top[2], base[2];
                    const bool masked = least < begin + CU_LEAF || cu_keys_between(begin, unseen_last) > 0;

                    top[0] = top[1] = -INFINITY;
                    CU_UNROLL
                    for (unsigned j = 0; j < CU_GROUPS; j++) {
                        int low[2], seen[2];
                        CU_UNROLL
                        for (int r = 0; r < 2; r++) {
                            seen[r] = static_cast<int>(keys[r] - begin) - static_cast<int>(j * CU_KV_GROUP);
                            low[r] = WINDOW ? seen[r] - static_cast<int>(a.window) : 0;      /* where it sees fewer: below 0 */
                        }
                        cu_scores<KV, HD>(x[j], q, k + j * leaf::group);
                        cu_scale_scores<KV>(x[j], q.mult, k_scale + j * CU_KV_GROUP, low, seen, masked);
                        CU_UNROLL
                        for (int r = 0; r < 2; r++)
                            top[r] = fmaxf(top[r], fmaxf(fmaxf(x[j][0][2 * r], x[j][0][2 * r + 1]), fmaxf(x[j][1][2 * r], x[j][1][2 * r + 1])));
                    }
                    CU_UNROLL
                    for (int r = 0; r < 2; r++) top[r] = cu_warp_max<4>(top[r]);
                    cu_sums_raise(&s, top, base);
                    CU_UNROLL
                    for (unsigned j = 0; j < CU_GROUPS; j++) {
                        unsigned p[4];
                        CU_UNROLL
                        for (int i = 0; i < 4; i++) {
                            const float b = base[i % 2];
                            p[i] = cu_pack<KV>(cu_exp2(x[j][i / 2][2 * (i % 2)] - b), cu_exp2(x[j][i / 2][2 * (i % 2) + 1] - b));
                        }
                        cu_sums_add<KV, HD, N>(&s, p, v + j * leaf::group, 0);
                    }
                }
                stage = stage + 1 == STAGES ? 0 : stage + 1;
                if (in_parts && ((now + 1) % part == 0 || now + 1 == n_leaves)) {
                    merge_part(kept, l, m, s);
                    cu_sums_clear(&s);
                }
            }
            CU_UNROLL
            for (int r = 0; r < 2; r++)
                if (keys[r]) {
                    CU_UNROLL
                    for (unsigned i = 0; i < N; i++) {
                        const float x = in_parts ? kept[(i * 4 + 2 * r) * THREADS + threadIdx.x] : s.o[i][2 * r];
                        const float y = in_parts ? kept[(i * 4 + 2 * r + 1) * THREADS + threadIdx.x] : s.o[i][2 * r + 1];
                        *reinterpret_cast<float2 *>(a.out + at[r] + 8 * i + 2 * t) = cu_quotient(x, y, in_parts ? l[2 * r] : s.l[2 * r]);
                    }
                }
        }
    }
}

#endif
