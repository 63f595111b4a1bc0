/* The table, the bars, the verdict: what a person reads at a glance. */
#include "shard/plan/report.h"

#include "shard/plan/grid.h"

#define BAR  64
#define MAX_BARS 16u
static const char FILL[SHARD_N_LINES] = { 'W', 'K', 'A', 's', 't', 'c', 'x', 'g', '-' };

/* ---- parts ---- */

static const char *transport(const shard_plan *p)
{
    static const char *const words[] = { "local", "shm", "mpi" };
    return p->d.backend == SHARD_ON_CUDA ? "nccl" : words[p->d.transport < 0 || p->d.transport > 2 ? 0 : p->d.transport];
}

static void head(const shard_plan *p, FILE *out)
{
    const shard_arch *m = p->model.m;
    const shard_deploy *d = &p->d;
    uint64_t params = shard_params(m), active = shard_params_active(m);
    uint32_t full, sliding;
    char a[32], b[24], c[24], f[24];

    fprintf(out, "%s: %s, %u layers, %u heads in %u KV groups, vocabulary %u, context %u\n", m->name[0] ? m->name : "model", m->family,
            m->n_layer, m->n_head, m->n_kv_head, m->n_vocab, m->n_ctx);
    fprintf(out, "%s parameters", shard_grouped(params, a));
    if (active != params) fprintf(out, ", %s in use for a token", shard_grouped(active, a));
    shard_kv_layers(m, &full, &sliding);
    if (sliding) fprintf(out, ", %u of %u layers keep a window of %u", sliding, m->n_layer, m->sliding_window);
    fprintf(out, "; %s in %s, %.3f bits each", shard_human(p->source_bytes, b), p->model.format, 8.0 * (double)p->source_bytes / (double)params);
    if (p->stored_bytes && p->d.backend == SHARD_ON_CPU) fprintf(out, "; as a set %s stored, %s mapped", shard_human(p->stored_bytes, c), shard_human(p->mapped_bytes, f));
    fprintf(out, "\n%u rank%s of %u thread%s over %s, format %s, KV of %u tokens in %s (%llu blocks of %u), %u sequences, %u tokens a step\n",
            d->ranks, d->ranks == 1 ? "" : "s", d->threads, d->threads == 1 ? "" : "s", transport(p), p->model.format, d->kv_tokens,
            d->kv_dtype, (unsigned long long)p->kv_blocks, d->page, d->max_sequences, d->token_budget);
    if (d->hosts > 1) fprintf(out, "%u hosts of %u ranks\n", d->hosts, p->ranks_per_host);
    if (p->split.kv_replicated) fprintf(out, "KV heads are replicated: %u query heads a unit, %u KV heads in the model\n", p->split.attn_unit_heads, m->n_kv_head);
}

/* What the policy makes of each class of tensors, where that is another type. */
static void conversions(const shard_plan *p, FILE *out)
{
    const shard_types *source = p->model.source ? p->model.source : p->model.file;
    char name[64];

    if (!p->model.stored || p->d.backend != SHARD_ON_CPU) return;
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        const shard_role_info *info = shard_role_get(r);
        uint32_t n = 0, layers = info->per_layer ? p->model.m->n_layer : 1, first = 0;
        if (!shard_arch_has(p->model.m, r)) continue;
        for (uint32_t i = 0; i < layers; i++)
            if (shard_type_of(source, r, i) != shard_type_of(p->model.stored, r, i) && !n++) first = i;
        if (n) fprintf(out, "stored otherwise: %s, %u of %u, %s as %s\n", shard_class_name(r, name), n, layers,
                       kern_dtype_get(shard_type_of(source, r, first))->name, kern_dtype_get(shard_type_of(p->model.stored, r, first))->name);
    }
}

