#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/coordinator/coldstart.h"
#include "daemon/coordinator/info.h"
#include "daemon/coordinator/scheduler.h"
#include "daemon/rank/contract.h"
#include "daemon/rank/convert.h"
#include "daemon/rank/fields.h"

#define MAX_ERRORS       64
/* The step watchdog (step_s): a rank that hangs ends the job.  The slowest path (the scalar twin under sanitizers) takes
 * well under half a second a row. */
#define ROW_LIMIT_US     500000ll
#define MEMORY_LOG_US    (60 * 1000000ll)

typedef struct mail { daemon_request **v; size_t n, cap; } mail;

struct daemon_engine {
    px_alloc *a;
    daemon_engine_args args;
    daemon_model   model;
    _Atomic bool   model_ready;
    daemon_status  status;
    daemon_coldstart cold;
    daemon_scheduler sched; bool has_sched;
    px_arena       wire;                       /* a step's frame and its answer; reset each step */
    int            wake_fd;
    uint64_t       step;
    pthread_mutex_t door;                      /* guards the four below */
    mail           inbox;
    daemon_request **live; size_t n_live, cap_live;     /* submitted and not ended; each holds a reference */
    bool           open;
    /* engine's thread */
    px_time_us     restarts[64]; uint32_t n_restarts;
    px_time_us     next_memory_log; size_t last_memory;
    bool           stepped;                    /* since the last look at the memory */
    bool           draining; px_time_us drain_until;
    bool           bad_shard;                  /* the check in the background found a bad digest: final */
};

px_code daemon_engine_open(daemon_engine **out, px_alloc *a, const daemon_engine_args *args, px_err *e)
{
    daemon_engine *g = px_new(a, daemon_engine, 1);
    px_code rc;

    *out = NULL;
    if (!g) return px_fail(e, PX_ENOMEM, "engine", "no memory for the engine");
    g->a = a;
    g->args = *args;
    g->wake_fd = -1;
    g->cold.shm_fd = -1;
    pthread_mutex_init(&g->door, NULL);
    pthread_mutex_init(&g->status.lock, NULL);
    px_arena_init(&g->wire, a, "wire", 1u << 20, 8u << 20, 256u << 20);
    if ((g->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        rc = px_fail_errno(e, "engine", "eventfd");
        goto fail;
    }
    g->cold = (daemon_coldstart){ .a = a, .args = &g->args, .model = &g->model, .status = &g->status,
                                  .watcher = args->watcher, .shm_fd = -1, .wake_fd = g->wake_fd,
                                  .dry = args->dry_run };
    if ((rc = daemon_job_dir_make(g->cold.dir, sizeof g->cold.dir, e))) goto fail;
    daemon_watcher_dir(args->watcher, g->cold.dir);
    *out = g;
    return PX_OK;

fail:
    daemon_engine_close(g);
    return rc;
}

void daemon_engine_close(daemon_engine *g)
{
    if (!g) return;
    char dir[sizeof g->cold.dir];
    memcpy(dir, g->cold.dir, sizeof dir);
    daemon_coldstart_close(&g->cold);
    if (dir[0]) px_remove_tree(dir, NULL);
    if (g->has_sched) daemon_scheduler_deinit(&g->sched);
    for (size_t i = 0; i < g->inbox.n; i++) daemon_request_unref(g->inbox.v[i]);
    for (size_t i = 0; i < g->n_live; i++) daemon_request_unref(g->live[i]);
    if (g->inbox.v) px_del(g->a, g->inbox.v, g->inbox.cap);
    if (g->live) px_del(g->a, g->live, g->cap_live);
    daemon_template_close(g->model.own_chat);
    if (g->model.tokenizer) daemon_tokenizer_close(g->model.tokenizer);
    shard_manifest_deinit(&g->model.manifest);
    if (g->wake_fd >= 0) close(g->wake_fd);
    px_arena_deinit(&g->wire);
    pthread_mutex_destroy(&g->status.lock);
    pthread_mutex_destroy(&g->door);
    px_del(g->a, g, 1);
}

/* ---- the door ---- */

daemon_state daemon_engine_state(const daemon_engine *g)
{
    daemon_engine *x = (daemon_engine *)(uintptr_t)g;      /* the lock is all that changes */
    pthread_mutex_lock(&x->status.lock);
    daemon_state s = x->status.state;
    pthread_mutex_unlock(&x->status.lock);
    return s;
}

const daemon_model *daemon_engine_model(const daemon_engine *g)
{
    return atomic_load_explicit(&g->model_ready, memory_order_acquire) ? &g->model : NULL;
}

void daemon_engine_wake(daemon_engine *g)
{
    uint64_t one = 1;
    ssize_t ignored = write(g->wake_fd, &one, sizeof one);   /* EAGAIN: it is awake already */
    (void)ignored;
}

static bool push(px_alloc *a, daemon_request ***v, size_t *n, size_t *cap, daemon_request *r)
{
    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 64;
        void *p = px_alloc_grow(a, *v, *cap, more, sizeof **v, _Alignof(daemon_request *));
        if (!p) return false;
        *v = p;
        *cap = more;
    }
    (*v)[(*n)++] = r;
    return true;
}

