/* launcher.c - this process as the launcher and MPI see it. */
#include "comm/comm.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

/* An environment variable that is a number and nothing else. */
static px_code read_number(const char *name, uint32_t *out, px_err *e)
{
    const char *s = getenv(name);
    uint32_t n = 0;

    if (!s) return PX_ENOTFOUND;
    if (!*s) return px_fail(e, PX_EINVAL, name, "it is empty");
    for (const char *p = s; *p; p++) {
        if (*p < '0' || *p > '9' || n > (UINT32_MAX - 9) / 10)
            return px_fail(e, PX_EINVAL, name, "\"%.32s\" is no rank number", s);
        n = n * 10 + (uint32_t)(*p - '0');
    }
    *out = n;
    return PX_OK;
}

px_code comm_launcher_rank(uint32_t *rank, uint32_t *world, px_err *e)
{
    uint32_t r = 0, w = 0;
    px_code has_rank = read_number("OMPI_COMM_WORLD_RANK", &r, e);
    if (has_rank == PX_ENOTFOUND) has_rank = read_number("PMIX_RANK", &r, e);
    if (has_rank == PX_EINVAL) return has_rank;
    px_code has_world = read_number("OMPI_COMM_WORLD_SIZE", &w, e);
    if (has_world == PX_EINVAL) return has_world;

    if (has_rank && has_world)
        return px_fail(e, PX_ENOTFOUND, "OMPI_COMM_WORLD_RANK", "this process was not started by an MPI launcher");
    if (has_rank) return px_fail(e, PX_EINVAL, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE is set and this is not");
    if (has_world) return px_fail(e, PX_EINVAL, "OMPI_COMM_WORLD_SIZE", "a rank is set and this is not");
    if (!w || w > COMM_MAX_WORLD)
        return px_fail(e, PX_EINVAL, "OMPI_COMM_WORLD_SIZE", "%u ranks, 1 to %u are possible", w, COMM_MAX_WORLD);
    if (r >= w) return px_fail(e, PX_EINVAL, "OMPI_COMM_WORLD_RANK", "rank %u of %u", r, w);
    *rank = r;
    *world = w;
    return PX_OK;
}

uint32_t comm_launcher_local_rank(void)
{
    uint32_t n = 0;

    if (read_number("OMPI_COMM_WORLD_LOCAL_RANK", &n, NULL) && read_number("PMIX_LOCAL_RANK", &n, NULL)) return 0;
    return n;
}

static px_code check_mpi(int rc, const char *what, px_err *e)
{
    return rc == MPI_SUCCESS ? PX_OK : px_fail(e, PX_EPEER, "mpi", "%s failed with code %d", what, rc);
}

static px_code same(uint32_t found, uint32_t expected, const char *field, px_err *e)
{
    char f[32], x[32];
    if (found == expected) return PX_OK;
    snprintf(f, sizeof f, "%u from MPI", found);
    snprintf(x, sizeof x, "%u from the launcher", expected);
    return px_mismatch(e, field, f, x);
}

px_code comm_mpi_init(uint32_t *rank, uint32_t *world, px_err *e)
{
    int up = 0, provided = 0, r = -1, w = -1;
    uint32_t told_rank = 0, told_world = 0;
    px_err none = {0};
    px_code rc;

    MPI_Initialized(&up);
    if (up) return px_fail(e, PX_EINVAL, "mpi", "MPI was initialised before");
    /* What the launcher said is read before MPI can hang or abort on it. */
    px_code told = comm_launcher_rank(&told_rank, &told_world, &none);
    if (told && told != PX_ENOTFOUND) {
        if (e) *e = none;
        return told;
    }
    if ((rc = check_mpi(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread", e)) ||
        (rc = check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", e)) ||
        (rc = check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &r), "MPI_Comm_rank", e)) ||
        (rc = check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &w), "MPI_Comm_size", e))) return rc;
    if (provided < MPI_THREAD_FUNNELED)
        return px_fail(e, PX_EUNSUP, "mpi", "this MPI gives thread level %d, %d is needed", provided,
                       MPI_THREAD_FUNNELED);
    if (w < 1 || (uint32_t)w > COMM_MAX_WORLD || r < 0)
        return px_fail(e, PX_ERANGE, "mpi", "%d ranks, 1 to %u are possible", w, COMM_MAX_WORLD);
    if (!told && ((rc = same((uint32_t)w, told_world, "mpi.world", e)) ||
                  (rc = same((uint32_t)r, told_rank, "mpi.rank", e)))) return rc;
    *rank = (uint32_t)r;
    *world = (uint32_t)w;
    return PX_OK;
}

void comm_mpi_version(char *out, size_t cap)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING + 1] = "";
    int n = 0;

    if (MPI_Get_library_version(text, &n) != MPI_SUCCESS) n = 0;
    text[n] = 0;
    /* What follows the first comma is who built it and when. */
    for (char *p = text; *p; p++)
        if (*p == ',' || *p == '\n') *p = 0;
    snprintf(out, cap, "%.*s", (int)cap - 1, text);
}

static bool running(void)
{
    int up = 0, down = 0;
    MPI_Initialized(&up);
    MPI_Finalized(&down);
    return up && !down;
}

void comm_mpi_finalize(void)
{
    if (running()) MPI_Finalize();
}

void comm_mpi_abort(int code)
{
    if (running()) MPI_Abort(MPI_COMM_WORLD, code);
}
