/* candidates.cu - what a slice of the vocabulary offers to a row: maximum, sums, best id, the draw, the list of the best.
 *
 * A draw costs some hundred instructions an id, on one multiprocessor of 128 lanes about as many cycles as the slice has ids: so a
 * row is cut into tiles of 4096 ids, each a block that has its logits in registers.  What a tile finds lies in the workspace, and a block a row
 * joins it: two launches, whose shape depends on the slice alone.  All but the sums has the bits of the CPU's definition:
 * comparisons are exact however they are grouped, and noise is made by the same operations (math.cuh).  The sums are taken from
 * each tile's maximum, in an order that is fixed.
 *
 * A logit and its id are one number, the key: larger is better, ties go to the lowest id, zeros have no sign.  0 is nobody's.
 * The n best: the n-th largest key is built bit by bit from the top, by counting how many keys are as large; usually half of the
 * bits say it already.  Then the keys above it are few, and each counts how many are larger to find its place. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.h"

enum {
    THREADS = 256, QUADS = KERN_CUDA_CAND_TILE / 4 / THREADS, MINE = 4 * QUADS,      /* of a tile */
    JOINERS = 512, KEYS = 32,                                                        /* keys that a thread holds while lists are joined */
    LOCAL_BITS = 12,                                                                 /* of an id within its tile */
};
static_assert(KERN_CUDA_CAND_TILE == 1 << LOCAL_BITS && QUADS * THREADS * 4 == KERN_CUDA_CAND_TILE, "a tile");
static_assert(JOINERS >= 2 * KERN_MAX_CANDIDATES, "two threads find a key's place");

/* What a tile found; the list is in no order. */
struct tile_found {
    uint64_t best, drawn;                                    /* keys: of the logit; of logit / T + noise */
    float sum, tsum;
    uint32_t nonfinite, n_list;
    uint64_t list[KERN_MAX_CANDIDATES];
};
static_assert(sizeof(tile_found) == KERN_CUDA_CAND_TILE_BYTES, "sizes.h");

struct cand_job {
    const float *logits;
    const kern_cand_param *params;
    const uint32_t *live;
    tile_found *found;                                       /* (rows of this launch, tiles) */
    uint8_t *out;
    size_t stride;
    uint32_t row0, tiles, begin, n, out_stride, room;        /* room: entries that a list can have */
    bool aligned;                                            /* ids that are multiples of 4 lie on 16 bytes */
};

static __device__ __forceinline__ uint64_t key_of(float x, uint32_t id)
{
    const uint32_t u = __float_as_uint(x + 0.0f);
    return static_cast<uint64_t>(u & 0x80000000u ? ~u : u | 0x80000000u) << 32 | ~id;
}
static __device__ __forceinline__ float value_of(uint64_t key)
{
    const uint32_t u = static_cast<uint32_t>(key >> 32);
    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}
static __device__ __forceinline__ uint32_t id_of(uint64_t key) { return ~static_cast<uint32_t>(key); }
static __device__ __forceinline__ uint64_t better(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* How many entries the row's list gets at most. */
static __device__ __forceinline__ uint32_t wanted(const cand_job &j, uint32_t n_list)
{
    uint32_t n = n_list < KERN_MAX_CANDIDATES ? n_list : KERN_MAX_CANDIDATES;

    n = n < j.room ? n : j.room;
    return n < j.n ? n : j.n;
}

/* The n-th largest of all threads' keys, which have `bits` bits and differ; 1 if fewer than n are not 0.  Or a smaller number
 * that n keys are not below.  counts: shared, 64; n > 0. */
template <int N>
static __device__ __forceinline__ uint64_t nth_largest(const uint64_t (&key)[N], uint32_t n, int bits, unsigned *counts)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint64_t floor = 0;

    for (int b = bits - 1; b >= 0; b--) {
        const uint64_t at = floor | static_cast<uint64_t>(1) << b;
        unsigned *const turn = counts + b % 2 * 32;          /* read until the next barrier, written after it */
        unsigned c = 0;

        CU_UNROLL
        for (int i = 0; i < N; i++) c += key[i] >= at;
        c = __reduce_add_sync(CU_FULL_MASK, c);
        if (lane == 0) turn[warp] = c;
        __syncthreads();
        c = __reduce_add_sync(CU_FULL_MASK, lane < warps ? turn[lane] : 0u);
        if (c >= n) floor = at;
        if (c == n) break;                                   /* in every thread */
    }
    return floor ? floor : 1;
}