px_code daemon_engine_submit(daemon_engine *g, daemon_request *r, px_err *e)
{
    px_code rc = PX_OK;
    size_t bound = (size_t)g->args.config->queue + g->args.config->max_sequences;

    pthread_mutex_lock(&g->door);
    if (!g->open) {
        rc = px_fail(e, PX_EPEER, "state", "the service is not ready");
        goto out;
    }
    for (size_t i = 0; i < g->n_live; i++)
        if (!strcmp(g->live[i]->in.id, r->in.id) && daemon_request_lives(g->live[i])) {
            rc = px_fail(e, PX_EEXIST, "request_id", "a request with this id is running");
            goto out;
        }
    if (g->n_live >= bound + g->args.config->max_sequences || g->inbox.n >= bound) {
        rc = px_fail(e, PX_EBUSY, "queue", "%u requests wait already", g->args.config->queue);
        goto out;
    }
    if (!push(g->a, &g->live, &g->n_live, &g->cap_live, r)) {
        rc = px_fail(e, PX_ENOMEM, "queue", "no memory for a request");
        goto out;
    }
    daemon_request_ref(r);
    if (!push(g->a, &g->inbox.v, &g->inbox.n, &g->inbox.cap, r)) {
        g->n_live--;
        daemon_request_unref(r);
        rc = px_fail(e, PX_ENOMEM, "queue", "no memory for a request");
        goto out;
    }
    daemon_request_ref(r);
out:
    pthread_mutex_unlock(&g->door);
    if (!rc) daemon_engine_wake(g);
    return rc;
}

bool daemon_engine_abort(daemon_engine *g, const char *request_id)
{
    bool found = false;

    pthread_mutex_lock(&g->door);
    for (size_t i = 0; i < g->n_live && !found; i++)
        if (!strcmp(g->live[i]->in.id, request_id) && daemon_request_lives(g->live[i])) {
            atomic_store_explicit(&g->live[i]->cancelled, true, memory_order_release);
            found = true;
        }
    pthread_mutex_unlock(&g->door);
    if (found) daemon_engine_wake(g);
    return found;
}

/* Inbox to scheduler; the ended leave the list of the living. */
static void sweep(daemon_engine *g)
{
    pthread_mutex_lock(&g->door);
    for (size_t i = 0; i < g->inbox.n; i++) {
        daemon_scheduler_add(&g->sched, g->inbox.v[i]);
        daemon_request_unref(g->inbox.v[i]);
    }
    g->inbox.n = 0;
    for (size_t i = 0; i < g->n_live;) {
        if (!g->live[i]->ended) {
            i++;
            continue;
        }
        daemon_request_unref(g->live[i]);
        g->live[i] = g->live[--g->n_live];
    }
    pthread_mutex_unlock(&g->door);
}

static void set_state(daemon_engine *g, daemon_state s, const char *detail)
{
    static const char *const name[] = { "starting", "ready", "restarting", "draining", "failed" };

    pthread_mutex_lock(&g->door);
    g->open = s == DAEMON_READY;
    pthread_mutex_unlock(&g->door);
    pthread_mutex_lock(&g->status.lock);
    g->status.state = s;
    snprintf(g->status.detail, sizeof g->status.detail, "%s", detail);
    pthread_mutex_unlock(&g->status.lock);
    char quoted[300];
    px_log_line(g->args.log, s == DAEMON_FAILED ? PX_ERROR : PX_INFO, "state", "state=%s detail=%s", name[s],
                px_log_quote(detail, -1, quoted, sizeof quoted));
    if (g->args.state_changed) g->args.state_changed(g->args.ctx, s);
}

