#include "shard/plan/fit.h"

#include <string.h>

const char *const shard_fit_formats[] = { "f32", "bf16", "f16", "q8_0", "w8a16_g128", "fp8", "q6_k", "pure_q6_k", "q5_k_m", "pure_q5_k",
    "q4_k_m", "q4_0", "pure_q4_0", "pure_q4_k", "w4a16_g128_awq", "w4a16_g128", "iq2_xs", "pure_iq2_xs", "bf16_hf", NULL };
const char *const shard_fit_kv_dtypes[] = { "f32", "f16", "bf16", "q8_0", "int8_th", "fp8", "q4_0", NULL };

static const char *const LEVER[SHARD_N_LEVERS] = { "ranks", "format", "kv.dtype", "kv.tokens", "max_sequences" };
const char *shard_lever_name(shard_lever l) { return LEVER[l]; }

/* ---- another format ---- */

typedef struct formed { shard_types file, stored; shard_plan_model model; } formed;

static px_code form(formed *f, px_alloc *a, const shard_plan_model *like, const char *format, px_err *e)
{
    px_code rc;

    *f = (formed){ .model = *like };
    if ((rc = shard_types_format(&f->file, a, like->m, format, e))) return rc;
    f->model.file = &f->file;
    f->model.source = NULL;
    f->model.format = format;
    f->model.stored = NULL;
    if (like->store) {
        px_err none = { 0 };
        rc = like->store(&f->stored, a, like->m, &f->file, &none);
        if (!rc) f->model.stored = &f->stored;
        else if (rc == PX_ENOMEM) {
            shard_types_deinit(&f->file);
            if (e) *e = none;
            return rc;
        }
    }
    return PX_OK;
}

static void unform(formed *f)
{
    if (f->model.stored == &f->stored) shard_types_deinit(&f->stored);
    shard_types_deinit(&f->file);
}

/* ---- single changes ---- */

static uint64_t needed(const shard_plan *p)
{
    return p->d.backend == SHARD_ON_CPU ? p->host_need + p->host_headroom
                                        : p->rank[p->worst].need + p->rank[p->worst].line[SHARD_LINE_HEADROOM];
}

/* Make the plan and note its numbers; a deployment that cannot be is one that does not fit. */
static px_code attempt(const shard_plan *p, const shard_plan_model *model, const shard_deploy *d, shard_change *c, bool *fits, px_err *e)
{
    px_err none = { 0 };
    shard_plan q;
    px_code rc = shard_plan_make(&q, p->a, model, d, &none);

    *fits = false;
    if (rc == PX_ENOMEM) {
        if (e) *e = none;
        return rc;
    }
    if (rc) return PX_OK;
    if (p->carved && !q.carved) {                              /* a service stays one that can be served */
        shard_plan_deinit(&q);
        return PX_OK;
    }
    *fits = q.fits && q.known;
    c->tried = true;
    c->hosts = d->hosts;
    c->need = needed(&q);
    c->free = d->memory;
    c->kv_tokens = q.kv_blocks * d->page;
    c->max_context_1 = q.max_context_1;
    shard_plan_deinit(&q);
    return PX_OK;
}

/* Whether other ranks, formats or cache types may make it fit.  A pool of so many tokens holds the same sequences whatever they
 * are: then one step tells what the lever would save, and a search would be for nothing. */
static bool worth_a_search(const shard_plan *p) { return p->known && (p->d.pool || p->p95_fits); }

static px_code more_ranks(const shard_plan *p, shard_change *c, px_err *e)
{
    uint64_t least = 0;                     /* ranks below which the weights alone are more than all memory */
    uint32_t step = p->d.backend == SHARD_ON_CPU ? p->ranks_per_host : 1;

    if (p->d.memory) least = p->source_bytes / p->d.memory * step;
    for (uint32_t n = p->d.ranks + step; n <= 64; n += step) {
        shard_deploy d = p->d;
        shard_change now = { .number = n };
        bool fits;
        px_code rc;
        d.ranks = n;
        if (c->tried && n < least) continue;
        if (p->d.backend == SHARD_ON_CPU) d.hosts = n / step;
        if (d.backend == SHARD_ON_CPU && d.hosts > 1) d.transport = 2;          /* between hosts: MPI */
        if ((rc = attempt(p, &p->model, &d, &now, &fits, e))) return rc;
        if (!now.tried) continue;
        now.found = fits;
        if (fits || !c->tried) *c = now;
        if (fits || !worth_a_search(p)) break;
    }
    return PX_OK;
}

