/* device.c - what transports between devices share: the buffers there, and the host transport for all that is small. */
#include "comm/table.h"

#define DEVICE_ALIGN 256u

static size_t buffer_bytes(size_t partial_bytes) { return px_align_up(partial_bytes ? partial_bytes : 1, DEVICE_ALIGN); }

size_t comm_device_bytes(uint32_t world, size_t partial_bytes)
{
    if (!world || world > COMM_MAX_WORLD || partial_bytes > COMM_MAX_MESSAGE) return 0;
    return (world > 1 ? 3 : 2) * buffer_bytes(partial_bytes);
}

px_code comm_device_open(comm **out, px_alloc *a, const comm_table *t, const comm_device_args *args, px_err *e)
{
    void *place = NULL;
    px_code rc;
    comm *c;

    *out = NULL;
    if (args->host->partial_bytes < args->partial_bytes)
        return px_fail(e, PX_ERANGE, "partial_bytes", "%zu bytes, the host transport was opened for %zu", args->partial_bytes,
                       args->host->partial_bytes);
    if (!(c = px_new(a, comm, 1))) return px_fail(e, PX_ENOMEM, "comm", "%zu bytes", sizeof *c);
    *c = (comm){ .table = t, .a = a, .kind = args->host->kind, .rank = args->host->rank, .world = args->host->world,
                 .partial_bytes = args->partial_bytes, .gather_bytes = args->host->gather_bytes, .last_which = -1,
                 .dev = { .on = args->device, .host = args->host, .each = buffer_bytes(args->partial_bytes) } };
    c->any_turn = c->world == 1;
    for (unsigned i = 0; i < 2; i++) {
        if ((rc = c->dev.on->get(c->dev.on->ctx, c->dev.each, &place, e))) goto fail;
        c->partial[i] = place;
        c->dev.view[i][0] = place;
    }
    if (c->world > 1) {
        if ((rc = c->dev.on->get(c->dev.on->ctx, c->dev.each, &place, e))) goto fail;
        c->dev.sum = place;
        c->dev.view[0][0] = c->dev.view[1][0] = c->dev.sum;
    }
    *out = c;
    return PX_OK;

fail:
    comm_device_close(c);
    px_del(a, c, 1);
    return rc;
}

void comm_device_close(comm *c)
{
    for (unsigned i = 0; i < 2; i++)
        if (c->partial[i]) c->dev.on->put(c->dev.on->ctx, c->partial[i], c->dev.each);
    if (c->dev.sum) c->dev.on->put(c->dev.on->ctx, c->dev.sum, c->dev.each);
    c->partial[0] = c->partial[1] = c->dev.sum = NULL;
}

px_code comm_device_gather(comm *c, const void *mine, size_t bytes, void *all, px_err *e)
{
    return comm_gather_all(c->dev.host, mine, bytes, all, e);
}

px_code comm_device_barrier(comm *c, px_err *e) { return comm_barrier_all(c->dev.host, e); }

const char *comm_host_name(const comm *c) { return comm_name(c->dev.host ? c->dev.host : c); }

bool comm_captures(const comm *c) { return c->table->captures || (c->dev.on && c->world == 1); }

px_code comm_poll(comm *c, px_err *e) { return c->table->poll ? c->table->poll(c, e) : PX_OK; }

void comm_abort(comm *c)
{
    if (c->table->abort) c->table->abort(c);
}