static px_code carved_table(const shard_plan *p, FILE *out, px_err *e)
{
    static const char *const column[] = { "rank", "weights stored", "mapped", "KV pool", "activations", "rope tables", "host tables", "step buffers", "comm",
                                          "total", "process ~", "headroom" };
    px_code rc;
    shard_grid g;

    if ((rc = shard_grid_init(&g, p->a, p->d.ranks + 1, sizeof column / sizeof *column, e))) return rc;
    for (size_t i = 0; i < g.cols; i++) shard_grid_put(&g, "%s", column[i]);
    for (uint32_t r = 0; r < p->d.ranks; r++) {
        const shard_plan_rank *k = &p->rank[r];
        shard_grid_put(&g, "%u%s", r, r == p->worst && p->d.ranks > 1 ? " (worst)" : "");
        shard_grid_bytes(&g, k->carved.weights.stored);
        shard_grid_bytes(&g, k->carved.weights.mapped);
        shard_grid_bytes(&g, k->carved.kv_pool);
        shard_grid_bytes(&g, k->carved.activations.bytes);
        shard_grid_bytes(&g, k->carved.rope_tables);
        shard_grid_bytes(&g, k->carved.host.bytes);
        shard_grid_bytes(&g, k->carved.step_buffers);
        shard_grid_bytes(&g, k->line[SHARD_LINE_COMM]);
        shard_grid_bytes(&g, k->carved.total);
        shard_grid_bytes(&g, k->line[SHARD_LINE_CONTEXT]);
        shard_grid_bytes(&g, k->line[SHARD_LINE_HEADROOM]);
    }
    shard_grid_print(&g, out);
    return PX_OK;
}

static px_code formula_table(const shard_plan *p, FILE *out, px_err *e)
{
    px_code rc;
    shard_grid g;

    if ((rc = shard_grid_init(&g, p->a, p->d.ranks + 1, SHARD_N_LINES + 3, e))) return rc;
    shard_grid_put(&g, "rank");
    shard_grid_put(&g, "weights stored");
    for (shard_line l = 0; l < SHARD_N_LINES; l++)
        shard_grid_put(&g, "%s%s", l == SHARD_LINE_WEIGHTS ? "arena" : shard_line_label(l),
            l == SHARD_LINE_CONTEXT || l == SHARD_LINE_GRAPHS || (l == SHARD_LINE_COMM && p->d.backend == SHARD_ON_CUDA) ? " ~" : "");
    shard_grid_put(&g, "total");
    for (uint32_t r = 0; r < p->d.ranks; r++) {
        shard_grid_put(&g, "%u%s", r, r == p->worst && p->d.ranks > 1 ? " (worst)" : "");
        shard_grid_bytes(&g, p->rank[r].weights.stored);
        for (shard_line l = 0; l < SHARD_N_LINES; l++) shard_grid_bytes(&g, p->rank[r].line[l]);
        shard_grid_bytes(&g, p->rank[r].need);
    }
    shard_grid_print(&g, out);
    return PX_OK;
}

static void bars(const shard_plan *p, FILE *out)
{
    uint64_t most = 0;
    char a[24], b[24];

    for (uint32_t r = 0; r < p->d.ranks; r++) {
        const shard_plan_rank *k = &p->rank[r];
        uint64_t all = k->need + k->line[SHARD_LINE_HEADROOM];
        if (k->free > all) all = k->free;
        if (all > most) most = all;
    }
    fputc('\n', out);
    for (uint32_t r = 0; r < p->d.ranks; r++) {
        const shard_plan_rank *k = &p->rank[r];
        uint64_t sum = 0;
        uint32_t at = 0, end;
        if (p->d.ranks > MAX_BARS && r != p->worst) continue;
        fprintf(out, "rank %-4u |", r);
        for (shard_line l = 0; l < SHARD_N_LINES; l++) {
            sum += k->line[l];
            end = (uint32_t)((double)sum / (double)most * BAR + 0.5);
            for (; at < end && at < BAR; at++) fputc(FILL[l], out);
        }
        for (; at < BAR; at++) fputc(' ', out);
        fprintf(out, "| %s", shard_human(k->need, a));
        if (k->free) fprintf(out, " of %s%s", shard_human(k->free, b), k->fits ? "" : ": too much");
        fputc('\n', out);
    }
    fprintf(out, "          ");
    for (shard_line l = 0; l < SHARD_N_LINES; l++)
        if (p->rank[p->worst].line[l]) fprintf(out, " %c %s", FILL[l], shard_line_label(l));
    fputc('\n', out);
}

static void shares(const shard_plan *p, FILE *out)
{
    const shard_plan_rank *k = &p->rank[p->worst];

    fprintf(out, "rank %u in per cent:", p->worst);
    for (shard_line l = 0; l < SHARD_LINE_HEADROOM; l++)
        if (k->line[l]) fprintf(out, " %s %.1f", shard_line_label(l), 100.0 * (double)k->line[l] / (double)k->need);
    fputc('\n', out);
}

