/* The plan as JSON.  Schema 1: shard/plan/README.md; keys are golden.json's wherever it has one. */
#include "shard/plan/report.h"

#include <math.h>
#include <string.h>

#define I(x) json_integer((json_int_t)(x))

/* An object under construction that remembers whether memory ran out. */
typedef struct made { json_t *o; bool bad; } made;

static void put(made *x, const char *key, json_t *v)
{
    if (!v || json_object_set_new(x->o, key, v)) x->bad = true;
}
static void put_n(made *x, const char *key, uint64_t n) { put(x, key, I(n)); }
static made object(void) { made x = { json_object(), false }; x.bad = !x.o; return x; }
/* Hands the object over; NULL if it is not whole. */
static json_t *done(made *x)
{
    if (!x->bad) return x->o;
    json_decref(x->o);
    return NULL;
}

static json_t *word(const char *s)
{
    json_t *v = json_string(s);
    return v ? v : json_string("?");           /* not UTF-8 */
}

const char *shard_class_name(shard_role r, char buf[64])
{
    const char *name = shard_role_get(r)->name, *dot = strrchr(name, '.');
    bool bias = r == SHARD_ATTN_Q_BIAS || r == SHARD_ATTN_K_BIAS || r == SHARD_ATTN_V_BIAS;

    snprintf(buf, 64, "%s%s", dot ? dot + 1 : name, bias ? "_bias" : "");
    return buf;
}

/* ---- the model ---- */

static json_t *config(const shard_arch *m)
{
    made x = object();

    put(&x, "arch", word(m->family));
    put_n(&x, "head_dim", m->head_dim);
    put_n(&x, "hidden_size", m->d_model);
    put_n(&x, "intermediate_size", m->d_ff);
    put_n(&x, "max_position_embeddings", m->n_ctx);
    put_n(&x, "num_attention_heads", m->n_head);
    put_n(&x, "num_experts_per_tok", m->n_expert_used);
    put_n(&x, "num_hidden_layers", m->n_layer);
    put_n(&x, "num_key_value_heads", m->n_kv_head);
    put_n(&x, "num_local_experts", m->n_expert);
    put(&x, "qk_norm", json_boolean(m->qk_norm));
    put(&x, "qkv_bias", json_boolean(m->qkv_bias));
    put(&x, "sandwich_norms", json_boolean(m->sandwich_norms));
    put_n(&x, "sliding_window", m->sliding_window);
    put(&x, "tie_word_embeddings", json_boolean(m->tied));
    put_n(&x, "vocab_size", m->n_vocab);
    return done(&x);
}

static json_t *by_class(const shard_arch *m)
{
    made x = object();
    char name[64];

    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        if (shard_arch_has(m, r)) put_n(&x, shard_class_name(r, name), shard_params_of(m, r));
    return done(&x);
}

static json_t *type_counts(const shard_arch *m, const shard_types *t)
{
    uint64_t n[KERN_N_DTYPES] = { 0 };
    made x = object();

    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        for (uint32_t i = 0; shard_arch_has(m, r) && i < (shard_role_get(r)->per_layer ? m->n_layer : 1); i++) n[shard_type_of(t, r, i)]++;
    for (kern_dtype d = 0; d < KERN_N_DTYPES; d++)
        if (n[d]) put_n(&x, kern_dtype_get(d)->name, n[d]);
    return done(&x);
}

static void put_formats(made *x, px_alloc *a, const shard_arch *m)
{
    made total = object(), bits = object(), counts = object();
    double params = (double)shard_params(m);

    for (size_t i = 0; shard_fit_formats[i]; i++) {
        shard_types t;
        uint64_t bytes;
        if (shard_types_format(&t, a, m, shard_fit_formats[i], NULL)) { x->bad = true; continue; }
        if (!shard_source_bytes(m, &t, &bytes, NULL)) {
            put_n(&total, shard_fit_formats[i], bytes);
            put(&bits, shard_fit_formats[i], json_real(round(8.0 * (double)bytes / params * 1e4) / 1e4));
            put(&counts, shard_fit_formats[i], type_counts(m, &t));
        }
        shard_types_deinit(&t);
    }
    put(x, "total_bytes", done(&total));
    put(x, "bits_per_weight", done(&bits));
    put(x, "type_counts", done(&counts));
}

