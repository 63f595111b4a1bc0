/* The sweep's table and the worksheet of a fine-tune. */
#include "shard/plan/grid.h"
#include "shard/plan/report.h"

#include <string.h>

px_code shard_report_sweep_weights(const shard_sweep *s, bool gib, FILE *out, px_err *e)
{
    uint32_t ranks[24];
    size_t n = 0;
    px_code rc;
    shard_grid g;

    for (size_t i = 0; i < s->n; i++) {
        size_t k = 0;
        while (k < n && ranks[k] != s->row[i].ranks) k++;
        if (k == n && n < 24) ranks[n++] = s->row[i].ranks;
    }
    for (size_t i = 1; i < n; i++)                       /* a format that cuts further than the first one comes later */
        for (size_t k = i; k && ranks[k - 1] > ranks[k]; k--) {
            uint32_t t = ranks[k];
            ranks[k] = ranks[k - 1];
            ranks[k - 1] = t;
        }
    if ((rc = shard_grid_init(&g, s->a, s->n + 1, n + 2, e))) return rc;
    shard_grid_put(&g, "format");
    shard_grid_put(&g, "bits");
    for (size_t k = 0; k < n; k++) {
        if (gib) shard_grid_put(&g, "%u", ranks[k]);
        else shard_grid_put(&g, "%u rank%s", ranks[k], ranks[k] == 1 ? "" : "s");
    }
    for (size_t i = 0; i < s->n; i++) {
        if (i && !strcmp(s->row[i].format, s->row[i - 1].format)) continue;
        shard_grid_put(&g, "%s", s->row[i].format);
        shard_grid_put(&g, "%.3f", s->row[i].bits);
        for (size_t k = 0; k < n; k++) {
            const shard_sweep_row *r = NULL;
            for (size_t j = i; !r && j < s->n && !strcmp(s->row[j].format, s->row[i].format); j++)
                if (s->row[j].ranks == ranks[k]) r = &s->row[j];
            if (!r) shard_grid_put(&g, "-");
            else if (gib) shard_grid_put(&g, "%.1f", (double)r->weights / 1073741824.0);
            else shard_grid_bytes(&g, r->weights);
        }
    }
    fprintf(out, "weights of the worst rank in %s\n", gib ? "GiB, on so many ranks" : "bytes");
    shard_grid_print(&g, out);
    if (!gib) fputs("with --device or --memory the sweep tells contexts and sequences, too\n", out);
    return PX_OK;
}

px_code shard_report_sweep(const shard_sweep *s, const shard_deploy *d, FILE *out, px_err *e)
{
    static const char *const column[] = { "ranks", "format", "bits", "KV", "weights", "pool tokens", "longest context", "sequences" };
    px_code rc;
    shard_grid g;

    if (!d->memory) return shard_report_sweep_weights(s, false, out, e);
    if ((rc = shard_grid_init(&g, s->a, s->n + 1, sizeof column / sizeof *column, e))) return rc;
    for (size_t i = 0; i < g.cols; i++) shard_grid_put(&g, "%s", column[i]);
    for (size_t i = 0; i < s->n; i++) {
        const shard_sweep_row *r = &s->row[i];
        if (!r->pareto) continue;
        shard_grid_put(&g, "%u", r->ranks);
        shard_grid_put(&g, "%s", r->format);
        shard_grid_put(&g, "%.3f", r->bits);
        shard_grid_put(&g, "%s", r->kv_dtype);
        shard_grid_bytes(&g, r->weights);
        shard_grid_put(&g, "%llu", (unsigned long long)r->kv_tokens);
        shard_grid_put(&g, "%llu", (unsigned long long)r->max_context);
        shard_grid_put(&g, "%llu", (unsigned long long)r->max_sequences);
    }
    fprintf(out, "of %zu combinations those that no other beats; sequences of %llu tokens\n", s->n, (unsigned long long)s->tokens);
    shard_grid_print(&g, out);
    return PX_OK;
}

/* ---- sizes of a model ---- */

static px_code size_row(shard_grid *g, px_alloc *a, const shard_arch *m, const char *format, px_err *e)
{
    shard_types t;
    uint64_t bytes;
    px_code rc = shard_types_format(&t, a, m, format, e);

    if (rc) return rc;
    rc = shard_source_bytes(m, &t, &bytes, e);
    shard_types_deinit(&t);
    if (rc) return rc;
    shard_grid_put(g, "%s", format);
    shard_grid_put(g, "%.3f", 8.0 * (double)bytes / (double)shard_params(m));
    shard_grid_bytes(g, bytes);
    shard_grid_put(g, "%.2f", (double)bytes / 1e9);
    shard_grid_put(g, "%.2f", (double)bytes / 1073741824.0);
    return PX_OK;
}

