#include "shard/plan/plan.h"

#include "comm/comm.h"

#include <string.h>

#define MIB  (1ull << 20)
#define SPLITS 8u                          /* parts of a context that decode attention works on at once on a device */

static const struct { const char *key, *label; } LINE[SHARD_N_LINES] = {
    { "weights", "weights" }, { "kv_pool", "KV pool" }, { "activations", "activations" }, { "scratch", "scratch" },
    { "sampling", "workspace, sampling" }, { "comm", "communicator" }, { "context", "context" }, { "graphs", "graphs" },
    { "headroom", "headroom" },
};
const char *shard_line_key(shard_line l) { return LINE[l].key; }
const char *shard_line_label(shard_line l) { return LINE[l].label; }

void shard_deploy_init(shard_deploy *d)
{
    *d = (shard_deploy){ .ranks = 1, .hosts = 1, .ffn = SHARD_SPLIT_BALANCED, .vocab = SHARD_VOCAB_PADDED64, .kv_dtype = "f16",
                         .kv_tokens = 16384, .page = 16, .max_sequences = 64, .token_budget = 256, .threads = 1,
                         .transport = COMM_LOCAL, .channels = SHARD_NCCL_CHANNELS, .headroom_percent = 10, .headroom_least = 512 * MIB,
                         .rate = { 7000000000, 55000000000, 2000000000 } };
}

static uint64_t up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static bool sum_over(uint64_t *sum, uint64_t n) { return __builtin_add_overflow(*sum, n, sum); }

/* ---- a rank that is carved ---- */

static const struct { const char *word; kern_kv_dtype dtype; bool cpu; } KEPT[] = {
    { "f16", KERN_KV_F16, true }, { "f32", KERN_KV_F32, true }, { "bf16", KERN_KV_BF16, false }, { "int8_th", KERN_KV_INT8, false },
    { "fp8", KERN_KV_FP8, false },
};

static bool kv_of(shard_backend backend, const char *word, kern_kv_dtype *out)
{
    for (size_t i = 0; i < sizeof KEPT / sizeof *KEPT; i++)
        if (!strcmp(word, KEPT[i].word) && (KEPT[i].cpu || backend == SHARD_ON_CUDA)) return *out = KEPT[i].dtype, true;
    return false;
}

bool shard_kv_kept(shard_backend backend, const char *word)
{
    kern_kv_dtype dtype;
    return kv_of(backend, word, &dtype);
}

static px_code carve(shard_plan *p, uint32_t r, px_err *e)
{
    const shard_deploy *d = &p->d;
    shard_demand demand = { .kv_tokens = d->kv_tokens, .kv_block = d->page, .max_sequences = d->max_sequences,
                            .token_budget = d->token_budget, .threads = d->threads };

    if (!kv_of(SHARD_ON_CPU, d->kv_dtype, &demand.kv_dtype))
        return px_fail(e, PX_EUNSUP, "kv.dtype", "the CPU keeps f16 or f32, not %s", d->kv_dtype);
    if (d->pool) return px_fail(e, PX_EUNSUP, "pool", "a pool given in bytes is no configuration");
    return shard_rank_bytes_of(p->model.m, p->model.stored, &p->split, r, &demand, d->transport, &p->rank[r].carved, e);
}

/* Whether the CPU serves it; what it cannot serve is planned by the formulas. */
static px_code choose_carving(shard_plan *p, px_err *e)
{
    px_code rc;

    p->carved = false;
    if (p->d.backend != SHARD_ON_CPU) return PX_OK;
    if (!p->model.stored) {
        px_fail(&p->why_not, PX_EUNSUP, "format", "the CPU does not multiply with %s, or not with columns as this model has them", p->model.format);
        return PX_OK;
    }
    if (p->d.ffn == SHARD_SPLIT_ALIGNED) {
        px_fail(&p->why_not, PX_EUNSUP, "split", "aligned is planned, and not served yet: a set is cut balanced or even");
        return PX_OK;
    }
    if (shard_arch_check_served(p->model.m, &p->why_not)) return PX_OK;
    for (uint32_t r = 0; r < p->d.ranks; r++)
        if ((rc = carve(p, r, &p->why_not))) {
            if (rc == PX_EUNSUP) return PX_OK;
            if (e) *e = p->why_not;                     /* a number out of range is a mistake, not another way */
            return rc;
        }
    p->carved = true;
    return PX_OK;
}