/* What a type costs: blocks of it, or groups with a scale. */
static void put_types(made *x)
{
    made formats = object(), split = object(), stored = object(), nccl = object();

    for (kern_dtype d = 0; d < KERN_N_DTYPES; d++) {
        const kern_dtype_info *f = kern_dtype_get(d);
        bool grouped = d == KERN_FP8 || d == KERN_W8 || d == KERN_W4 || d == KERN_W4Z;
        uint64_t bytes;
        if (grouped && kern_matrix_bytes(d, 1u << 20, 128, &bytes))      /* so many rows of one group: a single scale vanishes */
            put(&split, f->name, json_pack("{s:i, s:f}", "group", 128, "bpw", round((double)bytes * 8 / (1u << 27) * 1e5) / 1e5));
        else if (!grouped)
            put(f->ggml == UINT32_MAX ? &stored : &formats, f->name,
                json_pack("{s:i, s:i, s:f}", "block", (int)f->block, "bytes", (int)f->block_bytes, "bpw", 8.0 * f->block_bytes / f->block));
    }
    put_n(&nccl, "ll", SHARD_NCCL_LL);
    put_n(&nccl, "ll128", SHARD_NCCL_LL128);
    put_n(&nccl, "simple", SHARD_NCCL_SIMPLE);
    put_n(&nccl, "per_channel_peer", shard_nccl_channel_bytes(SHARD_NCCL_SIMPLE));
    put(x, "formats", done(&formats));
    put(x, "split_formats", done(&split));
    put(x, "stored_formats", done(&stored));          /* of sets only: no file has them */
    put(x, "nccl", done(&nccl));
}

static void put_kv(made *x, const shard_arch *m)
{
    static const uint32_t lengths[] = { 1, 16, 17, 512, 2048, 4096, 8192, 32768, 131072 };
    made token = object(), seq = object(), layers = object();
    uint32_t full, sliding;
    uint64_t bytes;
    char key[16];

    for (size_t i = 0; shard_fit_kv_dtypes[i]; i++)
        if (!shard_kv_token_bytes(m, shard_fit_kv_dtypes[i], m->n_kv_head, &bytes, NULL)) put_n(&token, shard_fit_kv_dtypes[i], bytes);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths && lengths[i] <= m->n_ctx; i++) {
        snprintf(key, sizeof key, "%u", lengths[i]);
        if (!shard_kv_sequence_bytes(m, "f16", m->n_kv_head, lengths[i], 16, 2048, &bytes, NULL)) put_n(&seq, key, bytes);
    }
    shard_kv_layers(m, &full, &sliding);
    put_n(&layers, "full", full);
    put_n(&layers, "sliding", sliding);
    put(x, "kv_bytes_per_token", done(&token));
    put(x, "kv_seq_bytes_f16_page16_chunk2048", done(&seq));
    put(x, "kv_layers", done(&layers));
}

/* ---- weights by cut ---- */

static const char *vocab_word(shard_vocab_split v) { return v == SHARD_VOCAB_PADDED64 ? "padded64" : "unpadded"; }

static json_t *cut_json(const shard_arch *m, const shard_types *t, const shard_split *s, px_err *e)
{
    static const char *const keys[] = { "arena", "bytes", "ffn", "kv_heads", "q_heads", "vocab" };
    made x = object();
    json_t *list[6];

    for (size_t i = 0; i < 6; i++) {
        list[i] = json_array();
        put(&x, keys[i], list[i]);
    }
    for (uint32_t r = 0; !x.bad && r < s->world; r++) {
        const shard_cut *c = &s->cut[r];
        shard_weight_bytes w;
        if (shard_weight_bytes_of(m, t, s, r, false, &w, e)) { x.bad = true; break; }
        const uint64_t v[] = { w.arena, w.stored, c->ffn.end - c->ffn.begin, c->kv_head.end - c->kv_head.begin,
                               c->q_head.end - c->q_head.begin, c->vocab.end - c->vocab.begin };
        for (size_t i = 0; i < 6; i++) x.bad |= json_array_append_new(list[i], I(v[i])) != 0;
    }
    put(&x, "kv_replicated", json_boolean(s->kv_replicated));
    return done(&x);
}

