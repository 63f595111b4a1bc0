/* rope_append_test.c - rotation and the cache's bytes on CUDA: the very bits of plain loops for every type, and of the CPU's
 * definition for the types that it has. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/cuda/kv_bench.h"
#include "tests/kernels/cuda/kv_image.h"

enum { LAYERS = 2, LAYER = 1, SLOTS = 3, MAX_DIM = 256 };

typedef struct shape { kern_kv_dtype dtype; uint32_t head_dim, block, n_head, n_kv_head; bool bias, norm; } shape;

/* A step on the host. */
typedef struct step {
    shape     s;
    kv_image  m;
    uint32_t  live, max, n_pos, *pos, *slot, *flags;
    float    *q, *k, *v, *cos, *sin;
    float    *q_bias, *kv_bias, *norm, eps;                                 /* k and v have one bias, q and k one norm; NULL: none */
    size_t    q_bytes, kv_bytes, table_bytes;
} step;

static void *get(size_t bytes)
{
    void *p = malloc(bytes + 1);
    assert_non_null(p);
    return p;
}

static void *copy(const void *p, size_t bytes)
{
    void *c = get(bytes);
    memcpy(c, p, bytes);
    return c;
}

static float *numbers(size_t bytes, float size, uint64_t *seed)
{
    float *x = get(bytes);
    for (size_t i = 0; i < bytes / 4; i++) x[i] = test_rand_normal(seed) * size;
    return x;
}

static step step_make(const shape *s, uint32_t live, uint32_t max, bool bad, uint64_t *seed)
{
    const kern_kv kv = { .dtype = s->dtype, .n_layer = LAYERS, .block = s->block, .n_kv_head = s->n_kv_head, .head_dim = s->head_dim };
    const kern_rope rope = { .theta = 10000.0, .kind = KERN_ROPE_NONE };
    uint32_t n_keys[SLOTS] = { 300, 300, 300 }, from = (uint32_t)(test_rand(seed) % (300 - max));
    step p = { .s = *s, .live = live, .max = max, .n_pos = 300, .q_bytes = (size_t)max * s->n_head * s->head_dim * 4,
               .kv_bytes = (size_t)max * s->n_kv_head * s->head_dim * 4, .table_bytes = (size_t)300 * (s->head_dim / 2) * 4 };

    p.m = kv_image_make(&kv, SLOTS, (300 + s->block - 1) / s->block, n_keys, seed);
    p.pos = get(max * 4);
    p.slot = get(max * 4);
    p.flags = get(max * 4);
    for (uint32_t t = 0; t < max; t++) {                                    /* two rows never share a place */
        p.pos[t] = t < live ? from + t : UINT32_MAX;
        p.slot[t] = t < live ? t % SLOTS : UINT32_MAX;
        p.flags[t] = 8;                                                     /* others' bits stay */
    }
    p.q = numbers(p.q_bytes, 1.0f, seed);
    p.k = numbers(p.kv_bytes, 3.0f, seed);
    p.v = numbers(p.kv_bytes, 1.0f, seed);
    p.eps = 1e-3f;
    if (s->bias) {
        p.q_bias = numbers((size_t)s->n_head * s->head_dim * 4, 1.0f, seed);
        p.kv_bias = numbers((size_t)s->n_kv_head * s->head_dim * 4, 2.0f, seed);
    }
    if (s->norm) p.norm = numbers((size_t)s->head_dim * 4, 1.5f, seed);
    p.cos = get(p.table_bytes);
    p.sin = get(p.table_bytes);
    kern_rope_tables(&rope, s->head_dim, 300, p.cos, p.sin);
    cuda_bench_defined(p.cos, p.table_bytes);
    cuda_bench_defined(p.sin, p.table_bytes);
    if (bad) {
        static const float values[] = { NAN, INFINITY, -INFINITY, 1e6f, -1e6f, 65504.0f, 65519.9f, 65520.0f, 448.0f, 448.5f, -480.0f, 464.0f,
                                        3.4e38f, 3.3961e38f, -3.39e38f, 1e-7f, 1e-6f, 0.0f };
        for (uint32_t i = 0; i < 54; i++) {
            p.v[test_rand(seed) % (p.kv_bytes / 4)] = values[i % 18];
            if (i % 4 == 0) p.k[test_rand(seed) % (p.kv_bytes / 4)] = values[i % 18];
        }
        for (uint32_t i = 0; i < s->head_dim; i++) p.v[i] = i % 2 ? 1e-31f : 0.0f;      /* below 2^-100 */
    }
    return p;
}

