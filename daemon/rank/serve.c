#include <sys/mman.h>
#include <unistd.h>

#include "daemon/rank/device.h"
#include "proto/base/guard.h"
#include "proto/base/mapped.h"

/* ---- the guard against a truncated shard ---- */

/* Whatever thread read it: the coordinator hears which file it is, and this rank ends. */
static void on_lost_file(void *ctx, const px_err *e)
{
    daemon_rank *r = ctx;
    px_err named = *e, ignored = {0};

    px_err_set_rank(&named, (int)r->rank, r->log.host);
    px_log_err(&r->log, PX_ERROR, "shard_lost", &named);
    if (r->greeted) daemon_rank_report(r, PHALANX__WIRE__STAGE__SERVE, 0, &named, 1, &ignored);
    _exit(1);
}

px_code daemon_rank_guard(daemon_rank *r, px_err *e) { return px_mapped_guard(on_lost_file, r, e); }

/* ---- the full check in the background ---- */

static void check_progress(void *ctx, uint64_t done, uint64_t total) { daemon_rank_progress(ctx, PHALANX__WIRE__STAGE__VERIFY, done, total); }

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
    uint32_t tokens = 0;
    px_err law = {0};
    px_code rc;

    px_guard_arm();
    px_fixed_init(&scratch, "step", r->scratch, SHARD_STEP_SCRATCH);
    px_fixed_init(&answer, "step", r->answer, r->answer ? SHARD_STEP_ANSWER : 0);
    if ((rc = daemon_step_decode(&scratch.a, f->data, f->n, &step, e))) goto out;
    for (uint32_t i = 0; i < step.n_entries; i++) tokens += step.entry[i].n;
    daemon_rank_watch_begin(r, step.number, tokens);
    rc = shard_executor_step_all(r->executor, &step, &result, e);
    daemon_rank_watch_end(r);
    if (rc) goto out;
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
        if ((rc = proto_frame_recv(r->fd, r->frame, SHARD_STEP_FRAME, &f, PX_NEVER, e))) return rc;
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
    if (r->digesting) pthread_join(r->digester, NULL);
    daemon_rank_watch_close(r);
    shard_executor_close(r->executor);
    daemon_rank_device_close(r);
    comm_close(r->comm);
    if (r->kv) munmap(r->kv, r->kv_bytes);
    if (r->shm_fd >= 0) close(r->shm_fd);
    shard_file_close(r->file);
    if (r->has_manifest) shard_manifest_deinit(&r->manifest);
    if (r->frame) px_del(&r->buffers.a, r->frame, SHARD_STEP_FRAME);
    if (r->scratch) px_del(&r->buffers.a, r->scratch, SHARD_STEP_SCRATCH);
    if (r->answer) px_del(&r->buffers.a, r->answer, SHARD_STEP_ANSWER);
    if (r->fd >= 0) close(r->fd);
    if (r->world > 1) comm_mpi_finalize();
    px_mmap_deinit(&r->buffers);
    px_heap_deinit(&r->talk);
    px_heap_deinit(&r->transport);
    px_heap_deinit(&r->heap);
}
