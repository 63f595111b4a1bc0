/* attention_test.c - rope_append and attention over scattered blocks: every path equal to the definition, and the
 * definition near a softmax in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/rows.h"

enum { LAYERS = 2, LAYER = 1, SLOTS = 3 };

typedef struct shape { uint32_t n_head, n_kv_head, head_dim, block, n_ctx; kern_kv_dtype dtype; const uint32_t *map; uint32_t window; } shape;

/* A cache with scattered blocks.  NaNs (and infinities) stand wherever nothing was stored. */
typedef struct cache { kern_kv kv; kern_buf table; uint32_t stride; } cache;

static size_t k_at(const kern_kv *kv, uint32_t block, uint32_t head, uint32_t off, uint32_t i)
{
    size_t base = (((size_t)LAYER * kv->n_blocks + block) * kv->n_kv_head + head) * 2 * kv->block * kv->head_dim;
    return base + (off / 16) * 16 * kv->head_dim + i * 16 + off % 16;
}

static size_t v_at(const kern_kv *kv, uint32_t block, uint32_t head, uint32_t off, uint32_t i)
{
    size_t base = (((size_t)LAYER * kv->n_blocks + block) * kv->n_kv_head + head) * 2 * kv->block * kv->head_dim;
    return base + (size_t)kv->block * kv->head_dim + (size_t)off * kv->head_dim + i;
}

static void put(kern_kv *kv, size_t at, float x)
{
    if (kv->dtype == KERN_KV_F32) ((float *)kv->pool.h)[at] = x;
    else ((uint16_t *)kv->pool.h)[at] = kern_f32_to_f16(x);
}

static float get(const kern_kv *kv, size_t at)
{
    return kv->dtype == KERN_KV_F32 ? ((float *)kv->pool.h)[at] : kern_f16_to_f32(((uint16_t *)kv->pool.h)[at]);
}

