#include "daemon/coordinator/coldstart.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/coordinator/adopted.h"
#include "daemon/rank/contract.h"
#include "daemon/rank/convert.h"
#include "daemon/rank/fields.h"

/* Longest time for a step; one that ends in time ends at once.  Steps that wait for ranks refuse by themselves and name
 * them; for all others, and should even that hang, deadline.c ends the process. */
static const struct { const char *name; px_time_us limit; } phases[DAEMON_N_PHASES] = {
    [DAEMON_PARSE] = { "parse", 10000000 },   [DAEMON_MANIFEST] = { "manifest", 60000000 }, [DAEMON_PLAN] = { "plan", 10000000 },
    [DAEMON_SPAWN] = { "spawn", 5000000 },    [DAEMON_HELLO] = { "hello", 0 /* hello_s */ },   [DAEMON_COMPARE] = { "compare", 10000000 },
    [DAEMON_AGREE] = { "agree", 10000000 },   [DAEMON_MAP] = { "map", 600000000 },      [DAEMON_MPI] = { "mpi", DAEMON_MPI_S * 1000000ll },
    [DAEMON_CARVE] = { "carve", 300000000 },  [DAEMON_WARM_UP] = { "warmup", 120000000 }, [DAEMON_ALL_READY] = { "ready", 10000000 },
};

#define SPARE ((px_time_us)20000000)        /* what a step that refuses by itself may take to do so */
#define REAP  ((px_time_us)5000000)         /* what killed ranks may take to be gone: a device's needs its time */

const char *daemon_phase_name(daemon_phase p) { return phases[p].name; }

static px_time_us limit_of(const daemon_coldstart *c, daemon_phase p)
{
    const proto_config *cfg = c->args->config;

    if (p == DAEMON_HELLO) return (px_time_us)cfg->hello_s * 1000000;
    if (p >= DAEMON_MAP && p <= DAEMON_WARM_UP && cfg->coldstart_s) return (px_time_us)cfg->coldstart_s * 1000000;
    return phases[p].limit;
}

void daemon_coldstart_begin(daemon_coldstart *c, daemon_phase p)
{
    pthread_mutex_lock(&c->status->lock);
    c->status->phase[p] = (daemon_phase_info){ .state = DAEMON_DOING, .began = px_now_us(), .limit = limit_of(c, p) };
    pthread_mutex_unlock(&c->status->lock);
    daemon_deadline_set(&c->deadline, phases[p].name, limit_of(c, p) + (p == DAEMON_HELLO || p >= DAEMON_AGREE ? SPARE : 0));
}

void daemon_coldstart_end(daemon_coldstart *c, daemon_phase p, px_code rc, const char *detail)
{
    daemon_phase_info *i = &c->status->phase[p];
    char quoted[200];

    daemon_deadline_clear(&c->deadline);
    pthread_mutex_lock(&c->status->lock);
    i->state = rc ? DAEMON_BROKEN : DAEMON_DONE;
    i->took = px_now_us() - i->began;
    if (!rc) i->percent = 100;
    snprintf(i->detail, sizeof i->detail, "%s", detail);
    pthread_mutex_unlock(&c->status->lock);
    px_log_line(c->args->log, rc ? PX_ERROR : PX_INFO, "coldstart", "step=%s code=%s us=%lld limit_us=%lld percent=%u detail=%s",
                phases[p].name, px_code_name(rc), (long long)i->took, (long long)i->limit, i->percent,
                px_log_quote(detail, -1, quoted, sizeof quoted));
}

/* ---- spawn ---- */

