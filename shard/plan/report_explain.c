/* Every line of the worst rank as formula, numbers, bytes: to be checked with a pocket calculator. */
#include "shard/plan/report.h"

#include <string.h>

#define ULL(n) ((unsigned long long)(n))

static uint64_t up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static void tensor_line(kern_dtype t, uint64_t n, uint64_t rows, uint64_t cols, uint64_t bytes, FILE *out)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    char buf[32];

    switch (t) {
    case KERN_FP8: fprintf(out, "%llu x (%llu x %llu + 4)", ULL(n), ULL(rows), ULL(cols)); break;
    case KERN_W8: fprintf(out, "%llu x (%llu x %llu + 2 x %llu x %llu groups)", ULL(n), ULL(rows), ULL(cols), ULL(rows), ULL((cols + 127) / 128)); break;
    case KERN_W4: fprintf(out, "%llu x (%llu x %llu/2 + 2 x %llu x %llu groups)", ULL(n), ULL(rows), ULL(cols), ULL(rows), ULL((cols + 127) / 128)); break;
    case KERN_W4Z: fprintf(out, "%llu x (%llu x %llu/2 + 2.5 x %llu x %llu groups)", ULL(n), ULL(rows), ULL(cols), ULL(rows), ULL((cols + 127) / 128)); break;
    case KERN_Q2_HM:
        if (cols % 64) {
            fprintf(out, "%llu x %llu x (%llu x 32 + 24)", ULL(n), ULL(rows), ULL(cols / 64));
            break;
        }
        /* fall through */
    default:
        if (f->block == 1) fprintf(out, "%llu x %llu x %llu x %u", ULL(n), ULL(rows), ULL(cols), f->block_bytes);
        else fprintf(out, "%llu x %llu x (%llu/%u) x %u", ULL(n), ULL(rows), ULL(cols), f->block, f->block_bytes);
    }
    fprintf(out, " (%s) = %s\n", f->name, shard_grouped(bytes, buf));
}

static void weights(const shard_plan *p, uint32_t r, const shard_types *t, bool mapped, FILE *out)
{
    const shard_arch *m = p->model.m;
    uint64_t sum = 0;
    char name[64], buf[32];

    fprintf(out, "weights of rank %u%s: tensors x rows x columns x bytes\n", r, mapped ? " as they are mapped: panels of 16 rows, columns padded to 32" : "");
    for (shard_role role = 0; role < SHARD_N_ROLES; role++) {
        const shard_role_info *info = shard_role_get(role);
        uint32_t layers = info->per_layer ? m->n_layer : 1;
        shard_extent x;
        uint64_t copies = m->n_expert && (role == SHARD_FFN_GATE || role == SHARD_FFN_UP || role == SHARD_FFN_DOWN) ? m->n_expert : 1;
        if (!shard_arch_has(m, role)) continue;
        shard_split_extent(&p->split, m, role, r, &x);
        for (kern_dtype d = 0; d < KERN_N_DTYPES; d++) {
            uint64_t n = 0, one, bytes;
            for (uint32_t i = 0; i < layers; i++) n += shard_type_of(t, role, i) == d;
            if (!n || !x.rows || !x.cols) continue;
            n *= copies;
            if (mapped ? !info->vector && kern_panel_bytes(d, x.rows, x.cols, &one, NULL) : !kern_matrix_bytes(d, x.rows, x.cols, &one)) continue;
            if (mapped && info->vector) one = up(x.cols * 4, 64);
            bytes = n * one;
            sum += bytes;
            fprintf(out, "  %-20s ", shard_class_name(role, name));
            if (mapped) fprintf(out, "%llu x %llu panels x %llu = %s\n", ULL(n), ULL(info->vector ? 1 : (x.rows + 15) / 16),
                                ULL(info->vector ? one : kern_panel_stride(d, x.cols)), shard_grouped(bytes, buf));
            else tensor_line(d, n, x.rows, x.cols, bytes, out);
        }
    }
    fprintf(out, "  %-20s %s\n", "sum", shard_grouped(sum, buf));
    if (!mapped) fprintf(out, "  %-20s each tensor to 256 bytes, the sum to 2 MiB = %s\n", "arena", shard_grouped(p->rank[r].weights.arena, buf));
}

