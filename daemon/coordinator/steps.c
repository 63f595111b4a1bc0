/* steps.c - a service that is ready: what came meanwhile, a step, its answer, and again. */
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/coordinator/engine_inside.h"
#include "daemon/rank/convert.h"

/* The step watchdog (step_s): a rank that hangs ends the job.  The slowest path (the scalar twin under sanitizers) takes
 * well under half a second a row. */
#define ROW_LIMIT_US     500000ll
#define MEMORY_LOG_US    (60 * 1000000ll)
#define LAST_WORDS_US    100000ll            /* two looks of a rank's watch */

static void add_bytes(void *ctx, const char *subsystem, size_t live, size_t peak)
{
    (void)subsystem, (void)peak;
    *(size_t *)ctx += live;
}

static void log_subsystem(void *ctx, const char *subsystem, size_t live, size_t peak)
{
    px_log_line(((daemon_engine *)ctx)->args.log, PX_INFO, "memory", "subsystem=%s live=%zu peak=%zu", subsystem, live, peak);
}

/* Once a minute, if something ran and the sum changed: a daemon that stays idle is not woken. */
static void log_memory(daemon_engine *g, px_time_us now)
{
    size_t sum = 0;

    if (!g->stepped || now < g->next_memory_log) return;
    g->stepped = false;
    g->next_memory_log = now + MEMORY_LOG_US;
    px_count_each(add_bytes, &sum);
    if (sum == g->last_memory) return;
    g->last_memory = sum;
    px_count_each(log_subsystem, g);
}

/* PX_OK, or what ends the job: PX_EPEER, PX_ETIMEOUT, PX_EMISMATCH... */
static px_code handle(daemon_engine *g, daemon_event *ev, bool *answered, px_err *e)
{
    uint32_t stage, percent;
    uint64_t drained;
    ssize_t got;
    struct signalfd_siginfo sig;
    char how[64] = "";
    px_err errs[8];
    size_t n = 0;

    *answered = false;
    switch (ev->kind) {
    case DAEMON_EV_TIMEOUT:
        return PX_OK;
    case DAEMON_EV_WAKE:
        got = read(g->wake_fd, &drained, sizeof drained);         /* or EAGAIN: there was nothing */
        (void)got;
        return PX_OK;
    case DAEMON_EV_SIGNAL:
        if (read(g->args.signal_fd, &sig, sizeof sig) != (ssize_t)sizeof sig) return PX_OK;
        if (!g->draining) {
            g->draining = true;
            g->drain_until = px_now_us() + (px_time_us)g->args.config->grace_s * 1000000;
            daemon_engine_set_state(g, DAEMON_DRAINING, "ended by a signal");
        }
        return PX_OK;
    case DAEMON_EV_JOB:
        g->cold.links.job_fd = -1;
        daemon_job_ended(&g->cold.job, how, sizeof how);
        return px_fail(e, PX_EPEER, "launcher", "the ranks' job ended (%s)", how);
    case DAEMON_EV_LOST:
        px_fail(e, PX_EPEER, "rank", "rank %u is gone", ev->rank);
        px_err_set_rank(e, (int)ev->rank, g->status.rank[ev->rank].host);
        return e->code;
    case DAEMON_EV_FRESH:
        daemon_links_reject(&g->cold.links, ev->rank, NULL);      /* nobody is expected now */
        return PX_OK;
    case DAEMON_EV_FRAME:
        break;
    }
    if (ev->frame.type == PHALANX__WIRE__FRAME_TYPE__REPORT) {
        daemon_status_report(&g->status, g->a, ev->rank, &ev->frame, &stage, &percent, errs, sizeof errs / sizeof *errs, &n);
        for (size_t i = 0; i < n; i++) px_log_err(g->args.log, PX_ERROR, "rank_report", &errs[i]);
        g->bad_shard |= n && stage == PHALANX__WIRE__STAGE__VERIFY;
        if (n) *e = errs[0];
        return n ? errs[0].code : PX_OK;
    }
    if (ev->frame.type == PHALANX__WIRE__FRAME_TYPE__RESULT && ev->rank == 0) {
        *answered = true;
        return PX_OK;
    }
    return px_fail(e, PX_EINVAL, "frame.type", "rank %u sent frame %u while serving", ev->rank, ev->frame.type);
}

