/* open.c - which transport, and every check that does not depend on it. */
#include "comm/table.h"

#include <limits.h>
#include <string.h>

static const comm_table *const tables[] = {
    [COMM_LOCAL] = &comm_local_table, [COMM_SHM] = &comm_shm_table, [COMM_MPI] = &comm_mpi_table,
};
#define N_KINDS (sizeof tables / sizeof *tables)

uint8_t *comm_block_get(px_alloc *a, size_t bytes)
{
    uint8_t *p = a->get(a, bytes, COMM_ALIGN);
    if (p) memset(p, 0, bytes);           /* written, not only promised to be zero: no page fault is left for a step */
    return p;
}

/* MPI counts in int. */
static size_t largest_message(comm_kind kind) { return kind == COMM_MPI ? INT_MAX : COMM_MAX_MESSAGE; }

static size_t block_bytes(comm_kind kind, uint32_t world, size_t partial_bytes, size_t gather_bytes)
{
    switch (kind) {
    case COMM_LOCAL: return comm_room_layout_of(partial_bytes, gather_bytes).rank_bytes;
    case COMM_MPI:   return comm_mpi_block_bytes(world, partial_bytes);
    default:         return 0;
    }
}

size_t comm_private_bytes(comm_kind kind, uint32_t world, size_t partial_bytes, size_t gather_bytes)
{
    if ((unsigned)kind >= N_KINDS || !world || world > COMM_MAX_WORLD || partial_bytes > largest_message(kind) ||
        gather_bytes > largest_message(kind)) return 0;
    return sizeof(comm) + block_bytes(kind, world, partial_bytes, gather_bytes);
}

static px_code check(const comm_args *args, px_err *e)
{
    if ((unsigned)args->kind >= N_KINDS)
        return px_fail(e, PX_EINVAL, "kind", "%d is no transport", (int)args->kind);
    size_t most = largest_message(args->kind);
    if (!args->world || args->world > COMM_MAX_WORLD)
        return px_fail(e, PX_ERANGE, "world", "%u ranks, 1 to %u are possible", args->world, COMM_MAX_WORLD);
    if (args->rank >= args->world)
        return px_fail(e, PX_ERANGE, "rank", "rank %u of %u", args->rank, args->world);
    if (args->partial_bytes > most)
        return px_fail(e, PX_ERANGE, "partial_bytes", "%zu bytes, %zu are possible", args->partial_bytes, most);
    if (args->gather_bytes > most)
        return px_fail(e, PX_ERANGE, "gather_bytes", "%zu bytes, %zu are possible", args->gather_bytes, most);
    if (args->timeout_us < 0)
        return px_fail(e, PX_EINVAL, "timeout_us", "%lld is negative", (long long)args->timeout_us);
    return PX_OK;
}

px_code comm_open(comm **out, px_alloc *a, const comm_args *args, px_err *e)
{
    comm_args with = *args;
    px_code rc;
    comm *c;

    *out = NULL;
    if ((rc = check(args, e))) return rc;
    if (!with.timeout_us) with.timeout_us = COMM_DEFAULT_TIMEOUT_US;
    if (!(c = px_new(a, comm, 1))) return px_fail(e, PX_ENOMEM, "comm", "%zu bytes", sizeof *c);
    c->table = tables[args->kind];
    c->a = a;
    c->kind = args->kind;
    c->rank = args->rank;
    c->world = args->world;
    c->partial_bytes = args->partial_bytes;
    c->gather_bytes = args->gather_bytes;
    c->last_which = -1;
    if ((rc = c->table->open(c, &with, e))) goto fail;
    *out = c;
    return PX_OK;

fail:
    comm_close(c);
    return rc;
}

void comm_close(comm *c)
{
    if (!c) return;
    px_alloc *a = c->a;
    c->table->close(c);
    comm_sequence_close(c);
    if (c->block) a->put(a, c->block, c->block_bytes);
    px_del(a, c, 1);
}

const char *comm_name(const comm *c) { return c->table->name; }
size_t comm_shared_held(const comm *c) { return c->room.map_bytes; }

float *comm_partial(comm *c, unsigned which) { return which < 2 ? c->partial[which] : NULL; }

/* A rank that failed has stopped counting with the others; what it would read next belongs to no call. */
static px_code still_in_step(const comm *c, px_err *e)
{
    return c->failed ? px_fail(e, PX_EPEER, "comm", "an earlier call of rank %u failed", c->rank) : PX_OK;
}

static px_code note(comm *c, px_code rc)
{
    if (rc) c->failed = true;
    return rc;
}

px_code comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n_views,
                              px_err *e)
{
    px_code rc;
    if ((rc = still_in_step(c, e))) return rc;
    if (which > 1) return px_fail(e, PX_EINVAL, "which", "%u, the partial buffers are 0 and 1", which);
    if ((int)which == c->last_which && !c->any_turn)
        return px_fail(e, PX_EINVAL, "which", "buffer %u twice in a row: peers may still read it", which);
    if (bytes % sizeof(float)) return px_fail(e, PX_EINVAL, "bytes", "%zu bytes are no whole floats", bytes);
    if (bytes > c->partial_bytes)
        return px_fail(e, PX_ERANGE, "bytes", "%zu bytes, opened for %zu", bytes, c->partial_bytes);
    if (c->sequence) comm_sequence_note(c, COMM_OP_REDUCE, bytes / sizeof(float), COMM_FLOATS);
    if ((rc = note(c, c->table->reduce(c, which, bytes, views, n_views, e)))) return rc;
    c->last_which = (int)which;
    return PX_OK;
}

px_code comm_gather_all(comm *c, const void *mine, size_t bytes, void *all, px_err *e)
{
    px_code rc;
    if ((rc = still_in_step(c, e))) return rc;
    if (bytes > c->gather_bytes)
        return px_fail(e, PX_ERANGE, "bytes", "%zu bytes, opened for %zu", bytes, c->gather_bytes);
    if (c->sequence) comm_sequence_note(c, COMM_OP_GATHER, bytes, COMM_BYTES);
    return note(c, c->table->gather(c, mine, bytes, all, e));
}

#define PIECE 64u

px_code comm_gather_pieces_all(comm *c, const void *mine, size_t bytes, void *all, px_err *e)
{
    uint8_t part[COMM_MAX_WORLD * PIECE];
    const size_t most = c->gather_bytes < PIECE ? c->gather_bytes : PIECE;
    px_code rc = still_in_step(c, e);

    if (rc) return rc;
    if (!most) return px_fail(e, PX_ERANGE, "gather_bytes", "opened for nothing to be gathered");
    for (size_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < most ? bytes - at : most;
        if ((rc = note(c, c->table->gather(c, (const uint8_t *)mine + at, n, part, e)))) return rc;
        for (uint32_t r = 0; r < c->world; r++) memcpy((uint8_t *)all + r * bytes + at, part + r * n, n);
    }
    return PX_OK;
}

px_code comm_barrier_all(comm *c, px_err *e)
{
    px_code rc = still_in_step(c, e);
    if (rc) return rc;
    if (c->sequence) comm_sequence_note(c, COMM_OP_BARRIER, 0, COMM_BYTES);
    return note(c, c->table->barrier(c, e));
}