static px_code put_cut(made *x, px_alloc *a, const shard_arch *m, const shard_types *t, const char *format, uint32_t ranks,
                       shard_ffn_split ffn, shard_vocab_split vocab, px_err *e)
{
    px_err why = { 0 };
    shard_split s;
    char key[64];
    px_code rc = shard_split_init(&s, a, m, t, ranks, ffn, vocab, &why);

    snprintf(key, sizeof key, "%.30s/tp%u/%s", format, ranks, vocab_word(vocab));
    if (rc == PX_ENOMEM) {
        if (e) *e = why;
        return rc;
    }
    put(x, key, rc ? json_pack("{s:s}", "error", why.text) : cut_json(m, t, &s, e));
    if (!rc) shard_split_deinit(&s);
    return PX_OK;
}

static px_code put_all_cuts(made *even, made *balanced, px_alloc *a, const shard_arch *m, px_err *e)
{
    static const uint32_t ranks[] = { 1, 2, 3, 4, 5, 6, 7, 8, 16 };
    px_code rc = PX_OK;

    for (size_t i = 0; !rc && shard_fit_formats[i]; i++) {
        shard_types t;
        if ((rc = shard_types_format(&t, a, m, shard_fit_formats[i], e))) return rc;
        for (size_t k = 0; !rc && k < sizeof ranks / sizeof *ranks; k++) {
            if ((rc = put_cut(even, a, m, &t, shard_fit_formats[i], ranks[k], SHARD_SPLIT_EVEN, SHARD_VOCAB_UNPADDED, e)) ||
                (rc = put_cut(even, a, m, &t, shard_fit_formats[i], ranks[k], SHARD_SPLIT_EVEN, SHARD_VOCAB_PADDED64, e)) ||
                (rc = put_cut(balanced, a, m, &t, shard_fit_formats[i], ranks[k], SHARD_SPLIT_BALANCED, SHARD_VOCAB_UNPADDED, e)))
                break;
        }
        shard_types_deinit(&t);
    }
    return rc;
}

/* ---- ranks ---- */

static json_t *estimate(uint64_t bytes, uint64_t low, uint64_t high)
{
    return json_pack("{s:I, s:I, s:I, s:b}", "bytes", (json_int_t)bytes, "low", (json_int_t)low, "high", (json_int_t)high, "measured", 0);
}

/* What is not carved, by kind; `phalanx plan --compare` holds readings against it. */
static json_t *others_json(const shard_rank_bytes *b, uint32_t world)
{
    made x = object();

    for (shard_other k = 0; k < shard_n_others(b); k++) {
        shard_estimate n = shard_other_of(b, world, k);
        put(&x, shard_other_name(k), estimate(n.bytes, n.low, n.high));
    }
    return done(&x);
}

