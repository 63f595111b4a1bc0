/* staged.c - sums over the host: down, over the host transport, up.  The same tree as on CPU, so the same bits. */
#include "comm/sum.h"
#include "comm/table.h"

static px_code reduce(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e)
{
    const comm_device *on = c->dev.on;
    const float *const *seen;
    px_code rc;

    *views = c->dev.view[which];
    *n = 1;
    if (c->world == 1 || !bytes) return PX_OK;
    if ((rc = on->to_host(on->ctx, comm_partial(c->dev.host, which), c->partial[which], bytes, e))
        || (rc = comm_reduce_views_all(c->dev.host, which, bytes, &seen, n, e)))
        return rc;
    if (*n > 1) comm_sum_views(c->dev.host_sum, seen, *n, bytes / sizeof(float));
    rc = on->to_device(on->ctx, c->dev.sum, *n > 1 ? c->dev.host_sum : seen[0], bytes, e);
    *n = 1;
    return rc;
}

const comm_table comm_staged_table = {
    .name = "staged", .close = comm_device_close, .reduce = reduce, .gather = comm_device_gather, .barrier = comm_device_barrier,
};

px_code comm_staged_room(comm *c, px_err *e)
{
    if (c->dev.host_sum) return PX_OK;
    if (!(c->block = comm_block_get(c->a, c->dev.each)))
        return px_fail(e, PX_ENOMEM, "partial_bytes", "%zu bytes for the sum", c->partial_bytes);
    c->block_bytes = c->dev.each;
    c->dev.host_sum = (float *)(void *)c->block;
    return PX_OK;
}

size_t comm_staged_private_bytes(uint32_t world, size_t partial_bytes)
{
    const size_t three = comm_device_bytes(world, partial_bytes);      /* the sum on the host is as long as a buffer there */

    return sizeof(comm) + (world > 1 ? three / 3 : 0);
}

void comm_staged_leave(comm *c)
{
    if (c->block) c->a->put(c->a, c->block, c->block_bytes);
    c->block = NULL;
    c->block_bytes = 0;
    c->dev.host_sum = NULL;
}

px_code comm_open_staged(comm **out, px_alloc *a, const comm_device_args *args, px_err *e)
{
    px_code rc;

    *out = NULL;
    if (args->host->partial_bytes < args->partial_bytes)
        return px_fail(e, PX_ERANGE, "partial_bytes", "%zu bytes, the host transport was opened for %zu", args->partial_bytes,
                       args->host->partial_bytes);
    if ((rc = comm_device_open(out, a, &comm_staged_table, args, e))) return rc;
    if ((rc = comm_device_take(*out, e)) || ((*out)->world > 1 && (rc = comm_staged_room(*out, e)))) {
        comm_close(*out);
        *out = NULL;
    }
    return rc;
}
