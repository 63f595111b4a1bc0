/* planted.cu - kernels with one fault each, which the host build must find, and three without, which it must pass.
 * A comment names the fault on the line that a report should name.  FAULT is the fault that a launch runs. */
#include "planted.h"

#include "kernels/cuda/ptx.h"
#include "kernels/cuda/warp.h"

enum { THREADS = 128 };

static __global__ void missing_syncthreads(const float *in, float *out)
{
    CU_SHARED(float, s, THREADS);

    s[threadIdx.x] = in[threadIdx.x];                                   /* BUG(missing_syncthreads) */
    out[threadIdx.x] = s[(threadIdx.x + 33) % THREADS];                 /* BUG(missing_syncthreads) */
}

static __global__ void missing_syncwarp(const float *in, float *out)
{
    CU_SHARED(float, s, THREADS);
    const unsigned lane = threadIdx.x % 32, base = threadIdx.x - lane;

    s[base + lane] = in[threadIdx.x];                                   /* BUG(missing_syncwarp) */
    out[threadIdx.x] = s[base + (lane + 1) % 32];                       /* BUG(missing_syncwarp) */
}

static __global__ void shuffle_as_barrier(const float *in, float *out)
{
    CU_SHARED(float, s, THREADS);
    const unsigned lane = threadIdx.x % 32, base = threadIdx.x - lane;

    s[base + lane] = in[threadIdx.x];                                   /* BUG(shuffle_as_barrier) */
    const float v = cu_shfl_xor(in[threadIdx.x], 1);                    /* orders no memory */
    out[threadIdx.x] = s[base + (lane + 1) % 32] + v - v;               /* BUG(shuffle_as_barrier) */
}

static __global__ void wrong_mask(const float *in, float *out)
{
    float v = in[threadIdx.x];

    v += cu_shfl_xor(v, 1, threadIdx.x % 32 < 16 ? 0xffffu : 0xffffffffu);      /* BUG(wrong_mask) */
    out[threadIdx.x] = v;
}

static __global__ void not_in_mask(const float *in, float *out)
{
    out[threadIdx.x] = cu_shfl_xor(in[threadIdx.x], 1, 0xfffffffeu);    /* BUG(not_in_mask) */
}

static __global__ void other_line(const float *in, float *out)
{
    float v = in[threadIdx.x];

    if (threadIdx.x % 32 < 16) v = cu_warp_sum(v);                      /* BUG(other_line) */
    else v = cu_warp_sum(-v);                                           /* BUG(other_line) */
    out[threadIdx.x] = v;
}

static __global__ void exited_lane(const float *in, float *out)
{
    if (threadIdx.x >= 100) return;
    out[threadIdx.x] = cu_warp_sum(in[threadIdx.x]);                    /* BUG(exited_lane) */
}

static __global__ void shared_bounds(const float *in, float *out)
{
    CU_SHARED(float, too_short, THREADS - 1);

    too_short[threadIdx.x] = in[threadIdx.x];                           /* BUG(shared_bounds) */
    __syncthreads();
    out[threadIdx.x] = too_short[threadIdx.x / 2];
}

static __global__ void global_bounds(const float *in, float *out)
{
    out[threadIdx.x] = in[threadIdx.x + 1];                             /* BUG(global_bounds) */
}

static __global__ void uninitialised(const float *in, float *out)
{
    CU_SHARED(float, s, THREADS);

    if (threadIdx.x != 77) s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x] + 1.0f;                           /* BUG(uninitialised) */
}

static __global__ void missing_wait(const float *in, float *out)
{
    CU_SHARED(uint4, s, THREADS / 4);

    if (threadIdx.x < THREADS / 4) cu_cp_async16(&s[threadIdx.x], &in[4 * threadIdx.x]);
    cu_cp_async_commit();
    cu_cp_async_wait<1>();                                              /* 0 would be right */
    __syncthreads();
    out[threadIdx.x] = reinterpret_cast<const float *>(s)[threadIdx.x]; /* BUG(missing_wait) */
}