static json_t *rank_json(const shard_plan *p, uint32_t r)
{
    const shard_plan_rank *k = &p->rank[r];
    const shard_cut *c = &p->split.cut[r];
    const shard_rank_bytes *b = &k->carved;
    shard_cache cache = { p->d.kv_dtype, p->d.page, p->d.token_budget };
    uint32_t heads = c->kv_head.end - c->kv_head.begin;
    made x = object(), act = object(), stack = object();
    json_t *needs = json_array();
    uint64_t context = 0;

    put_n(&x, "rank", r);
    /* as a set holds it, or else as the format says */
    put_n(&x, "bytes", k->weights.stored);
    put_n(&x, "arena", k->weights.arena);
    put_n(&x, "q_heads", c->q_head.end - c->q_head.begin);
    put_n(&x, "kv_heads", heads);
    put_n(&x, "ffn", c->ffn.end - c->ffn.begin);
    put_n(&x, "vocab", c->vocab.end - c->vocab.begin);
    put_n(&x, "block_bytes", k->capacity.block_bytes);
    put_n(&x, "weights_stored", p->model.stored ? k->stored.stored : k->weights.stored);
    put_n(&x, "weights_mapped", k->stored.mapped);
    put_n(&x, "tensors", p->model.stored ? k->stored.tensors : k->weights.tensors);
    put_n(&x, "kv_blocks", k->capacity.pool / k->capacity.block_bytes);
    put_n(&x, "kv_pool", k->line[SHARD_LINE_KV]);
    put_n(&x, "activations", p->carved ? b->activations.bytes : k->line[SHARD_LINE_ACT] + k->line[SHARD_LINE_SCRATCH]);
    put_n(&x, "rope_tables", p->carved ? b->rope_tables : 0);
    put_n(&x, "host_tables", p->carved ? b->host.bytes : k->line[SHARD_LINE_SAMPLING]);
    put_n(&x, "step_buffers", p->carved ? b->step_buffers : 0);
    put_n(&x, "comm_shared", p->carved ? (r ? 0 : b->comm_shared) : 0);
    put_n(&x, "comm_private", p->carved ? b->comm_private : k->line[SHARD_LINE_COMM]);
    put_n(&x, "context", p->carved ? b->n_ctx : p->model.m->n_ctx);
    put_n(&x, "total", p->carved ? b->total : k->need - k->line[SHARD_LINE_CONTEXT] - k->line[SHARD_LINE_GRAPHS]);

    put_n(&act, "residual", k->act.residual);
    put_n(&act, "attn", k->act.attn);
    put_n(&act, "ffn", k->act.ffn);
    put_n(&act, "head", k->act.head);
    put_n(&act, "total", k->act.total);
    put_n(&act, "scores_if_naive", k->act.scores_if_naive);
    put_n(&act, "sampling", k->act.sampling);
    put(&x, "activation", done(&act));
    for (shard_line l = 0; l < SHARD_N_LINES; l++) put_n(&stack, shard_line_key(l), k->line[l]);
    put(&x, "stack", done(&stack));
    put(&x, "need", estimate(k->need, k->low, k->high));
    if (p->carved) put(&x, "others", others_json(b, p->d.ranks));
    put_n(&x, "free", k->free);
    put(&x, "fits", json_boolean(k->fits));
    put_n(&x, "pool", k->capacity.pool);
    put_n(&x, "need_p95", k->capacity.need_p95);
    put_n(&x, "need_p99", k->capacity.need_p99);
    put_n(&x, "need_expected", k->capacity.need_expected);
    put_n(&x, "max_context_1", k->capacity.max_context_1);
    if (shard_max_context(p->model.m, &cache, heads, k->capacity.pool, 32, &context, NULL)) x.bad = true;
    put_n(&x, "max_context_32", context);
    put(&x, "overflow_model", json_real(k->capacity.overflow));
    for (size_t i = 0; needs && i < p->d.n_classes; i++)
        x.bad |= json_array_append_new(needs, json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", p->d.cls[i].name, "seq_p95",
                     (json_int_t)k->capacity.need[i].seq_p95, "seq_p99", (json_int_t)k->capacity.need[i].seq_p99, "fit_p95",
                     (json_int_t)k->capacity.need[i].fit_p95, "fit_p99", (json_int_t)k->capacity.need[i].fit_p99)) != 0;
    put(&x, "classes", needs);
    return done(&x);
}

/* ---- the rest ---- */

static json_t *loads(const shard_plan *p)
{
    made x = object();

    for (shard_load l = 0; l < SHARD_N_LOADS; l++) {
        const shard_host_need *n = &p->host[l];
        put(&x, shard_load_name(l), json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "anonymous", (json_int_t)n->anonymous, "page_cache",
            (json_int_t)n->page_cache, "staging", (json_int_t)n->staging, "read", (json_int_t)n->read, "read_s", n->read_s, "upload_s", n->upload_s,
            "populate_s", n->populate_s, "cold_s", n->cold_s, "warm_s", n->warm_s));
    }
    return done(&x);
}