static px_code capacity(const shard_plan *p, FILE *out, px_err *e)
{
    static const char *const column[] = { "class", "at once", "tokens p95", "p99", "bytes p95", "p99", "pool holds p95", "p99" };
    const shard_deploy *d = &p->d;
    const shard_plan_rank *w = &p->rank[p->worst];
    char a[32], b[32], c[32];
    double overflow = 0;
    px_code rc;
    shard_grid g;

    for (uint32_t r = 0; r < d->ranks; r++)
        if (p->rank[r].capacity.overflow > overflow) overflow = p->rank[r].capacity.overflow;
    fprintf(out, "\nKV cache: %s bytes a block of %u tokens on rank %u; longest context %llu for one sequence, %llu for %u at once\n",
            shard_grouped(w->capacity.block_bytes, a), d->page, p->worst, (unsigned long long)p->max_context_1,
            (unsigned long long)p->max_context_all, d->max_sequences);
    if (!d->n_classes) return PX_OK;
    if ((rc = shard_grid_init(&g, p->a, d->n_classes + 1, sizeof column / sizeof *column, e))) return rc;
    for (size_t i = 0; i < g.cols; i++) shard_grid_put(&g, "%s", column[i]);
    for (size_t i = 0; i < d->n_classes; i++) {
        const shard_class *k = &d->cls[i];
        uint64_t least95 = UINT64_MAX, least99 = UINT64_MAX;
        for (uint32_t r = 0; r < d->ranks; r++) {
            const shard_class_need *n = &p->rank[r].capacity.need[i];
            if (n->fit_p95 < least95) least95 = n->fit_p95;
            if (n->fit_p99 < least99) least99 = n->fit_p99;
        }
        shard_grid_put(&g, "%s", k->name);
        shard_grid_put(&g, "%u", k->n);
        shard_grid_put(&g, "%u+%u", k->p95[0], k->p95[1]);
        shard_grid_put(&g, "%u+%u", k->p99[0], k->p99[1]);
        shard_grid_bytes(&g, w->capacity.need[i].seq_p95);
        shard_grid_bytes(&g, w->capacity.need[i].seq_p99);
        shard_grid_put(&g, "%llu", (unsigned long long)least95);
        shard_grid_put(&g, "%llu", (unsigned long long)least99);
    }
    shard_grid_print(&g, out);
    fprintf(out, "all of them on rank %u: %s bytes at p95 (%s), %s at p99 (%s), of a pool of %s\n", p->worst,
            shard_grouped(w->capacity.need_p95, a), p->p95_fits ? "held" : "NOT held", shard_grouped(w->capacity.need_p99, b),
            p->p99_fits ? "held" : "not held", shard_grouped(w->capacity.pool, c));
    fprintf(out, "a moment's load is beyond the pool with probability %.2g (a model: lognormal lengths through p95 and p99, outputs half written)\n",
            overflow);
    return PX_OK;
}

static px_code starts(const shard_plan *p, FILE *out, px_err *e)
{
    static const char *const column[] = { "a host, loading by", "anonymous peak", "page cache", "staging", "read s", "upload s",
                                          "populate s", "cold start s", "warm s" };
    px_code rc;
    shard_grid g;

    if ((rc = shard_grid_init(&g, p->a, SHARD_N_LOADS + 1, sizeof column / sizeof *column, e))) return rc;
    for (size_t i = 0; i < g.cols; i++) shard_grid_put(&g, "%s", column[i]);
    for (shard_load l = 0; l < SHARD_N_LOADS; l++) {
        const shard_host_need *n = &p->host[l];
        char a[24];
        bool cpu = p->d.backend == SHARD_ON_CPU;
        if (cpu ? l == SHARD_LOAD_SHARD_UPLOAD : l == SHARD_LOAD_SHARD_MMAP || l == SHARD_LOAD_REPACK || l == SHARD_LOAD_PRIVATE) continue;
        shard_grid_put(&g, "%s%s", shard_load_name(l), l == p->load ? " (ours)" : "");
        shard_grid_put(&g, "%s", shard_human(n->anonymous, a));
        shard_grid_put(&g, "%s", shard_human(n->page_cache, a));
        shard_grid_put(&g, "%s", shard_human(n->staging, a));
        shard_grid_put(&g, "%.2f", n->read_s);
        shard_grid_put(&g, "%.2f", n->upload_s);
        shard_grid_put(&g, "%.2f", n->populate_s);
        shard_grid_put(&g, "%.2f", n->cold_s);
        shard_grid_put(&g, "%.2f", n->warm_s);
    }
    fputc('\n', out);
    shard_grid_print(&g, out);
    fprintf(out, "assumed: disk %.1f GB/s (through mmap it may be half), link %.1f GB/s, populating %.1f GB/s a core; without the program's own start and warm-up\n",
            (double)p->d.rate.disk / 1e9, (double)p->d.rate.link / 1e9, (double)p->d.rate.populate / 1e9);
    return PX_OK;
}

