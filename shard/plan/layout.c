/* layout.c - where every buffer of a rank lies: the arenas, their offsets, and what a rank needs in all. */
#include "comm/device.h"
#include "kernels/cuda/sizes.h"
#include "shard/plan/bytes.h"

#include <stdio.h>

#define MAX_KV_TOKENS    (1u << 30)
#define MAX_SEQUENCES    4096u
#define MAX_TOKEN_BUDGET 65536u
#define MAX_THREADS      1024u

static uint64_t up64(uint64_t n) { return (n + 63) / 64 * 64; }

/* The next buffer of an arena; an empty one takes a line too, so that no two buffers share an address. */
static shard_span next(uint64_t *end, uint64_t bytes)
{
    shard_span s = { *end, up64(bytes ? bytes : 1) };
    *end += s.bytes;
    return s;
}

uint32_t shard_vocab_valid(const shard_arch *m, const shard_cut *c)
{
    uint32_t end = c->vocab.end < m->n_vocab ? c->vocab.end : m->n_vocab;
    return end > c->vocab.begin ? end - c->vocab.begin : 0;
}

static px_code check_demand(const shard_arch *m, const shard_demand *d, px_err *e)
{
    if (d->kv_block != 16 && d->kv_block != 32 && d->kv_block != 64 && d->kv_block != 128)
        return px_fail(e, PX_ERANGE, "kv.block", "%u is not 16, 32, 64 or 128", d->kv_block);
    if (d->kv_tokens == 0 || d->kv_tokens > MAX_KV_TOKENS)
        return px_fail(e, PX_ERANGE, "kv.tokens", "%u is not in 1..%u", d->kv_tokens, MAX_KV_TOKENS);
    if (d->max_sequences == 0 || d->max_sequences > MAX_SEQUENCES)
        return px_fail(e, PX_ERANGE, "max_sequences", "%u is not in 1..%u", d->max_sequences, MAX_SEQUENCES);
    if (d->token_budget == 0 || d->token_budget > MAX_TOKEN_BUDGET)
        return px_fail(e, PX_ERANGE, "token_budget", "%u is not in 1..%u", d->token_budget, MAX_TOKEN_BUDGET);
    if (d->threads == 0 || d->threads > MAX_THREADS)
        return px_fail(e, PX_ERANGE, "threads", "%u is not in 1..%u", d->threads, MAX_THREADS);
    if ((uint32_t)d->kv_dtype >= KERN_N_KV)
        return px_fail(e, PX_ERANGE, "kv.dtype", "%u is no type of the cache", (unsigned)d->kv_dtype);
    /* With these no product below can leave 64 bits. */
    if (m->d_model > 1u << 20 || m->d_ff > 1u << 24 || m->n_vocab > 1u << 24 || m->n_head > 1u << 16
        || m->head_dim > SHARD_MAX_HEAD_DIM || m->n_ctx > 1u << 28 || m->n_layer > 1u << 16)
        return px_fail(e, PX_ERANGE, "model", "a dimension is too large to be laid out");
    return PX_OK;
}

static const shard_role matmul_roles[] = { SHARD_ATTN_Q, SHARD_ATTN_K, SHARD_ATTN_V, SHARD_ATTN_OUT, SHARD_FFN_GATE, SHARD_FFN_UP, SHARD_FFN_DOWN };
#define N_MATMUL_ROLES (sizeof matmul_roles / sizeof *matmul_roles)

static kern_dtype head_type(const shard_arch *m, const shard_types *t) { return shard_type_of(t, m->tied ? SHARD_TOKEN_EMBD : SHARD_OUTPUT, 0); }

px_code shard_check_fp8_activations(const shard_arch *m, const shard_types *t, px_err *e)
{
    char found[64];

    if (head_type(m, t) == KERN_FP8) return PX_OK;
    for (uint32_t l = 0; l < m->n_layer; l++)
        for (size_t i = 0; i < N_MATMUL_ROLES; i++)
            if (shard_type_of(t, matmul_roles[i], l) == KERN_FP8) return PX_OK;
    snprintf(found, sizeof found, "true, and weights of %s", kern_dtype_get(shard_type_of(t, SHARD_FFN_DOWN, 0))->name);
    return px_refuse(e, PX_EINVAL, "fp8_activations", found, "false, or a set made with --format FP8", "no weight of the set is FP8");
}

