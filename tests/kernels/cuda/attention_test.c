/* attention_test.c - paged attention on CUDA: near a softmax in double within a bound that follows from its roundings, near
 * the CPU's definition, and under `deterministic` the same bits in any company. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/sizes.h"
#include "tests/kernels/cuda/kv_bench.h"
#include "tests/kernels/cuda/kv_image.h"

enum { LAYERS = 2, LAYER = 1, SLOTS = 3 };

typedef struct shape { kern_kv_dtype dtype; uint32_t head_dim, block, n_kv_head, n_head; const uint32_t *map; uint32_t n_ctx, window; } shape;
typedef struct row_at { uint32_t slot, pos; } row_at;

/* The first key that a row sees: with a window of n keys, its own and the n - 1 before it. */
static uint32_t first_of(const shape *s, uint32_t pos) { return s->window && pos + 1 > s->window ? pos + 1 - s->window : 0; }

/* A cache with its queries: row t of a run is q[id[t]], so that one query can stand in many steps. */
typedef struct world {
    shape    s;
    kv_image m;
    kern_buf pool, table, head_map;          /* on the device */
} world;

/* Keys [from, n_keys) of each slot, the others NaN; from NULL: from the first on. */
static world world_from(const cuda_bench *b, const shape *s, const uint32_t *from, const uint32_t *n_keys, uint64_t *seed)
{
    const kern_kv kv = { .dtype = s->dtype, .n_layer = LAYERS, .block = s->block, .n_kv_head = s->n_kv_head, .head_dim = s->head_dim };
    world w = { .s = *s, .m = kv_image_make(&kv, SLOTS, (s->n_ctx + s->block - 1) / s->block, n_keys, seed) };
    float x[CU_MAX_HEAD_DIM];

    for (uint32_t slot = 0; slot < SLOTS; slot++)
        for (uint32_t pos = from ? from[slot] : 0; pos < n_keys[slot]; pos++)
            for (uint32_t i = 0; i < 2 * s->n_kv_head; i++) {
                /* some vectors are large, so that a key too many or too few is seen; and fp16 has subnormal numbers */
                const float size = test_rand(seed) % 16 ? 1.0f : test_rand(seed) % 2 ? 4.0f : 1e-6f;
                for (uint32_t d = 0; d < s->head_dim; d++) x[d] = test_rand_normal(seed) * size;
                kv_image_put(&w.m, LAYER, slot, pos, i / 2, i % 2, x);
            }
    w.pool = cuda_bench_put(b, w.m.kv.pool.h, w.m.kv.pool.bytes);
    w.table = cuda_bench_put(b, w.m.table, (size_t)SLOTS * w.m.stride * 4);
    w.head_map = cuda_bench_put(b, s->map, s->n_head * 4);
    return w;
}

static world world_make(const cuda_bench *b, const shape *s, const uint32_t *n_keys, uint64_t *seed)
{
    return world_from(b, s, NULL, n_keys, seed);
}

static void world_drop(const cuda_bench *b, world *w)
{
    kern_buf *all[] = { &w->pool, &w->table, &w->head_map };
    for (size_t i = 0; i < 3; i++) b->ops->free(b->d, all[i]);
    kv_image_drop(&w->m);
}

static float *queries(const shape *s, uint32_t n, float size, uint64_t *seed)
{
    const size_t count = (size_t)n * s->n_head * s->head_dim;
    float *q = malloc(count * sizeof *q);

    assert_non_null(q);
    for (size_t i = 0; i < count; i++) q[i] = test_rand_normal(seed) * size;
    return q;
}

/* Buffers of a run, poisoned where no row is. */
typedef struct step { kern_attention_args a; kern_buf live, pos, slot, q, out, work; } step;

