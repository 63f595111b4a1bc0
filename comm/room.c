/* room.c - the collectives of ranks that see each other's memory: local and shm. */
#include "comm/table.h"

#include <string.h>

comm_room_layout comm_room_layout_of(size_t partial_bytes, size_t gather_bytes)
{
    comm_room_layout l;
    l.partial = px_align_up(partial_bytes ? partial_bytes : 1, COMM_ALIGN);
    l.slot = px_align_up(gather_bytes ? gather_bytes : 1, COMM_ALIGN);
    l.rank_bytes = 2 * l.partial + 2 * l.slot;
    return l;
}

void comm_room_carve(comm_room_layout l, uint8_t *base, float *partial[2], uint8_t *slot[2])
{
    for (size_t i = 0; i < 2; i++) {
        partial[i] = (float *)(void *)(base + i * l.partial);
        slot[i] = base + 2 * l.partial + i * l.slot;
    }
}

static px_code meet(comm *c, comm_call call, unsigned which, size_t bytes, px_err *e)
{
    px_code rc = comm_meet_all(&c->room.at, call, which, bytes, e);
    if (rc) return rc;
    if (!c->room.met) {
        if (c->room.group) comm_local_learn(c);
        c->room.met = true;
    }
    return PX_OK;
}

/* One meeting is enough: who comes to the next reduce has read these views, so its return lets the buffer go. */
px_code comm_room_reduce(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e)
{
    px_code rc = meet(c, COMM_CALL_REDUCE, which, bytes, e);
    if (rc) return rc;
    *views = c->view[which];
    *n = c->world;
    return PX_OK;
}

/* A slot is written at every second meeting at most.  All have come to the meeting between, and a rank copies what it
 * was given before it comes to another one: nobody still reads what is overwritten. */
px_code comm_room_gather(comm *c, const void *mine, size_t bytes, void *all, px_err *e)
{
    unsigned parity = comm_meet_parity(&c->room.at);
    px_code rc;
    if (bytes) memcpy(c->room.slot[c->rank][parity], mine, bytes);
    if ((rc = meet(c, COMM_CALL_GATHER, 0, bytes, e))) return rc;
    if (bytes)
        for (uint32_t r = 0; r < c->world; r++) memcpy((uint8_t *)all + r * bytes, c->room.slot[r][parity], bytes);
    return PX_OK;
}

px_code comm_room_barrier(comm *c, px_err *e) { return meet(c, COMM_CALL_BARRIER, 0, 0, e); }
