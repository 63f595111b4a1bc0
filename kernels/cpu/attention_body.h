/* attention_body.h - paged attention over sixteen keys, once for AVX2 and once for AVX-512 (OP names the function).
 * Layer: kernels/cpu; after vec_avx2.h or vec_avx512.h.
 *
 * A query is one head of one row.  Queries that read the same KV head of the same slot go together: up to four at once
 * in registers, so that a key is loaded (and converted) once for four; and when there are many (a chunk of a prompt),
 * a span's K and V are converted to fp32 once into the thread's scratch.  Each query's sums keep their order however
 * they are grouped. */
#include <math.h>
#include <stdatomic.h>

#include "kernels/cpu/args.h"

#define AT_ONCE 4u                           /* queries in registers */
#define TOGETHER 64u                         /* queries that share a converted span */
#define CONVERT_FROM 16u                     /* queries from which converting a span pays */
#define TILES (KERN_SPAN / KERN_TILE)
/* Tiles of keys (scores) or vectors of head_dim (output) at once for h queries: what the registers hold. */
#if V_REGISTERS >= 32
#define WIDE(h) ((h) == 1 ? 8 : 4)
#else
#define WIDE(h) ((h) == 1 ? 4 : (h) == 2 ? 2 : 1)
#endif

/* The accumulators live in registers only when the loops over them are gone. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

typedef struct attention_job {
    const kern_attention_args *a;
    uint32_t live, rows, chunks, splits, n_items;   /* rows an item; items = chunks x KV heads x splits of its heads */
    atomic_uint *next;
} attention_job;

typedef struct span {
    const void *k[TILES], *v[TILES];         /* tile i: K [head_dim][16], V [16][head_dim] */
    bool half;                               /* fp16; else fp32 */
} span;

typedef struct query { const float *q; float *out; float top, l; uint32_t first, n_keys; } query;   /* sees keys [first, n_keys) */

V_INLINE vf load16(const void *p, size_t i, bool half)
{
    return half ? v_load_h((const uint16_t *)p + i) : v_load((const float *)p + i);
}
V_INLINE vf load8(const void *p, size_t i, bool half)
{
    return half ? v_load_h8((const uint16_t *)p + i) : v_load_n((const float *)p + i, 8);
}

/* Scores of h queries with w tiles from t on. */
V_INLINE void scores_(const query *q, const span *s, uint32_t t, uint32_t dim, float (*p)[KERN_SPAN], const int h,
                      const int w, const bool half)
{
    vf acc[4][8];

    UNROLL
    for (int i = 0; i < h; i++)
        UNROLL
        for (int j = 0; j < w; j++) acc[i][j] = v_zero();
    for (uint32_t d = 0; d < dim; d++) {
        vf k[8];
        UNROLL
        for (int j = 0; j < w; j++) k[j] = load16(s->k[t + j], (size_t)d * KERN_TILE, half);
        UNROLL
        for (int i = 0; i < h; i++) {
            vf x = v_set1(q[i].q[d]);
            UNROLL
            for (int j = 0; j < w; j++) acc[i][j] = v_fma(x, k[j], acc[i][j]);
        }
    }
    UNROLL
    for (int i = 0; i < h; i++)
        UNROLL
        for (int j = 0; j < w; j++) v_store(p[i] + (t + j) * KERN_TILE, acc[i][j]);
}

/* o[i] += sum over keys [from, to) of p[i][key] * v[key], for w * 16 of head_dim from d on (w 0: the last 8). */
V_INLINE void values_(const span *s, uint32_t from, uint32_t to, uint32_t d, uint32_t dim, float (*p)[KERN_SPAN],
                      float (*o)[KERN_MAX_HEAD_DIM], const int h, const int w, const bool half)
{
    const int n = w ? w : 1;
    vf acc[4][8];

    UNROLL
    for (int i = 0; i < h; i++)
        UNROLL
        for (int j = 0; j < n; j++) acc[i][j] = w ? v_load(o[i] + d + 16 * j) : v_load_n(o[i] + d, 8);
    for (uint32_t key = from; key < to; key++) {
        const void *row = s->v[key / KERN_TILE];
        size_t at = (size_t)(key % KERN_TILE) * dim + d;
        vf v[8];
        UNROLL
        for (int j = 0; j < n; j++) v[j] = w ? load16(row, at + 16 * (size_t)j, half) : load8(row, at, half);
        UNROLL
        for (int i = 0; i < h; i++) {
            vf x = v_set1(p[i][key]);
            UNROLL
            for (int j = 0; j < n; j++) acc[i][j] = v_fma(x, v[j], acc[i][j]);
        }
    }
    UNROLL
    for (int i = 0; i < h; i++)
        UNROLL
        for (int j = 0; j < n; j++) {
            if (w) v_store(o[i] + d + 16 * j, acc[i][j]);
            else v_store_n(o[i] + d, acc[i][j], 8);
        }
}