static step step_make(const cuda_bench *b, const world *w, const row_at *rows, const float *q, uint32_t live, uint32_t max)
{
    const shape *s = &w->s;
    const size_t vectors = (size_t)s->n_head * s->head_dim;
    const kern_shape sh = { .rows = max, .threads = 1, .n_head = s->n_head, .n_kv_head = s->n_kv_head, .head_dim = s->head_dim,
                            .max_cols = 64, .max_out = 64, .n_ctx = s->n_ctx };
    uint32_t *pos = malloc(max * 4), *slot = malloc(max * 4);
    float *all = malloc(max * vectors * 4);

    assert_true(pos && slot && all);
    memset(pos, 0xff, max * 4);
    memset(slot, 0xff, max * 4);
    memset(all, 0xff, max * vectors * 4);
    for (uint32_t t = 0; t < live; t++) {
        pos[t] = rows[t].pos;
        slot[t] = rows[t].slot;
    }
    memcpy(all, q, live * vectors * 4);
    step p = { .live = cuda_bench_put(b, &live, 4), .pos = cuda_bench_put(b, pos, max * 4), .slot = cuda_bench_put(b, slot, max * 4),
               .q = cuda_bench_put(b, all, max * vectors * 4) };
    memset(all, 0xfe, max * vectors * 4);
    p.out = cuda_bench_put(b, all, max * vectors * 4);
    p.work = cuda_bench_poisoned(b, kern_workspace_bytes(KERN_ON_CUDA, &sh));
    p.a = (kern_attention_args){ .rows = { max, p.live }, .n_head = s->n_head, .n_kv_head = s->n_kv_head, .head_dim = s->head_dim,
                                 .layer = LAYER, .window = s->window, .q = p.q, .head_map = w->head_map, .pos = p.pos, .row_slot = p.slot,
                                 .block_table = w->table, .table_stride = w->m.stride, .kv = w->m.kv, .out = p.out, .workspace = p.work };
    p.a.kv.pool = w->pool;
    free(pos);
    free(slot);
    free(all);
    return p;
}

static void step_drop(const cuda_bench *b, step *p)
{
    kern_buf *all[] = { &p->live, &p->pos, &p->slot, &p->q, &p->out, &p->work };
    for (size_t i = 0; i < 6; i++) b->ops->free(b->d, all[i]);
}

/* What live rows come to; the rows behind them are left alone. */
static float *attend(const cuda_bench *b, const world *w, const row_at *rows, const float *q, uint32_t live, uint32_t max)
{
    step p = step_make(b, w, rows, q, live, max);
    float *out = malloc(p.out.bytes + 1);
    px_err e = {0};

    assert_non_null(out);
    cuda_ops_next_schedule();
    if (b->ops->attention(b->d, &p.a, &e)) fail_msg("%s: %s", e.field, e.text);
    cuda_bench_get(b, out, p.out, p.out.bytes);
    for (size_t i = (size_t)live * w->s.n_head * w->s.head_dim; i < p.out.bytes / 4; i++) assert_int_equal(((uint32_t *)out)[i], 0xfefefefe);
    step_drop(b, &p);
    return out;
}

/* ---- against double ---- */

/* Unit roundoff of q and p where they meet the tensor cores; 0: plain fp32. */
static double roundoff(const shape *s)
{
    return !cu_attention_fast(s->dtype, s->head_dim) ? 0 : s->dtype == KERN_KV_BF16 ? ldexp(1, -8) : ldexp(1, -11);
}

/* One head of one row.  The bound: q's elements are rounded independently, so a score is off by u |q k| (root of the sum of
 * squares; four standard deviations of a rounding at most) plus fp32's own error; a weight then by that twice (in the
 * sum below too) plus the rounding of p and, for int8, of V; and p in fp16 has a least step of 2^-24. */
static void near_double(const world *w, row_at at, uint32_t head, const float *q, const float *out, const char *what)
{
    const shape *s = &w->s;
    const uint32_t h = s->head_dim, n = at.pos + 1, first = first_of(s, at.pos), kv_head = s->map[head];
    const double u = roundoff(s);
    double *p = malloc(n * sizeof *p), top = -INFINITY, sum = 0, worst = 0;

    assert_non_null(p);
    for (uint32_t j = first; j < n; j++) {
        double square = 0, size = 0;
        p[j] = 0;
        for (uint32_t i = 0; i < h; i++) {
            const double x = (double)q[i] * kv_image_get(&w->m, LAYER, at.slot, j, kv_head, false, i);
            p[j] += x;
            square += x * x;
            size += fabs(x);
        }
        if (p[j] > top) top = p[j];
        const double error = 4 / sqrt(3) * u * sqrt(square) + (h + 8) * ldexp(size, -24) + 1e-6;
        if (error > worst) worst = error;
    }
    for (uint32_t j = first; j < n; j++) sum += p[j] = exp(p[j] - top);
    const double relative = expm1(2 * worst) + 2 * u + (s->dtype == KERN_KV_INT8 ? u : 0) + (n + 16) * ldexp(1, -23);
    for (uint32_t i = 0; i < h; i++) {
        double o = 0, size = 0, most = 0;
        for (uint32_t j = first; j < n; j++) {
            const double v = kv_image_get(&w->m, LAYER, at.slot, j, kv_head, true, i);
            o += p[j] * v;
            size += p[j] * fabs(v);
            if (fabs(v) > most) most = fabs(v);
        }
        const double bound = relative * size / sum + (u > 0 ? n * ldexp(most, -25) / sum + ldexp(1, -24) : 0) + 1e-30;
        if (!(fabs(out[i] - o / sum) <= bound))
            fail_msg("%s: type %d, head_dim %u, block %u, slot %u, position %u, head %u, element %u: %.9g, in double %.9g, bound %.3g", what,
                     (int)s->dtype, h, s->block, at.slot, at.pos, head, i, (double)out[i], o / sum, bound);
    }
    free(p);
}

