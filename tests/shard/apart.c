#include "tests/shard/apart.h"

#include <stdlib.h>
#include <string.h>

/* No address of a process has this bit: the processor faults on it. */
#define TURN ((uintptr_t)1 << 62)

#define OPS(X) X(embed) X(add_norm) X(gather) X(quant) X(matmul) X(rope_append) X(attention) X(swiglu) X(candidates)

typedef enum op_kind {
#define KIND(op) OP_##op,
    OPS(KIND)
} op_kind;

typedef struct call {
    op_kind kind;
    union {
#define ARGS(op) kern_##op##_args op;
        OPS(ARGS)
    } a;
} call;

typedef struct graph { call *call; size_t n, cap; } graph;

typedef struct apart {
    const kern_ops *cpu;
    kern_dev *under;
    px_alloc *a;
    graph     graph[KERN_MAX_GRAPHS], *recording;
    test_apart_counts count;
} apart;

static apart *of(kern_dev *d) { return (apart *)(void *)d; }
static void *over(void *p) { return p ? (void *)((uintptr_t)p ^ TURN) : NULL; }
static kern_buf near(kern_buf b) { return (kern_buf){ over(b.h), b.bytes }; }

static px_code far_only(const void *p, const char *field, px_err *e)
{
    return !p || ((uintptr_t)p & TURN) ? PX_OK : px_fail(e, PX_EINTERNAL, field, "memory of the host");
}

static px_code apart_open(kern_dev **out, px_alloc *a, const kern_open_args *args, px_err *e)
{
    apart *d = calloc(1, sizeof *d);
    px_code rc = PX_ENOMEM;

    *out = NULL;
    if (!d || (rc = kern_cpu_ops(KERN_PATH_SCALAR, &d->cpu, e)) || (rc = d->cpu->open(&d->under, a, args, e))) {
        free(d);
        return rc;
    }
    d->a = a;
    *out = (kern_dev *)(void *)d;
    return PX_OK;
}

static void apart_close(kern_dev *k)
{
    apart *d = of(k);

    if (!d) return;
    for (size_t i = 0; i < KERN_MAX_GRAPHS; i++) free(d->graph[i].call);
    d->cpu->close(d->under);
    free(d);
}

static px_code apart_info(kern_dev *d, kern_info *out, px_err *e)
{
    (void)d, (void)e;
    *out = (kern_info){ .name = "apart" };
    return PX_OK;
}

static px_code not_recording(kern_dev *d, const char *what, px_err *e)
{
    return of(d)->recording ? px_fail(e, PX_EINTERNAL, what, "inside a recording") : PX_OK;
}

static px_code apart_alloc(kern_dev *d, size_t bytes, kern_buf *out, px_err *e)
{
    px_code rc;

    *out = (kern_buf){0};
    if ((rc = not_recording(d, "alloc", e)) || (rc = of(d)->cpu->alloc(of(d)->under, bytes, out, e))) return rc;
    of(d)->count.live += bytes;
    *out = near(*out);
    return PX_OK;
}

static void apart_free(kern_dev *d, kern_buf *b)
{
    kern_buf n = near(*b);

    of(d)->count.live -= b->bytes;
    of(d)->cpu->free(of(d)->under, &n);
    *b = (kern_buf){0};
}

static px_code apart_wrap(kern_dev *d, void *p, size_t bytes, kern_buf *out, px_err *e)
{
    (void)d;
    *out = (kern_buf){ p, bytes };
    return far_only(p, "wrap", e);
}

static px_code apart_upload(kern_dev *d, kern_buf dst, const void *src, size_t bytes, px_err *e)
{
    px_code rc;

    if ((rc = not_recording(d, "upload", e)) || (rc = far_only(dst.h, "upload.dst", e))) return rc;
    return of(d)->cpu->upload(of(d)->under, near(dst), src, bytes, e);
}

static px_code apart_download(kern_dev *d, void *dst, kern_buf src, size_t bytes, px_err *e)
{
    px_code rc;

    if ((rc = not_recording(d, "download", e)) || (rc = far_only(src.h, "download.src", e))) return rc;
    return of(d)->cpu->download(of(d)->under, dst, near(src), bytes, e);
}

static px_code apart_wait(kern_dev *d, px_err *e) { return not_recording(d, "wait", e); }

static void *apart_queue(kern_dev *d)
{
    (void)d;
    return NULL;
}

/* ---- graphs ---- */

static px_code apart_record(kern_dev *d, uint32_t id, px_err *e)
{
    px_code rc;

    if (id >= KERN_MAX_GRAPHS) return px_fail(e, PX_ERANGE, "record", "graph %u of %u", id, KERN_MAX_GRAPHS);
    if ((rc = not_recording(d, "record", e))) return rc;
    of(d)->recording = &of(d)->graph[id];
    of(d)->recording->n = 0;
    of(d)->count.records++;
    return PX_OK;
}

static px_code apart_end(kern_dev *d, px_err *e)
{
    if (!of(d)->recording) return px_fail(e, PX_EINVAL, "end", "end without record");
    of(d)->recording = NULL;
    return PX_OK;
}

static px_code keep(graph *g, const call *c, px_err *e)
{
    if (g->n == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 64;
        call *more = realloc(g->call, cap * sizeof *more);
        if (!more) return px_fail(e, PX_ENOMEM, "graph", "%zu calls", cap);
        g->call = more;
        g->cap = cap;
    }
    g->call[g->n++] = *c;
    return PX_OK;
}

/* ---- ops: near copies of the argument blocks ---- */