static void cache(const shard_plan *p, uint32_t r, FILE *out)
{
    const shard_arch *m = p->model.m;
    const shard_deploy *d = &p->d;
    const shard_cut *c = &p->split.cut[r];
    const shard_capacity *k = &p->rank[r].capacity;
    uint64_t vector = 0, heads = c->kv_head.end - c->kv_head.begin;
    uint32_t full, sliding;
    char a[32], b[32];

    if (shard_kv_vector_bytes(d->kv_dtype, m->head_dim, &vector, NULL)) return;
    fprintf(out, "KV cache of rank %u\n  a vector of %u in %s = %llu bytes\n", r, m->head_dim, d->kv_dtype, ULL(vector));
    fprintf(out, "  a token: 2 (K, V) x %llu heads x %llu x %u layers = %s\n", ULL(heads), ULL(vector), m->n_layer,
            shard_grouped(2 * heads * vector * m->n_layer, a));
    fprintf(out, "  a block: %u tokens x %s = %s\n", d->page, a, shard_grouped(k->block_bytes, b));
    if (d->pool) fprintf(out, "  the pool: %s as given = %llu blocks\n", shard_grouped(k->pool, a), ULL(k->pool / k->block_bytes));
    else fprintf(out, "  the pool: ceil(%u / %u) = %llu blocks x %s = %s\n", d->kv_tokens, d->page, ULL(k->pool / k->block_bytes),
                 shard_grouped(k->block_bytes, b), shard_grouped(k->pool, a));
    shard_kv_layers(m, &full, &sliding);
    if (sliding)
        fprintf(out, "  a sequence of n tokens: %u layers x ceil(n / %u) pages + %u layers x at most ceil((%u - 1 + %u) / %u) + 1 pages, a page %s\n",
                full, d->page, sliding, m->sliding_window, d->token_budget, d->page, shard_grouped(k->block_bytes / m->n_layer, b));
    for (size_t i = 0; i < d->n_classes; i++)
        fprintf(out, "  %s at p95: ceil((%u + %u) / %u) blocks%s = %s, x %u = %s\n", d->cls[i].name, d->cls[i].p95[0], d->cls[i].p95[1], d->page,
                sliding ? " less what slides" : "", shard_grouped(k->need[i].seq_p95, a), d->cls[i].n, shard_grouped(k->need[i].seq_p95 * d->cls[i].n, b));
}

static void activations(const shard_plan *p, uint32_t r, FILE *out)
{
    const shard_arch *m = p->model.m;
    const shard_cut *c = &p->split.cut[r];
    const shard_act *x = &p->rank[r].act;
    shard_act_kind k = p->d.backend == SHARD_ON_CUDA ? SHARD_ACT_CUDA : SHARD_ACT_CPU;
    uint32_t T = p->d.token_budget, S = p->d.max_sequences, q = c->q_head.end - c->q_head.begin, kv = c->kv_head.end - c->kv_head.begin;
    uint32_t f = c->ffn.end - c->ffn.begin, v = c->vocab.end - c->vocab.begin;
    char buf[32];

    fprintf(out, "activations of rank %u: T = %u tokens a step, S = %u rows of logits; each term to 256 bytes\n", r, T, S);
    fprintf(out, "  residual: %u x %u x %u = %s\n", T, m->d_model, k.res, shard_grouped(x->residual, buf));
    fprintf(out, "  attention: %u x %u x %u + %u x (%u + 2 x %u) x %u x %u + %u x %u x %u x %u + %u x %u x %u = %s\n", T, m->d_model, k.act, T, q, kv,
            m->head_dim, k.act, T, q, m->head_dim, k.act, T, m->d_model, k.comm, shard_grouped(x->attn, buf));
    if (m->n_expert)
        fprintf(out, "  experts: %u x (%u x %u + %u x 4 + %u x 8 + %u x %u x %u + %u x 2 x %u x %u + %u x %u x %u + %u x %u) = %s\n", T, m->d_model, k.act,
                m->n_expert, m->n_expert_used, m->n_expert_used, m->d_model, k.act, m->n_expert_used, f, k.act, m->n_expert_used, m->d_model, k.comm,
                m->d_model, k.comm, shard_grouped(x->ffn, buf));
    else
        fprintf(out, "  FFN: %u x %u x %u + %u x 2 x %u x %u + %u x %u x %u = %s\n", T, m->d_model, k.act, T, f, k.act, T, m->d_model, k.comm,
                shard_grouped(x->ffn, buf));
    fprintf(out, "  head: %u x %u x %u + %u x %u x 4 + %u x %u x 4 = %s\n", S, m->d_model, k.act, S, v, S, m->n_vocab, shard_grouped(x->head, buf));
    fprintf(out, "  residual + the largest of the three = %s\n", shard_grouped(x->total, buf));
    if (p->d.fp8_activations)
        fprintf(out, "  fp8_activations, in the scratch: rows of e4m3 for the widest input, and a scale each = %s\n", shard_grouped(shard_fp8_rows_bytes(p, r), buf));
    fprintf(out, "  (attention without tiles would add %u x %u x %u x 4 = %s)\n", q, T, T, shard_grouped(x->scores_if_naive, buf));
}