static json_t *change_list(const shard_change changes[SHARD_N_LEVERS])
{
    json_t *list = json_array();

    for (shard_lever l = 0; list && l < SHARD_N_LEVERS; l++) {
        const shard_change *c = &changes[l];
        made x = object();
        if (!c->tried) { json_decref(x.o); continue; }
        put(&x, "lever", word(shard_lever_name(l)));
        put(&x, "to", c->word ? word(c->word) : I(c->number));
        put_n(&x, "hosts", c->hosts);
        put(&x, "fits", json_boolean(c->found));
        put_n(&x, "need", c->need);
        put_n(&x, "free", c->free);
        put_n(&x, "kv_tokens", c->kv_tokens);
        put_n(&x, "max_context_1", c->max_context_1);
        if (json_array_append_new(list, done(&x))) { json_decref(list); return NULL; }
    }
    return list;
}

static json_t *advice_list(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS])
{
    shard_advice advice[SHARD_MAX_ADVICE];
    size_t n = shard_advise(p, changes, advice);
    json_t *list = json_array();

    for (size_t i = 0; list && i < n; i++)
        if (json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "key", advice[i].key, "bytes", (json_int_t)advice[i].bytes, "text", advice[i].text))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *class_list(const shard_deploy *d)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < d->n_classes; i++) {
        const shard_class *c = &d->cls[i];
        if (json_array_append_new(list, json_pack("{s:s, s:i, s:[i,i], s:[i,i]}", "name", c->name, "n", (int)c->n, "p95", (int)c->p95[0], (int)c->p95[1],
                                                  "p99", (int)c->p99[0], (int)c->p99[1]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static void put_request(made *x, const shard_plan *p)
{
    static const char *const transport[] = { "local", "shm", "mpi" };
    const shard_deploy *d = &p->d;
    bool cpu = d->backend == SHARD_ON_CPU;

    put_n(x, "ranks", d->ranks);
    put_n(x, "hosts", d->hosts);
    put(x, "backend", word(cpu ? "cpu" : "cuda"));
    put(x, "format", word(p->model.format));
    put(x, "split", word(shard_ffn_split_name(d->ffn)));
    put(x, "vocab", word(vocab_word(d->vocab)));
    put(x, "kv_dtype", word(d->kv_dtype));
    put_n(x, "kv_block", d->page);
    put_n(x, "kv_tokens", d->kv_tokens);
    put(x, "transport", word(cpu ? transport[d->transport] : "nccl"));
    put_n(x, "threads", d->threads);
    put_n(x, "max_sequences", d->max_sequences);
    put_n(x, "token_budget", d->token_budget);
    if (d->fp8_activations) put(x, "fp8_activations", json_true());
    put_n(x, "memory", d->memory);
    put(x, "memory_measured", json_boolean(d->memory_measured));
    put_n(x, "headroom_percent", d->headroom_percent);
    put(x, "classes", class_list(d));
}

px_code shard_report_json(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS], bool cuts, json_t **out, px_err *e)
{
    const shard_arch *m = p->model.m;
    made x = object(), even = object(), balanced = object(), aligned = object();
    json_t *list = json_array();
    px_code rc = PX_OK;

    put_n(&x, "schema", 1);
    put(&x, "model", word(m->name));
    put(&x, "family", word(m->family));
    put(&x, "config", config(m));
    put_n(&x, "params", shard_params(m));
    put_n(&x, "active_params", shard_params_active(m));
    put(&x, "params_by_class", by_class(m));
    put_formats(&x, p->a, m);
    put_kv(&x, m);
    put_types(&x);
    put_request(&x, p);
    put_n(&x, "source_bytes", p->source_bytes);
    put_n(&x, "stored_bytes", p->stored_bytes);
    put_n(&x, "mapped_bytes", p->mapped_bytes);
    put(&x, "carved", json_boolean(p->carved));
    if (p->why_not.code) put(&x, "why_not_carved", json_pack("{s:s, s:s}", "field", p->why_not.field, "text", p->why_not.text));
    if (cuts) rc = put_all_cuts(&even, &balanced, p->a, m, e);
    if (!rc) {
        made *const of[] = { [SHARD_SPLIT_EVEN] = &even, [SHARD_SPLIT_BALANCED] = &balanced, [SHARD_SPLIT_ALIGNED] = &aligned }, *to = of[p->d.ffn];
        rc = put_cut(to, p->a, m, p->model.file, p->model.format, p->d.ranks, p->d.ffn, p->d.vocab, e);
    }
    put(&x, "weights", done(&even));
    put(&x, "weights_balanced", done(&balanced));
    put(&x, "weights_aligned", done(&aligned));
    for (uint32_t r = 0; list && r < p->d.ranks; r++) x.bad |= json_array_append_new(list, rank_json(p, r)) != 0;
    put(&x, "per_rank", list);
    put_n(&x, "worst_rank", p->worst);
    put_n(&x, "kv_blocks", p->kv_blocks);
    put_n(&x, "kv_tokens_fit", p->kv_tokens_fit);
    put_n(&x, "max_context_1", p->max_context_1);
    put_n(&x, "max_context_all", p->max_context_all);
    put(&x, "host_need", estimate(p->host_need, p->host_low, p->host_high));
    put_n(&x, "host_headroom", p->host_headroom);
    put(&x, "load", word(shard_load_name(p->load)));
    put(&x, "loads", loads(p));
    put(&x, "verdict", json_pack("{s:b, s:b, s:b, s:b, s:b}", "known", p->known, "fits", p->fits, "memory_fits", p->memory_fits, "p95_fits",
                                 p->p95_fits, "p99_fits", p->p99_fits));
    put(&x, "changes", change_list(changes));
    put(&x, "advice", advice_list(p, changes));
    if (!rc && x.bad) rc = px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
    *out = rc ? NULL : x.o;
    if (rc) json_decref(x.o);
    return rc;
}

px_code shard_report_sweep_json(const shard_sweep *s, json_t **out, px_err *e)
{
    json_t *list = json_array();
    bool bad = !list;

    for (size_t i = 0; !bad && i < s->n; i++) {
        const shard_sweep_row *r = &s->row[i];
        bad = json_array_append_new(list, json_pack("{s:i, s:s, s:f, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "ranks", (int)r->ranks, "format", r->format,
                  "bits", r->bits, "kv_dtype", r->kv_dtype, "weights", (json_int_t)r->weights, "rest", (json_int_t)r->rest, "kv_tokens",
                  (json_int_t)r->kv_tokens, "max_context", (json_int_t)r->max_context, "max_sequences", (json_int_t)r->max_sequences, "fits", r->fits,
                  "pareto", r->pareto)) != 0;
    }
    *out = bad ? NULL : json_pack("{s:i, s:I, s:O}", "schema", 1, "tokens", (json_int_t)s->tokens, "sweep", list);
    json_decref(list);
    return *out ? PX_OK : px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
}

px_code shard_report_finetune_json(const shard_arch *m, const shard_finetune *f, uint64_t base_bytes, json_t **out, px_err *e)
{
    made x = object(), bytes = object(), all = object();
    px_code rc = PX_OK;

    for (size_t i = 0; !rc && i < SHARD_N_OPTIMIZERS; i++) {
        const shard_optimizer *o = &shard_optimizers[i];
        shard_finetune_bytes b;
        if ((rc = shard_finetune_of(m, o, f, base_bytes, &b, e))) break;
        put_n(&bytes, o->name, shard_optimizer_bytes(o));
        put(&all, o->name, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "trainable", (json_int_t)b.trainable, "weights",
            (json_int_t)b.weights, "base", (json_int_t)b.base, "grads", (json_int_t)b.grads, "master", (json_int_t)b.master, "moments",
            (json_int_t)b.moments, "activations", (json_int_t)b.activations, "activations_full", (json_int_t)b.activations_full,
            "activations_checkpointed", (json_int_t)b.activations_checkpointed, "total", (json_int_t)b.total));
    }
    put_n(&x, "schema", 1);
    put(&x, "model", word(m->name));
    put_n(&x, "params", shard_params(m));
    put(&x, "optimizer_bytes_per_param", done(&bytes));
    put(&x, "finetune", done(&all));
    if (!rc && x.bad) rc = px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
    *out = rc ? NULL : x.o;
    if (rc) json_decref(x.o);
    return rc;
}
