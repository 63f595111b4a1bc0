/* attention.cuh - what the attention kernels share: which rows are whose, the heads of a group, merging of parts.
 * Layer: kernels/cuda, device code. */
#ifndef KERN_CUDA_ATTENTION_CUH
#define KERN_CUDA_ATTENTION_CUH

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/warp.h"

/* Does row i go on where row i - 1 ends?  Rows below `live` only. */
static __device__ __forceinline__ bool cu_row_joins(const cu_attention &a, unsigned i)
{
    return a.row_slot[i] == a.row_slot[i - 1] && a.pos[i] == a.pos[i - 1] + 1;
}

/* Does the row lie in a run of CU_MIN_RUN rows within its tile, so that prefill takes it?  Warp-wide, the same row in every
 * lane: lane l looks whether row `row - (CU_MIN_RUN - 1) + l` joins the one before. */
static __device__ __forceinline__ bool cu_row_in_run(const cu_attention &a, unsigned row, unsigned live)
{
    const unsigned lane = threadIdx.x % 32, tile = a.run_tile ? row / a.run_tile * a.run_tile : row;
    const unsigned end = !a.run_tile ? row : tile + a.run_tile < live ? tile + a.run_tile : live;
    const unsigned i = row + lane - (CU_MIN_RUN - 1);                    /* may wrap: then it is no row of the tile */
    const bool joins = lane < 2 * CU_MIN_RUN - 1 && i > tile && i < end && cu_row_joins(a, i);
    const unsigned bits = __ballot_sync(CU_FULL_MASK, joins);
    const unsigned before = __clz(~(bits << (32 - CU_MIN_RUN)));         /* joins in a row, ending with this row's own */
    const unsigned after = __ffs(~(bits >> CU_MIN_RUN)) - 1;

    return before + after + 1 >= CU_MIN_RUN;
}

/* The query heads that read KV head `head`, ascending, from number `first` on, at most `most` of them, into shared memory; the number of
 * all.  By the block's first warp: a barrier is due before the list is read. */
static __device__ __forceinline__ void cu_group_heads(const cu_attention &a, unsigned head, unsigned first, unsigned most, uint16_t *list,
                                                      unsigned *n)
{
    const unsigned lane = threadIdx.x % 32;
    unsigned found = 0;

    if (threadIdx.x < 32) {
        for (unsigned i = 0; i < a.n_head; i += 32) {
            const bool mine = i + lane < a.n_head && a.head_map[i + lane] == head;
            const unsigned bits = __ballot_sync(CU_FULL_MASK, mine);
            const unsigned at = found + __popc(bits & ((1u << lane) - 1)) - first;      /* wraps before the first */
            if (mine && at < most) list[at] = static_cast<uint16_t>(i + lane);
            found += __popc(bits);
        }
        if (lane == 0) *n = found;
    }
}

/* Keys of [from, to), none where that is empty.  A function, because compilers warn of `from < 0` where a kernel has no window. */
static __device__ __forceinline__ unsigned cu_keys_between(unsigned from, unsigned to) { return from < to ? to - from : 0; }

/* The first key that a row sees which would see n_keys without a window. */
static __device__ __forceinline__ unsigned cu_first_key(const cu_attention &a, unsigned n_keys)
{
    return a.window && n_keys > a.window ? n_keys - a.window : 0;
}

/* Where its first part begins. */
static __device__ __forceinline__ unsigned cu_first_part(const cu_attention &a, unsigned n_keys)
{
    const unsigned first = cu_first_key(a, n_keys);

    return first - first % (a.part ? a.part : CU_LEAF);
}

/* Keys of a part of a row with n_keys from its first part on. */
static __device__ __forceinline__ unsigned cu_part_keys(const cu_attention &a, unsigned n_keys)
{
    const unsigned share = cu_ceil_div(cu_ceil_div(n_keys, a.splits), CU_LEAF) * CU_LEAF;

    return a.part ? a.part : share > CU_MIN_PART ? share : CU_MIN_PART;
}

/* One step of the merge: factors of what is there and of the part; m -inf: nothing was seen. */
struct cu_merge { float m, old, part; };

static __device__ __forceinline__ cu_merge cu_merge_with(float m, float part_m)
{
    cu_merge r;

    r.m = fmaxf(m, part_m);
    const float base = r.m == -INFINITY ? 0.0f : r.m;
    r.old = cu_exp2(m - base);
    r.part = cu_exp2(part_m - base);
    return r;
}

static __device__ __forceinline__ size_t cu_part_index(const cu_attention &a, unsigned row, unsigned head, unsigned part)
{
    return (static_cast<size_t>(row) * a.n_head + head) * a.n_parts + part;
}

#endif