static void carved(const shard_plan *p, uint32_t r, FILE *out)
{
    const shard_rank_bytes *b = &p->rank[r].carved;
    char x[32], y[32], z[32];

    fprintf(out, "what rank %u carves on CPU\n", r);
    fprintf(out, "  arena of the step %s + rope tables 2 x %u x %u x 4 = %s: activations and scratch\n", shard_grouped(b->activations.bytes, x),
            b->n_ctx, p->model.m->head_dim / 2, shard_grouped(b->rope_tables, y));
    fprintf(out, "  host tables (slots, block tables, gathered candidates, results) %s\n", shard_grouped(b->host.bytes, x));
    fprintf(out, "  buffers of the messages: %u + %u%s = %s\n", SHARD_STEP_FRAME, SHARD_STEP_SCRATCH, r ? "" : " + rank 0 answers", shard_grouped(b->step_buffers, x));
    fprintf(out, "  transport: own %s, shared %s (counted on rank 0)\n", shard_grouped(b->comm_private, x), shard_grouped(b->comm_shared, y));
    fprintf(out, "  mapped %s + pool %s + the above = %s\n", shard_grouped(b->weights.mapped, x), shard_grouped(b->kv_pool, y), shard_grouped(b->total, z));
}

static void stack(const shard_plan *p, uint32_t r, FILE *out)
{
    const shard_plan_rank *k = &p->rank[r];
    char buf[32];

    fprintf(out, "rank %u\n", r);
    for (shard_line l = 0; l < SHARD_LINE_HEADROOM; l++) fprintf(out, "  %-20s %20s%s\n", shard_line_label(l), shard_grouped(k->line[l], buf),
        l == SHARD_LINE_CONTEXT || l == SHARD_LINE_GRAPHS || (l == SHARD_LINE_COMM && p->d.backend == SHARD_ON_CUDA) ? "  estimate" : "");
    fprintf(out, "  %-20s %20s\n", "need", shard_grouped(k->need, buf));
    if (p->d.backend == SHARD_ON_CUDA) {
        if (p->d.ranks > 1)
            fprintf(out, "  communicator: %u channels x 12,582,912 (receive 4096 + 524288 + 4915200 + 4194304 to 2 MiB, send 2 MiB)\n", p->d.channels);
        fprintf(out, "  headroom: max(%u %% of %s, %s)", p->d.headroom_percent, k->free ? "the device" : "need + headroom", shard_grouped(p->d.headroom_least, buf));
        fprintf(out, " = %s\n", shard_grouped(k->line[SHARD_LINE_HEADROOM], buf));
    } else {
        fprintf(out, "  a host of %u rank%s: %s", p->ranks_per_host, p->ranks_per_host == 1 ? "" : "s", shard_grouped(p->host_need, buf));
        fprintf(out, " + headroom max(%u %%, %s)", p->d.headroom_percent, shard_grouped(p->d.headroom_least, buf));
        fprintf(out, " = %s\n", shard_grouped(p->host_headroom, buf));
    }
}

void shard_report_explain(const shard_plan *p, FILE *out)
{
    uint32_t r = p->worst;
    const shard_cut *c = &p->split.cut[r];

    fprintf(out, "cut of rank %u: query heads %u..%u, KV heads %u..%u, FFN columns %u..%u, vocabulary rows %u..%u (ends are not in it)\n", r,
            c->q_head.begin, c->q_head.end, c->kv_head.begin, c->kv_head.end, c->ffn.begin, c->ffn.end, c->vocab.begin, c->vocab.end);
    fprintf(out, "dealt: attention in units of %u query heads%s, FFN in units of %u columns\n", p->split.attn_unit_heads,
            p->split.kv_replicated ? " (KV heads replicated)" : "", p->split.ffn_unit);
    weights(p, r, p->model.file, false, out);
    if (p->model.stored) weights(p, r, p->model.stored, true, out);
    cache(p, r, out);
    activations(p, r, out);
    if (p->carved) carved(p, r, out);
    stack(p, r, out);
}
