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

px_code comm_open_staged(comm **out, px_alloc *a, const comm_device_args *args, px_err *e)
{
    px_code rc = comm_device_open(out, a, &comm_staged_table, args, e);

    if (rc || (*out)->world == 1) return rc;
    (*out)->block_bytes = (*out)->dev.each;
    if (((*out)->block = comm_block_get(a, (*out)->dev.each))) {
        (*out)->dev.host_sum = (float *)(void *)(*out)->block;
        return PX_OK;
    }
    (*out)->block_bytes = 0;
    comm_close(*out);
    *out = NULL;
    return px_fail(e, PX_ENOMEM, "partial_bytes", "%zu bytes for the sum", args->partial_bytes);
}