/* gate: tile regs=128 shared=644 some=ld128 */
static __global__ void __launch_bounds__(THREADS) tile(const cand_job j)
{
    CU_SHARED(uint64_t, keys, 32);
    CU_SHARED(float, scratch, 32);
    const unsigned in_launch = blockIdx.x / j.tiles, nth = blockIdx.x % j.tiles, row = j.row0 + in_launch;
    const bool valid = row < *j.live;
    const unsigned n = valid ? j.n : 0, group0 = j.begin / 4 + nth * (KERN_CUDA_CAND_TILE / 4);
    const float *const x = j.logits + row * j.stride;
    tile_found *const f = j.found + (size_t)in_launch * j.tiles + nth;
    kern_cand_param p = {};
    float v[MINE];
    uint64_t best = 0, drawn = 0;
    bool bad = false;

    if (valid) p = j.params[row];
    CU_UNROLL
    for (int q = 0; q < QUADS; q++) {
        /* Ids 4 group .. 4 group + 3; before the slice, i is beyond n, too. */
        const uint32_t group = group0 + q * THREADS + threadIdx.x, i = 4 * group - j.begin;
        if (j.aligned && i < n && n - i >= 4) {
            const uint4 w = cu_load16(x + i);
            v[4 * q] = __uint_as_float(w.x), v[4 * q + 1] = __uint_as_float(w.y);
            v[4 * q + 2] = __uint_as_float(w.z), v[4 * q + 3] = __uint_as_float(w.w);
        } else {
            CU_UNROLL
            for (int c = 0; c < 4; c++) v[4 * q + c] = i + c < n ? x[i + c] : -INFINITY;
        }
    }
    CU_UNROLL
    for (int k = 0; k < MINE; k++) {
        const uint32_t id = 4 * (group0 + k / 4 * THREADS + threadIdx.x) + k % 4;
        if (id - j.begin < n) {
            bad = bad || !cu_is_finite(v[k]);
            v[k] = cu_flush(v[k]);
            best = better(best, key_of(v[k], id));
        }
    }
    best = cu_block_max(best, static_cast<uint64_t>(0), keys);
    bad = __syncthreads_or(bad);

    const float max = value_of(best), t = p.temperature;
    float sum = 0.0f, tsum = 0.0f;
    if (best && !bad) {                                      /* in every thread; what is not there is -inf and adds 0 */
        CU_UNROLL
        for (int k = 0; k < MINE; k++) sum += cu_exp(v[k] - max);
        sum = cu_block_sum(sum, scratch);
        if (t > 0.0f) {
            const float tmax = cu_flush(max / t);
            CU_UNROLL
            for (int q = 0; q < QUADS; q++) {
                const uint32_t group = group0 + q * THREADS + threadIdx.x;
                uint4 w = make_uint4(0, 0, 0, 0);
                if (p.draw) w = cu_philox(group, p.position, p.sequence, KERN_PURPOSE_TOKEN, p.seed);
                CU_UNROLL
                for (int c = 0; c < 4; c++) {
                    const float y = cu_flush(v[4 * q + c] / t);
                    tsum += cu_exp(y - tmax);
                    if (!p.draw || 4 * group + c - j.begin >= n) continue;
                    const float value = y + cu_gumbel(c == 0 ? w.x : c == 1 ? w.y : c == 2 ? w.z : w.w);
                    if (value == value) drawn = better(drawn, key_of(value, 4 * group + c));
                }
            }
            tsum = cu_block_sum(tsum, scratch);
            drawn = cu_block_max(drawn, static_cast<uint64_t>(0), keys);
        }
    }
    if (valid && threadIdx.x == 0) {
        f->best = best;
        f->drawn = drawn;
        f->sum = sum;
        f->tsum = tsum;
        f->nonfinite = bad;
    }
    const uint32_t want = best && !bad ? wanted(j, p.n_list) : 0;
    if (want) {                                              /* in every thread */
        CU_SHARED(unsigned, counts, 64);
        CU_SHARED(unsigned, taken, 1);
        uint64_t key[MINE];

        CU_UNROLL
        for (int k = 0; k < MINE; k++) {
            const uint32_t local = 4 * (k / 4 * THREADS + threadIdx.x) + k % 4, id = 4 * group0 + local;
            key[k] = id - j.begin < n ? key_of(v[k], 0) >> 32 << LOCAL_BITS | (KERN_CUDA_CAND_TILE - 1 - local) : 0;
        }
        if (threadIdx.x == 0) *taken = 0;
        const uint64_t floor = nth_largest(key, want, 32 + LOCAL_BITS, counts);
        CU_UNROLL
        for (int k = 0; k < MINE; k++) {
            if (key[k] < floor) continue;
            const uint32_t local = KERN_CUDA_CAND_TILE - 1 - (static_cast<uint32_t>(key[k]) & (KERN_CUDA_CAND_TILE - 1));
            f->list[atomicAdd(taken, 1u)] = key[k] >> LOCAL_BITS << 32 | ~(4 * group0 + local);
        }
        __syncthreads();
        if (threadIdx.x == 0) f->n_list = *taken;
    } else if (valid && threadIdx.x == 0) {
        f->n_list = 0;
    }
}