/* ---- the stack of a rank ---- */

static void carved_lines(shard_plan *p, uint32_t r)
{
    shard_plan_rank *k = &p->rank[r];
    const shard_rank_bytes *b = &k->carved;
    uint64_t arena = b->activations.bytes + b->rope_tables;

    k->line[SHARD_LINE_WEIGHTS] = b->weights.mapped;
    k->line[SHARD_LINE_KV] = b->kv_pool;
    /* the formula's part of the arena, and what this backend has beside it */
    k->line[SHARD_LINE_ACT] = k->act.total < arena ? k->act.total : arena;
    k->line[SHARD_LINE_SCRATCH] = arena - k->line[SHARD_LINE_ACT];
    k->line[SHARD_LINE_SAMPLING] = b->host.bytes + b->step_buffers;
    k->line[SHARD_LINE_COMM] = b->comm_private + (r ? 0 : b->comm_shared);
}

uint64_t shard_fp8_rows_bytes(const shard_plan *p, uint32_t r)
{
    const shard_deploy *d = &p->d;
    shard_demand demand = { .max_sequences = d->max_sequences, .token_budget = d->token_budget, .threads = d->threads };
    uint64_t bytes[2];

    for (int i = 0; i < 2; i++) {
        demand.fp8_activations = i;
        const kern_shape shape = shard_shape_of(p->model.m, &p->split.cut[r], &demand, p->model.m->n_ctx);
        bytes[i] = kern_workspace_bytes(KERN_ON_CUDA, &shape);
    }
    return bytes[1] - bytes[0];
}

static px_code formula_lines(shard_plan *p, uint32_t r, px_err *e)
{
    const shard_arch *m = p->model.m;
    const shard_deploy *d = &p->d;
    const shard_cut *c = &p->split.cut[r];
    shard_plan_rank *k = &p->rank[r];
    uint64_t S = d->max_sequences, T = d->token_budget, stride = (m->n_ctx + (uint64_t)d->page - 1) / d->page;
    uint64_t heads = c->q_head.end - c->q_head.begin;

    k->line[SHARD_LINE_WEIGHTS] = k->weights.arena;
    k->line[SHARD_LINE_KV] = k->capacity.pool;
    k->line[SHARD_LINE_ACT] = k->act.total;
    /* rope tables, block tables, a step's image, partial results of split decode attention */
    k->line[SHARD_LINE_SCRATCH] = up((uint64_t)m->n_ctx * m->head_dim * 4, 256) + up(S * stride * 4, 256) + up(T * 16 + S * 64, 256) +
                                  (d->backend == SHARD_ON_CUDA ? up(S * heads * SPLITS * (m->head_dim + 2) * 4, 256) : 0);
    if (d->fp8_activations) k->line[SHARD_LINE_SCRATCH] += shard_fp8_rows_bytes(p, r);
    k->line[SHARD_LINE_SAMPLING] = k->act.sampling;
    if (d->backend == SHARD_ON_CUDA) k->line[SHARD_LINE_COMM] = shard_nccl_bytes(d->ranks, d->channels, SHARD_NCCL_SIMPLE).bytes;
    else k->line[SHARD_LINE_COMM] = d->ranks > 1 ? 2 * up(T * m->d_model * 4, 4096) : 0;
    if (S > 1u << 20 || T > 1u << 24) return px_fail(e, PX_ERANGE, "max_sequences", "a step of %u tokens and %u sequences", d->token_budget, d->max_sequences);
    return PX_OK;
}

