#include "shard/run/mirror.h"

#include "kernels/kv_round.h"

/* ---- caches that the CPU has not: fp32 elements, of the values that the device's cache keeps ---- */

/* As kernels.h lays a block out. */
static void round_row(const kern_rope_append_args *a, kern_kv_dtype t, uint32_t row)
{
    const kern_kv *kv = &a->kv;
    const uint32_t pos = ((const uint32_t *)a->pos.h)[row], in = pos % kv->block, h = a->head_dim;
    const uint32_t *table = (const uint32_t *)a->block_table.h + (size_t)((const uint32_t *)a->row_slot.h)[row] * a->table_stride;
    const size_t half = (size_t)kv->block * h, head = ((size_t)a->layer * kv->n_blocks + table[pos / kv->block]) * kv->n_kv_head;

    for (uint32_t k = 0; k < a->n_kv_head; k++) {
        float *at = (float *)kv->pool.h + (head + k) * 2 * half;
        kern_kv_round(t, at + (size_t)(in / 16) * 16 * h + in % 16, h, 16);
        kern_kv_round(t, at + half + (size_t)in * h, h, 1);
    }
}

static px_code append_as(kern_kv_dtype t, kern_dev *d, const kern_rope_append_args *a, px_err *e)
{
    const kern_ops *cpu;
    px_code rc;

    if ((rc = kern_cpu_ops(KERN_PATH_AUTO, &cpu, e)) || (rc = cpu->rope_append(d, a, e))) return rc;
    for (uint32_t row = 0; row < *(const uint32_t *)a->rows.live.h; row++) round_row(a, t, row);
    return PX_OK;
}

static px_code append_bf16(kern_dev *d, const kern_rope_append_args *a, px_err *e) { return append_as(KERN_KV_BF16, d, a, e); }
static px_code append_int8(kern_dev *d, const kern_rope_append_args *a, px_err *e) { return append_as(KERN_KV_INT8, d, a, e); }
static px_code append_fp8(kern_dev *d, const kern_rope_append_args *a, px_err *e) { return append_as(KERN_KV_FP8, d, a, e); }

static px_code choose_ops(shard_mirror *m, kern_kv_dtype of, kern_kv_dtype *own, px_err *e)
{
    const kern_ops *cpu;
    px_code rc = kern_cpu_ops(KERN_PATH_AUTO, &cpu, e);

    if (rc) return rc;
    m->ops = *cpu;
    *own = KERN_KV_F32;
    switch (of) {
    case KERN_KV_F16:  *own = KERN_KV_F16; break;
    case KERN_KV_BF16: m->ops.rope_append = append_bf16; break;
    case KERN_KV_INT8: m->ops.rope_append = append_int8; break;
    case KERN_KV_FP8:  m->ops.rope_append = append_fp8; break;
    default: break;
    }
    return PX_OK;
}

/* ---- the executor ---- */

px_code shard_mirror_open(shard_mirror *m, const shard_executor *of, uint32_t n, px_err *e)
{
    shard_demand demand = { .kv_tokens = SHARD_MIRROR_TOKENS, .kv_block = of->kv.kv.block,
                                  .max_sequences = 1, .token_budget = n, .threads = of->threads };
    const shard_manifest *k = of->manifest;
    px_alloc *a = of->a.under;
    shard_executor_args args = { .ops = &m->ops, .manifest = k, .file = of->file, .rank = of->rank, .demand = &demand };
    shard_rank_bytes plan;
    px_code rc;

    *m = (shard_mirror){0};
    if ((rc = choose_ops(m, of->kv.kv.dtype, &demand.kv_dtype, e)) ||
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