V_INLINE void group_scores(const query *q, const span *s, uint32_t tile, uint32_t tiles, uint32_t dim, float (*p)[KERN_SPAN],
                           const int h, const bool half)
{
    /* Tiles beyond the last are aliases of it, so a whole group of them can be computed. */
    for (uint32_t t = tile / WIDE(h) * WIDE(h); t < tiles; t += WIDE(h)) scores_(q, s, t, dim, p, h, WIDE(h), half);
}

V_INLINE void group_values(const span *s, uint32_t from, uint32_t to, uint32_t dim, float (*p)[KERN_SPAN],
                           float (*o)[KERN_MAX_HEAD_DIM], const int h, const bool half)
{
    uint32_t d = 0;

    for (; d + 16 * WIDE(h) <= dim; d += 16 * WIDE(h)) values_(s, from, to, d, dim, p, o, h, WIDE(h), half);
    for (; d + 16 <= dim; d += 16) values_(s, from, to, d, dim, p, o, h, 1, half);
    if (d < dim) values_(s, from, to, d, dim, p, o, h, 0, half);
}

#define BY_COUNT(fn, n, half, ...)                                                   \
    switch (n) {                                                                     \
    case 1: if (half) fn(__VA_ARGS__, 1, true); else fn(__VA_ARGS__, 1, false); break; \
    case 2: if (half) fn(__VA_ARGS__, 2, true); else fn(__VA_ARGS__, 2, false); break; \
    case 3: if (half) fn(__VA_ARGS__, 3, true); else fn(__VA_ARGS__, 3, false); break; \
    default: if (half) fn(__VA_ARGS__, 4, true); else fn(__VA_ARGS__, 4, false);       \
    }

static void all_scores(const query *q, const span *s, uint32_t tile, uint32_t tiles, uint32_t dim, float (*p)[KERN_SPAN], uint32_t n)
{
    BY_COUNT(group_scores, n, s->half, q, s, tile, tiles, dim, p)
}

static void all_values(const span *s, uint32_t from, uint32_t to, uint32_t dim, float (*p)[KERN_SPAN],
                       float (*o)[KERN_MAX_HEAD_DIM], uint32_t n)
{
    if (from < to) BY_COUNT(group_values, n, s->half, s, from, to, dim, p, o)
}

/* Scores -> p of keys [from, n), from < n; the largest score and the sum of p. */
static float softmax(float *p, uint32_t from, uint32_t n, float *sum)
{
    vf top = v_set1(-INFINITY), low = top, l = v_zero();
    uint32_t j, begin = from / 16 * 16;

    if (from > begin) v_store(p + begin, v_keep_n(low, v_load(p + begin), from - begin));      /* before the window */
    for (j = begin; j + 16 <= n; j += 16) top = v_max(v_load(p + j), top);
    if (j < n) top = v_max(v_keep_n(v_load(p + j), low, n - j), top);
    float m = v_largest(top);
    vf mm = v_set1(m);
    for (j = begin; j < n; j += 16) {
        vf x = v_exp(v_sub(v_load(p + j), mm));
        if (n - j < 16) x = v_keep_n(x, v_zero(), n - j);
        if (j < from) x = v_keep_n(v_zero(), x, from - j);               /* also where every score is a NaN */
        v_store(p + j, x);
        l = v_add(l, x);
    }
    *sum = v_sum(l);
    return m;
}

/* Merge a span's output into the query's. */
static void merge(query *q, const float *o, float m, float l, uint32_t dim)
{
    float top = m > q->top ? m : q->top;
    vf a = v_exp(v_set1(q->top - top)), b = v_exp(v_set1(m - top));
    uint32_t d = 0;

    for (; d + 16 <= dim; d += 16) v_store(q->out + d, v_fma(v_load(o + d), b, v_mul(v_load(q->out + d), a)));
    if (d < dim) v_store_n(q->out + d, v_fma(v_load_n(o + d, 8), b, v_mul(v_load_n(q->out + d, 8), a)), 8);
    q->l = v_first(v_fma(v_set1(l), b, v_mul(v_set1(q->l), a)));
    q->top = top;
}