static void publish(daemon_engine *g)
{
    pthread_mutex_lock(&g->status.lock);
    g->status.blocks_total = g->sched.blocks.n;
    g->status.blocks_free = g->sched.blocks.n_free;
    g->status.running = g->sched.running.n;
    g->status.waiting = g->sched.waiting.n;
    g->status.steps = g->step;
    pthread_mutex_unlock(&g->status.lock);
}

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

/* ---- a step ---- */

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
            set_state(g, DAEMON_DRAINING, "ended by a signal");
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
            return px_fail(e, PX_ETIMEOUT, "step", "no answer to step %llu within %lld s", (unsigned long long)step->number,
                           (long long)(limit / 1000000));
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

/* Serve until drained (PX_OK) or until the job is lost. */
static px_code serve(daemon_engine *g, px_err *e)
{
    shard_step step;
    daemon_event ev;
    bool answered;
    px_code rc;

    for (;;) {
        px_time_us now = px_now_us();
        log_memory(g, now);
        sweep(g);
        daemon_scheduler_reap(&g->sched, now);
        daemon_scheduler_admit(&g->sched);
        daemon_scheduler_trim(&g->sched, g->args.config->queue);
        if (g->draining && (now >= g->drain_until || (!g->sched.running.n && !g->sched.waiting.n))) {
            px_err why = {0};
            px_fail(&why, PX_EPEER, "state", "the service is shutting down");
            daemon_scheduler_end_all(&g->sched, &why, true);
            sweep(g);
            return PX_OK;
        }
        if (daemon_scheduler_compose(&g->sched, g->step + 1, &step)) {
            g->step++;
            publish(g);                                    /* a step that hangs shall be seen */
            if ((rc = run_step(g, &step, e))) return rc;
            publish(g);
            g->stepped = true;
            /* Signals and wake-ups are looked at without waiting. */
            if ((rc = daemon_links_next(&g->cold.links, 0, &ev, e))) return rc;
        } else {
            publish(g);
            sweep(g);
            if ((rc = daemon_links_next(&g->cold.links, next_deadline(g), &ev, e))) return rc;
        }
        if ((rc = handle(g, &ev, &answered, e))) return rc;
        if (answered) return px_fail(e, PX_EMISMATCH, "result", "an answer to no step");
    }
}

/* ---- a job's life, and the service's ---- */

static void refuse(daemon_engine *g, const px_err *errs, size_t n)
{
    char means[300], action[400];

    for (size_t i = 0; i < n; i++) {
        const daemon_refusable *f = daemon_refusable_find(errs[i].field);
        px_log_err(g->args.log, PX_ERROR, "coldstart_refused", &errs[i]);
        if (f)
            px_log_line(g->args.log, PX_INFO, "advice", "about=%s means=%s do=%s", f->field,
                        px_log_quote(f->means, -1, means, sizeof means), px_log_quote(f->action, -1, action, sizeof action));
    }
}

/* The end, and why: the first mismatch with its file and field, as GetServerInfo shows it until the process ends. */
static void give_up(daemon_engine *g, const px_err *errs, size_t n)
{
    char text[256] = "";

    set_state(g, DAEMON_FAILED, n ? px_err_format(&errs[0], text, sizeof text) : text);
}

/* What a dry run answers: the plan of every rank, and that it fits. */
static void print_plan(const daemon_engine *g)
{
    for (uint32_t r = 0; r < g->cold.world; r++) {
        const shard_rank_bytes *b = &g->cold.plan[r];
        printf("plan rank=%u host=%s weights=%" PRIu64 " kv=%" PRIu64 " arenas=%" PRIu64 " step=%" PRIu64 " comm=%" PRIu64 " total=%" PRIu64
               " free=%" PRIu64 "\n", r, g->status.rank[r].host, b->weights.mapped, b->kv_pool,
               b->activations.bytes + b->rope_tables + b->host.bytes, b->step_buffers, b->comm_private + (r ? 0 : b->comm_shared), b->total,
               g->status.rank[r].free_bytes);
    }
    printf("fits ranks=%u kv_blocks=%u\n", g->cold.world, g->cold.n_blocks);
    fflush(stdout);
}