static px_code narrower_weights(const shard_plan *p, shard_change *c, px_err *e)
{
    for (size_t i = 0; shard_fit_formats[i]; i++) {
        shard_change now = { .word = shard_fit_formats[i] };
        uint64_t bytes;
        formed f;
        bool fits;
        px_code rc = form(&f, p->a, &p->model, shard_fit_formats[i], e);
        if (rc) return rc;
        if (shard_source_bytes(p->model.m, &f.file, &bytes, NULL) || bytes >= p->source_bytes || (p->carved && !f.model.stored)) {
            unform(&f);
            continue;
        }
        rc = attempt(p, &f.model, &p->d, &now, &fits, e);
        unform(&f);
        if (rc) return rc;
        if (!now.tried) continue;
        now.found = fits;
        if (fits || !c->tried) *c = now;
        if (fits || !worth_a_search(p)) break;
    }
    return PX_OK;
}

static px_code narrower_cache(const shard_plan *p, shard_change *c, px_err *e)
{
    uint64_t have, bytes;
    px_code rc = shard_kv_vector_bytes(p->d.kv_dtype, p->model.m->head_dim, &have, e);

    if (rc) return rc;
    for (size_t i = 0; shard_fit_kv_dtypes[i]; i++) {
        shard_change now = { .word = shard_fit_kv_dtypes[i] };
        shard_deploy d = p->d;
        bool fits;
        if (shard_kv_vector_bytes(shard_fit_kv_dtypes[i], p->model.m->head_dim, &bytes, NULL) || bytes >= have) continue;
        if ((p->carved || d.backend == SHARD_ON_CUDA) && !shard_kv_kept(d.backend, shard_fit_kv_dtypes[i])) continue;
        d.kv_dtype = shard_fit_kv_dtypes[i];
        if ((rc = attempt(p, &p->model, &d, &now, &fits, e))) return rc;
        if (!now.tried) continue;
        now.found = fits;
        if (fits || !c->tried) *c = now;
        if (fits || !worth_a_search(p)) break;
    }
    return PX_OK;
}

/* Tokens that all classes need at p95, in whole pages. */
static uint64_t tokens_p95(const shard_deploy *d)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < d->n_classes; i++)
        sum += (((uint64_t)d->cls[i].p95[0] + d->cls[i].p95[1] + d->page - 1) / d->page) * d->page * d->cls[i].n;
    return sum;
}

static px_code other_pool(const shard_plan *p, shard_change *c, px_err *e)
{
    shard_deploy d = p->d;
    uint64_t tokens = p->kv_tokens_fit, wanted = tokens_p95(&d);
    px_code rc;

    if (p->memory_fits) {
        if (p->known && p->p95_fits) return PX_OK;
        tokens = p->known ? wanted : d.kv_tokens / 2 / d.page * d.page;
    }
    if (tokens < d.page || tokens > 1u << 30) return PX_OK;
    d.pool = 0;
    d.kv_tokens = (uint32_t)tokens;
    c->number = d.kv_tokens;
    if ((rc = attempt(p, &p->model, &d, c, &c->found, e)) || c->found || !p->known || p->memory_fits) return rc;
    /* a smaller pool makes tables smaller too; a larger one may have made them larger: look a little below */
    for (int i = 0; i < 8 && !c->found && d.kv_tokens > 2 * d.page; i++) {
        d.kv_tokens = d.kv_tokens / 64 * 63 / d.page * d.page;
        c->number = d.kv_tokens;
        if ((rc = attempt(p, &p->model, &d, c, &c->found, e))) return rc;
    }
    return PX_OK;
}

static shard_deploy fewer(const shard_deploy *d, uint32_t sequences)
{
    shard_deploy f = *d;

    f.max_sequences = sequences;
    for (size_t i = 0; i < f.n_classes; i++) {
        f.cls[i].n = (uint32_t)((uint64_t)f.cls[i].n * sequences / d->max_sequences);
        if (!f.cls[i].n) f.cls[i].n = 1;
    }
    return f;
}