static px_code spawn(daemon_coldstart *c, px_err *e)
{
    const proto_config *cfg = c->args->config;
    static const char *const skip[] = { "listen", "insecure", "queue", "hello_s",
                                        "max_clock_skew_s", NULL };        /* no business of a rank */
    char generation[16], flag[PROTO_MAX_FIELDS][40], value[PROTO_MAX_FIELDS][1100];
    const char *arg[DAEMON_MAX_ARGS];
    int n = 0, k = 0;
    px_code rc;

    snprintf(c->job_dir, sizeof c->job_dir, "%s/j%u", c->dir, c->generation);
    if (mkdir(c->job_dir, 0700)) return px_fail_errno(e, daemon_field_name(DAEMON_FIELD_TMPDIR), c->job_dir);
    if ((rc = daemon_links_open(&c->links, c->a, c->dir, c->world, c->generation, e))) return rc;
    c->links.signal_fd = c->args->signal_fd;
    c->links.wake_fd = c->wake_fd;
    snprintf(generation, sizeof generation, "%u", c->generation);
    arg[n++] = "--socket", arg[n++] = c->links.path;
    arg[n++] = "--generation", arg[n++] = generation;
    if (c->args->config_path[0]) arg[n++] = "-c", arg[n++] = c->args->config_path;
    /* What flags have said, and what they did not: the values of the file are the same on this host. */
    for (size_t i = 0; i < proto_n_fields; i++) {
        const proto_field *f = &proto_fields[i];
        bool drop = false;
        for (int s = 0; skip[s]; s++) drop |= !strcmp(skip[s], f->key);
        if (drop || (c->args->config_path[0] && !c->args->from_flag[i])) continue;
        proto_config_show(cfg, f, value[k], sizeof value[k]);
        if (!value[k][0]) continue;
        snprintf(flag[k], sizeof flag[k], "--%s", f->key);
        arg[n++] = flag[k], arg[n++] = value[k];
        k++;
    }
    arg[n] = NULL;
    daemon_job_args job = { .launcher = c->world > 1 ? "mpirun" : NULL, .rank_program = c->args->rank_program,
                            .ranks = c->world, .threads = daemon_contract_threads(cfg, c->world), .rank_arg = arg,
                            .dir = c->job_dir };
    if ((rc = daemon_job_spawn(&c->job, &job, e))) return rc;
    c->links.job_fd = c->job.pidfd;
    daemon_watcher_pid(c->watcher, c->job.pid);
    return PX_OK;
}

/* ---- waiting for the ranks ---- */

px_code daemon_coldstart_next(daemon_coldstart *c, px_time_us deadline, const char *what, daemon_event *ev, px_err *e)
{
    char how[64] = "";
    uint64_t drained;
    struct signalfd_siginfo sig;
    px_code rc;

    for (;;) {
        if ((rc = daemon_links_next(&c->links, deadline, ev, e))) return rc;
        switch (ev->kind) {
        case DAEMON_EV_FRAME:
        case DAEMON_EV_FRESH:
            return PX_OK;
        case DAEMON_EV_WAKE:
            if (read(c->wake_fd, &drained, sizeof drained) < 0) continue;
            break;
        case DAEMON_EV_SIGNAL:
            if (read(c->args->signal_fd, &sig, sizeof sig) < 0) continue;
            c->stop = true;
            return px_fail(e, PX_ECANCELLED, "signal", "ended by a signal during %s", what);
        case DAEMON_EV_JOB:
            c->links.job_fd = -1;
            daemon_job_ended(&c->job, how, sizeof how);
            return px_fail(e, PX_EPEER, daemon_field_name(DAEMON_FIELD_LAUNCHER), "the ranks' job ended (%s) during %s", how, what);
        case DAEMON_EV_LOST:
            px_fail(e, PX_EPEER, daemon_field_name(DAEMON_FIELD_RANK_GONE), "rank %u is gone during %s", ev->rank, what);
            px_err_set_rank(e, (int)ev->rank, c->status->rank[ev->rank].host);
            return e->code;
        case DAEMON_EV_TIMEOUT:
            return px_fail(e, PX_ETIMEOUT, daemon_field_name(DAEMON_FIELD_DEADLINE), "%s was not done within its time", what);
        }
    }
}

/* ---- agree, and the stages that the ranks run ---- */