static void verdict(const shard_plan *p, FILE *out)
{
    const shard_plan_rank *w = &p->rank[p->worst];
    bool cpu = p->d.backend == SHARD_ON_CPU;
    uint64_t need = cpu ? p->host_need : w->need, room = cpu ? p->host_headroom : w->line[SHARD_LINE_HEADROOM];
    uint64_t low = cpu ? p->host_low : w->low, high = cpu ? p->host_high : w->high;
    char a[32], b[24], c[24], f[24];

    fprintf(out, "\nworst rank: %u, %s bytes", p->worst, shard_grouped(w->need, a));
    if (p->carved) fprintf(out, ", of which %s are carved to the byte", shard_grouped(w->carved.total, a));
    fprintf(out, ".  What is not ours (~) is an estimate: %s to %s a %s.\n", shard_human(low, b), shard_human(high, c), cpu ? "host" : "rank");
    if (!p->known) {
        fprintf(out, "verdict: none without --%s; a %s of %s of free memory would do (%s and %s of headroom)\n", cpu ? "memory" : "device", cpu ? "host" : "device",
                shard_human(need + room, a), shard_human(need, b), shard_human(room, c));
        return;
    }
    fprintf(out, "verdict: %s.  ", p->fits ? "it fits" : p->memory_fits ? "THE POOL IS TOO SMALL" : "IT DOES NOT FIT");
    fprintf(out, "%s + %s of headroom %s %s %s of a %s", shard_human(need, a), shard_human(room, b), p->memory_fits ? "<=" : ">",
            shard_human(p->d.memory, c), p->d.memory_measured ? "measured free" : "given", cpu ? "host" : "device");
    if (!p->p95_fits) fprintf(out, "; the pool does not hold the classes at p95");
    fprintf(out, "; the largest pool that fits has %llu tokens (%s on rank %u)\n", (unsigned long long)p->kv_tokens_fit,
            shard_human(p->kv_tokens_fit / p->d.page * w->capacity.block_bytes, f), p->worst);
}

static void would_fit(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS], FILE *out)
{
    char a[24], b[24];
    bool any = false;

    if (!p->known || p->fits) return;
    fputs("\nwhat would fit, one change at a time:\n", out);
    for (shard_lever l = 0; l < SHARD_N_LEVERS; l++) {
        const shard_change *c = &changes[l];
        if (!c->found) continue;
        any = true;
        fprintf(out, "  --%s ", shard_lever_name(l));
        if (c->word) fprintf(out, "%s", c->word); else fprintf(out, "%u", c->number);
        if (l == SHARD_LEVER_RANKS && c->hosts > 1) fprintf(out, " --hosts %u", c->hosts);
        fprintf(out, ": %s of %s, pool of %llu tokens, context %llu\n", shard_human(c->need, a), shard_human(c->free, b),
                (unsigned long long)c->kv_tokens, (unsigned long long)c->max_context_1);
    }
    if (!any) fputs("  none alone: see --sweep\n", out);
}

px_code shard_report_table(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS], FILE *out, px_err *e)
{
    shard_advice advice[SHARD_MAX_ADVICE];
    size_t n = shard_advise(p, changes, advice);
    px_code rc;

    head(p, out);
    conversions(p, out);
    if (!p->carved && p->d.backend == SHARD_ON_CPU)
        fprintf(out, "by the formulas: the CPU does not serve this yet (%s: %s)\n", p->why_not.field, p->why_not.text[0] ? p->why_not.text : p->why_not.found);
    fputc('\n', out);
    if ((rc = p->carved ? carved_table(p, out, e) : formula_table(p, out, e))) return rc;
    bars(p, out);
    shares(p, out);
    if ((rc = capacity(p, out, e)) || (rc = starts(p, out, e))) return rc;
    verdict(p, out);
    would_fit(p, changes, out);
    fputs("\nadvice:\n", out);
    for (size_t i = 0; i < n; i++) fprintf(out, "  %s\n", advice[i].text);
    return PX_OK;
}
