/* executor.c - carve the arenas that the plan drew, then run step after step in them. */
#include "comm/device.h"
#include "shard/run/engine.h"

#include <stdio.h>
#include <string.h>

/* ---- open ---- */

kern_rope shard_rope_of(const shard_arch *m)
{
    return (kern_rope){ .theta = m->rope_theta, .factor = m->rope_factor, .low_freq = m->rope_low_freq,
                        .high_freq = m->rope_high_freq, .n_ctx_orig = m->rope_ctx_orig, .kind = m->rope_kind,
                        .divisors = m->n_rope_divisors ? m->rope_divisor : NULL };
}

static px_code fill_rope(shard_executor *x, px_err *e)
{
    const shard_arch *m = &x->manifest->arch;
    const size_t n = (size_t)x->plan.n_ctx * (m->head_dim / 2), half = x->plan.rope_tables / 2;
    const kern_rope r = shard_rope_of(m);
    px_code rc = PX_OK;
    float *t;

    if ((rc = x->ops->alloc(x->dev, x->plan.rope_tables, &x->rope, e))) return rc;
    if (!(t = px_new(&x->a.a, float, 2 * n))) return px_fail(e, PX_ENOMEM, "rope", "%zu bytes", 2 * n * sizeof *t);
    kern_rope_tables(&r, m->head_dim, x->plan.n_ctx, t, t + n);
    x->f.cos = kern_buf_at(x->rope, 0, half);
    x->f.sin = kern_buf_at(x->rope, half, half);
    if (!(rc = x->ops->upload(x->dev, x->f.cos, t, n * sizeof *t, e)))
        rc = x->ops->upload(x->dev, x->f.sin, t + n, n * sizeof *t, e);
    px_del(&x->a.a, t, 2 * n);
    return rc;
}

static kern_buf at(const shard_executor *x, shard_span s) { return kern_buf_at(x->arena, s.at, s.bytes); }
static kern_buf at_step(const shard_executor *x, shard_span s) { return kern_buf_at(x->step, s.at, s.bytes); }
static void *host_at(const shard_executor *x, shard_span s) { return x->host + s.at; }

static px_code carve_device(shard_executor *x, px_err *e)
{
    const shard_layout *y = &x->plan.activations;
    const shard_step_layout *i = &y->image;
    const shard_arch *m = &x->manifest->arch;
    const shard_cut *c = &x->manifest->split.cut[x->rank];
    const uint32_t heads = c->q_head.end - c->q_head.begin;
    shard_forward *f = &x->f;
    px_code rc;

    if ((rc = x->ops->alloc(x->dev, y->bytes, &x->arena, e))) return rc;
    x->step = at(x, y->step);
    x->block_table = f->block_table = at(x, y->block_table);
    f->residual = at(x, y->residual);
    f->normed = at(x, y->normed);
    f->act = at(x, y->act);
    f->q = at(x, y->q);
    f->k = at(x, y->k);
    f->v = at(x, y->v);
    f->attn = at(x, y->attn);
    f->gate = at(x, y->gate);
    f->up = at(x, y->up);
    f->head_in = at(x, y->head_in);
    f->logits = at(x, y->logits);
    f->cand = at(x, y->cand);
    f->workspace = at(x, y->workspace);
    f->head_map = at(x, y->head_map);
    f->n_rows = at_step(x, i->n_rows);
    f->n_head_rows = at_step(x, i->n_head_rows);
    f->id = at_step(x, i->id);
    f->pos = at_step(x, i->pos);
    f->slot = at_step(x, i->slot);
    f->flags = at_step(x, i->flags);
    f->head_row = at_step(x, i->head_row);
    f->head_flags = at_step(x, i->head_flags);
    f->param = at_step(x, i->param);

    for (uint32_t h = 0; h < heads; h++) {
        const uint32_t kv = shard_split_kv_of(m, c, c->q_head.begin + h);
        if ((rc = x->ops->upload(x->dev, kern_buf_at(f->head_map, h * sizeof kv, sizeof kv), &kv, sizeof kv, e)))
            return rc;
    }
    return PX_OK;
}