static void others_lines(shard_plan *p, shard_plan_rank *k)
{
    const shard_deploy *d = &p->d;
    bool cuda = d->backend == SHARD_ON_CUDA;
    shard_estimate context = cuda ? shard_cuda_context_bytes() : shard_process_bytes(d->ranks);
    shard_estimate graphs = cuda ? shard_cuda_graph_bytes() : (shard_estimate){ 0 };
    shard_estimate nccl = cuda ? shard_nccl_bytes(d->ranks, d->channels, SHARD_NCCL_SIMPLE) : (shard_estimate){ 0 };

    k->line[SHARD_LINE_CONTEXT] = context.bytes;
    k->line[SHARD_LINE_GRAPHS] = graphs.bytes;
    k->low = k->need + context.low + graphs.low - (nccl.bytes - nccl.low);
    k->high = k->need + context.high + graphs.high + (nccl.high - nccl.bytes);
    k->need += context.bytes + graphs.bytes;
}

static px_code one_rank(shard_plan *p, uint32_t r, px_err *e)
{
    const shard_deploy *d = &p->d;
    shard_plan_rank *k = &p->rank[r];
    const shard_cut *c = &p->split.cut[r];
    uint32_t heads = c->kv_head.end - c->kv_head.begin;
    shard_cache cache = { d->kv_dtype, d->page, d->token_budget };
    shard_act_kind kind = d->backend == SHARD_ON_CUDA ? SHARD_ACT_CUDA : SHARD_ACT_CPU;
    uint64_t token, pool = d->pool, blocks;
    px_code rc;

    if ((rc = shard_weight_bytes_of(p->model.m, p->model.file, &p->split, r, false, &k->weights, e)) ||
        (rc = shard_act_of(p->model.m, &p->split, r, d->token_budget, d->max_sequences, kind, &k->act, e)) ||
        (rc = shard_kv_token_bytes(p->model.m, d->kv_dtype, heads, &token, e)))
        return rc;
    if (p->carved) k->stored = k->carved.weights;
    else if (p->model.stored && (rc = shard_weight_bytes_of(p->model.m, p->model.stored, &p->split, r, true, &k->stored, e))) return rc;
    if (!pool) {
        blocks = ((uint64_t)d->kv_tokens + d->page - 1) / d->page;
        if (__builtin_mul_overflow(token, d->page * blocks, &pool))
            return px_fail(e, PX_ERANGE, "kv.tokens", "%u tokens are beyond 64 bits", d->kv_tokens);
    }
    if ((rc = shard_capacity_of(p->model.m, &cache, heads, pool, d->cls, d->n_classes, &k->capacity, e))) return rc;
    if (p->carved) carved_lines(p, r);
    else if ((rc = formula_lines(p, r, e))) return rc;
    k->need = 0;
    for (shard_line l = 0; l < SHARD_LINE_CONTEXT; l++)
        if (sum_over(&k->need, k->line[l])) return px_fail(e, PX_ERANGE, "model", "rank %u needs more than 64 bits", r);
    others_lines(p, k);
    return PX_OK;
}

/* ---- all ranks ---- */

static uint64_t headroom_of(const shard_deploy *d, uint64_t free, uint64_t need)
{
    /* not known: so much that it would be its share of a device that just fits */
    uint64_t part = free ? free / 100 * d->headroom_percent : need / (100 - d->headroom_percent) * d->headroom_percent;
    return part > d->headroom_least ? part : d->headroom_least;
}

/* Sums over the ranks of one host. */
typedef struct host_sum { uint64_t low, need, high, pool, block; } host_sum;

static host_sum sum_of(const shard_plan *p, uint32_t first, uint32_t n)
{
    host_sum s = { 0 };

    for (uint32_t r = first; r < first + n; r++) {
        s.low += p->rank[r].low;
        s.need += p->rank[r].need;
        s.high += p->rank[r].high;
        s.pool += p->rank[r].capacity.pool;
        s.block += p->rank[r].capacity.block_bytes;
    }
    return s;
}