static void step_drop(step *p)
{
    void *all[] = { p->pos, p->slot, p->flags, p->q, p->k, p->v, p->cos, p->sin, p->q_bias, p->kv_bias, p->norm };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    kv_image_drop(&p->m);
}

/* ---- plain loops ---- */
static void rotate(float *x, const float *c, const float *s, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = fmaf(a, c[i], -(b * s[i]));
        x[i + half] = fmaf(b, c[i], a * s[i]);
    }
}

/* Bias and norm of a head, x^2 summed in sixteen lanes. */
static void prepare(float *x, const float *bias, const float *norm, float eps, uint32_t h)
{
    float lane[16] = {0};

    for (uint32_t i = 0; i < h; i++) {
        if (bias) x[i] += bias[i];
        lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    }
    for (uint32_t n = 8; n; n /= 2)
        for (uint32_t i = 0; i < n; i++) lane[i] += lane[i + n];
    const float r = 1.0f / sqrtf(lane[0] / (float)h + eps);
    for (uint32_t i = 0; norm && i < h; i++) {
        x[i] *= r;
        x[i] *= norm[i];
    }
}

/* The largest finite number of the type; what is more (when rounded: f16, bf16) becomes it. */
static uint32_t clean(kern_kv_dtype type, float *x)
{
    uint32_t flags = isfinite(*x) ? 0 : KERN_FLAG_NONFINITE;
    const bool over = type == KERN_KV_F16 ? fabsf(*x) >= 65520.0f : type == KERN_KV_FP8 ? fabsf(*x) > 448.0f
                      : type == KERN_KV_BF16 ? !isnan(*x) && isinf(kern_bf16_to_f32(kern_f32_to_bf16(*x))) : false;

    if (isnan(*x)) *x = 0.0f;
    if (over) {
        flags |= KERN_FLAG_KV_SATURATED;
        *x = copysignf(type == KERN_KV_F16 ? 65504.0f : type == KERN_KV_FP8 ? 448.0f : ldexpf(255.0f, 120), *x);
    }
    if (type == KERN_KV_INT8 && isinf(*x)) *x = copysignf(3.402823466e38f, *x);
    return flags;
}

static void plain(step *p)
{
    const uint32_t h = p->s.head_dim;
    const float scale = 1.0f / sqrtf((float)h);
    float x[MAX_DIM];

    for (uint32_t t = 0; t < p->live; t++) {
        const float *c = p->cos + (size_t)p->pos[t] * (h / 2), *s = p->sin + (size_t)p->pos[t] * (h / 2);
        for (uint32_t n = 0; n < p->s.n_head; n++) {
            float *q = p->q + ((size_t)t * p->s.n_head + n) * h;
            prepare(q, p->q_bias ? p->q_bias + n * h : NULL, p->norm, p->eps, h);
            rotate(q, c, s, h / 2);
            for (uint32_t i = 0; i < h; i++) q[i] *= scale;
        }
        for (uint32_t n = 0; n < 2 * p->s.n_kv_head; n++) {
            memcpy(x, (n % 2 ? p->v : p->k) + ((size_t)t * p->s.n_kv_head + n / 2) * h, h * 4);
            prepare(x, p->kv_bias ? p->kv_bias + n / 2 * h : NULL, n % 2 ? NULL : p->norm, p->eps, h);
            if (n % 2 == 0) rotate(x, c, s, h / 2);
            for (uint32_t i = 0; i < h; i++) p->flags[t] |= clean(p->s.dtype, x + i);
            kv_image_put(&p->m, LAYER, p->slot[t], p->pos[t], n / 2, n % 2, x);
        }
    }
}

/* ---- on the device ---- */
typedef struct buffers { kern_buf live, pos, slot, flags, q, k, v, cos, sin, table, pool, q_bias, kv_bias, norm; kern_rope_append_args a; } buffers;