px_code shard_report_sizes(px_alloc *a, const shard_arch *m, const char *kv_dtype, uint32_t page, uint32_t chunk, FILE *out, px_err *e)
{
    static const char *const formats[] = { "f32", "f16", "q8_0", "w8a16_g128", "fp8", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "w4a16_g128", "iq2_xs", NULL };
    static const char *const column[] = { "format", "bits", "bytes", "GB", "GiB" };
    static const uint32_t batch[] = { 1, 4, 8 };
    char x[32], y[32];
    shard_grid g;
    px_code rc;

    if ((rc = shard_grid_init(&g, a, sizeof formats / sizeof *formats, 5, e))) return rc;
    for (size_t i = 0; i < 5; i++) shard_grid_put(&g, "%s", column[i]);
    for (size_t i = 0; !rc && formats[i]; i++) rc = size_row(&g, a, m, formats[i], e);
    fprintf(out, "%s: %s parameters, %s in use for a token\n", m->name[0] ? m->name : "model", shard_grouped(shard_params(m), x),
            shard_grouped(shard_params_active(m), y));
    shard_grid_print(&g, out);
    if (rc || (rc = shard_grid_init(&g, a, 10, 5, e))) return rc;
    shard_grid_put(&g, "KV cache in %s", kv_dtype);
    for (size_t i = 0; i < 3; i++) shard_grid_put(&g, "%u sequence%s", batch[i], batch[i] == 1 ? "" : "s");
    shard_grid_put(&g, "GiB for one");
    for (uint32_t n = 512; !rc && n <= 131072 && (n <= 4096 || n <= m->n_ctx); n *= 2) {
        uint64_t bytes;
        if ((rc = shard_kv_sequence_bytes(m, kv_dtype, m->n_kv_head, n, page, chunk, &bytes, e))) break;
        shard_grid_put(&g, "%u tokens%s", n, n > m->n_ctx ? " (beyond it)" : "");
        for (size_t i = 0; i < 3; i++) shard_grid_bytes(&g, bytes * batch[i]);
        shard_grid_put(&g, "%.3f", (double)bytes / 1073741824.0);
    }
    fputc('\n', out);
    shard_grid_print(&g, out);
    return rc;
}

/* ---- the worksheet ---- */

static void worksheet_head(const shard_arch *m, const shard_finetune *f, const shard_finetune_bytes *b, uint64_t base_bytes,
                           const char *format, FILE *out)
{
    char x[32], y[24];

    fprintf(out, "%s: %s parameters trained", m->name[0] ? m->name : "model", shard_grouped(b->trainable, x));
    if (f->lora_rank) fprintf(out, " (LoRA of rank %u on attention and FFN; %s frozen in %s)", f->lora_rank, shard_human(base_bytes, y), format);
    fprintf(out, "\n%u replica%s, ZeRO %u, %u tensor-parallel rank%s; batch %u of %u tokens a replica%s\n\n", f->replicas,
            f->replicas == 1 ? "" : "s", f->zero, f->tp, f->tp == 1 ? "" : "s", f->batch, f->sequence,
            f->checkpointing ? ", activations computed again" : "");
}

px_code shard_report_finetune(px_alloc *a, const shard_arch *m, const shard_finetune *f, uint64_t base_bytes, const char *format,
                              FILE *out, px_err *e)
{
    static const char *const column[] = { "optimizer", "bytes/param", "weights", "frozen base", "gradients", "master", "moments",
                                          "activations", "total a device" };
    shard_finetune_bytes b;
    uint64_t least = UINT64_MAX, most = 0;
    char x[24], y[24], z[24];
    shard_grid g;
    px_code rc;

    if ((rc = shard_finetune_of(m, &shard_optimizers[0], f, base_bytes, &b, e)) ||
        (rc = shard_grid_init(&g, a, SHARD_N_OPTIMIZERS + 1, sizeof column / sizeof *column, e)))
        return rc;
    worksheet_head(m, f, &b, base_bytes, format, out);
    for (size_t i = 0; i < g.cols; i++) shard_grid_put(&g, "%s", column[i]);
    for (size_t i = 0; i < SHARD_N_OPTIMIZERS; i++) {
        const shard_optimizer *o = &shard_optimizers[i];
        if ((rc = shard_finetune_of(m, o, f, base_bytes, &b, e))) break;
        shard_grid_put(&g, "%s", o->name);
        if (o->group) shard_grid_put(&g, "%u + 8/%u", shard_optimizer_bytes(o), o->group);
        else shard_grid_put(&g, "%u", shard_optimizer_bytes(o));
        shard_grid_bytes(&g, b.weights);
        shard_grid_bytes(&g, b.base);
        shard_grid_bytes(&g, b.grads);
        shard_grid_bytes(&g, b.master);
        shard_grid_bytes(&g, b.moments);
        shard_grid_bytes(&g, b.activations);
        shard_grid_bytes(&g, b.total);
        if (b.total < least) least = b.total;
        if (b.total > most) most = b.total;
    }
    shard_grid_print(&g, out);
    if (rc) return rc;
    fprintf(out, "\nlevers: checkpointing keeps %s of activations instead of %s; the optimizer makes %s of difference\n",
            shard_human(b.activations_checkpointed, x), shard_human(b.activations_full, y), shard_human(most - least, z));
    for (uint32_t zero = f->zero + 1; f->replicas > 1 && zero <= 3; zero++) {
        shard_finetune with = *f;
        shard_finetune_bytes now, then;
        with.zero = zero;
        if ((rc = shard_finetune_of(m, &shard_optimizers[1], f, base_bytes, &now, e)) ||
            (rc = shard_finetune_of(m, &shard_optimizers[1], &with, base_bytes, &then, e)))
            return rc;
        fprintf(out, "        ZeRO %u over %u replicas saves %s with adam_mixed\n", zero, f->replicas, shard_human(now.total - then.total, x));
    }
    fputs("activations: 34 bytes x batch x tokens x width a layer (tiled attention, 16 bits: a figure for GELU blocks), 2 with checkpointing\n", out);
    return PX_OK;
}
