/* mpi.c - ranks anywhere that MPI reaches.  MPI moves bytes and adds nothing: its all-reduce takes another order for
 * another message size.
 *
 * Small messages: everybody gets every partial sum (n = world views).  Large ones: ranks exchange slices, each adds its
 * slice over all ranks in tree order, and the sums are gathered (n = 1): 2 (n-1)/n of the message a rank on the wire
 * instead of n - 1, and the additions are shared out.  Both give the same bits.
 *
 * Views are this rank's own copies, and a partial buffer is free again when the call returns, which is more than
 * comm.h promises.  Waits have no deadline here: the coordinator's step watchdog ends a job that hangs. */
#include "comm/sum.h"
#include "comm/table.h"

#include <limits.h>
#include <mpi.h>
#include <string.h>

#define LINE_FLOATS (COMM_ALIGN / sizeof(float))

/* The largest message that is gathered.  Measured with tests/bench/comm_bench.c on 2 cores, call and addition, p50 in
 * us, gathered | slices: 2 ranks, 128 KiB 20 | 28, 256 KiB 43 | 43, 1 MiB 482 | 308; 3 ranks, 16 KiB 25 | 25,
 * 64 KiB 62 | 48; 4 ranks, 16 KiB 30 | 31, 32 KiB 46 | 37, 64 KiB 159 | 49. */
static size_t small_bytes(uint32_t world) { return world <= 2 ? 256u << 10 : 16u << 10; }

static px_code check_mpi(int rc, const char *what, px_err *e)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int n = 0;
    if (rc == MPI_SUCCESS) return PX_OK;
    if (MPI_Error_string(rc, text, &n) != MPI_SUCCESS) n = 0;
    text[n] = 0;
    return px_fail(e, PX_EPEER, "mpi", "%s: %.200s", what, n ? text : "unknown error");
}

static size_t slice_floats(size_t n_floats, uint32_t world)
{
    return px_align_up((n_floats + world - 1) / world, LINE_FLOATS);
}

/* world slices of whole lines cover a message and up to a line a rank more: partials and sums are so large. */
static size_t padded_bytes(uint32_t world, size_t partial_bytes)
{
    size_t n = partial_bytes / sizeof(float);
    return world * slice_floats(n ? n : 1, world) * sizeof(float);
}

static size_t stride_bytes(uint32_t world, size_t partial_bytes)
{
    size_t small = partial_bytes < small_bytes(world) ? partial_bytes : small_bytes(world);
    return px_align_up(small ? small : 1, COMM_ALIGN);
}

typedef struct layout { size_t partial, stage, sum, all; } layout;

static layout layout_of(uint32_t world, size_t partial_bytes)
{
    layout l = { .partial = padded_bytes(world, partial_bytes) };
    if (world > 1) {
        l.stage = world * stride_bytes(world, partial_bytes);
        if (partial_bytes > small_bytes(world)) {
            l.sum = l.partial;
            if (l.stage < l.partial) l.stage = l.partial;
        }
    }
    l.all = 2 * l.partial + l.stage + l.sum;
    return l;
}

size_t comm_mpi_block_bytes(uint32_t world, size_t partial_bytes) { return layout_of(world, partial_bytes).all; }

/* A world of one needs no MPI at all. */
static px_code check_world(const comm *c, px_err *e)
{
    int up = 0, down = 0, rank = -1, world = -1;
    px_code rc;

    if (c->world == 1) return PX_OK;
    MPI_Initialized(&up);
    MPI_Finalized(&down);
    if (!up || down) return px_fail(e, PX_EINVAL, "mpi", "MPI is not running: comm_mpi_init comes first");
    if ((rc = check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank", e)) ||
        (rc = check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &world), "MPI_Comm_size", e))) return rc;
    if (world < 0 || (uint32_t)world != c->world)
        return px_fail(e, PX_EMISMATCH, "world", "%u ranks asked for, MPI has %d", c->world, world);
    if (rank < 0 || (uint32_t)rank != c->rank)
        return px_fail(e, PX_EMISMATCH, "rank", "rank %u asked for, MPI says %d", c->rank, rank);
    return PX_OK;
}