static buffers upload(const cuda_bench *b, const step *p)
{
    buffers d = { .live = cuda_bench_put(b, &p->live, 4), .pos = cuda_bench_put(b, p->pos, p->max * 4),
                  .slot = cuda_bench_put(b, p->slot, p->max * 4), .flags = cuda_bench_put(b, p->flags, p->max * 4),
                  .q = cuda_bench_put(b, p->q, p->q_bytes), .k = cuda_bench_put(b, p->k, p->kv_bytes), .v = cuda_bench_put(b, p->v, p->kv_bytes),
                  .cos = cuda_bench_put(b, p->cos, p->table_bytes), .sin = cuda_bench_put(b, p->sin, p->table_bytes),
                  .table = cuda_bench_put(b, p->m.table, (size_t)SLOTS * p->m.stride * 4),
                  .pool = cuda_bench_put(b, p->m.kv.pool.h, p->m.kv.pool.bytes) };

    d.a = (kern_rope_append_args){ .rows = { p->max, d.live }, .n_head = p->s.n_head, .n_kv_head = p->s.n_kv_head, .head_dim = p->s.head_dim,
                                   .layer = LAYER, .q = d.q, .k = d.k, .v = d.v, .cos = d.cos, .sin = d.sin, .pos = d.pos,
                                   .row_slot = d.slot, .block_table = d.table, .table_stride = p->m.stride, .kv = p->m.kv, .flags = d.flags };
    d.a.kv.pool = d.pool;
    d.a.eps = p->eps;
    if (p->s.bias) {
        d.a.q_bias = d.q_bias = cuda_bench_put(b, p->q_bias, (size_t)p->s.n_head * p->s.head_dim * 4);
        d.a.k_bias = d.a.v_bias = d.kv_bias = cuda_bench_put(b, p->kv_bias, (size_t)p->s.n_kv_head * p->s.head_dim * 4);
    }
    if (p->s.norm) d.a.q_norm = d.a.k_norm = d.norm = cuda_bench_put(b, p->norm, (size_t)p->s.head_dim * 4);
    return d;
}

static void buffers_drop(const cuda_bench *b, buffers *d)
{
    kern_buf *all[] = { &d->live, &d->pos, &d->slot, &d->flags, &d->q, &d->k, &d->v, &d->cos, &d->sin, &d->table, &d->pool, &d->q_bias, &d->kv_bias, &d->norm };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->h) b->ops->free(b->d, all[i]);
}

static void same(const cuda_bench *b, kern_buf got, const void *want, size_t bytes, const step *p, const char *what)
{
    uint8_t *g = get(bytes);

    cuda_bench_get(b, g, got, bytes);
    for (size_t i = 0; i < bytes; i++)
        if (g[i] != ((const uint8_t *)want)[i])
            fail_msg("%s: type %d, head_dim %u, block %u: byte %zu of %zu is %02x, not %02x", what, (int)p->s.dtype, p->s.head_dim,
                     p->s.block, i, bytes, g[i], ((const uint8_t *)want)[i]);
    free(g);
}

static void run(const cuda_bench *b, const shape *s, uint32_t live, uint32_t max, bool bad, uint64_t *seed)
{
    step p = step_make(s, live, max, bad, seed);
    buffers d = upload(b, &p);
    px_err e = {0};

    cuda_ops_next_schedule();
    if (b->ops->rope_append(b->d, &d.a, &e)) fail_msg("%s: %s", e.field, e.text);
    if (s->dtype == KERN_KV_F16 || s->dtype == KERN_KV_F32) {               /* the definition first: it is kept as bytes */
        const kern_ops *cpu = NULL;
        kern_dev *dev = NULL;
        kern_rope_append_args a = d.a;
        uint32_t *flags = copy(p.flags, max * 4);
        float *q = copy(p.q, p.q_bytes);
        void *pool = copy(p.m.kv.pool.h, p.m.kv.pool.bytes);
        a.rows.live.h = &p.live;
        a.q.h = q;
        a.k.h = p.k;
        a.v.h = p.v;
        a.cos.h = p.cos;
        a.sin.h = p.sin;
        a.pos.h = p.pos;
        a.row_slot.h = p.slot;
        a.block_table.h = p.m.table;
        a.flags.h = flags;
        a.kv.pool.h = pool;
        a.q_bias.h = p.q_bias;
        a.k_bias.h = a.v_bias.h = p.kv_bias;
        a.q_norm.h = a.k_norm.h = p.norm;
        assert_int_equal(kern_cpu_ops(KERN_PATH_SCALAR, &cpu, &e), PX_OK);
        assert_int_equal(cpu->open(&dev, &b->heap->a, &(kern_open_args){ .threads = 1 }, &e), PX_OK);
        if (cpu->rope_append(dev, &a, &e)) fail_msg("%s: %s", e.field, e.text);
        cpu->close(dev);
        same(b, d.q, q, p.q_bytes, &p, "q, definition");
        same(b, d.pool, pool, p.m.kv.pool.bytes, &p, "cache, definition");
        same(b, d.flags, flags, max * 4, &p, "flags, definition");
        free(flags);
        free(q);
        free(pool);
    }
    plain(&p);
    same(b, d.q, p.q, p.q_bytes, &p, "q");
    same(b, d.pool, p.m.kv.pool.h, p.m.kv.pool.bytes, &p, "cache");
    same(b, d.flags, p.flags, max * 4, &p, "flags");
    buffers_drop(b, &d);
    step_drop(&p);
}

