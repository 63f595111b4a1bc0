#include "shard/run/kv.h"

px_code shard_kv_init(shard_kv *p, const kern_ops *ops, kern_dev *dev, const shard_arch *m, const shard_cut *c,
                      const shard_demand *d, const shard_rank_bytes *plan, uint32_t n_blocks, void *memory,
                      size_t bytes, px_err *e)
{
    size_t need;
    px_code rc;

    *p = (shard_kv){ .kv = { .dtype = d->kv_dtype, .n_layer = m->n_layer, .n_blocks = n_blocks, .block = d->kv_block,
                             .n_kv_head = c->kv_head.end - c->kv_head.begin, .head_dim = m->head_dim } };
    if (n_blocks == 0 || n_blocks > plan->n_blocks)
        return px_fail(e, PX_ERANGE, "kv.blocks", "%u blocks agreed, the plan has %u", n_blocks, plan->n_blocks);
    need = (size_t)n_blocks * plan->kv_block_bytes;          /* at most plan->kv_pool, which was checked */
    if (memory) {
        if (bytes < need)
            return px_fail(e, PX_ERANGE, "kv.memory", "%zu bytes, the pool needs %zu", bytes, need);
        return ops->wrap(dev, memory, need, &p->kv.pool, e);
    }
    if ((rc = ops->alloc(dev, need, &p->kv.pool, e))) return rc;
    p->own = true;
    return PX_OK;
}

void shard_kv_deinit(shard_kv *p, const kern_ops *ops, kern_dev *dev)
{
    if (p->own) ops->free(dev, &p->kv.pool);
    *p = (shard_kv){0};
}