static px_code send(daemon_coldstart *c, uint32_t rank, uint16_t type, const ProtobufCMessage *m, px_err *e)
{
    uint8_t buf[1024];
    size_t n = protobuf_c_message_get_packed_size(m);

    if (n > sizeof buf) return px_fail(e, PX_ERANGE, m->descriptor->name, "%zu bytes", n);
    protobuf_c_message_pack(m, buf);
    return daemon_links_send(&c->links, rank, type, buf, n, px_now_us() + phases[DAEMON_AGREE].limit, e);
}

static px_code agree(daemon_coldstart *c, px_err *e)
{
    px_code rc;
    size_t shm = 0;

    if (c->status->transport == COMM_SHM) {
        shm = comm_shm_bytes(c->world, c->plan[0].partial_bytes, c->plan[0].gather_bytes);
        if (c->shm_fd >= 0) close(c->shm_fd);
        c->shm_fd = -1;                                    /* a fresh one for each job: counters begin at zero */
        if ((rc = px_memfd("phalanx-comm", shm, &c->shm_fd, e))) return rc;
    }
    for (uint32_t r = 0; r < c->world; r++) {
        Phalanx__Wire__Setup w = PHALANX__WIRE__SETUP__INIT;
        w.n_blocks = c->n_blocks;
        w.transport = c->status->transport;
        w.partial_bytes = c->plan[r].partial_bytes;
        w.gather_bytes = c->plan[r].gather_bytes;
        const bool kv_here = c->plan[r].backend == KERN_ON_CPU;            /* else it is the device's */
        w.nccl = c->nccl;
        w.kv_bytes = kv_here ? c->plan[r].kv_block_bytes * c->n_blocks : 0;
        w.shm_bytes = shm;
        w.sample_seed = (uint64_t)px_now_us();
        if (kv_here && c->kv_fd[r] < 0 && (rc = px_memfd("phalanx-kv", w.kv_bytes, &c->kv_fd[r], e))) return rc;
        if ((rc = send(c, r, PHALANX__WIRE__FRAME_TYPE__SETUP, &w.base, e))) return rc;
        int fd[2];
        size_t n = 0;
        if (kv_here) fd[n++] = c->kv_fd[r];
        if (shm) fd[n++] = c->shm_fd;
        if (n && (rc = px_send_fds(c->links.rank[r].fd, fd, n, px_now_us() + phases[DAEMON_AGREE].limit, e)))
            return px_err_set_rank(e, (int)r, c->status->rank[r].host), rc;
    }
    return PX_OK;
}

void daemon_coldstart_progress(daemon_coldstart *c, daemon_phase p, uint32_t percent)
{
    pthread_mutex_lock(&c->status->lock);
    c->status->phase[p].percent = percent < 100 ? percent : 100;
    pthread_mutex_unlock(&c->status->lock);
}

/* The ranks' mean; a bar on a terminal while shards are read, and nothing elsewhere. */
static void progress(daemon_coldstart *c, daemon_phase p, bool last)
{
    uint64_t sum = 0;
    uint32_t width = 40;

    for (uint32_t r = 0; r < c->world; r++) sum += c->status->rank[r].stage_percent;
    uint32_t percent = (uint32_t)(sum / c->world), full = percent * width / 100;
    daemon_coldstart_progress(c, p, percent);
    if (p != DAEMON_MAP || !isatty(2)) return;
    fprintf(stderr, "\rloading [%.*s%.*s] %3u %%%s", (int)full, "########################################",
            (int)(width - full), "                                        ", percent, last ? "\n" : "");
}

/* The ranks that a stage still waits for, each with how far it has come. */
static void name_late(const daemon_coldstart *c, daemon_phase p, px_err *errs, size_t cap, size_t *n)
{
    for (uint32_t r = 0; r < c->world; r++) {
        px_err late = {0};
        if (c->status->rank[r].stage_percent == 100) continue;
        px_fail(&late, PX_ETIMEOUT, daemon_field_name(DAEMON_FIELD_DEADLINE), "rank %u was not done with %s within %lld s: at %u %%",
                r, phases[p].name, (long long)(limit_of(c, p) / 1000000), c->status->rank[r].stage_percent);
        px_err_set_rank(&late, (int)r, c->status->rank[r].host);
        daemon_errors_add(&late, errs, cap, n);
    }
}