static __global__ void copy_bounds(const float *in, float *out)
{
    CU_SHARED(uint4, s, THREADS);

    cu_cp_async16(&s[threadIdx.x], &in[4 * (threadIdx.x % (THREADS / 4 + 1))]);     /* BUG(copy_bounds) */
    cu_cp_async_commit();
    cu_cp_async_wait<0>();
    __syncthreads();
    out[threadIdx.x] = reinterpret_cast<const float *>(s)[threadIdx.x];
}

static __global__ void copy_overrun(const float *in, float *out)       /* the next copy before all have read the last */
{
    CU_SHARED(uint4, s, THREADS / 4);
    float sum = 0.0f;

    for (int i = 0; i < 2; i++) {
        if (threadIdx.x < THREADS / 4) cu_cp_async16(&s[threadIdx.x ^ (i ? 1 : 0)], &in[4 * threadIdx.x]);      /* BUG(copy_overrun) */
        cu_cp_async_commit();
        cu_cp_async_wait<0>();
        __syncthreads();
        sum += reinterpret_cast<const float *>(s)[threadIdx.x];         /* BUG(copy_overrun) */
    }
    out[threadIdx.x] = sum;
}

static __global__ void warp_race(const float *in, float *out)
{
    CU_SHARED(float, s, 4);
    const float sum = cu_warp_sum(in[threadIdx.x]);

    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = sum;               /* BUG(warp_race) */
    __syncwarp();                                                       /* orders a warp, not the block */
    out[threadIdx.x] = s[0] + s[1] + s[2] + s[3];                       /* BUG(warp_race) */
}

static __global__ void divergent_barrier(const float *in, float *out)
{
    if (threadIdx.x < 64) __syncthreads();                              /* BUG(divergent_barrier) */
    else __syncthreads();                                               /* BUG(divergent_barrier) */
    out[threadIdx.x] = in[threadIdx.x];
}

static __global__ void early_return(const float *in, float *out)
{
    if (threadIdx.x >= 100) return;
    __syncthreads();                                                    /* BUG(early_return) */
    out[threadIdx.x] = in[threadIdx.x];
}