static px_code fewer_sequences(const shard_plan *p, shard_change *c, px_err *e)
{
    uint32_t lo = 0, hi = p->d.max_sequences - 1;              /* lo: known to fit */
    px_code rc;

    if (!p->known || p->fits) lo = hi = (hi + 1) / 2;           /* a step down, to tell what it would save */
    if (!hi) return PX_OK;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        shard_deploy d = fewer(&p->d, mid);
        bool fits;
        if ((rc = attempt(p, &p->model, &d, c, &fits, e))) return rc;
        if (fits) lo = mid; else hi = mid - 1;
    }
    c->number = lo ? lo : 1;
    shard_deploy d = fewer(&p->d, c->number);
    return attempt(p, &p->model, &d, c, &c->found, e);
}

px_code shard_fit_changes(const shard_plan *p, shard_change out[SHARD_N_LEVERS], px_err *e)
{
    px_code rc;

    memset(out, 0, SHARD_N_LEVERS * sizeof *out);
    if ((rc = more_ranks(p, &out[SHARD_LEVER_RANKS], e)) || (rc = narrower_weights(p, &out[SHARD_LEVER_FORMAT], e)) ||
        (rc = narrower_cache(p, &out[SHARD_LEVER_KV_DTYPE], e)) || (rc = other_pool(p, &out[SHARD_LEVER_CONTEXT], e)) ||
        (rc = fewer_sequences(p, &out[SHARD_LEVER_CONCURRENCY], e)))
        return rc;
    return PX_OK;
}

/* ---- the sweep ---- */

static px_code push(shard_sweep *s, const shard_sweep_row *r, px_err *e)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        shard_sweep_row *row = px_alloc_grow(s->a, s->row, s->cap, cap, sizeof *row, _Alignof(shard_sweep_row));
        if (!row) return px_fail(e, PX_ENOMEM, "sweep", "no memory for %zu rows", cap);
        s->row = row;
        s->cap = cap;
    }
    s->row[s->n++] = *r;
    return PX_OK;
}

/* Context and sequences of the largest pool, from a plan whose pool is left out of the need. */
static px_code fill(const shard_plan *p, shard_sweep_row *r, uint64_t tokens, px_err *e)
{
    const shard_deploy *d = &p->d;
    shard_cache cache = { r->kv_dtype, d->page, d->token_budget };
    uint64_t blocks = p->kv_tokens_fit / d->page;
    px_code rc;

    r->kv_tokens = p->kv_tokens_fit;
    r->max_context = r->max_sequences = UINT64_MAX;
    for (uint32_t i = 0; i < d->ranks; i++) {
        const shard_cut *c = &p->split.cut[i];
        const shard_plan_rank *k = &p->rank[i];
        uint64_t context, bytes, pool = blocks * k->capacity.block_bytes;
        uint32_t heads = c->kv_head.end - c->kv_head.begin;
        if ((rc = shard_max_context(p->model.m, &cache, heads, pool, 1, &context, e)) ||
            (rc = shard_kv_sequence_bytes(p->model.m, r->kv_dtype, heads, tokens, d->page, d->token_budget, &bytes, e)))
            return rc;
        if (context < r->max_context) r->max_context = context;
        if (bytes && pool / bytes < r->max_sequences) r->max_sequences = pool / bytes;
        if (k->line[SHARD_LINE_WEIGHTS] > r->weights) r->weights = k->line[SHARD_LINE_WEIGHTS];
        bytes = k->need - k->line[SHARD_LINE_WEIGHTS] - k->line[SHARD_LINE_KV] + k->line[SHARD_LINE_HEADROOM];
        if (bytes > r->rest) r->rest = bytes;
    }
    r->fits = p->known && r->kv_tokens >= d->page;
    if (!r->fits) r->kv_tokens = r->max_context = r->max_sequences = 0;
    return PX_OK;
}

static bool dominates(const shard_sweep_row *a, const shard_sweep_row *b, uint64_t kv_a, uint64_t kv_b)
{
    if (!a->fits || a->ranks > b->ranks || a->bits < b->bits || kv_a < kv_b || a->max_context < b->max_context ||
        a->max_sequences < b->max_sequences)
        return false;
    return a->ranks < b->ranks || a->bits > b->bits || kv_a > kv_b || a->max_context > b->max_context ||
           a->max_sequences > b->max_sequences || a < b;        /* of equals the first stays */
}