static void rows_near_double(const cuda_bench *b, const world *w, const row_at *rows, const float *q, uint32_t live, uint32_t max,
                             uint32_t every, const char *what)
{
    const size_t vectors = (size_t)w->s.n_head * w->s.head_dim;
    float *out = attend(b, w, rows, q, live, max);

    for (uint32_t t = 0; t < live; t += every)
        for (uint32_t head = 0; head < w->s.n_head; head++)
            if (w->s.map[head] < w->s.n_kv_head)
                near_double(w, rows[t], head, q + t * vectors + head * w->s.head_dim, out + t * vectors + head * w->s.head_dim, what);
    free(out);
}

static const uint32_t map_1[] = { 0 }, map_2_2[] = { 0, 1 }, map_4_2[] = { 0, 0, 1, 1 }, map_5_2[] = { 0, 1, 0, 0, 1 };
static const uint32_t map_3_2[] = { 0, 1, 0 };
static const uint32_t map_3_3[] = { 2, 0, 2 };                             /* nobody reads KV head 1 */
static const uint32_t map_20[] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
static const kern_kv_dtype types[] = { KERN_KV_F16, KERN_KV_BF16, KERN_KV_INT8, KERN_KV_FP8, KERN_KV_F32 };

/* Rows alone in their slots, at the borders of groups, leaves, parts and blocks. */
static void decode_rows_are_near_double(void **state)
{
    static const uint32_t at[][SLOTS] = { { 0, 15, 63 }, { 16, 64, 127 }, { 128, 193, 255 }, { 1, 300, 511 } };
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 21;

    for (uint32_t i = EFFORT_TSAN ? 7 : 0; i < (EFFORT_TSAN ? 8 : 10); i++) {        /* 7: int8, head_dim 64 */
        const uint32_t dim = i / 5 % 2 ? 64 : 128, block = 16u << i % 4;
        const shape s = { types[i % 5], dim, block, 2, i % 2 ? 4 : 5, i % 2 ? map_4_2 : map_5_2, 600, 0 };
        uint32_t n_keys[SLOTS];
        row_at rows[SLOTS];
        for (uint32_t k = 0; k < SLOTS; k++) {
            rows[k] = (row_at){ k, at[i % 4][k] };
            n_keys[k] = at[i % 4][k] + 1;
        }
        world w = world_make(&b, &s, n_keys, &seed);
        float *q = queries(&s, SLOTS, 1.0f / sqrtf((float)dim), &seed);
        rows_near_double(&b, &w, rows, q, SLOTS, SLOTS + 1, 1, "decode");
        rows_near_double(&b, &w, rows + 2, q, 1, 1, 1, "one row");
        rows_near_double(&b, &w, rows, q, 0, 2, 1, "no row");
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

/* Any even head_dim; more than 16 heads a group; groups of one; a KV head that nobody reads. */
static void odd_shapes_are_near_double(void **state)
{
    static const shape shapes[] = {
        { KERN_KV_F16, 2, 16, 1, 1, map_1, 300, 0 },     { KERN_KV_BF16, 20, 32, 2, 5, map_5_2, 300, 0 }, { KERN_KV_INT8, 80, 64, 2, 4, map_4_2, 300, 0 },
        { KERN_KV_FP8, 96, 128, 2, 2, map_2_2, 300, 0 }, { KERN_KV_F16, 256, 16, 1, 1, map_1, 300, 0 },   { KERN_KV_INT8, 6, 16, 2, 2, map_2_2, 300, 0 },
        { KERN_KV_F32, 130, 32, 3, 3, map_3_3, 300, 0 }, { KERN_KV_F16, 64, 16, 3, 3, map_3_3, 300, 0 },  { KERN_KV_BF16, 64, 32, 1, 20, map_20, 300, 0 },
        { KERN_KV_F16, 128, 128, 2, 2, map_2_2, 300, 0 },
    };
    static const uint32_t n_keys[SLOTS] = { 1, 130, 300 };
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 22;

    for (size_t i = 0; i < CUDA_BENCH_CASES(sizeof shapes / sizeof *shapes); i++) {
        const row_at rows[] = { { 2, 299 }, { 1, 64 }, { 0, 0 }, { 1, 129 }, { 2, 100 } };
        world w = world_make(&b, &shapes[i], n_keys, &seed);
        float *q = queries(&shapes[i], 5, 1.0f / sqrtf((float)shapes[i].head_dim), &seed);
        rows_near_double(&b, &w, rows, q, 5, 5, 1, "odd shape");
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

/* A step of chunks and single rows: n rows in all, the chunks longer and shorter than a run. */
static uint32_t mixed_rows(row_at *rows, uint32_t n_ctx, uint32_t longest, uint64_t *seed)
{
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        const uint32_t count = slot == 1 ? longest : 1 + (uint32_t)(test_rand(seed) % 12);
        const uint32_t from = (uint32_t)(test_rand(seed) % (n_ctx - count));
        for (uint32_t k = 0; k < count; k++) rows[n++] = (row_at){ slot, from + k };
    }
    return n;
}

static void keys_of(const row_at *rows, uint32_t n, uint32_t *n_keys)
{
    memset(n_keys, 0, SLOTS * sizeof *n_keys);
    for (uint32_t t = 0; t < n; t++)
        if (rows[t].pos >= n_keys[rows[t].slot]) n_keys[rows[t].slot] = rows[t].pos + 1;
}

static void chunks_are_near_double(void **state)
{
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 23;

    for (uint32_t i = 0; i < 10 && !EFFORT_TSAN; i++) {
        const shape s = { types[i % 5], i % 3 ? 64 : 128, 16u << i % 4, i == 7 ? 1 : 2, i == 7 ? 20 : i % 2 ? 2 : 5,
                          i == 7 ? map_20 : i % 2 ? map_2_2 : map_5_2, 300, 0 };
        row_at rows[80];
        uint32_t n_keys[SLOTS];
        const uint32_t live = mixed_rows(rows, 300, 24 + (uint32_t)(test_rand(&seed) % 30), &seed), max = live < 34 ? 40 : live + i % 3;
        keys_of(rows, live, n_keys);
        world w = world_make(&b, &s, n_keys, &seed);
        float *q = queries(&s, live, 1.0f / sqrtf((float)s.head_dim), &seed);
        rows_near_double(&b, &w, rows, q, live, max, 3, "chunk");
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

/* Windows that end in a group, at a leaf's and a part's end, of one key, and wider than what there is; in chunks each row has
 * its own, and leaves that some of a block's rows see and others do not.  Keys before all windows are NaN. */
static void windows_are_near_double(void **state)
{
    static const uint32_t windows[] = { 8, 1, 64, 65, 130, 500, 17 };
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 41;

    for (uint32_t i = 0; i < (EFFORT_TSAN ? 1 : 14); i += EFFORT_SANITIZED ? 3 : 1) {
        const shape s = { types[i % 5], i < 7 ? 64 : i == 9 ? 40 : 128, 16u << i % 4, 2, i % 2 ? 2 : 5, i % 2 ? map_2_2 : map_5_2, 600,
                          windows[i % 7] };
        row_at rows[80];
        uint32_t n_keys[SLOTS], from[SLOTS] = { UINT32_MAX, UINT32_MAX, UINT32_MAX };
        const uint32_t live = mixed_rows(rows, 600, i % 3 && !EFFORT_SANITIZED ? 40 : 9, &seed), max = live + 2;
        keys_of(rows, live, n_keys);
        for (uint32_t t = 0; t < live; t++)
            if (first_of(&s, rows[t].pos) < from[rows[t].slot]) from[rows[t].slot] = first_of(&s, rows[t].pos);
        world w = world_from(&b, &s, from, n_keys, &seed);
        float *q = queries(&s, live, 1.0f / sqrtf((float)s.head_dim), &seed);
        if (!EFFORT_TSAN) rows_near_double(&b, &w, rows, q, live, max, 1, "window, chunk");
        rows_near_double(&b, &w, rows, q, 1, 1, 1, "window, one row");
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

/* The least of a chunk: one KV head, keys that are not split, leaves that are all seen, and cut by the diagonal. */
static void a_short_chunk_is_near_double(void **state)
{
    static const shape shapes[] = { { KERN_KV_F16, 64, 16, 1, 4, map_20, 128, 0 }, { KERN_KV_INT8, 64, 32, 1, 5, map_20, 128, 0 } };
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 31;

    for (size_t i = EFFORT_TSAN; i < 2; i++) {
        row_at rows[36];
        uint32_t n_keys[SLOTS];
        for (uint32_t t = 0; t < 36; t++) rows[t] = t < 34 ? (row_at){ 1, 60 + t } : (row_at){ 2 * (t - 34), t };
        keys_of(rows, 36, n_keys);
        world w = world_make(&b, &shapes[i], n_keys, &seed);
        float *q = queries(&shapes[i], 36, 1.0f / 8.0f, &seed);
        rows_near_double(&b, &w, rows, q, 36, 37, 1, "short chunk");
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

/* The CPU's definition on the same bytes, in the types that it has. */
static void rows_are_near_the_definition(void **state)
{
    static const kern_kv_dtype both[] = { KERN_KV_F16, KERN_KV_F32 };
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 24;
    px_err e = {0};
    const kern_ops *cpu = NULL;
    kern_dev *d = NULL;

    assert_int_equal(kern_cpu_ops(KERN_PATH_SCALAR, &cpu, &e), PX_OK);
    assert_int_equal(cpu->open(&d, &b.heap->a, &(kern_open_args){ .threads = 1 }, &e), PX_OK);
    for (uint32_t i = 0; i < 2 && !EFFORT_SANITIZED; i++) {
        const shape s = { both[i], 64, 32, 2, 5, map_5_2, 300, i ? 100 : 0 };
        const uint32_t max = 48;
        row_at rows[80];
        uint32_t n_keys[SLOTS], live = mixed_rows(rows, 300, 24, &seed), pos[48], slot[48];
        keys_of(rows, live, n_keys);
        world w = world_make(&b, &s, n_keys, &seed);
        float *q = queries(&s, max, 1.0f / 8.0f, &seed), *want = calloc(max * 5 * 64, 4), *work = malloc(2 * 128 * 64 * 4);
        for (uint32_t t = 0; t < live; t++) {
            pos[t] = rows[t].pos;
            slot[t] = rows[t].slot;
        }
        const kern_attention_args a = { .rows = { max, { &live, 4 } }, .n_head = 5, .n_kv_head = 2, .head_dim = 64, .layer = LAYER,
                                        .window = s.window, .q = { q, max * 5 * 64 * 4 }, .head_map = { (void *)map_5_2, 20 }, .pos = { pos, live * 4 },
                                        .row_slot = { slot, live * 4 }, .block_table = { w.m.table, SLOTS * w.m.stride * 4 },
                                        .table_stride = w.m.stride, .kv = w.m.kv, .out = { want, max * 5 * 64 * 4 },
                                        .workspace = { work, 2 * 128 * 64 * 4 } };
        if (cpu->attention(d, &a, &e)) fail_msg("%s: %s", e.field, e.text);
        float *out = attend(&b, &w, rows, q, live, max);
        for (uint32_t k = 0; k < live * 5 * 64; k++)                        /* scores of some 3: 4 u sqrt(64) / 8 * 4 at the worst */
            if (!(fabsf(out[k] - want[k]) <= (s.dtype == KERN_KV_F16 ? 2e-2f : 2e-5f)))
                fail_msg("type %d, row %u: %.9g, on the CPU %.9g", (int)s.dtype, k / 320, (double)out[k], (double)want[k]);
        free(out);
        free(q);
        free(want);
        free(work);
        world_drop(&b, &w);
    }
    cpu->close(d);
    cuda_bench_close(&b);
}

/* ---- deterministic: the same bits alone, in a crowd, in other chunks ---- */
static void a_query_has_the_same_bits_in_any_company(void **state)
{
    cuda_bench b = cuda_bench_open(state, true);
    uint64_t seed = 25;

    /* 4 and 9: the plain kernel; from 5 on with a window, within a part and over the border of two */
    for (uint32_t i = 0; i < 10 && !EFFORT_TSAN; i += EFFORT_SANITIZED ? 6 : 1) {
        const uint32_t dim = i % 5 == 4 ? 32 : i % 5 == 1 ? 128 : 64, n_ctx = 1100, heads = 3;
        const shape s = { types[i % 4], dim, 16u << i % 4, 2, heads, map_3_2, n_ctx, i < 5 ? 0 : i % 2 ? 600 : 70 };
        enum { LIVE = 21 };
        const uint32_t vectors = heads * dim;
        uint32_t n_keys[SLOTS];
        row_at rows[LIVE], other[LIVE];
        /* a row of three parts, a chunk of 14 across the border of two, and single rows */
        for (uint32_t t = 0; t < LIVE; t++)
            rows[t] = t < 1 ? (row_at){ 0, 1030 } : t < 15 ? (row_at){ 1, 504 + t } : (row_at){ 2, 63 * (t - 15) };
        keys_of(rows, LIVE, n_keys);
        world w = world_make(&b, &s, n_keys, &seed);
        float *q = queries(&s, LIVE, 1.0f / sqrtf((float)dim), &seed), *moved = malloc(LIVE * vectors * 4);
        float *crowd = attend(&b, &w, rows, q, LIVE, 36);                   /* with prefill */
        for (uint32_t t = 0; t < LIVE; t += 9)
            near_double(&w, rows[t], 2, q + t * vectors + 2 * dim, crowd + t * vectors + 2 * dim, "crowd");

        for (uint32_t t = 0; t < LIVE; t += 9)  {                           /* alone: decode, split, merged */
            float *alone = attend(&b, &w, rows + t, q + t * vectors, 1, 1);
            assert_memory_equal(alone, crowd + t * vectors, vectors * 4);
            free(alone);
        }
        float *cut = attend(&b, &w, rows + 5, q + 5 * vectors, 12, 33);   /* most of the chunk, cut elsewhere */
        assert_memory_equal(cut, crowd + 5 * vectors, 12 * vectors * 4);
        free(cut);
        for (uint32_t t = 0; t < LIVE; t++) {                               /* in no order: no run is left */
            other[t] = rows[(t * 8 + 5) % LIVE];
            memcpy(moved + t * vectors, q + (t * 8 + 5) % LIVE * vectors, vectors * 4);
        }
        float *shuffled = attend(&b, &w, other, moved, LIVE, 128);          /* decode, one block for all keys of a row */
        for (uint32_t t = 0; t < LIVE; t++) assert_memory_equal(shuffled + t * vectors, crowd + (t * 8 + 5) % LIVE * vectors, vectors * 4);
        free(shuffled);
        free(crowd);
        free(moved);
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

/* ---- numbers at the ends of their range ---- */
static void large_queries_and_nan_stay_in_their_rows(void **state)
{
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 26;

    for (uint32_t i = 0; i < CUDA_BENCH_CASES(3); i++) {
        const uint32_t live = i == 2 ? 36 : 3, max = i == 2 ? 36 : 3;
        const shape s = { i == 1 ? KERN_KV_INT8 : KERN_KV_F16, 64, 16, 1, 1, map_1, 200, 0 };
        row_at rows[36];
        uint32_t n_keys[SLOTS];
        for (uint32_t t = 0; t < live; t++) rows[t] = (row_at){ 1, 100 + t };
        keys_of(rows, live, n_keys);
        world w = world_make(&b, &s, n_keys, &seed);
        float *q = queries(&s, live, 1.0f / 8.0f, &seed);
        for (uint32_t k = 0; k < 64; k++) q[k] *= 8e6f;                     /* far beyond fp16: one key wins */
        q[2 * 64 + 5] = NAN;
        float *out = attend(&b, &w, rows, q, live, max);
        uint32_t best = 0;
        double top = -INFINITY;
        for (uint32_t j = 0; j <= rows[0].pos; j++) {
            double x = 0;
            for (uint32_t k = 0; k < 64; k++) x += (double)q[k] * kv_image_get(&w.m, LAYER, 1, j, 0, false, k);
            if (x > top) {
                top = x;
                best = j;
            }
        }
        for (uint32_t k = 0; k < 64; k++) {
            const double v = kv_image_get(&w.m, LAYER, 1, best, 0, true, k);
            assert_true(fabs(out[k] - v) <= fabs(v) / 1024 + 1e-7);
            assert_true(isnan(out[2 * 64 + k]));
        }
        near_double(&w, rows[1], 0, q + 64, out + 64, "beside a NaN");
        if (live > 3) near_double(&w, rows[20], 0, q + 20 * 64, out + 20 * 64, "beside a NaN");
        free(out);
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

/* ---- a graph holds addresses only ---- */
static void a_recorded_step_reads_what_changed(void **state)
{
    cuda_bench b = cuda_bench_open(state, false);
    const shape s = { KERN_KV_F16, 64, 16, 2, 4, map_4_2, 300, 0 };
    const row_at before[] = { { 0, 10 }, { 1, 20 } }, after[] = { { 2, 299 }, { 0, 63 }, { 1, 64 } };
    static const uint32_t n_keys[SLOTS] = { 64, 65, 300 };
    uint64_t seed = 27;
    px_err e = {0};
    bool replayed = false;

    world w = world_make(&b, &s, n_keys, &seed);
    float *q = queries(&s, 3, 1.0f / 8.0f, &seed), *want = attend(&b, &w, after, q, 3, 4), out[3 * 4 * 64];
    step p = step_make(&b, &w, before, q, 2, 4);
    assert_int_equal(b.ops->attention(b.d, &p.a, &e), PX_OK);
    assert_int_equal(b.ops->record(b.d, 1, &e), PX_OK);
    assert_int_equal(b.ops->attention(b.d, &p.a, &e), PX_OK);
    assert_int_equal(b.ops->end(b.d, &e), PX_OK);
    const uint32_t three = 3, pos[] = { 299, 63, 64 }, slot[] = { 2, 0, 1 };
    assert_int_equal(b.ops->upload(b.d, p.live, &three, 4, &e), PX_OK);
    assert_int_equal(b.ops->upload(b.d, p.pos, pos, 12, &e), PX_OK);
    assert_int_equal(b.ops->upload(b.d, p.slot, slot, 12, &e), PX_OK);
    assert_int_equal(b.ops->upload(b.d, p.q, q, 3 * 4 * 64 * 4, &e), PX_OK);
    assert_int_equal(b.ops->replay(b.d, 1, &replayed, &e), PX_OK);
    assert_true(replayed);
    cuda_bench_get(&b, out, p.out, sizeof out);
    assert_memory_equal(out, want, sizeof out);
    free(want);
    free(q);
    step_drop(&b, &p);
    world_drop(&b, &w);
    cuda_bench_close(&b);
}

/* ---- what the device alone can see does no harm; what the host can see is refused ---- */
static void contents_beyond_their_bounds_are_not_followed(void **state)
{
    cuda_bench b = cuda_bench_open(state, false);
    const shape s = { KERN_KV_F16, 64, 16, 2, 4, (const uint32_t[]){ 0, 7, 1, UINT32_MAX }, 64, 0 };
    const row_at rows[] = { { 0, 5 }, { 77, 3 }, { 1, 4000000000u }, { 0, 5 }, { 2, 0 } };
    static const uint32_t n_keys[SLOTS] = { 6, 64, 1 };
    uint64_t seed = 28;

    for (uint32_t max = 5; max <= (EFFORT_TSAN ? 5 : 41); max += 36) {
        world w = world_make(&b, &s, n_keys, &seed);
        const uint32_t nowhere = 123456;                                    /* the pool has no such block: what the last row finds is undefined */
        px_err e = {0};
        if (b.ops->upload(b.d, (kern_buf){ (uint32_t *)w.table.h + 2 * w.m.stride, 4 }, &nowhere, 4, &e)) fail_msg("%s: %s", e.field, e.text);
        float *q = queries(&s, 5, 1.0f / 8.0f, &seed), *out = attend(&b, &w, rows, q, 5, max);
        for (uint32_t head = 0; head < 4; head += 2) {
            near_double(&w, rows[0], head, q + head * 64, out + head * 64, "beside bad rows");
            near_double(&w, rows[3], head, q + (12 + head) * 64, out + (12 + head) * 64, "beside bad rows");
        }
        free(out);
        free(q);
        world_drop(&b, &w);
    }
    cuda_bench_close(&b);
}

static void wrong_arguments_are_named(void **state)
{
    cuda_bench b = cuda_bench_open(state, false);
    const shape s = { KERN_KV_F16, 64, 16, 2, 4, map_4_2, 300, 0 };
    static const uint32_t n_keys[SLOTS] = { 64, 65, 300 };
    const row_at rows[] = { { 0, 10 }, { 1, 20 } };
    uint64_t seed = 29;
    world w = world_make(&b, &s, n_keys, &seed);
    float *q = queries(&s, 2, 1.0f, &seed);
    step p = step_make(&b, &w, rows, q, 2, 2);
    px_err e;

#define REFUSED(code, name, change) CUDA_REFUSED(b, attention, p.a, code, name, change)
    REFUSED(PX_EINTERNAL, "rows.live", a.rows.live.bytes = 3);
    REFUSED(PX_EINTERNAL, "head_dim", a.head_dim = 63);
    REFUSED(PX_EINTERNAL, "head_dim", a.head_dim = 62);
    REFUSED(PX_EINTERNAL, "head_dim", a.head_dim = a.kv.head_dim = 258);
    REFUSED(PX_EINTERNAL, "n_kv_head", a.n_kv_head = 1);
    REFUSED(PX_EUNSUP, "n_head", a.n_head = CU_MAX_HEADS + 1);
    REFUSED(PX_EINTERNAL, "kv.block", a.kv.block = 48);
    REFUSED(PX_EINTERNAL, "kv.block", a.kv.block = 8);
    REFUSED(PX_EINTERNAL, "layer", a.layer = LAYERS);
    REFUSED(PX_EUNSUP, "kv.dtype", a.kv.dtype = KERN_N_KV);
    REFUSED(PX_EINTERNAL, "kv.n_blocks", a.kv.n_blocks = 0);
    REFUSED(PX_EINTERNAL, "kv.pool", a.kv.pool.bytes -= 2);
    REFUSED(PX_EINTERNAL, "pos", a.pos.bytes -= 1);
    REFUSED(PX_EINTERNAL, "row_slot", a.row_slot.bytes -= 4);
    REFUSED(PX_EINTERNAL, "table_stride", a.table_stride = 0);
    REFUSED(PX_EINTERNAL, "block_table", a.block_table.bytes = a.table_stride * 4 - 1);
    REFUSED(PX_EINTERNAL, "head_map", a.head_map.bytes = 15);
    REFUSED(PX_EINTERNAL, "q", a.q.bytes -= 4);
    REFUSED(PX_EINTERNAL, "out", a.out.bytes -= 4);
    REFUSED(PX_EINTERNAL, "workspace", a.workspace.bytes = 64);
    assert_int_equal(b.ops->attention(b.d, &p.a, &e), PX_OK);
    free(q);
    step_drop(&b, &p);
    world_drop(&b, &w);
    cuda_bench_close(&b);
}

/* With 99 KB of shared memory: every type and head_dim of the two fast kernels, decoded rows and a chunk across the border of two parts, to the bits that
 * they have with 163 KB. */
static void a_device_of_little_shared_memory_answers_the_same(void **state)
{
    uint64_t seed = 27;

    for (uint32_t i = 0; i < 16 && !EFFORT_TSAN; i += EFFORT_SANITIZED ? 5 : 1) {
        const bool deterministic = i >= 8;
        const shape s = { types[i % 4], i / 4 % 2 ? 64 : 128, 16u << i % 4, 1, 2, map_20, 560, i % 3 == 1 ? 100 : 0 };
        const uint32_t live = 36, from = deterministic && s.head_dim == 128 ? 495 : 30;
        const size_t bytes = (size_t)live * s.n_head * s.head_dim * 4;
        uint32_t n_keys[SLOTS];
        row_at rows[36];
        float *out[2];

        for (uint32_t t = 0; t < live; t++) rows[t] = t < 34 ? (row_at){ 1, from + t } : (row_at){ 2 * (t - 34), 90 + t };
        keys_of(rows, live, n_keys);
        for (int little = 0; little < 2; little++) {
            uint64_t same = seed;
            if (!cuda_ops_little_shared(little)) {
                puts("SKIPPED: a GPU has as much shared memory as it has");
                skip();
            }
            cuda_bench b = cuda_bench_open(state, deterministic);
            world w = world_make(&b, &s, n_keys, &same);
            float *q = queries(&s, live, 1.0f / sqrtf((float)s.head_dim), &same);
            out[little] = attend(&b, &w, rows, q, live, live);
            free(q);
            world_drop(&b, &w);
            cuda_bench_close(&b);
        }
        assert_memory_equal(out[0], out[1], bytes);
        free(out[0]), free(out[1]);
        seed++;
        cuda_ops_little_shared(false);
    }
}

/* The plan's workspace holds what any step of at most so many rows takes, deterministic or not. */
static void the_workspace_is_enough_for_every_step(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        const kern_shape s = { .rows = 1u << 3 * i, .n_head = 32, .n_kv_head = 1u << i, .head_dim = 128, .n_ctx = 100000 };
        const size_t bytes = kern_cuda_attention_workspace_bytes(&s);
        assert_true(bytes > 0 && bytes < (size_t)1 << 30);
        for (uint32_t rows = 1; rows <= s.rows; rows++)
            for (int deterministic = 0; deterministic < 2; deterministic++) {
                const uint32_t table = (s.n_ctx + 127) / 128 * 128;
                const cu_attention_split split = cu_attention_split_of(rows, s.n_kv_head, table, deterministic);
                size_t ml;
                assert_true(cu_attention_parts_bytes(rows, s.n_head, s.head_dim, split.n_parts, &ml) <= bytes);
                assert_true(split.splits >= 1 && (split.n_parts == 0) == (split.splits == 1));
                assert_true(!split.n_parts || split.n_parts >= split.splits);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_rows_are_near_double),
        cmocka_unit_test(odd_shapes_are_near_double),
        cmocka_unit_test(chunks_are_near_double),
        cmocka_unit_test(windows_are_near_double), cmocka_unit_test(a_short_chunk_is_near_double),
        cmocka_unit_test(rows_are_near_the_definition),
        cmocka_unit_test(a_query_has_the_same_bits_in_any_company),
        cmocka_unit_test(large_queries_and_nan_stay_in_their_rows),
        cmocka_unit_test(a_recorded_step_reads_what_changed),
        cmocka_unit_test(contents_beyond_their_bounds_are_not_followed),
        cmocka_unit_test(wrong_arguments_are_named),
        cmocka_unit_test(a_device_of_little_shared_memory_answers_the_same),
        cmocka_unit_test(the_workspace_is_enough_for_every_step),
    };
    kern_ftz_set();                                                         /* as in a rank; the CPU insists */
    return cuda_ops_main(tests, sizeof tests / sizeof *tests, NULL);
}