/* The head of a row without candidates. */
static __device__ __forceinline__ kern_cand_head empty_head(bool nonfinite)
{
    kern_cand_head h = {};

    h.max = h.tmax = h.best_logit = h.drawn_value = h.drawn_logit = -INFINITY;
    h.best = h.drawn = UINT32_MAX;
    h.nonfinite = nonfinite;
    return h;
}

/* The n best of the tiles' lists, in order, into out.  As many at a time as the block holds; the best so far stay. */
static __device__ __forceinline__ uint32_t join_lists(const cand_job &j, const tile_found *f, uint32_t want, const float *x, kern_cand_entry *out)
{
    CU_SHARED(uint64_t, best, KERN_MAX_CANDIDATES);
    CU_SHARED(unsigned, counts, 64);
    CU_SHARED(unsigned, taken, 1);
    const uint32_t total = want ? j.tiles * want : 0;
    uint32_t kept = 0;

    for (uint32_t done = 0; done < total;) {
        const uint32_t room = JOINERS * KEYS - kept, fresh = room < total - done ? room : total - done;
        uint64_t key[KEYS];

        CU_UNROLL
        for (uint32_t i = 0; i < KEYS; i++) {
            const uint32_t at = i * JOINERS + threadIdx.x, from = done + at - kept;
            key[i] = 0;
            if (at < kept) key[i] = best[at];
            else if (at - kept < fresh && from % want < f[from / want].n_list) key[i] = f[from / want].list[from % want];
        }
        if (threadIdx.x == 0) *taken = 0;
        const uint64_t floor = nth_largest(key, want, 64, counts);
        CU_UNROLL
        for (int i = 0; i < KEYS; i++)
            if (key[i] >= floor) best[atomicAdd(taken, 1u)] = key[i];
        __syncthreads();
        kept = *taken;
        __syncthreads();
        done += fresh;
    }

    const uint32_t mine = threadIdx.x / 2;
    const uint64_t key = mine < kept ? best[mine] : 0;
    uint32_t place = 0;
    for (uint32_t i = threadIdx.x % 2; key && i < kept; i += 2) place += best[i] > key;
    place = cu_warp_sum<2>(place);
    if (key && threadIdx.x % 2 == 0) {
        const uint32_t id = id_of(key);
        out[place].id = id;
        out[place].logit = x[id - j.begin];
    }
    return kept;
}

/* gate: join regs=128 shared=2832 */
static __global__ void __launch_bounds__(JOINERS) join(const cand_job j)
{
    CU_SHARED(uint64_t, keys, 32);
    CU_SHARED(float, scratch, 32);
    const unsigned row = j.row0 + blockIdx.x;
    const bool valid = row < *j.live;
    const unsigned tiles = valid ? j.tiles : 0;
    const tile_found *const f = j.found + (size_t)blockIdx.x * j.tiles;
    const float *const x = j.logits + row * j.stride;
    kern_cand_head *const out = reinterpret_cast<kern_cand_head *>(j.out + (size_t)row * j.out_stride);
    kern_cand_param p = {};
    uint64_t best = 0, drawn = 0;
    float sum = 0.0f, tsum = 0.0f;
    bool bad = false;

    if (valid) p = j.params[row];
    for (unsigned i = threadIdx.x; i < tiles; i += JOINERS) {
        best = better(best, f[i].best);
        drawn = better(drawn, f[i].drawn);
        bad = bad || f[i].nonfinite;
    }
    best = cu_block_max(best, static_cast<uint64_t>(0), keys);
    drawn = cu_block_max(drawn, static_cast<uint64_t>(0), keys);
    bad = __syncthreads_or(bad);

    const bool there = best && !bad, tempered = p.temperature > 0.0f;
    const float max = value_of(best), tmax = tempered ? cu_flush(max / p.temperature) : 0.0f;
    for (unsigned i = threadIdx.x; there && i < tiles; i += JOINERS) {
        const float m = value_of(f[i].best);
        sum = fmaf(f[i].sum, cu_exp(m - max), sum);
        const float share = tempered ? cu_exp(cu_flush(m / p.temperature) - tmax) : 0.0f;
        if (share != 0.0f) tsum = fmaf(f[i].tsum, share, tsum);     /* a tile of -inf, its sum is NaN, has no share */
    }
    sum = cu_block_sum(sum, scratch);
    tsum = cu_block_sum(tsum, scratch);
    const uint32_t listed = join_lists(j, f, there ? wanted(j, p.n_list) : 0, x, reinterpret_cast<kern_cand_entry *>(out + 1));
    if (!valid || threadIdx.x != 0) return;

    kern_cand_head h = empty_head(bad);
    if (there) {
        h.max = max;
        h.sum = sum;
        h.best = id_of(best);
        h.best_logit = x[h.best - j.begin];
        if (p.target - j.begin < j.n && p.target >= j.begin) {
            h.target_logit = x[p.target - j.begin];
            h.has_target = 1;
        }
        if (tempered) {
            h.tmax = tmax;
            h.tsum = tsum;
            if (p.draw) {
                h.drawn = drawn ? id_of(drawn) : j.begin;    /* no value compares: the first */
                h.drawn_value = drawn ? value_of(drawn) : -INFINITY;
                h.drawn_logit = x[h.drawn - j.begin];
            }
        }
        h.n_list = listed;
    }
    *out = h;
}