/* Tell every rank to begin a stage, wait until all have reported. */
static px_code stage(daemon_coldstart *c, daemon_phase p, Phalanx__Wire__Stage which, px_err *errs, size_t cap, size_t *n,
                     px_err *e)
{
    Phalanx__Wire__Go w = PHALANX__WIRE__GO__INIT;
    px_time_us deadline = px_now_us() + limit_of(c, p);
    uint32_t done = 0, at, percent;
    daemon_event ev;
    px_code rc;

    w.stage = which;
    for (uint32_t r = 0; r < c->world; r++) {
        c->status->rank[r].stage_percent = 0;
        if ((rc = send(c, r, PHALANX__WIRE__FRAME_TYPE__GO, &w.base, e))) return rc;
    }
    while (done < c->world) {
        size_t before = *n;
        if ((rc = daemon_coldstart_next(c, deadline, phases[p].name, &ev, e))) {
            if (rc == PX_ETIMEOUT) name_late(c, p, errs, cap, n);
            if (*n > before) px_err_clear(e);              /* each has been named */
            return rc;
        }
        if (ev.kind != DAEMON_EV_FRAME) continue;
        if (ev.frame.type != PHALANX__WIRE__FRAME_TYPE__REPORT) return daemon_coldstart_unexpected(c, &ev, e);
        daemon_status_report(c->status, c->a, ev.rank, &ev.frame, &at, &percent, errs, cap, n);
        progress(c, p, false);
        /* A collective stage that fails on one rank never ends on the others. */
        if (*n > before && (p == DAEMON_MPI || p == DAEMON_WARM_UP)) return errs[before].code;
        done += at == (uint32_t)which && (percent == 100 || *n > before);
    }
    progress(c, p, true);
    return *n ? errs[0].code : PX_OK;
}

static px_code run(daemon_coldstart *c, daemon_phase p, px_err *errs, size_t cap, size_t *n)
{
    px_err e = {0};
    px_code rc = PX_OK;
    char detail[160] = "";

    daemon_coldstart_begin(c, p);
    switch (p) {
    case DAEMON_SPAWN:   rc = spawn(c, &e); break;
    case DAEMON_HELLO:
        rc = daemon_coldstart_hello(c, px_now_us() + limit_of(c, p), errs, cap, n, &e);
        break;
    case DAEMON_COMPARE: rc = *n ? errs[0].code : PX_OK; break;
    case DAEMON_AGREE:
        if (!(rc = daemon_coldstart_fit(c, detail, sizeof detail, &e)) && !c->dry) rc = agree(c, &e);
        break;
    case DAEMON_MAP:     rc = stage(c, p, PHALANX__WIRE__STAGE__MAP, errs, cap, n, &e); break;
    case DAEMON_MPI:     rc = stage(c, p, PHALANX__WIRE__STAGE__MPI, errs, cap, n, &e); break;
    case DAEMON_CARVE:   rc = stage(c, p, PHALANX__WIRE__STAGE__CARVE, errs, cap, n, &e); break;
    case DAEMON_WARM_UP: rc = stage(c, p, PHALANX__WIRE__STAGE__WARM_UP, errs, cap, n, &e); break;
    default: break;
    }
    if (rc && e.code) daemon_errors_add(&e, errs, cap, n);
    daemon_coldstart_end(c, p, rc, rc ? (e.code ? e.text : *n ? errs[0].text : "") : detail);
    return rc;
}