/* Ranks of a host share its memory: one headroom, and every rank may use what the others leave. */
static void cpu_host(shard_plan *p, uint32_t first, uint32_t n)
{
    host_sum s = sum_of(p, first, n);
    uint64_t headroom = headroom_of(&p->d, p->d.memory, s.need), rest = s.need - s.pool + headroom;
    bool fits = !p->known || s.need + headroom <= p->d.memory;

    if (s.need > p->host_need) {
        p->host_need = s.need;
        p->host_low = s.low;
        p->host_high = s.high;
        p->host_headroom = headroom;
    }
    for (uint32_t r = first; r < first + n; r++) {
        shard_plan_rank *k = &p->rank[r];
        k->line[SHARD_LINE_HEADROOM] = headroom / n;
        k->free = p->d.memory / n;
        k->fits = fits;
        k->kv_blocks_fit = p->d.memory > rest ? (p->d.memory - rest) / s.block : 0;
    }
}

static void cuda_device(shard_plan *p, shard_plan_rank *k)
{
    uint64_t rest;

    k->line[SHARD_LINE_HEADROOM] = headroom_of(&p->d, p->d.memory, k->need);
    k->free = p->d.memory;
    k->fits = !p->known || k->need + k->line[SHARD_LINE_HEADROOM] <= k->free;
    rest = k->need - k->line[SHARD_LINE_KV] + k->line[SHARD_LINE_HEADROOM];
    k->kv_blocks_fit = k->free > rest ? (k->free - rest) / k->capacity.block_bytes : 0;
}

static void verdict(shard_plan *p)
{
    const shard_deploy *d = &p->d;
    uint64_t fit = UINT64_MAX;

    p->known = d->memory != 0;
    p->memory_fits = p->p95_fits = p->p99_fits = true;
    for (uint32_t r = 0; r < d->ranks; r++) {
        shard_plan_rank *k = &p->rank[r];
        if (d->backend == SHARD_ON_CUDA) cuda_device(p, k);
        else if (r % p->ranks_per_host == 0) cpu_host(p, r, d->ranks - r < p->ranks_per_host ? d->ranks - r : p->ranks_per_host);
        if (k->need > p->rank[p->worst].need) p->worst = r;
        p->memory_fits &= k->fits;
        p->p95_fits &= k->capacity.need_p95 <= k->capacity.pool;
        p->p99_fits &= k->capacity.need_p99 <= k->capacity.pool;
        if (k->kv_blocks_fit < fit) fit = k->kv_blocks_fit;
    }
    p->kv_tokens_fit = p->known ? fit * d->page : 0;
    p->fits = p->memory_fits && p->p95_fits;
}

static px_code contexts(shard_plan *p, px_err *e)
{
    const shard_deploy *d = &p->d;
    shard_cache cache = { d->kv_dtype, d->page, d->token_budget };
    px_code rc;

    p->max_context_1 = p->max_context_all = p->kv_blocks = UINT64_MAX;
    for (uint32_t r = 0; r < d->ranks; r++) {
        const shard_cut *c = &p->split.cut[r];
        const shard_capacity *k = &p->rank[r].capacity;
        uint64_t all;
        if ((rc = shard_max_context(p->model.m, &cache, c->kv_head.end - c->kv_head.begin, k->pool, d->max_sequences, &all, e))) return rc;
        if (k->max_context_1 < p->max_context_1) p->max_context_1 = k->max_context_1;
        if (all < p->max_context_all) p->max_context_all = all;
        if (k->pool / k->block_bytes < p->kv_blocks) p->kv_blocks = k->pool / k->block_bytes;
    }
    return PX_OK;
}

