/* attention_plain.cu - paged attention for every type and head_dim, by fp32 multiply-adds; and the merge of parts.
 * A block takes one head of one row and a split of its keys.  In a leaf of 128 keys: thread j has key j's score, a chain of
 * fmaf over head_dim; then each thread has elements of the output, a chain of fmaf over the leaf's keys.  Only visible keys
 * are read. */
#include "kernels/cuda/attention.cuh"

static constexpr unsigned THREADS = 128, LEAF = THREADS, PER = CU_MAX_HEAD_DIM / THREADS;

#define LOG2_E 1.44269504088896341f

/* What a row and head has so far; o of elements tid, tid + THREADS. */
struct sums { float m, l, o[PER]; };

static __device__ __forceinline__ void merge(sums *s, const sums &part)
{
    const cu_merge f = cu_merge_with(s->m, part.m);

    s->m = f.m;
    s->l = fmaf(part.l, f.part, s->l * f.old);
    CU_UNROLL
    for (unsigned i = 0; i < PER; i++) s->o[i] = fmaf(part.o[i], f.part, s->o[i] * f.old);
}

static __device__ __forceinline__ sums nothing()
{
    sums s;

    s.m = -INFINITY;
    s.l = 0.0f;
    CU_UNROLL
    for (unsigned i = 0; i < PER; i++) s.o[i] = 0.0f;
    return s;
}

/* Keys [begin + from, begin + n) of a slot, n at most LEAF, as a sum of its own. */
template <int KV>
static __device__ __forceinline__ sums attend_leaf(const cu_kv &kv, unsigned slot, unsigned head, unsigned begin, unsigned from,
                                                   unsigned n, const float *q, float *p, float *scratch)
{
    const unsigned t = threadIdx.x, h = kv.head_dim;
    float score = -INFINITY;
    sums s = nothing();

    const bool seen = t >= from && t < n;

    if (seen) {
        const unsigned key = begin + t, off = key % CU_KV_GROUP;
        const cu_kv_group g = cu_kv_group_at<KV>(kv, cu_kv_block(kv, slot, key), head, key);
        score = 0.0f;
        for (unsigned i = 0; i < h; i++) score = fmaf(q[i], cu_kv_value<KV>(g.k, i * CU_KV_GROUP + off), score);
        score *= LOG2_E;
        if (cu_kv_type<KV>::scaled) score *= reinterpret_cast<const float *>(g.k_scale)[off];
    }
    s.m = cu_block_max(score, -INFINITY, scratch);
    const float base = s.m == -INFINITY ? 0.0f : s.m;                    /* all of them NaN: the sums are NaN */
    float weight = seen ? cu_exp2(score - base) : 0.0f;
    s.l = cu_block_sum(weight, scratch);
    if (cu_kv_type<KV>::scaled && seen) {
        const unsigned key = begin + t;
        const cu_kv_group g = cu_kv_group_at<KV>(kv, cu_kv_block(kv, slot, key), head, key);
        weight *= reinterpret_cast<const float *>(g.v_scale)[key % CU_KV_GROUP];
    }
    p[t] = weight;
    __syncthreads();
    for (unsigned at = from - from % CU_KV_GROUP; at < n; at += CU_KV_GROUP) {       /* begin is a multiple of a group */
        const unsigned end = n - at < CU_KV_GROUP ? n - at : CU_KV_GROUP;
        const cu_kv_group g = cu_kv_group_at<KV>(kv, cu_kv_block(kv, slot, begin + at), head, begin + at);
        for (unsigned j = from > at ? from - at : 0; j < end; j++)
            CU_UNROLL
            for (unsigned i = 0; i < PER; i++)
                if (t + i * THREADS < h) s.o[i] = fmaf(p[at + j], cu_kv_value<KV>(g.v, j * h + t + i * THREADS), s.o[i]);
    }
    return s;                                                            /* p is written again behind the next leaf's barriers */
}

static __device__ __forceinline__ void write_row(const cu_attention &a, unsigned row, unsigned head, const sums &s)
{
    float *out = a.out + (static_cast<size_t>(row) * a.n_head + head) * a.kv.head_dim;

    CU_UNROLL
    for (unsigned i = 0; i < PER; i++)
        if (threadIdx.x + i * THREADS < a.kv.head_dim) out[threadIdx.x + i * THREADS] = s.o[i] / s.l + 0.0f;     /* -0 is +0, as in cu_quotient */
}