px_code daemon_coldstart_job(daemon_coldstart *c, px_err *errs, size_t cap, size_t *n_errs)
{
    px_code rc;
    px_err e = {0};

    c->generation++;
    pthread_mutex_lock(&c->status->lock);
    c->status->generation = c->generation;
    for (daemon_phase p = DAEMON_SPAWN; p < DAEMON_N_PHASES; p++) c->status->phase[p] = (daemon_phase_info){0};
    pthread_mutex_unlock(&c->status->lock);
    for (daemon_phase p = DAEMON_SPAWN; p < DAEMON_ALL_READY; p++) {
        if ((rc = run(c, p, errs, cap, n_errs))) return rc;
        if (c->dry && p == DAEMON_AGREE) return PX_OK;
    }
    daemon_coldstart_begin(c, DAEMON_ALL_READY);
    Phalanx__Wire__Go w = PHALANX__WIRE__GO__INIT;
    w.stage = PHALANX__WIRE__STAGE__SERVE;
    for (uint32_t r = 0; r < c->world; r++)
        if ((rc = send(c, r, PHALANX__WIRE__FRAME_TYPE__GO, &w.base, &e))) {
            daemon_errors_add(&e, errs, cap, n_errs);
            daemon_coldstart_end(c, DAEMON_ALL_READY, rc, e.text);
            return rc;
        }
    daemon_coldstart_end(c, DAEMON_ALL_READY, PX_OK, "");
    return PX_OK;
}

px_code daemon_coldstart_verify(daemon_coldstart *c, px_err *e)
{
    Phalanx__Wire__Go w = PHALANX__WIRE__GO__INIT;
    shard_depth depth;
    px_code rc;

    uint64_t most = (uint64_t)c->args->config->verify_full_mib << 20;

    w.stage = PHALANX__WIRE__STAGE__VERIFY;
    if ((rc = shard_depth_parse(c->args->config->verify, &depth, e))) return rc;
    if (depth != SHARD_CHECK_AUTO) return PX_OK;           /* what was asked for has been done */
    for (uint32_t r = 0; r < c->world; r++) {
        if (shard_depth_resolve(depth, c->model->manifest.rank[r].bytes, most) == SHARD_CHECK_FULL) continue;
        if ((rc = send(c, r, PHALANX__WIRE__FRAME_TYPE__GO, &w.base, e))) return rc;
    }
    return PX_OK;
}

void daemon_coldstart_end_job(daemon_coldstart *c, bool clean)
{
    px_err e = {0};

    if (clean && c->job.pid)
        for (uint32_t r = 0; r < c->world; r++)
            if (c->links.rank && c->links.rank[r].fd >= 0)
                daemon_links_send(&c->links, r, PHALANX__WIRE__FRAME_TYPE__BYE, NULL, 0, px_now_us() + 100000, &e);
    if (clean) {
        px_time_us until = px_now_us() + 1500000;
        char how[64];
        while (c->job.pid && px_now_us() < until && !daemon_job_ended(&c->job, how, sizeof how)) {
            struct pollfd p = { c->job.pidfd, POLLIN, 0 };
            poll(&p, 1, 100);
        }
    }
    if (c->links.rank) daemon_links_kill(&c->links);
    /* mpirun notices within milliseconds and takes its own folder away; then it is asked, then made. */
    if (c->job.pid) {
        struct pollfd p = { c->job.pidfd, POLLIN, 0 };
        char how[64];
        poll(&p, 1, 1000);
        if (!daemon_job_ended(&c->job, how, sizeof how)) daemon_job_end(&c->job, true, 1000000);
    }
    daemon_links_close(&c->links);
    if (!c->job_dir[0]) return;
    pid_t left = daemon_adopted_end(c->watcher->pid, REAP);
    if (left) px_log_line(c->args->log, PX_WARN, "job_left", "pid=%d", (int)left);
    px_remove_tree(c->job_dir, &e);
    c->job_dir[0] = 0;
}

void daemon_coldstart_close(daemon_coldstart *c)
{
    if (!c->a) return;
    daemon_deadline_close(&c->deadline);
    daemon_coldstart_end_job(c, false);
    for (uint32_t r = 0; c->kv_fd && r < c->world; r++)
        if (c->kv_fd[r] >= 0) close(c->kv_fd[r]);
    if (c->shm_fd >= 0) close(c->shm_fd);
    if (c->kv_fd) px_del(c->a, c->kv_fd, c->world);
    if (c->plan) px_del(c->a, c->plan, c->world);
    if (c->status->rank) px_del(c->a, c->status->rank, c->world);
    c->status->rank = NULL;
    *c = (daemon_coldstart){0};
}
