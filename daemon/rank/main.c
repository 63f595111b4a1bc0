/* phalanx-rank: mmap a shard, say hello, then step after step.  Started by the coordinator, through mpirun or alone. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef PHALANX_MALLOC_HOOK
#include "daemon/rank/mallochook.h"
#endif
#include "daemon/rank/rank.h"

static void usage(FILE *out)
{
    fputs("usage: phalanx-rank --socket PATH --generation N [-c FILE.yaml] [--KEY VALUE ...]\n"
          "One rank of a shard set.  The coordinator (phalanxd) starts it; it is of no use on its own.\n", out);
}

static void note(daemon_rank *r, const px_err *e)
{
    if (r->n_err < DAEMON_RANK_ERRORS) r->err[r->n_err++] = *e;
}

/* Arguments: 0 to go on, else the exit code. */
static int parse(daemon_rank *r, int argc, char **argv)
{
    px_err e = {0};

    proto_config_init(&r->config);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return usage(stdout), -1;
        if (i + 1 >= argc || argv[i][0] != '-') return usage(stderr), 2;
        const char *value = argv[i + 1];
        if (!strcmp(argv[i], "--socket")) r->socket = value;
        else if (!strcmp(argv[i], "--generation")) r->generation = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "-c")) {
            size_t n = 0;
            snprintf(r->config_path, sizeof r->config_path, "%s", value);
            if (proto_config_read(&r->config, &r->heap.a, value, r->err, DAEMON_RANK_ERRORS, &n)) r->n_err = n;
        } else if (!strncmp(argv[i], "--", 2)) {
            if (proto_config_set(&r->config, argv[i] + 2, value, &e)) {
                note(r, &e);
                px_err_clear(&e);
            }
        } else return usage(stderr), 2;
        i++;
    }
    if (!r->socket) return usage(stderr), 2;
    return 0;
}

static px_code dial(daemon_rank *r, px_err *e)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };

    if (strlen(r->socket) >= sizeof at.sun_path) return px_fail(e, PX_ERANGE, "socket", "the path %s is too long", r->socket);
    strcpy(at.sun_path, r->socket);
    if ((r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) return px_fail_errno(e, "socket", "socket");
    if (connect(r->fd, (struct sockaddr *)&at, sizeof at)) return px_fail_errno(e, "socket", r->socket);
    return PX_OK;
}

/* Which rank this is: the launcher's environment, before MPI_Init; alone it is rank 0 of 1. */
static px_code identify(daemon_rank *r, px_err *e)
{
    px_code rc = comm_launcher_rank(&r->rank, &r->world, e);

    if (rc == PX_ENOTFOUND) {
        px_err_clear(e);
        r->rank = 0;
        r->world = 1;
        return PX_OK;
    }
    return rc;
}

int main(int argc, char **argv)
{
    static daemon_rank r;
    px_err e = {0};
    px_level level = PX_INFO;
    int code;

    kern_ftz_set();                                   /* before any thread: they inherit it */
    /* Our parent (mpirun, or the coordinator) takes us with it; if it has gone already, the socket will tell. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN);                          /* a terminal's ^C is the coordinator's to handle */

    r = (daemon_rank){ .fd = -1, .shm_fd = -1 };
#ifdef PHALANX_MALLOC_HOOK
    r.counts_mallocs = daemon_malloc_hook();
#endif
    pthread_mutex_init(&r.send_lock, NULL);
    px_heap_init(&r.heap, "rank");
    px_heap_init(&r.transport, "comm");
    px_heap_init(&r.talk, "reports");
    px_mmap_init(&r.buffers, "step", true);
    if ((code = parse(&r, argc, argv))) return code < 0 ? 0 : code;
    if (r.config.log_level[0] && px_level_parse(r.config.log_level, &level, &e)) px_err_clear(&e);
    px_log_init(&r.log, 2, level, -1);

    code = 1;
    if (identify(&r, &e)) goto out;
    r.log.rank = (int)r.rank;
    if (dial(&r, &e) || daemon_rank_guard(&r, &e) || daemon_rank_hello(&r, &e)) goto out;
    r.greeted = true;
    if (daemon_rank_prepare(&r, &e)) {
        if (e.code == PX_ECANCELLED) code = 0;        /* asked to leave before it served: a dry run */
        goto out;
    }
    if (daemon_rank_serve(&r, &e)) goto out;
    code = 0;
out:
    if (code && e.code != PX_EPEER) {
        px_err_set_rank(&e, (int)r.rank, r.log.host);
        px_log_err(&r.log, PX_ERROR, "rank_failed", &e);
    }
    /* The others may sit in a collective: end the job, not only this process. */
    if (code && r.comm && r.world > 1) comm_mpi_abort(code);
    daemon_rank_close(&r);
    return code;
}
