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
    comm *c;

    *out = NULL;
    if (args->timeout_us < 0) return px_fail(e, PX_EINVAL, "timeout_us", "%lld is negative", (long long)args->timeout_us);
    if (!(c = px_new(a, comm, 1))) return px_fail(e, PX_ENOMEM, "comm", "%zu bytes", sizeof *c);
    *c = (comm){ .table = t, .a = a, .kind = args->host->kind, .rank = args->host->rank, .world = args->host->world,
                 .partial_bytes = args->partial_bytes, .gather_bytes = args->host->gather_bytes, .last_which = -1,
                 .dev = { .on = args->device, .host = args->host, .each = buffer_bytes(args->partial_bytes),
                          .timeout_us = args->timeout_us ? args->timeout_us : COMM_DEFAULT_TIMEOUT_US } };
    c->any_turn = c->world == 1;
    c->dev.apart = c->world > 1;
    *out = c;
    return PX_OK;
}

static void see(comm *c)
{
    for (unsigned i = 0; i < 2; i++) c->dev.view[i][0] = c->dev.apart ? c->dev.sum : c->partial[i];
}

px_code comm_device_take(comm *c, px_err *e)
{
    void *place[3] = { NULL };
    px_code rc;

    for (unsigned i = 0; i < (c->dev.apart ? 3 : 2); i++) {
        if ((rc = c->dev.on->get(c->dev.on->ctx, c->dev.each, &place[i], e))) return rc;
        if (i < 2) c->partial[i] = place[i];
        else c->dev.sum = place[i];
    }
    see(c);
    return PX_OK;
}

void comm_device_place(comm *c, uint8_t *base)
{
    c->dev.placed = true;
    for (unsigned i = 0; i < 2; i++) c->partial[i] = (float *)(void *)(base + i * c->dev.each);
    c->dev.sum = (float *)(void *)(base + 2 * c->dev.each);
    see(c);
}

void comm_device_close(comm *c)
{
    for (unsigned i = 0; i < 2 && !c->dev.placed; i++)
        if (c->partial[i]) c->dev.on->put(c->dev.on->ctx, c->partial[i], c->dev.each);
    if (c->dev.sum && !c->dev.placed) c->dev.on->put(c->dev.on->ctx, c->dev.sum, c->dev.each);
    c->partial[0] = c->partial[1] = c->dev.sum = NULL;
}

px_code comm_device_agree_all(comm *c, px_code mine, const char *what, px_err *e)
{
    const uint8_t code = (uint8_t)mine;
    uint8_t all[COMM_MAX_WORLD];
    px_code rc;

    if (mine && e && c->dev.on->failed) c->dev.on->failed(c->dev.on->ctx, e);
    rc = comm_gather_pieces_all(c->dev.host, &code, 1, all, mine ? NULL : e);
    if (mine || rc) return mine ? mine : rc;
    for (uint32_t r = 0; r < c->world; r++)
        if (all[r])
            return px_refuse(e, PX_EPEER, "nccl", px_code_name(all[r] < PX_N_CODES ? (px_code)all[r] : PX_EINTERNAL), "",
                             "%s failed on rank %u", what, r);
    return PX_OK;
}

px_code comm_device_gather(comm *c, const void *mine, size_t bytes, void *all, px_err *e)
{
    return comm_gather_all(c->dev.host, mine, bytes, all, e);
}

px_code comm_device_barrier(comm *c, px_err *e) { return comm_barrier_all(c->dev.host, e); }

const char *comm_host_name(const comm *c) { return comm_name(c->dev.host ? c->dev.host : c); }

/* Staged, whatever the table: the host waits. */
bool comm_captures(const comm *c) { return c->dev.on && (c->nccl ? !c->dev.staged : c->world == 1); }

px_code comm_poll(comm *c, px_err *e) { return c->table->poll ? c->table->poll(c, e) : PX_OK; }

void comm_abort(comm *c)
{
    if (c->table->abort) c->table->abort(c);
}