/* gate: plain regs=64 shared=1664 */
template <int KV>
static __global__ void __launch_bounds__(THREADS) plain(cu_attention a)
{
    CU_SHARED(float, q, CU_MAX_HEAD_DIM);
    CU_SHARED(float, p, THREADS);
    CU_SHARED(float, scratch, 32);
    const unsigned row = blockIdx.x, head = blockIdx.y, h = a.kv.head_dim, kv_head = a.head_map[head], slot = a.row_slot[row];
    const unsigned n_keys = row < *a.live && kv_head < a.kv.n_kv_head ? cu_kv_keys(a.kv, slot, a.pos[row]) : 0;
    const unsigned first = cu_first_key(a, n_keys), base = cu_first_part(a, n_keys), part_keys = cu_part_keys(a, n_keys - base);
    sums all = nothing();

    for (unsigned i = threadIdx.x; i < h; i += THREADS)
        q[i] = n_keys ? a.q[(static_cast<size_t>(row) * a.n_head + head) * h + i] : 0.0f;
    __syncthreads();
    for (unsigned part = blockIdx.z; part * part_keys < n_keys - base; part += gridDim.z) {
        const unsigned begin = base + part * part_keys, end = n_keys - begin < part_keys ? n_keys : begin + part_keys;
        sums s = nothing();
        for (unsigned leaf = first > begin ? first - (first - begin) % LEAF : begin; leaf < end; leaf += LEAF)
            merge(&s, attend_leaf<KV>(a.kv, slot, kv_head, leaf, first > leaf ? first - leaf : 0, end - leaf < LEAF ? end - leaf : LEAF, q, p, scratch));
        if (a.n_parts) {
            const size_t at = cu_part_index(a, row, head, part);
            CU_UNROLL
            for (unsigned i = 0; i < PER; i++)
                if (threadIdx.x + i * THREADS < h) a.part_o[at * h + threadIdx.x + i * THREADS] = s.o[i];
            if (threadIdx.x == 0) {
                a.part_ml[2 * at] = s.m;
                a.part_ml[2 * at + 1] = s.l;
            }
        } else {
            merge(&all, s);
        }
    }
    if (n_keys && !a.n_parts) write_row(a, row, head, all);
}

CU_API cu_status cu_attention_plain(const cu_attention *a, cu_stream s)
{
    const dim3 grid(a->rows, a->n_head, a->splits), block(THREADS);

    if (a->rows == 0 || a->n_head == 0) return 0;
    switch (a->kv.dtype) {
    case CU_KV_F32:  return CU_LAUNCH(plain<CU_KV_F32>, grid, block, 0, s, *a);
    case CU_KV_BF16: return CU_LAUNCH(plain<CU_KV_BF16>, grid, block, 0, s, *a);
    case CU_KV_INT8: return CU_LAUNCH(plain<CU_KV_INT8>, grid, block, 0, s, *a);
    case CU_KV_FP8:  return CU_LAUNCH(plain<CU_KV_FP8>, grid, block, 0, s, *a);
    default:         return CU_LAUNCH(plain<CU_KV_F16>, grid, block, 0, s, *a);
    }
}

/* gate: merge_parts regs=40 */
static __global__ void __launch_bounds__(THREADS) merge_parts(cu_attention a)
{
    const unsigned row = blockIdx.x, head = blockIdx.y, h = a.kv.head_dim, live = *a.live;
    const bool here = row < live && a.head_map[head] < a.kv.n_kv_head;
    const bool run = cu_row_in_run(a, row, live);
    const unsigned n_keys = here && !run ? cu_kv_keys(a.kv, a.row_slot[row], a.pos[row]) : 0;
    const unsigned seen = n_keys - cu_first_part(a, n_keys), n = cu_ceil_div(seen, cu_part_keys(a, seen));
    const size_t at = cu_part_index(a, row, head, 0);
    sums all = nothing();

    CU_UNROLL_N(4)
    for (unsigned part = 0; part < n; part++) {
        sums s;
        s.m = a.part_ml[2 * (at + part)];
        s.l = a.part_ml[2 * (at + part) + 1];
        CU_UNROLL
        for (unsigned i = 0; i < PER; i++) {
            const unsigned d = threadIdx.x + i * THREADS;
            s.o[i] = d < h ? a.part_o[(at + part) * h + d] : 0.0f;
        }
        merge(&all, s);
    }
    if (n_keys) write_row(a, row, head, all);
}

CU_API cu_status cu_attention_merge(const cu_attention *a, cu_stream s)
{
    if (a->rows == 0 || a->n_head == 0 || a->n_parts == 0) return 0;
    return CU_LAUNCH(merge_parts, dim3(a->rows, a->n_head), dim3(THREADS), 0, s, *a);
}
