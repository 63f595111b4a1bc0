/* phalanx-rank with one fault: the linker sends some of its calls here (--wrap).  The file phalanx-rank.fault beside the
 * program says "RANK WHAT": stop in hello, map, mpi, carve, warmup or serve; or "sum", a wrong share of the self-test. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/rank/rank.h"

static bool is(const char *what)
{
    static char now[32];
    char path[1200], rank[16];
    const char *me = getenv("OMPI_COMM_WORLD_RANK");
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 8);
    FILE *f;

    if (!now[0]) {
        strcpy(now, "-");
        if (n > 0) {
            snprintf(path + n, 8, ".fault");
            if ((f = fopen(path, "re"))) {
                if (fscanf(f, "%15s %31s", rank, now) != 2 || strcmp(rank, me ? me : "0")) strcpy(now, "-");
                fclose(f);
            }
        }
    }
    return !strcmp(now, what);
}

/* Until somebody continues it: nobody does. */
static void stop_in(const char *what)
{
    if (is(what)) raise(SIGSTOP);
}

#define WRAP(name, what, params, args) \
    px_code __real_##name params;      \
    px_code __wrap_##name params;      \
    px_code __wrap_##name params       \
    {                                  \
        stop_in(what);                 \
        return __real_##name args;     \
    }

WRAP(daemon_rank_hello, "hello", (daemon_rank *r, px_err *e), (r, e))
WRAP(shard_file_check, "map", (shard_file *f, const shard_check_args *a, px_err *errs, size_t cap, size_t *n), (f, a, errs, cap, n))
WRAP(comm_open, "mpi", (comm **c, px_alloc *a, const comm_args *args, px_err *e), (c, a, args, e))
WRAP(shard_executor_open, "carve", (shard_executor **x, px_alloc *a, const shard_executor_args *args, px_err *e), (x, a, args, e))
WRAP(shard_executor_warm_up_all, "warmup", (shard_executor *x, px_err *e), (x, e))

px_code __real_shard_executor_step_all(shard_executor *x, const shard_step *in, shard_result *out, px_err *e);
px_code __wrap_shard_executor_step_all(shard_executor *x, const shard_step *in, shard_result *out, px_err *e);

/* Steps of the warm-up do not come this way: the executor calls itself.  Once: the next job finds no fault. */
px_code __wrap_shard_executor_step_all(shard_executor *x, const shard_step *in, shard_result *out, px_err *e)
{
    static unsigned steps;
    char path[1200];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 8);

    if (++steps == 20 && n > 0 && is("serve")) {
        snprintf(path + n, 8, ".fault");
        unlink(path);
        raise(SIGSTOP);
    }
    return __real_shard_executor_step_all(x, in, out, e);
}

px_code __real_comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e);
px_code __wrap_comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e);

px_code __wrap_comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e)
{
    if (is("sum")) comm_partial(c, which)[0] += 1;
    return __real_comm_reduce_views_all(c, which, bytes, views, n, e);
}
