/* engine.c - a service's life: start, job after job, the end. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/coordinator/engine_inside.h"
#include "daemon/coordinator/info.h"
#include "daemon/rank/contract.h"
#include "daemon/rank/fields.h"

#define MAX_ERRORS       64

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

/* ---- what others see ---- */

void daemon_engine_set_state(daemon_engine *g, daemon_state s, const char *detail)
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

void daemon_engine_publish(daemon_engine *g)
{
    pthread_mutex_lock(&g->status.lock);
    g->status.blocks_total = g->sched.blocks.n;
    g->status.blocks_free = g->sched.blocks.n_free;
    g->status.running = g->sched.running.n;
    g->status.waiting = g->sched.waiting.n;
    g->status.steps = g->step;
    pthread_mutex_unlock(&g->status.lock);
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

    daemon_engine_set_state(g, DAEMON_FAILED, n ? px_err_format(&errs[0], text, sizeof text) : text);
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
    daemon_engine_sweep(g);
    daemon_scheduler_end_all(&g->sched, &e, true);
    daemon_scheduler_forget_slots(&g->sched);
    daemon_engine_sweep(g);
    daemon_engine_publish(g);
}

int daemon_engine_run(daemon_engine *g, void (*ready)(void *ctx), void *ctx)
{
    px_err errs[MAX_ERRORS], e = {0};
    size_t n = 0;
    px_code rc;
    bool said = false;

    daemon_engine_set_state(g, DAEMON_STARTING, "");
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
            if (g->cold.stop) return daemon_engine_set_state(g, DAEMON_DRAINING, "ended by a signal"), 0;
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
        daemon_engine_set_state(g, DAEMON_READY, "");
        if (!said) ready(ctx);
        said = true;
        px_err_clear(&e);
        if (!(rc = daemon_coldstart_verify(&g->cold, &e))) rc = daemon_engine_serve(g, &e);
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
        daemon_engine_set_state(g, g->bad_shard ? DAEMON_FAILED : DAEMON_RESTARTING, text);
        end_requests(g, "a rank was lost; the service restarts");
        daemon_coldstart_end_job(&g->cold, false);
        if (g->bad_shard) return 3;
        if (!may_restart(g)) {
            daemon_engine_set_state(g, DAEMON_FAILED, "restart.max restarts within restart.window_s are used up");
            return 3;
        }
    }
}

px_code daemon_engine_info(const daemon_engine *g, px_alloc *a, Phalanx__V1__GetServerInfoResponse **out, px_err *e)
{
    daemon_engine *x = (daemon_engine *)(uintptr_t)g;      /* the lock is all that changes */

    return daemon_info_make(a, g->args.config, &x->status, daemon_engine_model(g), out, e);
}