static cache cache_make(const shape *s, uint64_t *seed)
{
    cache c = { .stride = (s->n_ctx + s->block - 1) / s->block };
    uint32_t n = SLOTS * c.stride, order[SLOTS * 64];

    assert_true(n <= SLOTS * 64);
    c.kv = (kern_kv){ .dtype = s->dtype, .n_layer = LAYERS, .n_blocks = n, .block = s->block, .n_kv_head = s->n_kv_head,
                      .head_dim = s->head_dim };
    size_t elements = (size_t)LAYERS * n * s->n_kv_head * 2 * s->block * s->head_dim;
    c.kv.pool = row_buf(elements * (s->dtype == KERN_KV_F16 ? 2 : 4));
    for (size_t i = 0; i < elements; i++) {
        if (s->dtype == KERN_KV_F16) ((uint16_t *)c.kv.pool.h)[i] = test_rand(seed) % 4 ? 0x7e01 : 0xfc00;
        else ((uint32_t *)c.kv.pool.h)[i] = test_rand(seed) % 4 ? 0x7fc00001u : 0xff800000u;
    }
    for (uint32_t i = 0; i < n; i++) order[i] = i;
    for (uint32_t i = n; i-- > 1;) {
        uint32_t j = (uint32_t)(test_rand(seed) % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    c.table = row_buf(n * 4);
    memcpy(c.table.h, order, n * 4);
    return c;
}

static uint32_t block_of(const cache *c, uint32_t slot, uint32_t pos)
{
    return ((uint32_t *)c->table.h)[slot * c->stride + pos / c->kv.block];
}

static void cache_drop(cache *c)
{
    row_drop(&c->kv.pool);
    row_drop(&c->table);
}

/* ---- attention ---- */
typedef struct row_at { uint32_t slot, pos; } row_at;

/* The first key that a row sees: with a window of n keys, its own and the n - 1 before it. */
static uint32_t first_of(const shape *s, uint32_t pos) { return s->window && pos + 1 > s->window ? pos + 1 - s->window : 0; }

/* Softmax over the visible keys in double; the worst difference. */
static double against_double(const shape *s, const cache *c, const kern_attention_args *a, const row_at *rows, uint32_t t,
                             uint32_t head)
{
    uint32_t h = s->head_dim, kvh = s->map[head], n = rows[t].pos + 1, first = first_of(s, rows[t].pos);
    const float *q = (float *)a->q.h + ((size_t)t * s->n_head + head) * h;
    const float *out = (float *)a->out.h + ((size_t)t * s->n_head + head) * h;
    double *p = malloc(n * sizeof *p), top = -INFINITY, sum = 0, worst = 0;

    for (uint32_t j = first; j < n; j++) {
        p[j] = 0;
        for (uint32_t i = 0; i < h; i++)
            p[j] += (double)q[i] * get(&c->kv, k_at(&c->kv, block_of(c, rows[t].slot, j), kvh, j % s->block, i));
        if (p[j] > top) top = p[j];
    }
    for (uint32_t j = first; j < n; j++) sum += p[j] = exp(p[j] - top);
    for (uint32_t i = 0; i < h; i++) {
        double o = 0;
        for (uint32_t j = first; j < n; j++)
            o += p[j] * get(&c->kv, v_at(&c->kv, block_of(c, rows[t].slot, j), kvh, j % s->block, i));
        if (fabs(o / sum - out[i]) > worst) worst = fabs(o / sum - out[i]);
    }
    free(p);
    return worst;
}

static void run_attention(const shape *s, const row_at *rows, uint32_t live, uint32_t max, uint64_t *seed)
{
    cache c = cache_make(s, seed);
    uint32_t len[SLOTS] = {0}, from[SLOTS], h = s->head_dim;
    kern_dev three = { .threads = 3 };
    kern_shape sh = { .rows = max, .threads = 3, .n_head = s->n_head, .head_dim = h, .max_cols = 64, .n_ctx = s->n_ctx };
    kern_attention_args a = { .rows = row_count(max, live), .n_head = s->n_head, .n_kv_head = s->n_kv_head, .head_dim = h,
                              .layer = LAYER, .window = s->window, .kv = c.kv, .block_table = c.table, .table_stride = c.stride,
                              .workspace = row_buf(kern_cpu_attention_workspace_bytes(&sh)) };
    px_err e = {0};

    for (uint32_t slot = 0; slot < SLOTS; slot++) from[slot] = UINT32_MAX;
    for (uint32_t t = 0; t < live; t++) {                  /* what no row sees stays NaN, also before a window */
        if (rows[t].pos + 1 > len[rows[t].slot]) len[rows[t].slot] = rows[t].pos + 1;
        if (first_of(s, rows[t].pos) < from[rows[t].slot]) from[rows[t].slot] = first_of(s, rows[t].pos);
    }
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        for (uint32_t j = from[slot]; j < len[slot]; j++)
            for (uint32_t k = 0; k < s->n_kv_head; k++)
                for (uint32_t i = 0; i < h; i++) {
                    put(&c.kv, k_at(&c.kv, block_of(&c, slot, j), k, j % s->block, i), test_rand_normal(seed) * 2);
                    put(&c.kv, v_at(&c.kv, block_of(&c, slot, j), k, j % s->block, i), test_rand_normal(seed));
                }
    a.q = row_buf((size_t)max * s->n_head * h * 4);
    row_fill(a.q, seed, 1.0f / sqrtf((float)h));
    a.head_map = row_buf(s->n_head * 4);
    memcpy(a.head_map.h, s->map, s->n_head * 4);
    a.pos = row_buf(max * 4);
    a.row_slot = row_buf(max * 4);
    memset(a.pos.h, 0xff, max * 4);          /* padded rows say nothing */
    memset(a.row_slot.h, 0xff, max * 4);
    for (uint32_t t = 0; t < live; t++) {
        ((uint32_t *)a.pos.h)[t] = rows[t].pos;
        ((uint32_t *)a.row_slot.h)[t] = rows[t].slot;
    }
    kern_buf untouched = row_buf(a.q.bytes);
    row_fill(untouched, seed, 1.0f);
    a.out = row_copy(untouched);
    assert_int_equal(row_paths[0].attention(&three, &a, &e), PX_OK);
    size_t done = (size_t)live * s->n_head * h * 4;
    assert_memory_equal((char *)a.out.h + done, (char *)untouched.h + done, a.out.bytes - done);
    for (uint32_t t = 0; t < live; t += 1 + live / 5)
        for (uint32_t n = 0; n < s->n_head; n++)
            assert_true(against_double(s, &c, &a, rows, t, n) < 2e-5);

    for (uint32_t r = 0; r < ROW_RUNS; r++) {
        row_run run;
        kern_attention_args b = a;
        if (!row_run_get(r, &run)) continue;
        kern_dev d = { .threads = run.threads };
        b.out = row_copy(untouched);
        row_fill(b.workspace, seed, 1.0f);
        assert_int_equal(run.path->attention(&d, &b, &e), PX_OK);
        row_equal(b.out, a.out, "attention", run.path->name);
        row_drop(&b.out);
    }
    row_drop(&a.rows.live);
    row_drop(&a.q);
    row_drop(&a.head_map);
    row_drop(&a.pos);
    row_drop(&a.row_slot);
    row_drop(&a.out);
    row_drop(&a.workspace);
    row_drop(&untouched);
    cache_drop(&c);
}

static const uint32_t map_2_1[] = { 0, 0 }, map_1[] = { 0 }, map_8_1[] = { 0, 0, 0, 0, 0, 0, 0, 0 };
static const uint32_t map_6_2[] = { 0, 0, 0, 1, 1, 1 };
static const uint32_t map_9_3[] = { 0, 0, 0, 1, 1, 1, 2, 2, 2 }, map_5_2[] = { 0, 0, 0, 1, 1 };   /* dealt unevenly */
static const uint32_t map_4_3[] = { 0, 1, 1, 2 };

/* A decode row in each slot, at the borders of spans, tiles and blocks. */
static void decode_rows_equal_the_definition(void **state)
{
    static const shape shapes[] = {
        { 6, 2, 64, 16, 600, KERN_KV_F16, map_6_2 },  { 9, 3, 64, 32, 600, KERN_KV_F16, map_9_3 },
        { 5, 2, 64, 64, 600, KERN_KV_F16, map_5_2 },  { 8, 1, 128, 128, 600, KERN_KV_F16, map_8_1 },
        { 2, 1, 16, 16, 600, KERN_KV_F16, map_2_1 },  { 4, 3, 24, 16, 600, KERN_KV_F16, map_4_3 },
        { 6, 2, 32, 32, 600, KERN_KV_F32, map_6_2 },  { 5, 2, 24, 128, 600, KERN_KV_F32, map_5_2 },
        { 1, 1, 256, 16, 600, KERN_KV_F16, map_1 },   { 6, 2, 80, 64, 600, KERN_KV_F32, map_6_2 },
        { 2, 1, 8, 16, 600, KERN_KV_F16, map_2_1 },   { 2, 1, 20, 16, 600, KERN_KV_F16, map_2_1 },
    };
    static const uint32_t at[][SLOTS] = { { 0, 1, 15 }, { 16, 17, 127 }, { 128, 129, 255 }, { 256, 257, 384 },
                                          { 31, 599, 143 } };
    uint64_t seed = 11;
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; j < sizeof at / sizeof *at; j++) {
            row_at rows[SLOTS];
            for (uint32_t k = 0; k < SLOTS; k++) rows[k] = (row_at){ k, at[j][k] };
            run_attention(&shapes[i], rows, SLOTS, SLOTS + 2, &seed);
            run_attention(&shapes[i], rows + 1, 1, 1, &seed);
            for (uint32_t w = 0; w < 3; w++) {             /* windows that end in a tile, at a span's end and in the first span */
                shape s = shapes[i];
                s.window = (const uint32_t[]){ 1, 8, 17, 100, 128, 129, 255, 700 }[(3 * (i + j) + w) % 8];
                run_attention(&s, rows, SLOTS, SLOTS, &seed);
            }
        }
}

/* Chunks of prompts mixed with decode rows, 1 to 40 rows, padded. */
static void chunks_equal_the_definition(void **state)
{
    static const uint32_t dims[] = { 16, 24, 32, 64, 128 }, blocks[] = { 16, 32, 64, 128 };
    static const struct { uint32_t n_head, n_kv_head; const uint32_t *map; } heads[] = {
        { 9, 3, map_9_3 }, { 5, 2, map_5_2 }, { 8, 1, map_8_1 }, { 1, 1, map_1 }, { 4, 3, map_4_3 }, { 6, 2, map_6_2 },
    };
    uint64_t seed = 12;
    (void)state;
    for (uint32_t i = 0; i < 30; i++) {
        uint32_t g = (uint32_t)(test_rand(&seed) % 6), max = 1 + (uint32_t)(test_rand(&seed) % 40), n = 0;
        shape s = { heads[g].n_head, heads[g].n_kv_head, dims[i % 5], blocks[i % 4], 400, i % 3 ? KERN_KV_F16 : KERN_KV_F32,
                    heads[g].map };
        row_at rows[40];
        for (uint32_t slot = 0; slot < SLOTS && n < max; slot++) {
            uint32_t count = slot == SLOTS - 1 ? max - n : (uint32_t)(test_rand(&seed) % (max - n + 1));
            uint32_t from = (uint32_t)(test_rand(&seed) % (400 - count));
            for (uint32_t k = 0; k < count; k++) rows[n++] = (row_at){ slot, from + k };
        }
        run_attention(&s, rows, n - (i % 2 && n > 1), max, &seed);
        s.window = 1 + (uint32_t)(test_rand(&seed) % (i % 2 ? 20 : 300));
        run_attention(&s, rows, n, max, &seed);
        if (i == 0) run_attention(&s, rows, 0, max, &seed);
    }
}

/* ---- rope and append ---- */
/* Head `n` of row t of x, with bias and norm, in double. */
static void prepared(double *y, kern_buf x, uint32_t t, uint32_t n, uint32_t n_head, uint32_t h, kern_buf bias, kern_buf norm, float eps)
{
    double ss = 0;

    for (uint32_t i = 0; i < h; i++) {
        y[i] = (double)((float *)x.h)[((size_t)t * n_head + n) * h + i] + (bias.h ? (double)((float *)bias.h)[n * h + i] : 0.0);
        ss += y[i] * y[i];
    }
    for (uint32_t i = 0; norm.h && i < h; i++) y[i] *= (double)((float *)norm.h)[i] / sqrt(ss / h + (double)eps);
}

/* bias, norm: of q and k, as some models have them. */
static void run_rope(const shape *s, uint32_t live, uint32_t max, bool bad, bool bias, bool norm, uint64_t *seed)
{
    cache c = cache_make(s, seed);
    uint32_t h = s->head_dim;
    kern_dev one = { .threads = 1 };
    kern_rope rope = { .theta = 10000.0, .kind = KERN_ROPE_NONE };
    kern_rope_append_args a = { .rows = row_count(max, live), .n_head = s->n_head, .n_kv_head = s->n_kv_head, .head_dim = h,
                                .layer = LAYER, .kv = c.kv, .block_table = c.table, .table_stride = c.stride };
    kern_buf q = row_buf((size_t)max * s->n_head * h * 4), flags = row_buf(max * 4);
    px_err e = {0};

    row_fill(q, seed, 1.0f);
    for (uint32_t t = 0; t < max; t++) ((uint32_t *)flags.h)[t] = 8;      /* bits of others stay */
    a.k = row_buf((size_t)max * s->n_kv_head * h * 4);
    a.v = row_buf(a.k.bytes);
    row_fill(a.k, seed, 3.0f);
    row_fill(a.v, seed, 1.0f);
    if (bad) {
        static const float values[] = { NAN, INFINITY, -INFINITY, 1e6f, -1e6f, 65504.0f, 65519.9f, 65520.0f, 1e-7f, 1e-40f };
        for (uint32_t i = 0; i < 40; i++) {
            ((float *)a.v.h)[test_rand(seed) % (a.v.bytes / 4)] = values[i % 10];
            if (i % 4 == 0) ((float *)a.k.h)[test_rand(seed) % (a.k.bytes / 4)] = values[i % 10];
        }
    }
    a.eps = 1e-3f;
    if (bias) {
        a.q_bias = row_buf((size_t)s->n_head * h * 4);
        a.k_bias = row_buf((size_t)s->n_kv_head * h * 4);
        a.v_bias = row_buf(a.k_bias.bytes);
        row_fill(a.q_bias, seed, 1.0f);
        row_fill(a.k_bias, seed, 2.0f);
        row_fill(a.v_bias, seed, 1.0f);
    }
    if (norm) {
        a.q_norm = row_buf(h * 4);
        a.k_norm = row_buf(h * 4);
        row_fill(a.q_norm, seed, 1.0f);
        row_fill(a.k_norm, seed, 3.0f);
    }
    a.cos = row_buf((size_t)s->n_ctx * h / 2 * 4);
    a.sin = row_buf(a.cos.bytes);
    kern_rope_tables(&rope, h, s->n_ctx, a.cos.h, a.sin.h);
    a.pos = row_buf(max * 4);
    a.row_slot = row_buf(max * 4);
    uint32_t from = (uint32_t)(test_rand(seed) % (s->n_ctx - max));
    for (uint32_t t = 0; t < max; t++) {                                   /* two rows never share a place */
        ((uint32_t *)a.pos.h)[t] = t < live ? from + t : UINT32_MAX;
        ((uint32_t *)a.row_slot.h)[t] = t < live ? t % SLOTS : UINT32_MAX;
    }
    kern_buf pool = row_copy(c.kv.pool);
    a.q = row_copy(q);
    a.flags = row_copy(flags);
    assert_int_equal(row_paths[0].rope_append(&one, &a, &e), PX_OK);

    for (uint32_t r = 0; r < ROW_RUNS; r++) {
        row_run run;
        kern_rope_append_args b = a;
        if (!row_run_get(r, &run)) continue;
        kern_dev d = { .threads = run.threads };
        b.q = row_copy(q);
        b.flags = row_copy(flags);
        b.kv.pool = row_copy(pool);
        assert_int_equal(run.path->rope_append(&d, &b, &e), PX_OK);
        row_equal(b.q, a.q, "q", run.path->name);
        row_equal(b.kv.pool, a.kv.pool, "pool", run.path->name);
        row_equal(b.flags, a.flags, "flags", run.path->name);
        row_drop(&b.q);
        row_drop(&b.flags);
        row_drop(&b.kv.pool);
    }

    /* Against double: q, k, v as stored, the flags; then nothing else was written. */
    for (uint32_t t = 0; t < max; t++) {
        uint32_t want = 8, pos = ((uint32_t *)a.pos.h)[t], slot = ((uint32_t *)a.row_slot.h)[t];
        double x[256], k[256], v256[256];
        for (uint32_t n = 0; n < s->n_head; n++) {
            prepared(x, q, t, n, s->n_head, h, t < live ? a.q_bias : (kern_buf){0}, t < live ? a.q_norm : (kern_buf){0}, a.eps);
            for (uint32_t i = 0; i < h / 2; i++) {
                float *y = (float *)a.q.h + ((size_t)t * s->n_head + n) * h;
                double f = t < live ? pos * pow(10000.0, -2.0 * i / h) : 0, w = t < live ? 1 / sqrt((double)h) : 1;
                assert_true(fabs(y[i] - w * (x[i] * cos(f) - x[i + h / 2] * sin(f))) < 3e-4);
                assert_true(fabs(y[i + h / 2] - w * (x[i + h / 2] * cos(f) + x[i] * sin(f))) < 3e-4);
            }
        }
        for (uint32_t n = 0; t < live && n < s->n_kv_head; n++) {
            prepared(k, a.k, t, n, s->n_kv_head, h, a.k_bias, a.k_norm, a.eps);
            prepared(v256, a.v, t, n, s->n_kv_head, h, a.v_bias, (kern_buf){0}, 0);
            for (uint32_t i = 0; i < h; i++) {
                float v = (float)v256[i];
                uint32_t block = block_of(&c, slot, pos), j = i % (h / 2);
                float ks = get(&c.kv, k_at(&c.kv, block, n, pos % s->block, i));
                float vs = get(&c.kv, v_at(&c.kv, block, n, pos % s->block, i));
                double f = pos * pow(10000.0, -2.0 * j / h);
                double kd = i < h / 2 ? k[i] * cos(f) - k[i + h / 2] * sin(f) : k[i] * cos(f) + k[j] * sin(f);
                bool f16 = s->dtype == KERN_KV_F16;
                if (!isfinite(kd) || !isfinite(v)) want |= KERN_FLAG_NONFINITE;
                if (f16 && (fabsf(v) >= 65520.0f || fabs(kd) >= 65520.0)) want |= KERN_FLAG_KV_SATURATED;
                assert_false(isnan(ks) || isnan(vs));
                if (isnan(v)) assert_true(vs == 0.0f);
                else if (f16 && fabsf(v) >= 65520.0f) assert_true(vs == copysignf(65504.0f, v));
                else if (isfinite(v)) assert_true(fabs(vs - v) <= (f16 ? 1e-7 + fabsf(v) / 2048 : 2e-38));
                if (isfinite(kd) && fabs(kd) < 6e4)
                    assert_true(fabs(ks - kd) <= 4e-4 * (1 + fabs(k[j]) + fabs(k[j + h / 2])) + (f16 ? fabs(kd) / 1024 : 0));
                put(&c.kv, k_at(&c.kv, block, n, pos % s->block, i), 0.0f);
                put(&c.kv, v_at(&c.kv, block, n, pos % s->block, i), 0.0f);
                kern_kv old = c.kv;
                old.pool = pool;
                put(&old, k_at(&c.kv, block, n, pos % s->block, i), 0.0f);
                put(&old, v_at(&c.kv, block, n, pos % s->block, i), 0.0f);
            }
        }
        assert_int_equal(((uint32_t *)a.flags.h)[t], want);
    }
    row_equal(c.kv.pool, pool, "places of other keys", "cpu-scalar");
    kern_buf *all[] = { &a.q_bias, &a.k_bias, &a.v_bias, &a.q_norm, &a.k_norm, &a.rows.live, &a.q, &a.k, &a.v, &a.cos, &a.sin, &a.pos, &a.row_slot, &a.flags, &q, &flags, &pool };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) row_drop(all[i]);
    cache_drop(&c);
}