/* The widest input of a matmul in its format: one buffer serves all, one after the other. */
static uint64_t widest_act(const shard_arch *m, const shard_types *t, const shard_demand *d, uint32_t q_cols,
                           uint32_t ffn_cols)
{
    const shard_role *const role = matmul_roles;
    uint64_t most = kern_act_bytes(d->backend, kern_act_of(head_type(m, t)), d->max_sequences, m->d_model);

    for (uint32_t l = 0; l < m->n_layer; l++)
        for (size_t i = 0; i < N_MATMUL_ROLES; i++) {
            uint32_t cols = role[i] == SHARD_ATTN_OUT ? q_cols : role[i] == SHARD_FFN_DOWN ? ffn_cols : m->d_model;
            uint64_t b = kern_act_bytes(d->backend, kern_act_of(shard_type_of(t, role[i], l)), d->token_budget, cols);
            if (b > most) most = b;
        }
    return most;
}

static void lay_image(shard_step_layout *i, const shard_demand *d, uint64_t *end)
{
    const uint64_t T = d->token_budget, S = d->max_sequences;

    i->n_rows = next(end, 4);
    i->n_head_rows = next(end, 4);
    i->id = next(end, T * 4);
    i->pos = next(end, T * 4);
    i->slot = next(end, T * 4);
    i->flags = next(end, T * 4);
    i->head_row = next(end, S * 4);
    i->head_flags = next(end, S * 4);
    i->param = next(end, S * sizeof(kern_cand_param));
}

kern_shape shard_shape_of(const shard_arch *m, const shard_cut *c, const shard_demand *d, uint32_t n_ctx)
{
    const uint32_t heads = c->q_head.end - c->q_head.begin, kv = c->kv_head.end - c->kv_head.begin;
    const uint32_t ffn = c->ffn.end - c->ffn.begin, vocab = c->vocab.end - c->vocab.begin, q_cols = heads * m->head_dim;
    uint32_t widest = m->d_model > ffn ? m->d_model : ffn;
    uint32_t widest_out = widest > vocab ? widest : vocab;

    if (q_cols > widest) widest = q_cols;
    if (q_cols > widest_out) widest_out = q_cols;
    return (kern_shape){ .rows = d->token_budget > d->max_sequences ? d->token_budget : d->max_sequences, .threads = d->threads,
                         .n_head = heads, .n_kv_head = kv, .head_dim = m->head_dim, .max_cols = widest, .max_out = widest_out, .n_ctx = n_ctx,
                         .fp8_activations = d->fp8_activations };
}

static void lay_device(shard_layout *y, const shard_arch *m, const shard_types *t, const shard_cut *c,
                       const shard_demand *d, uint32_t n_ctx)
{
    const uint64_t T = d->token_budget, S = d->max_sequences, f = sizeof(float);
    const uint32_t heads = c->q_head.end - c->q_head.begin, kv = c->kv_head.end - c->kv_head.begin;
    const uint32_t ffn = c->ffn.end - c->ffn.begin, vocab = c->vocab.end - c->vocab.begin;
    const uint32_t q_cols = heads * m->head_dim;
    const kern_shape shape = shard_shape_of(m, c, d, n_ctx);
    uint64_t image = 0;

    y->residual = next(&y->bytes, T * m->d_model * f);
    y->normed = next(&y->bytes, T * m->d_model * f);
    y->act = next(&y->bytes, widest_act(m, t, d, q_cols, ffn));
    y->q = next(&y->bytes, T * q_cols * f);
    y->k = next(&y->bytes, T * kv * m->head_dim * f);
    y->v = next(&y->bytes, T * kv * m->head_dim * f);
    y->attn = next(&y->bytes, T * q_cols * f);
    y->gate = next(&y->bytes, T * ffn * f);
    y->up = next(&y->bytes, T * ffn * f);
    y->head_in = next(&y->bytes, S * m->d_model * f);
    y->logits = next(&y->bytes, S * vocab * f);
    y->cand = next(&y->bytes, S * (sizeof(kern_cand_head) + KERN_MAX_CANDIDATES * sizeof(kern_cand_entry)));
    y->workspace = next(&y->bytes, kern_workspace_bytes(d->backend, &shape));
    lay_image(&y->image, d, &image);
    y->step = next(&y->bytes, image);
    y->table_stride = (n_ctx + d->kv_block - 1) / d->kv_block;
    y->block_table = next(&y->bytes, S * y->table_stride * 4);
    y->head_map = next(&y->bytes, (uint64_t)heads * 4);
}

