#include "shard/run/selftest.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/tree.h"

#define HEAD_ROWS 64u                        /* of the vocabulary: a matmul like all others */

typedef struct twins {
    shard_forward *at[2];                    /* what serves, and what it is held against */
    float    bound;                          /* of a difference, as a part of its row's largest number; 0: the same bits */
    float   *seen[2];                        /* (n, d_model) each: what the two left */
    float   *pattern;                        /* (n, d_model) */
    uint32_t n, layer;
} twins;

/* Numbers of both signs over six powers of two, the same on every machine.  As large as a norm leaves them: larger ones make of
 * attention a choice of one key, which the last bit of a number in the cache decides. */
static void fill(float *p, size_t n)
{
    uint32_t x = 1;

    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (float)((int32_t)(x >> 8) - (1 << 23)) / (float)(1u << (21 + (x & 3)));
    }
}

typedef px_code part(const twins *t, shard_forward *f, px_err *e);

static px_code run_embed(const twins *t, shard_forward *f, px_err *e) { return shard_forward_embed(f, t->n, e); }
static px_code run_feed(const twins *t, shard_forward *f, px_err *e) { return shard_forward_feed(f, t->layer, t->n, f->normed, e); }

static kern_add_norm_args norm_of(const twins *t, const shard_forward *f)
{
    return (kern_add_norm_args){ .rows = shard_forward_rows(f, t->n), .cols = f->arch->d_model, .eps = f->arch->rms_eps, .n_views = 1,
                                 .view = { f->normed }, .residual = f->residual, .first = true,
                                 .weight = f->w->layer[t->layer].attn_norm, .out = f->partial[f->turn] };
}

/* With the norm before it, which leaves rows as the weights want them. */
static px_code run_attend(const twins *t, shard_forward *f, px_err *e)
{
    kern_add_norm_args a = norm_of(t, f);
    px_code rc;

    a.act = shard_forward_attend_wants(f, t->layer);
    if ((rc = f->ops->add_norm(f->dev, &a, e))) return rc;
    return shard_forward_attend(f, t->layer, t->n, a.act.out.h ? (kern_buf){ 0 } : a.out, e);
}

static px_code run_norm(const twins *t, shard_forward *f, px_err *e)
{
    kern_add_norm_args a = norm_of(t, f);
    px_code rc;

    if ((rc = f->ops->add_norm(f->dev, &a, e))) return rc;
    a.first = false;                                       /* and on top of what lies there */
    return f->ops->add_norm(f->dev, &a, e);
}

/* Some rows of the head and their candidates, written where the partial sum would be (as much of it as a row holds).
 * Within a bound only numbers can be compared: two near logits may change places. */
static px_code run_head(const twins *t, shard_forward *f, px_err *e)
{
    const kern_rows one = { 1, f->n_head_rows };
    const size_t record = sizeof(kern_cand_head);
    kern_weight w = f->w->head;
    _Alignas(kern_cand_head) uint8_t seen[sizeof(kern_cand_head) + HEAD_ROWS * sizeof(float)];
    px_code rc;

    if (w.rows > HEAD_ROWS) w.rows = HEAD_ROWS;
    if (!w.rows) return PX_OK;
    if ((rc = shard_forward_multiply(f, one, f->normed, f->arch->d_model, 1, &w, &f->logits, &w.rows, f->head_flags, e)))
        return rc;
    const size_t logits = w.rows * sizeof(float);
    const uint32_t valid = shard_vocab_valid(f->arch, f->cut);
    const kern_cand_param greedy = { .target = UINT32_MAX };
    if ((rc = f->ops->upload(f->dev, kern_buf_at(f->param, 0, sizeof greedy), &greedy, sizeof greedy, e)) ||
        (rc = f->ops->candidates(f->dev, &(kern_candidates_args){
             .rows = one, .logits = f->logits, .stride = w.rows, .vocab_begin = f->cut->vocab.begin,
             .n_valid = valid < w.rows ? valid : w.rows, .params = f->param, .out = f->cand, .out_stride = (uint32_t)record,
             .workspace = f->workspace }, e)) ||
        (rc = f->ops->download(f->dev, seen, kern_buf_at(f->cand, 0, record), record, e)) ||
        (rc = f->ops->download(f->dev, seen + record, kern_buf_at(f->logits, 0, logits), logits, e)))
        return rc;
    if (t->bound) memcpy(seen, &(kern_cand_head){ .max = ((kern_cand_head *)(void *)seen)->max }, record);
    size_t n = record + logits, row = (size_t)f->arch->d_model * sizeof(float);
    if (n > row) n = row;
    return f->ops->upload(f->dev, kern_buf_at(f->partial[f->turn], 0, n), seen, n, e);
}

static bool differs(const twins *t, size_t k)
{
    const size_t cols = t->at[0]->arch->d_model, row = k / cols * cols;
    float most = 0;

    if (!t->bound) return memcmp(&t->seen[0][k], &t->seen[1][k], sizeof(float));
    for (size_t i = row; i < row + cols; i++)
        if (fabsf(t->seen[1][i]) > most) most = fabsf(t->seen[1][i]);
    return !(fabsf(t->seen[0][k] - t->seen[1][k]) <= t->bound * most);
}