static void rope_append_equals_the_definition(void **state)
{
    static const uint32_t dims[] = { 64, 24, 16, 32, 128, 80, 256, 8, 20 }, blocks[] = { 16, 128, 64, 32 };
    uint64_t seed = 13;
    (void)state;
    for (uint32_t i = 0; i < 72; i++) {
        shape s = { 5, 2, dims[i % 9], blocks[i % 4], 300, i % 3 ? KERN_KV_F16 : KERN_KV_F32, map_5_2 };
        uint32_t max = 1 + (uint32_t)(test_rand(&seed) % 40);
        run_rope(&s, i == 7 ? 0 : max - (i % 2 && max > 1), max, i % 5 == 4 && i % 3 != 2, i % 3 == 1, i % 3 == 2, &seed);
    }
}

/* ---- refusals: every address formed from a buffer is bounded ---- */
static void wrong_contents_are_named(void **state)
{
    shape s = { 2, 1, 16, 16, 64, KERN_KV_F16, map_2_1 };
    uint64_t seed = 14;
    (void)state;
    for (uint32_t p = 0; p < 3; p++) {
        cache c = cache_make(&s, &seed);
        uint32_t zero = 0, far = 64, map[2] = { 0, 1 }, one_row = 1;
        float q[32] = {0}, kv[16] = {0}, table[64 * 8] = {0};
        uint32_t flags = 0;
        kern_dev d = { .threads = 1 };
        kern_buf work = row_buf(2 * 128 * 16 * 4);
        kern_attention_args a = { .rows = { 1, { &one_row, 4 } }, .n_head = 2, .n_kv_head = 1, .head_dim = 16, .layer = LAYER,
                                  .q = { q, sizeof q }, .head_map = { map, 8 }, .pos = { &zero, 4 }, .row_slot = { &zero, 4 },
                                  .block_table = c.table, .table_stride = c.stride, .kv = c.kv, .out = { q, sizeof q },
                                  .workspace = work };
        kern_rope_append_args r = { .rows = a.rows, .n_head = 2, .n_kv_head = 1, .head_dim = 16, .layer = LAYER, .q = a.q,
                                    .k = { kv, sizeof kv }, .v = { kv, sizeof kv }, .cos = { table, sizeof table },
                                    .sin = { table, sizeof table }, .pos = { &far, 4 }, .row_slot = { &zero, 4 },
                                    .block_table = c.table, .table_stride = c.stride, .kv = c.kv, .flags = { &flags, 4 } };
        if (!row_paths[p].runs()) {
            row_drop(&work);
            cache_drop(&c);
            continue;
        }
#define REFUSED(op, args, name)                                                \
    do {                                                                       \
        px_err e = {0};                                                        \
        assert_int_equal(row_paths[p].op(&d, &(args), &e), PX_EINTERNAL);      \
        assert_string_equal(e.field, name);                                    \
    } while (0)
        REFUSED(attention, a, "head_map");
        map[1] = 0;
        a.pos.h = &far;
        REFUSED(attention, a, "pos");
        REFUSED(rope_append, r, "pos");
        a.pos.h = r.pos.h = &zero;
        a.row_slot.h = r.row_slot.h = &far;
        REFUSED(attention, a, "block_table");
        REFUSED(rope_append, r, "block_table");
        a.row_slot.h = r.row_slot.h = &zero;
        uint32_t block = ((uint32_t *)c.table.h)[0];
        ((uint32_t *)c.table.h)[0] = c.kv.n_blocks;
        REFUSED(attention, a, "block_table");
        REFUSED(rope_append, r, "block_table");
        ((uint32_t *)c.table.h)[0] = block;
        a.workspace.bytes -= 4;
        REFUSED(attention, a, "workspace");
        a.workspace.bytes += 4;
        a.layer = r.layer = LAYERS;
        REFUSED(attention, a, "layer");
        REFUSED(rope_append, r, "layer");
        a.layer = r.layer = LAYER;
        a.kv.pool.bytes -= 2;
        REFUSED(attention, a, "kv.pool");
        a.kv.pool.bytes += 2;
        r.cos.bytes = 4;
        REFUSED(rope_append, r, "cos");
        r.cos.bytes = sizeof table;
        r.flags.bytes = 0;
        REFUSED(rope_append, r, "flags");
        r.flags.bytes = 4;
        kern_buf *const vector[] = { &r.q_bias, &r.k_bias, &r.v_bias, &r.q_norm, &r.k_norm };
        static const char *const vector_name[] = { "q_bias", "k_bias", "v_bias", "q_norm", "k_norm" };
        for (size_t i = 0; i < 5; i++) {
            *vector[i] = (kern_buf){ q, (i == 0 ? 2 : 1) * 16 * 4 - 1 };
            REFUSED(rope_append, r, vector_name[i]);
            *vector[i] = (kern_buf){0};
        }
        a.head_dim = 512;
        REFUSED(attention, a, "head_dim");
        a.head_dim = 16;
        px_err e = {0};
        r.flags.bytes = 4;
        assert_int_equal(row_paths[p].rope_append(&d, &r, &e), PX_OK);
        assert_int_equal(row_paths[p].attention(&d, &a, &e), PX_OK);
        row_drop(&work);
        cache_drop(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_rows_equal_the_definition), cmocka_unit_test(chunks_equal_the_definition),
        cmocka_unit_test(rope_append_equals_the_definition), cmocka_unit_test(wrong_contents_are_named),
    };
    kern_ftz_set();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
