#include "shard/plan/advice.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

char *shard_human(uint64_t bytes, char buf[24])
{
    static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double v = (double)bytes;
    size_t u = 0;

    while (v >= 1000 && u < 6) v /= 1024, u++;
    snprintf(buf, 24, "%.*f %s", u == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2, v, unit[u]);
    return buf;
}

char *shard_grouped(uint64_t n, char buf[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), at = 0;

    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) buf[at++] = ',';
        buf[at++] = digits[i];
    }
    buf[at] = 0;
    return buf;
}

typedef struct list { shard_advice *out; size_t n; } list;

__attribute__((format(printf, 4, 5)))
static void say(list *l, const char *key, uint64_t bytes, const char *fmt, ...)
{
    va_list ap;

    if (l->n == SHARD_MAX_ADVICE) return;
    l->out[l->n] = (shard_advice){ .key = key, .bytes = bytes };
    va_start(ap, fmt);
    vsnprintf(l->out[l->n].text, sizeof l->out[l->n].text, fmt, ap);
    va_end(ap);
    l->n++;
}

static double bits(const shard_plan *p) { return 8.0 * (double)p->source_bytes / (double)shard_params(p->model.m); }

static void about_traffic(list *l, const shard_plan *p)
{
    const shard_deploy *d = &p->d;
    const shard_capacity *k = &p->rank[p->worst].capacity;
    uint64_t longest = 0, shortest = UINT64_MAX, n = 0;
    size_t at = 0;
    char a[24], b[24], c[24];

    if (!d->n_classes) {
        uint64_t all = (uint64_t)p->model.m->n_ctx, hold = p->kv_blocks * d->page / (all ? all : 1);
        say(l, "one_context", 0, "no classes of requests: a pool of %u tokens holds %llu sequence%s of the whole context (%u); with "
            "--class the plan counts what the traffic really needs", d->kv_tokens, (unsigned long long)hold, hold == 1 ? "" : "s",
            p->model.m->n_ctx);
        return;
    }
    if (k->need_worst > k->need_p99)
        say(l, "one_context", k->need_worst - k->need_p99, "one maximum context for all sequences would take %s of KV cache on rank %u; the "
        "classes at p99 take %s, %s less", shard_human(k->need_worst, a), p->worst, shard_human(k->need_p99, b),
        shard_human(k->need_worst - k->need_p99, c));
    say(l, "averages", k->need_p95 - k->need_expected, "a pool for half-written outputs (%s) is what an average moment needs; p95 of every "
        "sequence needs %s, p99 %s", shard_human(k->need_expected, a), shard_human(k->need_p95, b), shard_human(k->need_p99, c));
    for (size_t i = 0; i < d->n_classes; i++) {
        uint64_t p99 = (uint64_t)d->cls[i].p99[0] + d->cls[i].p99[1];
        if (p99 > p->model.m->n_ctx)
            say(l, "beyond_context", 0, "%s: %llu tokens at p99 are beyond the model's context of %u: they will be refused", d->cls[i].name,
                (unsigned long long)p99, p->model.m->n_ctx);
        n += d->cls[i].n;
        if (k->need[i].seq_p95 > longest) longest = k->need[i].seq_p95, at = i;
        if (k->need[i].seq_p95 < shortest) shortest = k->need[i].seq_p95;
    }
    if (d->n_classes > 1 && shortest && longest / shortest >= 4)
        say(l, "own_pool", longest * d->cls[at].n, "%s: %.0f %% of the sequences and %.0f %% of the cache at p95 (%s), %llu times a short "
            "one: give it a service with a pool of its own, or its bursts make the others wait", d->cls[at].name,
            100.0 * d->cls[at].n / (double)n, 100.0 * (double)(longest * d->cls[at].n) / (double)k->need_p95,
            shard_human(longest * d->cls[at].n, a), (unsigned long long)(longest / shortest));
}