static void carve_host(shard_executor *x, const shard_demand *d, uint32_t n_blocks)
{
    const shard_host_layout *h = &x->plan.host;

    x->image = host_at(x, h->step);
    x->mine = host_at(x, h->mine);
    x->all = host_at(x, h->all);
    x->all_row = host_at(x, h->all_row);
    x->order[0] = host_at(x, h->order[0]);
    x->order[1] = host_at(x, h->order[1]);
    x->entry = host_at(x, h->entries);
    x->row = host_at(x, h->rows);
    x->top = host_at(x, h->tops);
    x->slots = (shard_slots){ .slot = host_at(x, h->slots), .shadow = host_at(x, h->shadow),
                              .table = host_at(x, h->block_table), .n = d->max_sequences,
                              .stride = x->plan.activations.table_stride, .block = d->kv_block, .n_blocks = n_blocks,
                              .n_ctx = x->plan.n_ctx, .n_vocab = x->manifest->arch.n_vocab,
                              .token_budget = d->token_budget, .max_tops = h->max_tops };
}

static px_code wire_forward(shard_executor *x, const shard_executor_args *args, px_err *e)
{
    shard_forward *f = &x->f;
    px_code rc;

    f->ops = x->ops;
    f->dev = x->dev;
    f->comm = args->comm;
    f->arch = &x->manifest->arch;
    f->cut = &x->manifest->split.cut[x->rank];
    f->w = &x->weights;
    f->kv = x->kv.kv;
    f->table_stride = x->plan.activations.table_stride;
    f->max_rows = args->demand->token_budget;
    f->max_head_rows = args->demand->max_sequences;
    for (unsigned i = 0; i < 2; i++)
        if ((rc = x->ops->wrap(x->dev, comm_partial(args->comm, i), x->plan.partial_bytes, &f->partial[i], e))) return rc;
    return PX_OK;
}

/* What must hold before anything is carved; fills the plan. */
static px_code check_args(const shard_executor_args *args, shard_rank_bytes *plan, px_err *e)
{
    static const char *const name[] = { [COMM_LOCAL] = "local", [COMM_SHM] = "shm", [COMM_MPI] = "mpi" };
    const shard_manifest *m = args->manifest;
    int transport = COMM_LOCAL;
    px_code rc;

    if (m->world > COMM_MAX_WORLD) return px_fail(e, PX_ERANGE, "ranks", "%u, at most %u", m->world, COMM_MAX_WORLD);
    if (args->rank >= m->world) return px_fail(e, PX_ERANGE, "rank", "%u of %u ranks", args->rank, m->world);
    if (m->n_eos > sizeof m->eos / sizeof *m->eos || m->n_eos >= m->arch.n_vocab)
        return px_fail(e, PX_ERANGE, "eos", "%u end ids in a vocabulary of %u", m->n_eos, m->arch.n_vocab);
    if ((rc = shard_arch_check_served(&m->arch, e))) return rc;
    for (int i = COMM_LOCAL; i <= COMM_MPI; i++)
        if (!strcmp(comm_host_name(args->comm), name[i])) transport = i;
    return shard_rank_bytes_of(&m->arch, &m->types, &m->split, args->rank, args->demand, transport, plan, e);
}