static void near_rows(kern_rows *r) { r->live = near(r->live); }
static void near_weight(kern_weight *w) { w->panels = near(w->panels); }
static void bring(kern_buf *const *b, size_t n)
{
    for (size_t i = 0; i < n; i++) *b[i] = near(*b[i]);
}
#define BRING(...) bring((kern_buf *const[]){ __VA_ARGS__ }, sizeof (kern_buf *const[]){ __VA_ARGS__ } / sizeof(kern_buf *))

static void near_embed(kern_embed_args *a) { near_rows(&a->rows); near_weight(&a->table); BRING(&a->ids, &a->out); }
static void near_add_norm(kern_add_norm_args *a)
{
    near_rows(&a->rows);
    for (uint32_t i = 0; i < a->n_views; i++) a->view[i] = near(a->view[i]);
    BRING(&a->residual, &a->weight, &a->out, &a->act.out, &a->act.flags);
}
static void near_gather(kern_gather_args *a) { near_rows(&a->rows); BRING(&a->in, &a->index, &a->out); }
static void near_quant(kern_quant_args *a) { near_rows(&a->rows); BRING(&a->in, &a->out, &a->flags); }
static void near_matmul(kern_matmul_args *a)
{
    near_rows(&a->rows);
    for (uint32_t i = 0; i < a->n; i++) {
        near_weight(&a->w[i]);
        a->out[i] = near(a->out[i]);
    }
    BRING(&a->in, &a->workspace);
}
static void near_rope_append(kern_rope_append_args *a)
{
    near_rows(&a->rows);
    BRING(&a->q, &a->k, &a->v, &a->cos, &a->sin, &a->pos, &a->row_slot, &a->block_table, &a->kv.pool, &a->flags,
          &a->q_bias, &a->k_bias, &a->v_bias, &a->q_norm, &a->k_norm);
}
static void near_attention(kern_attention_args *a)
{
    near_rows(&a->rows);
    BRING(&a->q, &a->head_map, &a->pos, &a->row_slot, &a->block_table, &a->kv.pool, &a->out, &a->workspace);
}
static void near_swiglu(kern_swiglu_args *a) { near_rows(&a->rows); BRING(&a->gate, &a->up, &a->out, &a->act.out, &a->act.flags); }
static void near_candidates(kern_candidates_args *a) { near_rows(&a->rows); BRING(&a->logits, &a->params, &a->out); }

static px_code run(apart *d, const call *c, px_err *e)
{
    call n = *c;

    switch (n.kind) {
#define CASE(op) case OP_##op: near_##op(&n.a.op); return d->cpu->op(d->under, &n.a.op, e);
    OPS(CASE)
    }
    return px_fail(e, PX_EINTERNAL, "op", "kind %d", (int)n.kind);
}

static px_code put(apart *d, const call *c, px_err *e)
{
    if (d->recording) return keep(d->recording, c, e);
    d->count.called++;
    return run(d, c, e);
}

#define OP(op) \
    static px_code apart_##op(kern_dev *d, const kern_##op##_args *a, px_err *e) \
    { \
        call c = { .kind = OP_##op }; \
        c.a.op = *a; \
        return put(of(d), &c, e); \
    }
OPS(OP)

static px_code apart_replay(kern_dev *d, uint32_t id, bool *replayed, px_err *e)
{
    px_code rc;

    *replayed = false;
    if (id >= KERN_MAX_GRAPHS) return px_fail(e, PX_ERANGE, "replay", "graph %u of %u", id, KERN_MAX_GRAPHS);
    if ((rc = not_recording(d, "replay", e)) || !of(d)->graph[id].n) return rc;
    *replayed = true;
    of(d)->count.replays++;
    for (size_t i = 0; i < of(d)->graph[id].n; i++)
        if ((rc = run(of(d), &of(d)->graph[id].call[i], e))) return rc;
    return PX_OK;
}

const kern_ops test_apart_ops = {
    .size = sizeof(kern_ops), .abi = KERN_ABI, .backend = KERN_ON_CPU, .own_memory = true, .name = "apart",
    .open = apart_open, .close = apart_close, .info = apart_info, .alloc = apart_alloc, .free = apart_free,
    .wrap = apart_wrap, .upload = apart_upload, .download = apart_download, .wait = apart_wait,
    .native_queue = apart_queue, .record = apart_record, .end = apart_end, .replay = apart_replay,
#define ENTRY(op) .op = apart_##op,
    OPS(ENTRY)
};

/* ---- comm's side ---- */

static px_code get(void *ctx, size_t bytes, void **out, px_err *e)
{
    kern_buf b;
    px_code rc = apart_alloc(ctx, bytes, &b, e);

    *out = b.h;
    return rc;
}

static void put_back(void *ctx, void *p, size_t bytes) { apart_free(ctx, &(kern_buf){ p, bytes }); }
static px_code to_host(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    return apart_download(ctx, dst, (kern_buf){ (void *)(uintptr_t)src, bytes }, bytes, e);
}
static px_code to_device(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    return apart_upload(ctx, (kern_buf){ dst, bytes }, src, bytes, e);
}

comm_device test_apart_device(kern_dev *d)
{
    return (comm_device){ .ctx = d, .get = get, .put = put_back, .to_host = to_host, .to_device = to_device };
}

bool test_apart_records(const kern_dev *d) { return of((kern_dev *)(uintptr_t)d)->recording; }
test_apart_counts test_apart_count(const kern_dev *d) { return of((kern_dev *)(uintptr_t)d)->count; }