static void mark(shard_sweep *s, uint32_t head_dim)
{
    for (size_t i = 0; i < s->n; i++) {
        uint64_t mine = 0, theirs = 0;
        s->row[i].pareto = s->row[i].fits;
        shard_kv_vector_bytes(s->row[i].kv_dtype, head_dim, &mine, NULL);
        for (size_t k = 0; s->row[i].pareto && k < s->n; k++) {
            if (k == i) continue;
            shard_kv_vector_bytes(s->row[k].kv_dtype, head_dim, &theirs, NULL);
            if (dominates(&s->row[k], &s->row[i], theirs, mine)) s->row[i].pareto = false;
        }
    }
}

static px_code sweep_cut(shard_sweep *s, const formed *f, const shard_deploy *d, const char *const *kv, double bits, px_err *e)
{
    px_code rc;

    for (size_t i = 0; kv[i]; i++) {
        shard_sweep_row r = { .ranks = d->ranks, .format = f->model.format, .kv_dtype = kv[i], .bits = bits };
        shard_deploy with = *d;
        px_err none = { 0 };
        shard_plan p;
        uint64_t bytes;
        if (shard_kv_vector_bytes(kv[i], f->model.m->head_dim, &bytes, NULL)) continue;
        with.kv_dtype = kv[i];
        rc = shard_plan_make(&p, s->a, &f->model, &with, &none);
        if (rc == PX_ERANGE && !strcmp(none.field, "ranks")) return PX_OK;
        if (rc) {
            if (e) *e = none;
            return rc;
        }
        rc = fill(&p, &r, s->tokens, e);
        shard_plan_deinit(&p);
        if (rc || (rc = push(s, &r, e))) return rc;
    }
    return PX_OK;
}

px_code shard_sweep_make(shard_sweep *s, px_alloc *a, const shard_plan_model *model, const shard_deploy *d, const uint32_t *ranks,
                         const char *const *formats, const char *const *kv, px_err *e)
{
    static const uint32_t common[] = { 1, 2, 3, 4, 5, 6, 7, 8, 16, 0 };
    shard_deploy with = *d;
    uint64_t total = shard_params(model->m);
    px_code rc = PX_OK;

    *s = (shard_sweep){ .a = a, .tokens = model->m->n_ctx };
    if (d->n_classes) {                                /* the longest class at p95 */
        s->tokens = 0;
        for (size_t i = 0; i < d->n_classes; i++)
            if ((uint64_t)d->cls[i].p95[0] + d->cls[i].p95[1] > s->tokens) s->tokens = (uint64_t)d->cls[i].p95[0] + d->cls[i].p95[1];
    }
    with.n_classes = 0;
    with.pool = 0;
    with.kv_tokens = model->m->n_ctx;                  /* tables as for the whole context */
    if (!ranks) ranks = common;
    if (!formats) formats = shard_fit_formats;
    if (!kv) kv = shard_fit_kv_dtypes;
    for (size_t i = 0; !rc && formats[i]; i++) {
        uint64_t bytes;
        formed f;
        if ((rc = form(&f, a, model, formats[i], e))) break;
        rc = shard_source_bytes(model->m, &f.file, &bytes, e);
        for (size_t k = 0; !rc && ranks[k]; k++) {
            with.ranks = ranks[k];
            with.hosts = d->hosts < ranks[k] ? d->hosts : ranks[k];
            if (with.backend == SHARD_ON_CPU) with.transport = ranks[k] == 1 ? 0 : with.hosts > 1 ? 2 : 1;
            rc = sweep_cut(s, &f, &with, kv, 8.0 * (double)bytes / (double)total, e);
        }
        unform(&f);
    }
    if (rc) {
        shard_sweep_deinit(s);
        return rc;
    }
    mark(s, model->m->head_dim);
    return PX_OK;
}

void shard_sweep_deinit(shard_sweep *s)
{
    if (s->row) px_del(s->a, s->row, s->cap);
    *s = (shard_sweep){ .a = s->a };
}
