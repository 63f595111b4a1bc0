/* no_mpi.c - instead of mpi.c where there is no MPI to build with (PHALANX_GPU_CHECK): the transport says so. */
#include "comm/table.h"

static px_code refuse(comm *c, const comm_args *args, px_err *e)
{
    (void)c, (void)args;
    return px_fail(e, PX_EUNSUP, "kind", "this is a build without MPI");
}

static void nothing(comm *c) { (void)c; }

size_t comm_mpi_block_bytes(uint32_t world, size_t partial_bytes)
{
    (void)world, (void)partial_bytes;
    return 0;
}

const comm_table comm_mpi_table = { .name = "mpi", .open = refuse, .close = nothing };