static __global__ void too_much_shared(const float *in, float *out)
{
    CU_SHARED(float, s, 12 * 1024 + 1);                                 /* BUG(too_much_shared) */

    s[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = s[threadIdx.x];
}

/* Launched with 48 KB of dynamic memory. */
static __global__ void static_beside_dynamic(const float *in, float *out)
{
    CU_DYN_SHARED(float, all);
    CU_SHARED(float, more, 1);                                          /* BUG(static_beside_dynamic) */

    more[0] = all[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = all[threadIdx.x];
}

static __global__ void misaligned(const float *in, float *out)
{
    const uint4 v = cu_load16(in + threadIdx.x % 8);                    /* BUG(misaligned) */

    out[threadIdx.x] = __uint_as_float(v.x);
}

static __global__ void misaligned_raw(const float *in, float *out)
{
    out[threadIdx.x] = reinterpret_cast<const float4 *>(in + 1)[0].x;   /* BUG(misaligned_raw) */
}

static __global__ void matrix_address(const float *in, float *out)
{
    CU_SHARED(uint4, s, 31);
    unsigned r[4];

    if (threadIdx.x < 31) s[threadIdx.x] = cu_load16(in);
    __syncthreads();
    cu_ldmatrix_x4(r, s + threadIdx.x % 32);                            /* BUG(matrix_address) */
    out[threadIdx.x] = __uint_as_float(r[0]);
}

static __global__ void block_race(const float *in, float *out)
{
    out[threadIdx.x] = in[threadIdx.x];                                 /* BUG(block_race) */
}

/* The last block adds up; without the fence its view of the others' parts is not ordered. */
template <bool FENCE>
static __global__ void last_block(const float *in, float *out, unsigned *count)
{
    CU_SHARED(unsigned, last, 1);

    out[THREADS + blockIdx.x * THREADS + threadIdx.x] = in[threadIdx.x];        /* BUG(missing_fence) */
    __syncthreads();
    if (threadIdx.x == 0) {
        if (FENCE) __threadfence();
        *last = atomicAdd(count, 1u) == gridDim.x - 1;
        if (FENCE) __threadfence();
    }
    __syncthreads();
    if (*last) {
        float sum = 0.0f;
        for (unsigned b = 0; b < gridDim.x; b++) sum += out[THREADS + b * THREADS + threadIdx.x];       /* BUG(missing_fence) */
        out[threadIdx.x] = sum;
        if (threadIdx.x == 0) *count = 0;
    }
}

CU_API cu_status planted(const char *fault, const float *in, float *out, unsigned *count, cu_stream s)
{
    static const struct { const char *name; void (*kernel)(const float *, float *); unsigned blocks; } table[] = {
        { "missing_syncthreads", missing_syncthreads, 1 }, { "missing_syncwarp", missing_syncwarp, 1 },
        { "shuffle_as_barrier", shuffle_as_barrier, 1 }, { "wrong_mask", wrong_mask, 1 }, { "not_in_mask", not_in_mask, 1 }, { "other_line", other_line, 1 },
        { "exited_lane", exited_lane, 1 }, { "shared_bounds", shared_bounds, 1 }, { "global_bounds", global_bounds, 1 },
        { "uninitialised", uninitialised, 1 }, { "missing_wait", missing_wait, 1 }, { "copy_bounds", copy_bounds, 1 },
        { "copy_overrun", copy_overrun, 1 }, { "warp_race", warp_race, 1 }, { "divergent_barrier", divergent_barrier, 1 },
        { "early_return", early_return, 1 }, { "too_much_shared", too_much_shared, 1 }, { "misaligned", misaligned, 1 },
        { "misaligned_raw", misaligned_raw, 1 }, { "matrix_address", matrix_address, 1 }, { "block_race", block_race, 2 },
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!__builtin_strcmp(table[i].name, fault)) return CU_LAUNCH(table[i].kernel, dim3(table[i].blocks), dim3(THREADS), 0, s, in, out);
    if (!__builtin_strcmp(fault, "missing_fence")) return CU_LAUNCH(last_block<false>, dim3(2), dim3(THREADS), 0, s, in, out, count);
    if (!__builtin_strcmp(fault, "not_opted_in")) return CU_LAUNCH(global_bounds, dim3(1), dim3(THREADS), 49153, s, in, out);
    if (!__builtin_strcmp(fault, "static_beside_dynamic")) return CU_LAUNCH(static_beside_dynamic, dim3(1), dim3(THREADS), 49152, s, in, out);
    return -1;
}

/* ---- without a fault ---- */
static __global__ void sum_rows(const float *in, uint32_t cols, float *out)
{
    CU_SHARED(float, scratch, 32);
    CU_DYN_SHARED(float, row);
    float sum = 0.0f;

    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) row[c] = in[(size_t)blockIdx.x * cols + c];
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) sum += row[cols - 1 - c];
    sum = cu_block_sum(sum, scratch);
    const float most = cu_block_max(sum, -1e30f, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = most;
}

CU_API cu_status good_sum(const float *in, uint32_t rows, uint32_t cols, float *out, cu_stream s)
{
    const size_t bytes = sizeof(float) * cols;

    if (cu_status rc = cu_allow_shared(sum_rows, bytes)) return rc;
    return CU_LAUNCH(sum_rows, dim3(rows), dim3(96), bytes, s, in, cols, out);
}

/* Another thread asks for a launch with less shared memory in between. */
CU_API cu_status good_sum_overtaken(const float *in, uint32_t rows, uint32_t cols, float *out, cu_stream s)
{
    const size_t bytes = sizeof(float) * cols;

    if (cu_status rc = cu_allow_shared(sum_rows, bytes)) return rc;
    if (cu_status rc = cu_allow_shared(sum_rows, sizeof(float))) return rc;
    return CU_LAUNCH(sum_rows, dim3(rows), dim3(96), bytes, s, in, cols, out);
}

/* Two buffers: a tile arrives while the one before is read, by other threads than those that asked for it. */
static __global__ void copy_tiles(const uint4 *in, uint32_t n, uint4 *out)
{
    CU_SHARED(uint4, tile, 2 * THREADS);
    const uint32_t tiles = cu_ceil_div(n, (uint32_t)THREADS);

    cu_cp_async16(&tile[threadIdx.x], in + threadIdx.x % n, threadIdx.x < n);
    cu_cp_async_commit();
    for (uint32_t i = 0; i < tiles; i++) {
        const uint32_t next = (i + 1) * THREADS + threadIdx.x, from = threadIdx.x ^ 37u, at = i * THREADS + from;
        cu_cp_async16(&tile[(i + 1) % 2 * THREADS + threadIdx.x], next < n ? in + next : in, next < n);
        cu_cp_async_commit();
        cu_cp_async_wait<1>();
        __syncthreads();
        if (at < n) cu_store16(&out[at], cu_load16(&tile[i % 2 * THREADS + from]));
        __syncthreads();
    }
}

CU_API cu_status good_copy(const void *in, uint32_t n, void *out, cu_stream s)
{
    return CU_LAUNCH(copy_tiles, dim3(1), dim3(THREADS), 0, s, static_cast<const uint4 *>(in), n, static_cast<uint4 *>(out));
}

/* out (m, 16) = a (m, k) b (k, 16): a warp 16 rows; k a multiple of 16. */
template <bool BF16>
static __global__ void multiply(const uint16_t *a, const uint16_t *b, uint32_t m, uint32_t k, float *out)
{
    CU_SHARED(uint16_t, sa, 2 * 16 * 24);           /* rows of 48 bytes: 16 values and room */
    CU_SHARED(uint16_t, sb, 16 * 24);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * 32 + warp * 16;
    uint16_t *const mine = sa + warp * 16 * 24;
    float d[2][4] = {};

    for (uint32_t k0 = 0; k0 < k; k0 += 16) {
        const uint32_t r = lane / 2, half = lane % 2 * 8;
        cu_cp_async16(&mine[r * 24 + half], row + r < m ? &a[(size_t)(row + r) * k + k0 + half] : a, row + r < m);
        if (warp == 0) cu_cp_async16(&sb[r * 24 + half], &b[(size_t)(k0 + r) * 16 + half]);
        cu_cp_async_commit();
        cu_cp_async_wait<0>();
        __syncthreads();
        unsigned fa[4], fb[4];
        cu_ldmatrix_x4(fa, &mine[lane % 16 * 24 + lane / 16 * 8]);
        cu_ldmatrix_x4_trans(fb, &sb[lane % 16 * 24 + lane / 16 * 8]);
        CU_UNROLL
        for (int n = 0; n < 2; n++) {
            const unsigned f[2] = { fb[2 * n], fb[2 * n + 1] };
            if (BF16) cu_mma_bf16(d[n], fa, f);
            else cu_mma_f16(d[n], fa, f);
        }
        __syncthreads();
    }
    CU_UNROLL
    for (int n = 0; n < 2; n++) {
        CU_UNROLL
        for (int i = 0; i < 4; i++) {
            const uint32_t r = row + lane / 4 + i / 2 * 8;
            if (r < m) out[r * 16 + n * 8 + lane % 4 * 2 + i % 2] = d[n][i];
        }
    }
}

CU_API cu_status good_multiply(int bf16, const uint16_t *a, const uint16_t *b, uint32_t m, uint32_t k, float *out, cu_stream s)
{
    return CU_LAUNCH(bf16 ? multiply<true> : multiply<false>, dim3(cu_ceil_div(m, 32u)), dim3(64), 0, s, a, b, m, k, out);
}

CU_API cu_status good_last_block(const float *in, float *out, unsigned *count, cu_stream s)
{
    return CU_LAUNCH(last_block<true>, dim3(3), dim3(THREADS), 0, s, in, out, count);
}
