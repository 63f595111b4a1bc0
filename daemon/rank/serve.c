#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/rank/rank.h"
#include "proto/base/guard.h"

#define SEND_WAIT_US (10 * 1000000ll)

/* ---- the guard against a truncated shard ---- */

/* The handler may only use what was prepared: one frame, one line, two descriptors. */
static struct {
    const char *map; size_t bytes;
    int      fd;
    uint8_t  frame[2048]; size_t n_frame;
    char     line[768];   size_t n_line;
} guard;

static void on_sigbus(int sig, siginfo_t *info, void *ctx)
{
    const char *at = info->si_addr;
    (void)ctx;

    if (guard.map && at >= guard.map && at < guard.map + guard.bytes) {
        ssize_t ignored = write(2, guard.line, guard.n_line);
        ignored = write(guard.fd, guard.frame, guard.n_frame);
        (void)ignored;
        _exit(1);
    }
    signal(sig, SIG_DFL);                                  /* not ours: a bug, and it shall look like one */
    raise(sig);
}

px_code daemon_rank_guard(daemon_rank *r, px_err *e)
{
    Phalanx__Wire__Report w = PHALANX__WIRE__REPORT__INIT;
    Phalanx__Wire__Error error, *errors = &error;
    px_err gone = { .rank = -1 };
    uint8_t body[1536];
    int pair[2];
    px_code rc;

    px_fail(&gone, PX_ECORRUPT, "size", "the shard was truncated while it was mapped");
    px_err_set_file(&gone, shard_file_path(r->file));
    px_err_set_rank(&gone, (int)r->rank, r->log.host);
    daemon_error_to_wire(&gone, &error);
    error.rank = (int32_t)r->rank;
    w.stage = PHALANX__WIRE__STAGE__SERVE;
    w.errors = &errors;
    w.n_errors = 1;
    size_t n = phalanx__wire__report__get_packed_size(&w);
    if (n > sizeof body) return px_fail(e, PX_ERANGE, "guard", "the path of the shard is too long");
    phalanx__wire__report__pack(&w, body);
    /* The frame as it will lie on the wire: made by the one function that makes frames. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) return px_fail_errno(e, "guard", "socketpair");
    rc = proto_frame_send(pair[1], PHALANX__WIRE__FRAME_TYPE__REPORT, r->generation, body, n, px_now_us() + SEND_WAIT_US, e);
    close(pair[1]);
    if (!rc) {
        ssize_t got = read(pair[0], guard.frame, sizeof guard.frame);
        guard.n_frame = got > 0 ? (size_t)got : 0;
    }
    close(pair[0]);
    if (rc) return rc;
    guard.fd = r->fd;
    guard.n_line = (size_t)snprintf(guard.line, sizeof guard.line,
        "level=error rank=%u event=shard_truncated file=%s text=\"the shard was truncated while it was mapped\"\n",
        r->rank, shard_file_path(r->file));
    if (guard.n_line >= sizeof guard.line) guard.n_line = sizeof guard.line - 1;
    guard.map = shard_file_map(r->file, &guard.bytes);
    struct sigaction act = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
    sigemptyset(&act.sa_mask);
    if (sigaction(SIGBUS, &act, NULL)) return px_fail_errno(e, "guard", "sigaction");
    return PX_OK;
}

/* ---- the full check in the background ---- */

static void check_progress(void *ctx, uint64_t done, uint64_t total)
{
    daemon_rank *r = ctx;
    uint32_t percent = total ? (uint32_t)(done * 100 / total) : 100;
    px_err e = {0};

    if (percent >= 100 || percent < r->told_percent + 5) return;      /* 100 is said with the verdict */
    r->told_percent = percent;
    daemon_rank_report(r, PHALANX__WIRE__STAGE__VERIFY, percent, NULL, 0, &e);
}

static void *check_all(void *arg)
{
    daemon_rank *r = arg;
    px_err err[DAEMON_RANK_ERRORS], e = {0};
    size_t n = 0;
    px_guard_exempt(true);                                 /* beside the steps, and allowed to */
    shard_check_args args = { .depth = SHARD_CHECK_FULL, .progress = check_progress, .ctx = r, .cancel = &r->stop_check };

    if (shard_file_check(r->file, &args, err, DAEMON_RANK_ERRORS, &n) == PX_ECANCELLED) return NULL;
    daemon_rank_report(r, PHALANX__WIRE__STAGE__VERIFY, 100, err, n, &e);
    return NULL;
}

/* ---- steps ---- */

static px_code one_step(daemon_rank *r, const proto_frame *f, px_err *e)
{
    px_fixed scratch, answer;
    shard_step step;
    shard_result result;
    uint8_t *data;
    size_t n;
    px_err law = {0};
    px_code rc;

    px_guard_arm();
    px_fixed_init(&scratch, "step", r->scratch, DAEMON_RANK_SCRATCH);
    px_fixed_init(&answer, "step", r->answer, DAEMON_RANK_ANSWER);
    if ((rc = daemon_step_decode(&scratch.a, f->data, f->n, &step, e))) goto out;
    if ((rc = shard_executor_step_all(r->executor, &step, &result, e))) goto out;
    if (r->rank == 0) {
        if ((rc = daemon_result_encode(&answer.a, &result, &data, &n, e))) goto out;
        pthread_mutex_lock(&r->send_lock);
        rc = proto_frame_send(r->fd, PHALANX__WIRE__FRAME_TYPE__RESULT, r->generation, data, n, PX_NEVER, e);
        pthread_mutex_unlock(&r->send_lock);
    }
out:
    px_fixed_deinit(&answer);
    px_fixed_deinit(&scratch);
    r->steps++;
    if (px_guard_disarm(&law) && !rc) {                    /* not under an error: that may say so with a text */
        *e = law;
        rc = law.code;
    }
    return rc;
}

px_code daemon_rank_serve(daemon_rank *r, px_err *e)
{
    proto_frame f;
    px_code rc;

    for (;;) {
        if ((rc = proto_frame_recv(r->fd, r->frame, DAEMON_RANK_FRAME, &f, PX_NEVER, e))) return rc;
        if (f.generation != r->generation) continue;
        switch (f.type) {
        case PHALANX__WIRE__FRAME_TYPE__BYE:
#ifdef PHALANX_MALLOC_HOOK
            if (r->counts_mallocs)
                px_log_line(&r->log, PX_INFO, "step_mallocs", "steps=%llu libraries=%zu", (unsigned long long)r->steps,
                            px_guard_mallocs());
#endif
            return PX_OK;
        case PHALANX__WIRE__FRAME_TYPE__GO:                /* only the background check comes this late */
            r->told_percent = 0;
            if (!r->checking) r->checking = pthread_create(&r->checker, NULL, check_all, r) == 0;
            break;
        case PHALANX__WIRE__FRAME_TYPE__STEP:
            if ((rc = one_step(r, &f, e))) {
                px_err ignored = {0};
                daemon_rank_report(r, PHALANX__WIRE__STAGE__SERVE, 0, e, 1, &ignored);
                return rc;
            }
            break;
        default:
            return px_fail(e, PX_EINVAL, "frame.type", "frame %u is not expected while serving", f.type);
        }
    }
}

void daemon_rank_close(daemon_rank *r)
{
    r->stop_check = 1;
    if (r->checking) pthread_join(r->checker, NULL);
    shard_executor_close(r->executor);
    comm_close(r->comm);
    if (r->kv) munmap(r->kv, r->kv_bytes);
    if (r->shm_fd >= 0) close(r->shm_fd);
    guard.map = NULL;
    shard_file_close(r->file);
    if (r->has_manifest) shard_manifest_deinit(&r->manifest);
    if (r->frame) px_del(&r->buffers.a, r->frame, DAEMON_RANK_FRAME);
    if (r->scratch) px_del(&r->buffers.a, r->scratch, DAEMON_RANK_SCRATCH);
    if (r->answer) px_del(&r->buffers.a, r->answer, DAEMON_RANK_ANSWER);
    if (r->fd >= 0) close(r->fd);
    if (r->world > 1) comm_mpi_finalize();
    px_mmap_deinit(&r->buffers);
    px_heap_deinit(&r->talk);
    px_heap_deinit(&r->transport);
    px_heap_deinit(&r->heap);
}