static void the_bits_are_those_of_plain_loops(void **state)
{
    static const uint32_t dims[] = { 64, 128, 80, 256, 2, 20, 66 };
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 31;

    for (uint32_t i = EFFORT_TSAN ? 8 : 0; i < (EFFORT_TSAN ? 9 : 70); i++) {        /* 8: int8, two KV heads with something to flag */
        const shape s = { (kern_kv_dtype)(i % KERN_N_KV), dims[i / 5 % 7], 16u << i % 4, i % 3 ? 5 : 1, i % 3 ? 2 : 1, i / 2 % 4 < 2, i / 2 % 2 == 0 };
        const uint32_t max = 1 + (uint32_t)(test_rand(&seed) % 12);
        run(&b, &s, i == 7 ? 0 : max - (i % 2 && max > 1), max, i / 5 % 2, &seed);
    }
    cuda_bench_close(&b);
}

/* A row whose place is not in the table writes nothing, and flags nothing. */
static void contents_beyond_their_bounds_are_not_followed(void **state)
{
    cuda_bench b = cuda_bench_open(state, false);
    uint64_t seed = 32;
    px_err e = {0};

    for (uint32_t i = 0; i < 4; i++) {
        const shape s = { KERN_KV_F16, 64, 16, 1, 1, false, false };
        step p = step_make(&s, 1, 2, false, &seed);
        if (i == 0) p.slot[0] = SLOTS;
        if (i == 1) p.pos[0] = 304;                                         /* within the tables of neither */
        if (i == 2) p.pos[0] = UINT32_MAX;
        if (i == 3) p.pos[0] = 40;                                          /* known to the rotation, but not to a table of two blocks */
        buffers d = upload(&b, &p);
        if (i == 3) d.a.table_stride = 2;
        assert_int_equal(b.ops->rope_append(b.d, &d.a, &e), PX_OK);
        same(&b, d.pool, p.m.kv.pool.h, p.m.kv.pool.bytes, &p, "cache");
        same(&b, d.flags, p.flags, 8, &p, "flags");
        buffers_drop(&b, &d);
        step_drop(&p);
    }
    cuda_bench_close(&b);
}

static void wrong_arguments_are_named(void **state)
{
    cuda_bench b = cuda_bench_open(state, false);
    const shape s = { KERN_KV_F16, 64, 16, 4, 2, true, true };
    uint64_t seed = 33;
    step p = step_make(&s, 2, 2, false, &seed);
    buffers d = upload(&b, &p);
    px_err e;

#define REFUSED(code, name, change) CUDA_REFUSED(b, rope_append, d.a, code, name, change)
    REFUSED(PX_EINTERNAL, "q", a.q.bytes -= 4);
    REFUSED(PX_EINTERNAL, "k", a.k.bytes -= 4);
    REFUSED(PX_EINTERNAL, "v", a.v.bytes -= 4);
    REFUSED(PX_EINTERNAL, "cos", a.cos.bytes = 64);
    REFUSED(PX_EINTERNAL, "sin", a.sin.bytes = 64);
    REFUSED(PX_EINTERNAL, "flags", a.flags.bytes = 4);
    REFUSED(PX_EINTERNAL, "pos", a.pos.bytes = 4);
    REFUSED(PX_EINTERNAL, "kv.pool", a.kv.pool.bytes -= 1);
    REFUSED(PX_EINTERNAL, "layer", a.layer = LAYERS);
    REFUSED(PX_EUNSUP, "kv.dtype", a.kv.dtype = KERN_N_KV);
    REFUSED(PX_EINTERNAL, "q_bias", a.q_bias.bytes -= 1);
    REFUSED(PX_EINTERNAL, "k_bias", a.k_bias.bytes -= 4);
    REFUSED(PX_EINTERNAL, "v_bias", a.v_bias.bytes -= 4);
    REFUSED(PX_EINTERNAL, "q_norm", a.q_norm.bytes -= 4);
    REFUSED(PX_EINTERNAL, "k_norm", a.k_norm.bytes -= 4);
    assert_int_equal(b.ops->rope_append(b.d, &d.a, &e), PX_OK);
    buffers_drop(&b, &d);
    step_drop(&p);
    cuda_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bits_are_those_of_plain_loops),
        cmocka_unit_test(contents_beyond_their_bounds_are_not_followed),
        cmocka_unit_test(wrong_arguments_are_named),
    };
    kern_ftz_set();                                                         /* as in a rank; the CPU insists */
    return cuda_ops_main(tests, sizeof tests / sizeof *tests, NULL);
}