static px_code run_step(daemon_engine *g, const shard_step *step, px_err *e)
{
    daemon_event ev;
    shard_result res;
    uint8_t *data;
    size_t n;
    bool answered;
    px_code rc;

    px_arena_reset(&g->wire);
    if ((rc = daemon_step_encode(&g->wire.a, step, &data, &n, e))) return rc;
    px_time_us limit = (px_time_us)g->args.config->step_s * 1000000;
    for (uint32_t i = 0; i < step->n_entries; i++) limit += step->entry[i].n * ROW_LIMIT_US;
    px_time_us deadline = px_now_us() + limit;
    for (uint32_t r = 0; r < g->cold.world; r++)
        if ((rc = daemon_links_send(&g->cold.links, r, PHALANX__WIRE__FRAME_TYPE__STEP, data, n, deadline, e))) return rc;
    do {
        /* A signal that came meanwhile shortens the wait: the grace time holds for a step that hangs, too. */
        if (g->draining && g->drain_until < deadline) deadline = g->drain_until;
        if ((rc = daemon_links_next(&g->cold.links, deadline, &ev, e))) return rc;
        if (ev.kind == DAEMON_EV_TIMEOUT && g->draining)
            return px_fail(e, PX_ETIMEOUT, "grace_s", "step %llu ran when the grace time ended", (unsigned long long)step->number);
        if (ev.kind == DAEMON_EV_TIMEOUT)
            return px_fail(e, PX_ETIMEOUT, "step", "no answer to step %llu within %.1f s", (unsigned long long)step->number,
                           (double)limit / 1e6);
        if ((rc = handle(g, &ev, &answered, e))) return rc;
    } while (!answered);
    if ((rc = daemon_result_decode(&g->wire.a, ev.frame.data, ev.frame.n, &res, e))) return rc;
    if (res.step != step->number)
        return px_fail(e, PX_EMISMATCH, "result.step", "step %llu was asked, %llu answered", (unsigned long long)step->number,
                       (unsigned long long)res.step);
    pthread_mutex_lock(&g->status.lock);
    g->status.full_gathers += res.full_gathers;
    g->status.kv_saturated += res.kv_saturated;
    pthread_mutex_unlock(&g->status.lock);
    return daemon_scheduler_apply(&g->sched, &res, e);
}

/* Deadlines of those that run or wait: when to look again though nothing happens. */
static px_time_us next_deadline(const daemon_engine *g)
{
    px_time_us at = g->draining ? g->drain_until : g->stepped ? g->next_memory_log : PX_NEVER;
    bool any = false;

    for (const daemon_request *r = g->sched.running.first; r; r = r->next) {
        any = true;
        if (r->in.deadline < at) at = r->in.deadline;
    }
    for (const daemon_request *r = g->sched.waiting.first; r; r = r->next) {
        any = true;
        if (r->in.deadline < at) at = r->in.deadline;
    }
    px_time_us soon = px_now_us() + 1000000;              /* slow readers are looked at once a second */
    return any && soon < at ? soon : at;
}

static px_code serve(daemon_engine *g, px_err *e)
{
    shard_step step;
    daemon_event ev;
    bool answered;
    px_code rc;

    for (;;) {
        px_time_us now = px_now_us();
        log_memory(g, now);
        daemon_engine_sweep(g);
        daemon_scheduler_reap(&g->sched, now);
        daemon_scheduler_admit(&g->sched);
        daemon_scheduler_trim(&g->sched, g->args.config->queue);
        if (g->draining && (now >= g->drain_until || (!g->sched.running.n && !g->sched.waiting.n))) {
            px_err why = {0};
            px_fail(&why, PX_EPEER, "state", "the service is shutting down");
            daemon_scheduler_end_all(&g->sched, &why, true);
            daemon_engine_sweep(g);
            return PX_OK;
        }
        if (daemon_scheduler_compose(&g->sched, g->step + 1, &step)) {
            g->step++;
            daemon_engine_publish(g);                                    /* a step that hangs shall be seen */
            if ((rc = run_step(g, &step, e))) return rc;
            daemon_engine_publish(g);
            g->stepped = true;
            /* Signals and wake-ups are looked at without waiting. */
            if ((rc = daemon_links_next(&g->cold.links, 0, &ev, e))) return rc;
        } else {
            daemon_engine_publish(g);
            daemon_engine_sweep(g);
            if ((rc = daemon_links_next(&g->cold.links, next_deadline(g), &ev, e))) return rc;
        }
        if ((rc = handle(g, &ev, &answered, e))) return rc;
        if (answered) return px_fail(e, PX_EMISMATCH, "result", "an answer to no step");
    }
}

/* PX_EPEER is what follows from an end: a rank is gone, or misses one that is.  What another rank has said, or says in this
 * moment, is why; whose socket is looked at first must not decide. */
static px_code cause_of(daemon_engine *g, px_err *e)
{
    const px_time_us until = px_now_us() + LAST_WORDS_US;
    daemon_event ev;
    bool answered;

    while (px_now_us() < until && !daemon_links_next(&g->cold.links, until, &ev, NULL)) {
        const bool report = ev.kind == DAEMON_EV_FRAME && ev.frame.type == PHALANX__WIRE__FRAME_TYPE__REPORT;
        px_err told = {0};
        px_code rc = handle(g, &ev, &answered, &told);
        if (!report || !rc || rc == PX_EPEER) continue;
        *e = told;
        return rc;
    }
    return PX_EPEER;
}

px_code daemon_engine_serve(daemon_engine *g, px_err *e)
{
    px_code rc = serve(g, e);

    return rc == PX_EPEER ? cause_of(g, e) : rc;
}