static px_code hosts(shard_plan *p, px_err *e)
{
    const shard_deploy *d = &p->d;
    shard_host_case c = { .ranks = p->ranks_per_host, .threads = d->threads, .file = p->source_bytes, .rate = d->rate };

    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        uint64_t rows, cols, n;
        if (!shard_arch_has(p->model.m, r)) continue;
        shard_arch_shape(p->model.m, r, &rows, &cols);
        if (!kern_matrix_bytes(shard_type_of(p->model.file, r, 0), rows, cols, &n)) n = rows * cols * 4;
        if (p->model.m->n_expert && (r == SHARD_FFN_GATE || r == SHARD_FFN_UP || r == SHARD_FFN_DOWN)) n *= p->model.m->n_expert;
        if (n > c.largest_tensor) c.largest_tensor = n;
    }
    for (uint32_t r = 0; r < p->ranks_per_host; r++) {
        const shard_plan_rank *k = &p->rank[r];
        uint64_t n = k->stored.stored ? (d->backend == SHARD_ON_CPU ? k->stored.mapped : k->stored.stored) : k->weights.stored;
        if (n > c.largest_shard) c.largest_shard = n;
        if (sum_over(&c.shards, n) || (d->backend == SHARD_ON_CPU && sum_over(&c.pool, k->line[SHARD_LINE_KV])))
            return px_fail(e, PX_ERANGE, "model", "a host needs more than 64 bits");
    }
    for (shard_load l = 0; l < SHARD_N_LOADS; l++) p->host[l] = shard_host_of(&c, l);
    p->load = d->backend == SHARD_ON_CPU ? SHARD_LOAD_SHARD_MMAP : SHARD_LOAD_SHARD_UPLOAD;
    return PX_OK;
}

uint32_t shard_plan_world_max(void) { return 1024; }

px_code shard_plan_make(shard_plan *p, px_alloc *a, const shard_plan_model *model, const shard_deploy *d, px_err *e)
{
    px_code rc;

    *p = (shard_plan){ .a = a, .model = *model, .d = *d };
    if (!d->hosts || d->hosts > d->ranks) { rc = px_fail(e, PX_ERANGE, "hosts", "%u hosts for %u ranks; 1 to %u can be", d->hosts, d->ranks, d->ranks); goto fail; }
    if (d->headroom_percent > 90) { rc = px_fail(e, PX_ERANGE, "headroom", "%u per cent is more than 90", d->headroom_percent); goto fail; }
    if (!d->page || !d->kv_tokens) { rc = px_fail(e, PX_ERANGE, d->page ? "kv.tokens" : "kv.block", "0 is no size"); goto fail; }
    if (!d->threads) { rc = px_fail(e, PX_ERANGE, "threads", "0 threads"); goto fail; }
    if ((rc = shard_split_init(&p->split, a, model->m, model->stored && d->backend == SHARD_ON_CPU ? model->stored : model->file,
                               d->ranks, d->ffn, d->vocab, e)))
        goto fail;
    if (!(p->rank = px_new(a, shard_plan_rank, d->ranks))) { rc = px_fail(e, PX_ENOMEM, "ranks", "no memory for %u ranks", d->ranks); goto fail; }
    p->ranks_per_host = (d->ranks + d->hosts - 1) / d->hosts;
    if ((rc = shard_source_bytes(model->m, model->source ? model->source : model->file, &p->source_bytes, e)) || (rc = choose_carving(p, e))) goto fail;
    for (uint32_t r = 0; r < d->ranks; r++) {
        if ((rc = one_rank(p, r, e))) goto fail;
        p->stored_bytes += p->rank[r].stored.stored;
        p->mapped_bytes += p->rank[r].stored.mapped;
    }
    if ((rc = contexts(p, e)) || (rc = hosts(p, e))) goto fail;
    verdict(p);
    return PX_OK;

fail:
    shard_plan_deinit(p);
    return rc;
}

void shard_plan_deinit(shard_plan *p)
{
    if (p->rank) px_del(p->a, p->rank, p->d.ranks);
    p->rank = NULL;
    shard_split_deinit(&p->split);
}