static void about_levers(list *l, const shard_plan *p, const shard_change changes[SHARD_N_LEVERS])
{
    uint64_t now = p->d.backend == SHARD_ON_CPU ? p->host_need + p->host_headroom
                                                : p->rank[p->worst].need + p->rank[p->worst].line[SHARD_LINE_HEADROOM];
    char text[300] = "", a[24];
    size_t at = 0;

    for (shard_lever v = 0; v < SHARD_N_LEVERS; v++) {
        const shard_change *c = &changes[v];
        if (!c->tried || c->need >= now) continue;
        if (c->word) at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %s %s", at ? ", " : "", shard_lever_name(v), c->word, shard_human(now - c->need, a));
        else at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %u %s", at ? ", " : "", shard_lever_name(v), c->number, shard_human(now - c->need, a));
        if (at >= sizeof text) return;
    }
    if (at) say(l, "levers", 0, "what a %s saves: %s", p->d.backend == SHARD_ON_CPU ? "host" : "rank", text);
}

size_t shard_advise(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS], shard_advice out[SHARD_MAX_ADVICE])
{
    const shard_plan_rank *w = &p->rank[p->worst];
    const shard_deploy *d = &p->d;
    list l = { .out = out };
    uint64_t weights = w->line[SHARD_LINE_WEIGHTS], more = w->need - weights, vector, narrow, start;
    char a[24], b[24], c[24], populate[80] = "";

    say(&l, "weights_alone", more, "weights are %s of the %s that rank %u needs: the rest is %s", shard_human(weights, a),
        shard_human(w->need, b), p->worst, shard_human(more, c));
    about_traffic(&l, p);
    if (bits(p) < 6 && !shard_kv_vector_bytes(d->kv_dtype, p->model.m->head_dim, &vector, NULL) &&
        vector >= 2ull * p->model.m->head_dim && !shard_kv_vector_bytes("int8_th", p->model.m->head_dim, &narrow, NULL))
        say(&l, "wide_cache", w->line[SHARD_LINE_KV] / vector * (vector - narrow), "weights of %.2f bits beside a cache of %llu: int8_th "
            "would save %s of the pool's %s on rank %u%s", bits(p), (unsigned long long)(vector * 8 / p->model.m->head_dim),
            shard_human(w->line[SHARD_LINE_KV] / vector * (vector - narrow), a), shard_human(w->line[SHARD_LINE_KV], b), p->worst,
            shard_kv_kept(d->backend, "int8_th") ? "" : ", where it is kept: on GPUs, not on CPU");
    say(&l, "host_at_load", p->host[SHARD_LOAD_NAIVE].anonymous, "ranks that each read the checkpoint would take %s of a host's memory at "
        "load; %s takes %s, and %s of page cache makes the next start warm", shard_human(p->host[SHARD_LOAD_NAIVE].anonymous, a),
        shard_load_name(p->load), shard_human(p->host[p->load].anonymous, b), shard_human(p->host[p->load].page_cache, c));
    if (d->headroom_percent < 10)
        say(&l, "no_headroom", w->line[SHARD_LINE_HEADROOM], "headroom of %u %% (%s): estimates of what is not ours reach from %s to %s",
            d->headroom_percent, shard_human(w->line[SHARD_LINE_HEADROOM], a), shard_human(w->low, b), shard_human(w->high, c));
    start = w->line[SHARD_LINE_CONTEXT] + w->line[SHARD_LINE_GRAPHS] + (d->backend == SHARD_ON_CUDA ? w->line[SHARD_LINE_COMM] : 0);
    if (p->host[p->load].populate_s >= 0.005)      /* a device's pool is populated by nobody */
        snprintf(populate, sizeof populate, ", and populating the pool takes %.2f s of the start", p->host[p->load].populate_s);
    say(&l, "warm_up", start, "before the first token %s are gone to the %s%s", shard_human(start, a),
        d->backend == SHARD_ON_CUDA ? "context, communicator and graphs" : "program itself", populate);
    if (w->act.scores_if_naive > w->act.total)
        say(&l, "naive_attention", w->act.scores_if_naive, "attention without tiles would add %s a rank for a step of %u tokens",
            shard_human(w->act.scores_if_naive, a), d->token_budget);
    about_levers(&l, p, changes);
    return l.n;
}