static px_code mpi_open(comm *c, const comm_args *args, px_err *e)
{
    layout l = layout_of(c->world, c->partial_bytes);
    px_code rc;
    (void)args;

    if ((rc = check_world(c, e))) return rc;
    if (!(c->block = comm_block_get(c->a, l.all)))
        return px_fail(e, PX_ENOMEM, "partial_bytes", "%zu bytes of buffers", l.all);
    c->block_bytes = l.all;
    c->partial[0] = (float *)(void *)c->block;
    c->partial[1] = (float *)(void *)(c->block + l.partial);
    c->mpi.stage = (float *)(void *)(c->block + 2 * l.partial);
    c->mpi.sum = (float *)(void *)(c->block + 2 * l.partial + l.stage);
    c->mpi.stride = stride_bytes(c->world, c->partial_bytes) / sizeof(float);
    c->mpi.sum_view[0] = c->mpi.sum;
    for (unsigned i = 0; i < 2; i++)
        for (uint32_t r = 0; r < c->world; r++)
            c->view[i][r] = c->world == 1 ? c->partial[i] : c->mpi.stage + r * c->mpi.stride;
    return PX_OK;
}

static void mpi_close(comm *c) { (void)c; }              /* `block` is all there is */

static px_code gather_views(comm *c, unsigned which, int n_floats, px_err *e)
{
    int count[COMM_MAX_WORLD], at[COMM_MAX_WORLD];
    for (uint32_t r = 0; r < c->world; r++) {
        count[r] = n_floats;
        at[r] = (int)(r * c->mpi.stride);                /* views keep their addresses for every size */
    }
    return check_mpi(MPI_Allgatherv(c->partial[which], n_floats, MPI_FLOAT, c->mpi.stage, count, at, MPI_FLOAT,
                                    MPI_COMM_WORLD), "MPI_Allgatherv", e);
}

static px_code exchange_slices(comm *c, unsigned which, size_t n_floats, px_err *e)
{
    int each = (int)slice_floats(n_floats, c->world);
    px_code rc;

    if ((rc = check_mpi(MPI_Alltoall(c->partial[which], each, MPI_FLOAT, c->mpi.stage, each, MPI_FLOAT,
                                     MPI_COMM_WORLD), "MPI_Alltoall", e))) return rc;
    float *own = c->mpi.sum + (size_t)each * c->rank;
    comm_sum_tree(own, c->mpi.stage, (size_t)each, c->world, (size_t)each);
    return check_mpi(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, c->mpi.sum, each, MPI_FLOAT, MPI_COMM_WORLD),
                     "MPI_Allgather", e);
}

static px_code mpi_reduce(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e)
{
    size_t n_floats = bytes / sizeof(float);
    px_code rc;

    *views = c->view[which];
    *n = c->world;
    if (c->world == 1) return PX_OK;
    if (bytes <= small_bytes(c->world)) return gather_views(c, which, (int)n_floats, e);
    if ((rc = exchange_slices(c, which, n_floats, e))) return rc;
    *views = c->mpi.sum_view;
    *n = 1;
    return PX_OK;
}

static px_code mpi_gather(comm *c, const void *mine, size_t bytes, void *all, px_err *e)
{
    int n = (int)bytes;
    bool in_place = mine == (const uint8_t *)all + c->rank * bytes;

    if (c->world == 1) {
        if (bytes && !in_place) memmove(all, mine, bytes);
        return PX_OK;
    }
    return check_mpi(MPI_Allgather(in_place ? MPI_IN_PLACE : mine, n, MPI_BYTE, all, n, MPI_BYTE, MPI_COMM_WORLD),
                     "MPI_Allgather", e);
}

static px_code mpi_barrier(comm *c, px_err *e)
{
    return c->world == 1 ? PX_OK : check_mpi(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier", e);
}

const comm_table comm_mpi_table = {
    .name = "mpi", .open = mpi_open, .close = mpi_close,
    .reduce = mpi_reduce, .gather = mpi_gather, .barrier = mpi_barrier,
};
