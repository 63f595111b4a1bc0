/* shm.c - ranks of one host around one memory file: header, seats, then each rank's buffers on its own pages. */
#include "comm/table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE 4096u

/* Zero at first: ranks open at the same time, and whoever comes first writes what all must agree on (plus one, so that
 * zero means "nobody yet"). */
typedef struct shm_head {
    _Atomic uint64_t world, partial_bytes, gather_bytes;
    _Atomic uint8_t  taken[COMM_MAX_WORLD];
    comm_seat        seat[COMM_MAX_WORLD];
} shm_head;
#define HEAD_BYTES ((sizeof(shm_head) + PAGE - 1) / PAGE * PAGE)

static size_t rank_bytes(size_t partial_bytes, size_t gather_bytes)
{
    return px_align_up(comm_room_layout_of(partial_bytes, gather_bytes).rank_bytes, PAGE);
}

size_t comm_shm_bytes(uint32_t world, size_t partial_bytes, size_t gather_bytes)
{
    if (!world || world > COMM_MAX_WORLD || partial_bytes > COMM_MAX_MESSAGE || gather_bytes > COMM_MAX_MESSAGE) return 0;
    return HEAD_BYTES + world * rank_bytes(partial_bytes, gather_bytes);
}

static px_code agree(_Atomic uint64_t *there, uint64_t mine, const char *field, px_err *e)
{
    uint64_t seen = 0;
    if (atomic_compare_exchange_strong(there, &seen, mine + 1) || seen == mine + 1) return PX_OK;
    char found[32], expected[32];
    snprintf(found, sizeof found, "%" PRIu64, mine);
    snprintf(expected, sizeof expected, "%" PRIu64, seen - 1);
    return px_mismatch(e, field, found, expected);
}

static px_code check_size(int fd, uint64_t expected_bytes, px_err *e)
{
    struct stat st;
    char found[32], expected[32];
    if (fstat(fd, &st)) return px_fail(e, PX_EINVAL, "shm_fd", "descriptor %d is not open", fd);
    if (st.st_size >= 0 && (uint64_t)st.st_size == expected_bytes) return PX_OK;
    snprintf(found, sizeof found, "%lld bytes", (long long)st.st_size);
    snprintf(expected, sizeof expected, "%" PRIu64 " bytes", expected_bytes);
    return px_mismatch(e, "shm_fd", found, expected);
}

static px_code shm_open_rank(comm *c, const comm_args *args, px_err *e)
{
    size_t bytes = comm_shm_bytes(c->world, c->partial_bytes, c->gather_bytes);
    size_t each = rank_bytes(c->partial_bytes, c->gather_bytes);
    comm_room_layout l = comm_room_layout_of(c->partial_bytes, c->gather_bytes);
    uint8_t none = 0;
    void *map = NULL;
    px_code rc;

    if ((rc = check_size(args->shm_fd, bytes, e))) return rc;
    if ((rc = px_map_fd("shm_fd", args->shm_fd, bytes, true, false, &map, e))) return rc;
    shm_head *h = map;
    if ((rc = agree(&h->world, c->world, "world", e)) ||
        (rc = agree(&h->partial_bytes, c->partial_bytes, "partial_bytes", e)) ||
        (rc = agree(&h->gather_bytes, c->gather_bytes, "gather_bytes", e))) goto fail;
    if (!atomic_compare_exchange_strong(&h->taken[c->rank], &none, 1)) {
        rc = px_fail(e, PX_EBUSY, "rank", "rank %u of this memory file is open already", c->rank);
        goto fail;
    }
    c->room.map = map;
    c->room.map_bytes = bytes;
    for (uint32_t r = 0; r < c->world; r++) {
        float *partial[2];
        comm_room_carve(l, c->room.map + HEAD_BYTES + r * each, partial, c->room.slot[r]);
        for (unsigned i = 0; i < 2; i++) c->view[i][r] = partial[i];
        if (r == c->rank) memcpy(c->partial, partial, sizeof partial);
    }
    /* Own pages are touched first, by who writes them (the memory is then near this rank); the peers' only read. */
    memset(c->room.map + HEAD_BYTES + c->rank * each, 0, each);
    for (size_t at = 0; at < bytes; at += PAGE) (void)*(volatile uint8_t *)(c->room.map + at);
    comm_meet_init(&c->room.at, h->seat, c->rank, c->world, true, args->timeout_us);
    return PX_OK;

fail:
    munmap(map, bytes);
    return rc;
}

static void shm_close_rank(comm *c)
{
    if (!c->room.map) return;
    atomic_store(&((shm_head *)(void *)c->room.map)->taken[c->rank], 0);
    munmap(c->room.map, c->room.map_bytes);
    c->room.map = NULL;
    c->room.map_bytes = 0;
}

const comm_table comm_shm_table = {
    .name = "shm", .open = shm_open_rank, .close = shm_close_rank,
    .reduce = comm_room_reduce, .gather = comm_room_gather, .barrier = comm_room_barrier,
};