/* The keys of one span for a group of up to AT_ONCE queries. */
static void attend_span(query *q, uint32_t n, const span *s, uint32_t begin, uint32_t dim)
{
    float p[AT_ONCE][KERN_SPAN], o[AT_ONCE][KERN_MAX_HEAD_DIM], m[AT_ONCE], l[AT_ONCE];
    uint32_t from[AT_ONCE], keys[AT_ONCE];                     /* it sees [from, keys) of the span */
    uint32_t least = KERN_SPAN, most = 0, low = KERN_SPAN, high = 0;

    for (uint32_t i = 0; i < n; i++) {
        keys[i] = q[i].n_keys <= begin ? 0 : q[i].n_keys - begin < KERN_SPAN ? q[i].n_keys - begin : KERN_SPAN;
        from[i] = q[i].first <= begin ? 0 : q[i].first - begin < KERN_SPAN ? q[i].first - begin : KERN_SPAN;
        if (keys[i] < least) least = keys[i];
        if (keys[i] > most) most = keys[i];
        if (from[i] < low) low = from[i];
        if (from[i] > high) high = from[i];
    }
    if (low >= most) return;
    all_scores(q, s, low / KERN_TILE, (most + KERN_TILE - 1) / KERN_TILE, dim, p, n);
    for (uint32_t i = 0; i < n; i++) {
        if (from[i] >= keys[i]) continue;
        m[i] = softmax(p[i], from[i], keys[i], &l[i]);
        for (uint32_t d = 0; d < dim; d++) o[i][d] = 0.0f;
        /* what not all of the group see: keys before those of all, here, and behind them, below */
        if (from[i] < high) all_values(s, from[i], high < keys[i] ? high : keys[i], dim, p + i, o + i, 1);
    }
    all_values(s, high, least, dim, p, o, n);
    for (uint32_t i = 0; i < n; i++) {
        if (from[i] >= keys[i]) continue;
        all_values(s, high > least ? high : least, keys[i], dim, p + i, o + i, 1);
        merge(&q[i], o[i], m[i], l[i], dim);
    }
}

/* The span at key `begin` of `table`: its first n keys. */
static void locate(const attention_job *j, const uint32_t *table, uint32_t head, uint32_t begin, uint32_t n, span *s)
{
    const kern_kv *kv = &j->a->kv;
    size_t each = kv->dtype == KERN_KV_F16 ? 2 : 4;

    s->half = kv->dtype == KERN_KV_F16;
    for (uint32_t t = 0; t < TILES; t++) {
        if (t * KERN_TILE >= n) {
            s->k[t] = s->k[t - 1];
            s->v[t] = s->v[t - 1];
            continue;
        }
        uint32_t key = begin + t * KERN_TILE, off = key % kv->block;
        const char *at = (const char *)kv->pool.h + kern_kv_at(kv, j->a->layer, table[key / kv->block], head) * each;
        s->k[t] = at + (size_t)off * kv->head_dim * each;
        s->v[t] = at + ((size_t)kv->block + off) * kv->head_dim * each;
    }
}

/* fp16 tiles -> fp32 in the thread's scratch. */
static void convert(span *s, uint32_t n, uint32_t dim, float *scratch)
{
    uint32_t tiles = (n + KERN_TILE - 1) / KERN_TILE, size = KERN_TILE * dim;

    for (uint32_t t = 0; t < TILES; t++) {
        uint32_t from = t < tiles ? t : tiles - 1;
        float *k = scratch + (size_t)from * size, *v = scratch + (size_t)(TILES + from) * size;
        if (t < tiles)
            for (uint32_t i = 0; i < size; i += 16) {
                v_store(k + i, v_load_h((const uint16_t *)s->k[t] + i));
                v_store(v + i, v_load_h((const uint16_t *)s->v[t] + i));
            }
        s->k[t] = k;
        s->v[t] = v;
    }
    s->half = false;
}