static void lay_host(shard_host_layout *h, const shard_arch *m, const shard_layout *y, const shard_demand *d,
                     uint32_t world, uint64_t gather_bytes, uint32_t row_bytes)
{
    const uint64_t S = d->max_sequences;
    uint64_t listed = (uint64_t)world * KERN_MAX_CANDIDATES, tops = S * m->n_vocab;

    if (listed < m->n_vocab) listed = m->n_vocab;
    h->row_bytes = row_bytes;
    h->max_tops = tops < SHARD_MAX_RESULT_TOPS ? (uint32_t)tops : SHARD_MAX_RESULT_TOPS;
    h->executor = next(&h->bytes, SHARD_EXECUTOR_BYTES);
    h->layers = next(&h->bytes, (uint64_t)m->n_layer * SHARD_LAYER_BYTES);
    h->step = next(&h->bytes, y->step.bytes);
    h->block_table = next(&h->bytes, y->block_table.bytes);
    h->mine = next(&h->bytes, gather_bytes);
    h->all = next(&h->bytes, world * gather_bytes);
    h->all_row = next(&h->bytes, (uint64_t)world * row_bytes);
    h->order[0] = next(&h->bytes, listed * sizeof(kern_cand_entry));
    h->order[1] = next(&h->bytes, listed * sizeof(kern_cand_entry));
    h->slots = next(&h->bytes, S * SHARD_SLOT_BYTES);
    h->shadow = next(&h->bytes, S * SHARD_SLOT_BYTES);
    h->entries = next(&h->bytes, S * SHARD_RESULT_BYTES);
    h->rows = next(&h->bytes, S * SHARD_RESULT_BYTES);
    h->tops = next(&h->bytes, (uint64_t)h->max_tops * sizeof(kern_cand_entry));
}

px_code shard_rank_bytes_of(const shard_arch *m, const shard_types *t, const shard_split *s, uint32_t rank,
                            const shard_demand *d, int transport, shard_rank_bytes *out, px_err *e)
{
    const shard_cut *c;
    uint64_t slice = 0, answer, row, gather, pool;
    px_code rc;

    *out = (shard_rank_bytes){ .backend = d->backend };
    if (rank >= s->world) return px_fail(e, PX_ERANGE, "rank", "%u of %u ranks", rank, s->world);
    if ((rc = check_demand(m, d, e))) return rc;
    if ((rc = shard_weight_bytes_of(m, t, s, rank, true, &out->weights, e))) return rc;
    c = &s->cut[rank];

    out->n_blocks = (d->kv_tokens + d->kv_block - 1) / d->kv_block;
    out->kv_block_bytes = kern_kv_block_bytes(d->kv_dtype, m->n_layer, d->kv_block, c->kv_head.end - c->kv_head.begin,
                                              m->head_dim);
    if (__builtin_mul_overflow(out->n_blocks, out->kv_block_bytes, &out->kv_pool))
        return px_fail(e, PX_ERANGE, "kv.tokens", "%u tokens overflow", d->kv_tokens);
    pool = (uint64_t)out->n_blocks * d->kv_block;
    out->n_ctx = pool < m->n_ctx ? (uint32_t)pool : m->n_ctx;
    out->rope_tables = 2 * up64((uint64_t)out->n_ctx * (m->head_dim / 2) * sizeof(float));

    lay_device(&out->activations, m, t, c, d, out->n_ctx);
    /* An answer: flags of all entries and a count, then the records; or one row's slice, the longest of any rank. */
    for (uint32_t r = 0; r < s->world; r++) {
        uint64_t n = s->cut[r].vocab.end - s->cut[r].vocab.begin;
        if (n > slice) slice = n;
    }
    answer = up64(((uint64_t)d->max_sequences + 1) * 4) + out->activations.cand.bytes;
    row = up64(slice * sizeof(float));
    gather = row > answer ? row : answer;
    out->partial_bytes = (size_t)out->activations.residual.bytes;
    out->gather_bytes = (size_t)gather;
    lay_host(&out->host, m, &out->activations, d, s->world, gather, (uint32_t)row);

    out->comm_shared = transport == COMM_SHM ? comm_shm_bytes(s->world, out->partial_bytes, out->gather_bytes) : 0;
    out->comm_private = comm_private_bytes((comm_kind)transport, s->world, out->partial_bytes, out->gather_bytes);
    out->step_buffers = SHARD_STEP_FRAME + SHARD_STEP_SCRATCH + (rank == 0 ? SHARD_STEP_ANSWER : 0);
    out->total = out->host.bytes + out->step_buffers + out->comm_private + (rank == 0 ? out->comm_shared : 0);
    pool = out->weights.mapped + out->kv_pool + out->rope_tables + out->activations.bytes;
    if (d->backend == KERN_ON_CUDA) {
        out->comm_device = comm_device_bytes(s->world, out->partial_bytes);
        out->comm_staging = comm_staged_private_bytes(s->world, out->partial_bytes);
        out->pinned = KERN_CUDA_RING_BYTES + KERN_CUDA_LANDING_BYTES;
        out->device_total = pool + out->comm_device;
        out->total += out->comm_staging + out->pinned;
    } else {
        out->total += pool;
    }
    return PX_OK;
}