/* Whether one more restart is allowed now. */
static bool may_restart(daemon_engine *g)
{
    const proto_config *c = g->args.config;
    px_time_us now = px_now_us(), window = (px_time_us)c->restart_window_s * 1000000;
    uint32_t keep = 0, max = sizeof g->restarts / sizeof *g->restarts;

    for (uint32_t i = 0; i < g->n_restarts; i++)
        if (now - g->restarts[i] < window) g->restarts[keep++] = g->restarts[i];
    g->n_restarts = keep;
    if (keep >= c->restart_max || keep >= max) return false;
    g->restarts[g->n_restarts++] = now;
    return true;
}

static px_code make_scheduler(daemon_engine *g, px_err *e)
{
    const proto_config *c = g->args.config;
    daemon_scheduler_args args = { .n_blocks = g->cold.n_blocks, .block = c->kv_block, .max_sequences = c->max_sequences,
                                   .token_budget = c->token_budget, .window = g->model.manifest.arch.sliding_window,
                                   .max_result_tops = SHARD_MAX_RESULT_TOPS };
    px_code rc = daemon_scheduler_init(&g->sched, g->a, &args, e);

    g->has_sched = rc == PX_OK;
    return rc;
}

static void end_requests(daemon_engine *g, const char *why)
{
    px_err e = {0};

    px_fail(&e, PX_EPEER, "state", "%s", why);
    sweep(g);
    daemon_scheduler_end_all(&g->sched, &e, true);
    daemon_scheduler_forget_slots(&g->sched);
    sweep(g);
    publish(g);
}

int daemon_engine_run(daemon_engine *g, void (*ready)(void *ctx), void *ctx)
{
    px_err errs[MAX_ERRORS], e = {0};
    size_t n = 0;
    px_code rc;
    bool said = false;

    set_state(g, DAEMON_STARTING, "");
    if (daemon_coldstart_model(&g->cold, errs, MAX_ERRORS, &n) || (make_scheduler(g, &errs[0]) && (n = 1))) {
        refuse(g, errs, n);
        give_up(g, errs, n);
        return 3;
    }
    atomic_store_explicit(&g->model_ready, true, memory_order_release);
    for (;;) {
        n = 0;
        if ((rc = daemon_coldstart_job(&g->cold, errs, MAX_ERRORS, &n))) {
            daemon_coldstart_end_job(&g->cold, false);
            if (g->cold.stop) return set_state(g, DAEMON_DRAINING, "ended by a signal"), 0;
            refuse(g, errs, n);
            /* A rank that died while starting again may be started once more; a refusal is final. */
            if (said && rc == PX_EPEER && may_restart(g)) continue;
            give_up(g, errs, n);
            return 3;
        }
        if (g->args.dry_run) {
            daemon_coldstart_end_job(&g->cold, true);
            print_plan(g);
            return 0;
        }
        daemon_status_log_memory(&g->status, g->args.log);
        set_state(g, DAEMON_READY, "");
        if (!said) ready(ctx);
        said = true;
        px_err_clear(&e);
        if (!(rc = daemon_coldstart_verify(&g->cold, &e))) rc = serve(g, &e);
        if (rc == PX_OK) {
            daemon_coldstart_end_job(&g->cold, true);
            return 0;
        }
        px_log_err(g->args.log, PX_ERROR, "job_lost", &e);
        char text[400];
        px_err_format(&e, text, sizeof text);
        if (g->draining) {
            end_requests(g, "the service is shutting down");
            daemon_coldstart_end_job(&g->cold, false);
            return 0;
        }
        set_state(g, g->bad_shard ? DAEMON_FAILED : DAEMON_RESTARTING, text);
        end_requests(g, "a rank was lost; the service restarts");
        daemon_coldstart_end_job(&g->cold, false);
        if (g->bad_shard) return 3;
        if (!may_restart(g)) {
            set_state(g, DAEMON_FAILED, "restart.max restarts within restart.window_s are used up");
            return 3;
        }
    }
}

px_code daemon_engine_info(const daemon_engine *g, px_alloc *a, Phalanx__V1__GetServerInfoResponse **out, px_err *e)
{
    daemon_engine *x = (daemon_engine *)(uintptr_t)g;      /* the lock is all that changes */

    return daemon_info_make(a, g->args.config, &x->status, daemon_engine_model(g), out, e);
}