px_code shard_executor_open(shard_executor **out, px_alloc *a, const shard_executor_args *args, px_err *e)
{
    shard_counter counter;
    uint64_t before;
    const shard_manifest *m = args->manifest;
    shard_rank_bytes plan;
    shard_executor *x = NULL;
    uint8_t *host;
    px_code rc;

    *out = NULL;
    if ((rc = check_args(args, &plan, e))) return rc;
    shard_counter_init(&counter, a);
    if (!(host = counter.a.get(&counter.a, plan.host.bytes, 64)))
        return px_fail(e, PX_ENOMEM, "host", "%llu bytes for the host arena", (unsigned long long)plan.host.bytes);
    memset(host, 0, plan.host.bytes);                   /* populated before ready: law 2 */
    x = (shard_executor *)(void *)host;
    *x = (shard_executor){ .a = counter, .host = host, .plan = plan, .ops = args->ops, .manifest = m, .rank = args->rank,
                           .world = m->world, .check_samples = args->check_samples, .file = args->file, .threads = args->demand->threads, .arenas = counter.live,
                           .dev = args->dev, .own_dev = !args->dev,
                           .graphs = args->ops->own_memory && comm_captures(args->comm), .fp8_activations = args->demand->fp8_activations };
    for (uint32_t k = 0; k < m->world; k++) x->n_slice[k] = shard_vocab_valid(&m->arch, &m->split.cut[k]);
    carve_host(x, args->demand, args->n_blocks);

    if (!x->dev && (rc = x->ops->open(&x->dev, &x->a.a, &(kern_open_args){ .threads = args->demand->threads }, e))) goto fail;
    if ((rc = shard_weights_map(&x->weights, x->ops, x->dev, m, args->file, x->rank, plan.weights.mapped, &args->progress,
                                host_at(x, plan.host.layers), e)))
        goto fail;
    if ((rc = shard_kv_init(&x->kv, x->ops, x->dev, &m->arch, &m->split.cut[x->rank], args->demand, &plan,
                            args->n_blocks, args->kv_memory, args->kv_bytes, e)))
        goto fail;
    before = x->a.live;
    if ((rc = carve_device(x, e)) || (rc = fill_rope(x, e))) goto fail;
    x->arenas += x->a.live - before;
    if ((rc = wire_forward(x, args, e))) goto fail;
    *out = x;
    return PX_OK;

fail:
    shard_executor_close(x);
    return rc;
}

void shard_executor_close(shard_executor *x)
{
    if (!x) return;
    if (x->dev) {
        shard_graph_drop(x);
        shard_kv_deinit(&x->kv, x->ops, x->dev);
        if (x->rope.h) x->ops->free(x->dev, &x->rope);
        if (x->arena.h) x->ops->free(x->dev, &x->arena);
        shard_weights_unmap(&x->weights, x->ops, x->dev);
        if (x->own_dev) x->ops->close(x->dev);
    }
    px_alloc *under = x->a.under;                       /* the counter itself lies in what is put */
    under->put(under, x->host, x->plan.host.bytes);
}

const shard_rank_bytes *shard_executor_plan(const shard_executor *x) { return &x->plan; }
shard_executor_held shard_executor_holds(const shard_executor *x)
{
    return (shard_executor_held){ .weights = x->weights.bytes, .kv = x->kv.kv.pool.bytes, .arenas = x->arenas };
}

/* ---- a step ---- */

px_code shard_executor_step_all(shard_executor *x, const shard_step *in, shard_result *out, px_err *e)
{
    shard_step_needs needs;
    shard_forward_shape shape;
    px_code rc;

    *out = (shard_result){ .step = in->number };
    if ((rc = shard_slots_check(&x->slots, in, &needs, e))) return rc;
    shard_slots_apply(&x->slots, in);
    if (in->n_entries == 0) return PX_OK;
    if ((rc = shard_compose(x, in, &needs, &shape, e)) || (rc = shard_graph_forward_all(x, &shape, e))
        || (rc = shard_answer_all(x, in, &shape, out, e)))
        return rc;
    for (uint32_t i = 0; i < in->n_entries; i++) {
        const shard_entry *n = &in->entry[i];
        shard_slot *s = &x->slots.slot[n->slot];

        s->n_tokens += n->n;
        s->last = n->sample ? out->entry[i].row[0].id : SHARD_NO_ID;
        s->has_last = s->last != SHARD_NO_ID;
    }
    return comm_sequence_step_all(x->f.comm, e);
}
