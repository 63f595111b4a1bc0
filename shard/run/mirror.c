#include "shard/run/mirror.h"

px_code shard_mirror_open(shard_mirror *m, const shard_executor *of, uint32_t n, px_err *e)
{
    const kern_kv_dtype kv = of->kv.kv.dtype == KERN_KV_F32 ? KERN_KV_F32 : KERN_KV_F16;
    const shard_demand demand = { .kv_dtype = kv, .kv_tokens = SHARD_MIRROR_TOKENS, .kv_block = of->kv.kv.block,
                                  .max_sequences = 1, .token_budget = n, .threads = of->threads };
    const shard_manifest *k = of->manifest;
    px_alloc *a = of->a.under;
    shard_executor_args args = { .manifest = k, .file = of->file, .rank = of->rank, .demand = &demand };
    shard_rank_bytes plan;
    px_code rc;

    *m = (shard_mirror){0};
    if ((rc = kern_cpu_ops(KERN_PATH_AUTO, &args.ops, e)) ||
        (rc = shard_rank_bytes_of(&k->arch, &k->types, &k->split, of->rank, &demand, COMM_LOCAL, &plan, e)) ||
        (rc = comm_open(&m->comm, a, &(comm_args){ .kind = COMM_LOCAL, .world = 1, .partial_bytes = plan.partial_bytes }, e)))
        return rc;
    args.comm = m->comm;
    args.n_blocks = plan.n_blocks;
    if ((rc = shard_executor_open(&m->x, a, &args, e))) shard_mirror_close(m);
    return rc;
}

void shard_mirror_close(shard_mirror *m)
{
    shard_executor_close(m->x);
    comm_close(m->comm);
    *m = (shard_mirror){0};
}

px_code shard_mirror_follow(shard_mirror *m, const shard_step *in, px_err *e)
{
    shard_forward_shape shape;
    shard_step_needs needs;
    px_code rc;

    if ((rc = shard_slots_check(&m->x->slots, in, &needs, e))) return rc;
    shard_slots_apply(&m->x->slots, in);
    if (!in->n_entries) return PX_OK;
    if ((rc = shard_compose(m->x, in, &needs, &shape, e))) return rc;
    for (uint32_t i = 0; i < in->n_entries; i++) m->x->slots.slot[in->entry[i].slot].n_tokens += in->entry[i].n;
    return PX_OK;
}