static px_code check(const kern_candidates_args *a, px_err *e)
{
    const uint32_t rows = a->rows.max;
    px_code rc;

    if (a->n_valid > a->stride) return px_fail(e, PX_EINTERNAL, "candidates.stride", "%u of %u logits", a->stride, a->n_valid);
    if (a->n_valid > CU_MAX_COLS) return px_fail(e, PX_EUNSUP, "candidates.n_valid", "%u ids, at most %u", a->n_valid, CU_MAX_COLS);
    if (a->vocab_begin > UINT32_MAX - a->n_valid) return px_fail(e, PX_EINTERNAL, "candidates.vocab_begin", "%u", a->vocab_begin);
    if (a->out_stride < sizeof(kern_cand_head) || a->out_stride % 8)
        return px_fail(e, PX_EINTERNAL, "candidates.out_stride", "%u bytes", a->out_stride);
    if ((rc = kern_cuda_rows(&a->rows, "candidates.rows", e))
        || (rc = kern_cuda_need(a->logits, rows ? (size_t)(rows - 1) * a->stride + a->n_valid : 0, 4, 4, "candidates.logits", e))
        || (rc = kern_cuda_need(a->params, rows, sizeof(kern_cand_param), 8, "candidates.params", e))
        || (rc = kern_cuda_need(a->out, rows, a->out_stride, 8, "candidates.out", e)))
        return rc;
    return kern_cuda_need(a->workspace, rows ? 1 : 0, kern_cuda_candidates_row_bytes(a->n_valid), 16, "candidates.workspace", e);
}

extern "C" px_code kern_cuda_candidates(kern_dev *d, const kern_candidates_args *a, px_err *e)
{
    const size_t row_bytes = kern_cuda_candidates_row_bytes(a->n_valid);
    uint32_t step = KERN_CUDA_CAND_ROWS;
    cand_job j = {};
    cu_status s = 0;
    px_code rc;

    if ((rc = check(a, e))) return rc;
    if (row_bytes && a->workspace.bytes / row_bytes < step) step = static_cast<uint32_t>(a->workspace.bytes / row_bytes);
    j.logits = static_cast<const float *>(a->logits.h);
    j.params = static_cast<const kern_cand_param *>(a->params.h);
    j.live = static_cast<const uint32_t *>(a->rows.live.h);
    j.found = static_cast<tile_found *>(a->workspace.h);
    j.out = static_cast<uint8_t *>(a->out.h);
    j.stride = a->stride;
    j.begin = a->vocab_begin;
    j.n = a->n_valid;
    j.out_stride = a->out_stride;
    j.room = (a->out_stride - static_cast<uint32_t>(sizeof(kern_cand_head))) / static_cast<uint32_t>(sizeof(kern_cand_entry));
    j.aligned = cu_rows_aligned(j.logits, j.stride) && j.begin % 4 == 0;
    if (j.n) j.tiles = cu_ceil_div((j.begin + j.n - 1) / 4 - j.begin / 4 + 1, KERN_CUDA_CAND_TILE / 4);
    for (uint32_t done = 0; done < a->rows.max && !s; done += step) {
        const uint32_t rows = a->rows.max - done < step ? a->rows.max - done : step;

        j.row0 = done;
        if (j.tiles) s = CU_LAUNCH(tile, dim3(rows * j.tiles), dim3(THREADS), 0, d->stream, j);
        if (!s) s = CU_LAUNCH(join, dim3(rows), dim3(JOINERS), 0, d->stream, j);
    }
    return kern_cuda_done(d, "candidates", s, e);
}