/* Queries of one slot and one KV head. */
static void attend(const attention_job *j, query *q, uint32_t n, const uint32_t *table, uint32_t head, float *scratch)
{
    uint32_t dim = j->a->head_dim, most = 0, first = UINT32_MAX;

    for (uint32_t i = 0; i < n; i++) {
        if (q[i].n_keys > most) most = q[i].n_keys;
        if (q[i].first < first) first = q[i].first;
    }
    for (uint32_t begin = first / KERN_SPAN * KERN_SPAN; begin < most; begin += KERN_SPAN) {
        uint32_t keys = most - begin < KERN_SPAN ? most - begin : KERN_SPAN;
        span s;
        locate(j, table, head, begin, keys, &s);
        if (s.half && n >= CONVERT_FROM) convert(&s, keys, dim, scratch);
        for (uint32_t i = 0; i < n; i += AT_ONCE)
            attend_span(q + i, n - i < AT_ONCE ? n - i : AT_ONCE, &s, begin, dim);
    }
    for (uint32_t i = 0; i < n; i++) {
        vf l = v_set1(q[i].l);
        uint32_t d = 0;
        for (; d + 16 <= dim; d += 16) v_store(q[i].out + d, v_div(v_load(q[i].out + d), l));
        if (d < dim) v_store_n(q[i].out + d, v_div(v_load_n(q[i].out + d, 8), l), 8);
    }
}

/* Rows [r, end) of a chunk, a part of the query heads of one KV head. */
static void attend_item(const attention_job *j, uint32_t item, float *scratch)
{
    const kern_attention_args *a = j->a;
    uint32_t split = item % j->splits, head = item / j->splits % a->n_kv_head, chunk = item / j->splits / a->n_kv_head;
    uint32_t r = chunk * j->rows, end = j->live - r < j->rows ? j->live : r + j->rows;
    uint32_t heads = 0, lo, hi, n = 0, slot = 0;
    query q[TOGETHER];

    for (uint32_t i = 0; i < a->n_head; i++) heads += kern_u32(a->head_map)[i] == head;
    kern_cpu_share(heads, split, j->splits, &lo, &hi);
    for (; r < end; r++) {
        uint32_t of_row = kern_u32(a->row_slot)[r], seen = 0;
        for (uint32_t i = 0; i < a->n_head; i++) {
            if (kern_u32(a->head_map)[i] != head) continue;
            uint32_t nth = seen++;
            if (nth < lo || nth >= hi) continue;
            if (n == TOGETHER || (n && of_row != slot)) {
                attend(j, q, n, kern_u32(a->block_table) + (size_t)slot * a->table_stride, head, scratch);
                n = 0;
            }
            slot = of_row;
            size_t at = ((size_t)r * a->n_head + i) * a->head_dim;
            uint32_t pos = kern_u32(a->pos)[r];
            q[n] = (query){ kern_f32(a->q) + at, kern_f32(a->out) + at, -INFINITY, 0.0f, kern_first_key(pos, a->window), pos + 1 };
            for (uint32_t d = 0; d < a->head_dim; d++) q[n].out[d] = 0.0f;
            n++;
        }
    }
    if (n) attend(j, q, n, kern_u32(a->block_table) + (size_t)slot * a->table_stride, head, scratch);
}

static void attention_part(const void *ctx, uint32_t part, uint32_t n_parts)
{
    const attention_job *j = ctx;
    float *scratch = (float *)((char *)j->a->workspace.h + part * kern_attention_scratch(j->a->head_dim));
    uint32_t item;

    (void)n_parts;
    /* Later rows see more keys: the threads take items as they get free. */
    while ((item = atomic_fetch_add_explicit(j->next, 1, memory_order_relaxed)) < j->n_items)
        attend_item(j, item, scratch);
}

px_code OP(kern_dev *d, const kern_attention_args *a, px_err *e)
{
    atomic_uint next = 0;
    attention_job j = { .a = a, .rows = 16, .splits = 1, .next = &next };
    px_code rc;

    if (a->head_dim % 8) return kern_cpu_attention_scalar(d, a, e);
    if ((rc = kern_args_attention(a, d->threads, &j.live, e))) return rc;
    if (!j.live) return PX_OK;
    if (d->threads > 1) {
        uint32_t fair = (uint32_t)((uint64_t)j.live * a->n_kv_head / (4 * (uint64_t)d->threads)) + 1;
        if (fair < j.rows) j.rows = fair;
    }
    j.chunks = (j.live + j.rows - 1) / j.rows;
    uint64_t items = (uint64_t)j.chunks * a->n_kv_head;
    if (items < d->threads) j.splits = (uint32_t)((d->threads + items - 1) / items);
    j.n_items = (uint32_t)(items * j.splits);
    /* About 64 Ki products are worth a fork. */
    uint64_t keys = 0;
    for (uint32_t t = 0; t < j.live; t++) keys += kern_u32(a->pos)[t] + 1 - kern_first_key(kern_u32(a->pos)[t], a->window);
    uint64_t parts = keys * a->n_head * a->head_dim / 65536 + 1;
    kern_cpu_split(d, parts < j.n_items ? (uint32_t)parts : j.n_items, attention_part, &j);
    return PX_OK;
}