/* The part by both: the same known rows go in, the same numbers must come out. */
static px_code compare(twins *t, const char *name, part *run, px_err *e)
{
    const size_t floats = (size_t)t->n * t->at[0]->arch->d_model, bytes = floats * sizeof(float);
    char found[96], expected[96];
    px_code rc;

    for (int i = 0; i < 2; i++) {
        shard_forward *f = t->at[i];
        const kern_buf in = kern_buf_at(f->normed, 0, bytes), out = kern_buf_at(f->partial[f->turn], 0, bytes);

        if ((rc = f->ops->upload(f->dev, in, t->pattern, bytes, e)) || (rc = f->ops->upload(f->dev, out, t->pattern, bytes, e))
            || (rc = run(t, f, e)) || (rc = f->ops->download(f->dev, t->seen[i], out, bytes, e)))
            return rc;
    }
    for (size_t k = 0; k < floats; k++) {
        if (!differs(t, k)) continue;
        snprintf(found, sizeof found, "%s: %.9g", t->at[0]->ops->name, (double)t->seen[0][k]);
        snprintf(expected, sizeof expected, "%s: %.9g", t->at[1]->ops->name, (double)t->seen[1][k]);
        return px_refuse(e, PX_ECORRUPT, "selftest", found, expected, "%s of layer %u, %u rows: number %zu differs", name, t->layer,
                         t->n, k);
    }
    return PX_OK;
}

/* 1: the first weight of its type.  A number, so that a sum asks all of a row's weights. */
static unsigned is_new(bool *met, const kern_weight *w)
{
    unsigned first = w->rows && !met[w->dtype];
    met[w->dtype] = true;
    return first;
}

px_code shard_selftest_kernels(shard_forward *f, shard_forward *twin, float bound, px_alloc *a, uint32_t n, px_err *e)
{
    const size_t floats = (size_t)n * f->arch->d_model;
    bool attn[KERN_N_DTYPES] = { false }, ffn[KERN_N_DTYPES] = { false };
    twins t = { .at = { f, twin }, .bound = bound, .n = n };
    float *room = px_new(a, float, 3 * floats);
    px_code rc;

    if (!room) return px_fail(e, PX_ENOMEM, "selftest", "no memory for %zu numbers", 3 * floats);
    t.pattern = room;
    t.seen[0] = room + floats;
    t.seen[1] = room + 2 * floats;
    fill(t.pattern, floats);
    if ((rc = compare(&t, "embedding", run_embed, e)) || (rc = compare(&t, "norm", run_norm, e)) ||
        (rc = compare(&t, "head", run_head, e)))
        goto out;
    for (t.layer = 0; t.layer < f->w->n_layer; t.layer++) {
        const shard_layer *y = &f->w->layer[t.layer];
        unsigned new_attn = is_new(attn, &y->q) + is_new(attn, &y->k) + is_new(attn, &y->v) + is_new(attn, &y->out);
        unsigned new_ffn = is_new(ffn, &y->gate) + is_new(ffn, &y->up) + is_new(ffn, &y->down);
        if ((new_attn && (rc = compare(&t, "attention", run_attend, e))) || (new_ffn && (rc = compare(&t, "FFN", run_feed, e))))
            break;
    }
out:
    px_del(a, room, 3 * floats);
    return rc;
}

/* ---- sums ---- */

/* Eighths of small numbers: every order of adding them is exact, so the sum is known without adding. */
static float share(uint32_t rank, size_t i) { return (float)((rank + 1) * (i % 97)) / 8 - 6; }

static px_code check_sum_all(shard_forward *f, float *room, uint32_t rank, uint32_t world, size_t floats, px_err *e)
{
    const size_t bytes = floats * sizeof(float);
    const unsigned turn = f->turn;
    const float *const *views, *sums = room;
    kern_buf view;
    uint32_t n = 0;
    char found[64], expected[64];
    px_code rc;

    for (size_t i = 0; i < floats; i++) room[i] = share(rank, i);
    if ((rc = f->ops->upload(f->dev, f->partial[turn], room, bytes, e)) ||
        (rc = comm_reduce_views_all(f->comm, turn, bytes, &views, &n, e)))
        return rc;
    f->turn = !turn;
    if (f->ops->own_memory) {                              /* transports between devices answer with one view, there */
        if (n != 1) return px_fail(e, PX_EINTERNAL, "views", "%u of a device's", n);
        if ((rc = f->ops->wrap(f->dev, (void *)(uintptr_t)views[0], bytes, &view, e)) ||
            (rc = f->ops->download(f->dev, room, view, bytes, e)))
            return rc;
        views = &sums;
    }
    for (size_t i = 0; i < floats; i++) {
        float sum = px_tree_sum(views, n, i), want = 0;
        for (uint32_t r = 0; r < world; r++) want += share(r, i);
        if (sum == want) continue;
        snprintf(found, sizeof found, "%.9g", (double)sum);
        snprintf(expected, sizeof expected, "%.9g", (double)want);
        return px_refuse(e, PX_ECORRUPT, "selftest", found, expected, "the ranks' sum of %zu numbers is wrong at number %zu", floats, i);
    }
    return PX_OK;
}

px_code shard_selftest_sums_all(shard_forward *f, px_alloc *a, uint32_t rank, uint32_t world, px_err *e)
{
    const size_t most = f->partial[0].bytes / sizeof(float), row = f->arch->d_model;
    const size_t size[3] = { row, row * ((most / row + 1) / 2), most / row * row };
    float *room = px_new(a, float, most);
    px_code rc = room ? PX_OK : px_fail(e, PX_ENOMEM, "selftest", "no memory for %zu numbers", most);

    for (int i = 0; i < 3 && !rc; i++) rc = check_sum_all(f, room, rank, world, size[i], e);
    px_del(a, room, most);
    return rc;
}
