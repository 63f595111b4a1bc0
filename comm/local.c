/* local.c - ranks that are threads of one process, and a world of one. */
#include "comm/table.h"

#include <pthread.h>
#include <string.h>

typedef struct member {
    uint8_t *block;                      /* this rank's buffers; NULL while the rank is not open */
    float   *partial[2];
    uint8_t *slot[2];
} member;

/* The group owns the buffers and keeps them until its last rank has closed: a rank that gives up must not pull its
 * partial sums away from one that is still adding them. */
struct comm_local_group {
    px_alloc  *a;
    uint32_t   world, n_open;
    pthread_mutex_t lock;                /* open and close; the collectives do not need it */
    size_t     partial_bytes, gather_bytes, block_bytes;    /* as the first rank opened it */
    comm_seat *seat;                     /* (world) owned */
    member     m[COMM_MAX_WORLD];
};

px_code comm_local_group_open(comm_local_group **out, px_alloc *a, uint32_t world, px_err *e)
{
    comm_local_group *g;

    *out = NULL;
    if (!world || world > COMM_MAX_WORLD)
        return px_fail(e, PX_ERANGE, "world", "%u ranks, 1 to %u are possible", world, COMM_MAX_WORLD);
    if (!(g = px_new(a, comm_local_group, 1))) goto fail;
    g->a = a;
    g->world = world;
    if (!(g->seat = px_new(a, comm_seat, world))) goto fail;
    pthread_mutex_init(&g->lock, NULL);  /* with default attributes it cannot fail on Linux */
    *out = g;
    return PX_OK;

fail:
    if (g) px_del(a, g, 1);
    return px_fail(e, PX_ENOMEM, "world", "a group of %u ranks", world);
}

static void drop_blocks(comm_local_group *g)
{
    for (uint32_t r = 0; r < g->world; r++) {
        if (g->m[r].block) g->a->put(g->a, g->m[r].block, g->block_bytes);
        g->m[r] = (member){0};
    }
}

void comm_local_group_close(comm_local_group *g)
{
    if (!g) return;
    px_alloc *a = g->a;
    drop_blocks(g);
    pthread_mutex_destroy(&g->lock);
    px_del(a, g->seat, g->world);
    px_del(a, g, 1);
}

void comm_local_group_break(comm_local_group *g) { comm_meet_break(g->seat, g->world, false); }

static px_code join_group(comm_local_group *g, comm *c, px_err *e)
{
    comm_room_layout l = comm_room_layout_of(c->partial_bytes, c->gather_bytes);
    member *m = &g->m[c->rank];

    if (g->n_open && g->partial_bytes != c->partial_bytes)
        return px_fail(e, PX_EMISMATCH, "partial_bytes", "found %zu, the other ranks have %zu", c->partial_bytes,
                       g->partial_bytes);
    if (g->n_open && g->gather_bytes != c->gather_bytes)
        return px_fail(e, PX_EMISMATCH, "gather_bytes", "found %zu, the other ranks have %zu", c->gather_bytes,
                       g->gather_bytes);
    if (m->block) return px_fail(e, PX_EBUSY, "rank", "rank %u of this group was opened before", c->rank);
    if (!(m->block = comm_block_get(g->a, l.rank_bytes)))
        return px_fail(e, PX_ENOMEM, "partial_bytes", "%zu bytes of buffers", l.rank_bytes);
    comm_room_carve(l, m->block, m->partial, m->slot);
    g->partial_bytes = c->partial_bytes;
    g->gather_bytes = c->gather_bytes;
    g->block_bytes = l.rank_bytes;
    g->n_open++;
    memcpy(c->partial, m->partial, sizeof c->partial);
    memcpy(c->room.slot[c->rank], m->slot, sizeof m->slot);
    c->room.group = g;
    return PX_OK;
}

/* Every rank opened before it came to its first meeting, so the addresses are there and visible. */
void comm_local_learn(comm *c)
{
    const comm_local_group *g = c->room.group;
    for (uint32_t r = 0; r < c->world; r++)
        for (unsigned i = 0; i < 2; i++) {
            c->view[i][r] = g->m[r].partial[i];
            c->room.slot[r][i] = g->m[r].slot[i];
        }
}

static px_code local_open(comm *c, const comm_args *args, px_err *e)
{
    comm_room_layout l = comm_room_layout_of(c->partial_bytes, c->gather_bytes);
    comm_local_group *g = args->group;
    px_code rc;

    if (g) {
        if (g->world != c->world)
            return px_fail(e, PX_EMISMATCH, "world", "found %u, the group has %u", c->world, g->world);
        pthread_mutex_lock(&g->lock);
        rc = join_group(g, c, e);
        pthread_mutex_unlock(&g->lock);
        if (rc) return rc;
        comm_meet_init(&c->room.at, g->seat, c->rank, c->world, false, args->timeout_us);
        return PX_OK;
    }
    if (c->world != 1) return px_fail(e, PX_EINVAL, "group", "%u ranks need a group to meet in", c->world);
    if (!(c->block = comm_block_get(c->a, l.rank_bytes)))
        return px_fail(e, PX_ENOMEM, "partial_bytes", "%zu bytes of buffers", l.rank_bytes);
    c->block_bytes = l.rank_bytes;
    comm_room_carve(l, c->block, c->partial, c->room.slot[0]);
    c->view[0][0] = c->partial[0];
    c->view[1][0] = c->partial[1];
    comm_meet_init(&c->room.at, &c->room.own, 0, 1, false, args->timeout_us);
    return PX_OK;
}

static void local_close(comm *c)
{
    comm_local_group *g = c->room.group;
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    if (!--g->n_open) drop_blocks(g);
    pthread_mutex_unlock(&g->lock);
    c->room.group = NULL;
}

const comm_table comm_local_table = {
    .name = "local", .open = local_open, .close = local_close,
    .reduce = comm_room_reduce, .gather = comm_room_gather, .barrier = comm_room_barrier,
};
