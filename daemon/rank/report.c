/* report.c - what a rank says of a stage: its errors, how far it is, and what was planned and measured. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/rank/device.h"
#include "shard/plan/others.h"

#define SEND_WAIT_US   (10 * 1000000ll)

px_code daemon_rank_send(daemon_rank *r, uint16_t type, const ProtobufCMessage *m, px_err *e)
{
    px_arena arena;
    uint8_t *data;
    size_t n;
    px_code rc;

    px_arena_init(&arena, &r->talk.a, "wire", 16384, 0, 0);
    if (!(rc = daemon_pack(&arena.a, m, &data, &n, e))) {
        pthread_mutex_lock(&r->send_lock);
        rc = proto_frame_send(r->fd, type, r->generation, data, n, px_now_us() + SEND_WAIT_US, e);
        pthread_mutex_unlock(&r->send_lock);
    }
    px_arena_deinit(&arena);
    return rc;
}

typedef struct subsystems {
    Phalanx__Wire__Subsystem v[32], *p[32];
    size_t n;
} subsystems;

static void add_subsystem(void *ctx, const char *name, size_t live, size_t peak)
{
    subsystems *l = ctx;

    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->v[i].name, name)) {
            l->v[i].live += live;
            l->v[i].peak += peak;
            return;
        }
    if (l->n == sizeof l->v / sizeof *l->v) return;
    l->v[l->n] = (Phalanx__Wire__Subsystem)PHALANX__WIRE__SUBSYSTEM__INIT;
    l->v[l->n].name = (char *)(uintptr_t)name;
    l->v[l->n].live = live;
    l->v[l->n].peak = peak;
    l->p[l->n] = &l->v[l->n];
    l->n++;
}

/* Bytes of a part of a mapping that are in memory, by the kernel's word. */
static uint64_t in_memory(const void *p, size_t bytes)
{
    static unsigned char seen[1u << 16];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), lead = (uintptr_t)p % page, n = 0;
    const char *base = (const char *)p - lead;

    for (size_t at = 0, end = lead + bytes; at < end; at += sizeof seen * page) {
        size_t span = end - at < sizeof seen * page ? end - at : sizeof seen * page;
        if (mincore((char *)(uintptr_t)base + at, span, seen)) return 0;
        for (size_t i = 0; i < (span + page - 1) / page; i++) {
            size_t from = at + i * page, to = from + page;         /* the page, cut to the part */
            if (from < lead) from = lead;
            if (to > end) to = end;
            if (seen[i] & 1) n += to - from;
        }
    }
    return n;
}

/* ---- what is not ours ---- */

typedef struct others { Phalanx__Wire__Estimate v[SHARD_N_OTHERS], *p[SHARD_N_OTHERS]; } others;

/* A reading that failed is 0, which is within no bounds. */
static void fill_others(const daemon_rank *r, const shard_rank_bytes *plan, const shard_resident *now, others *o)
{
    size_t map_bytes;
    const char *map = shard_file_map(r->file, &map_bytes);
    const uint64_t reading[SHARD_N_OTHERS] = {
        [SHARD_OTHER_PROGRAM] = r->at_start.anonymous, [SHARD_OTHER_PROGRAM_FILES] = r->at_start.files,
        [SHARD_OTHER_MPI] = r->mpi.anonymous + r->mpi.shared, [SHARD_OTHER_MPI_FILES] = r->mpi.files,
        /* the data, behind the file's header */
        [SHARD_OTHER_WEIGHT_PAGES] = map_bytes < plan->weights.mapped ? 0
                                   : in_memory(map + (map_bytes - plan->weights.mapped), plan->weights.mapped),
        [SHARD_OTHER_ANONYMOUS] = now->anonymous, [SHARD_OTHER_SHARED] = now->shared, [SHARD_OTHER_FILES] = now->files,
        [SHARD_OTHER_CONTEXT] = r->taken_context, [SHARD_OTHER_NCCL] = r->taken_nccl, [SHARD_OTHER_GRAPHS] = r->taken_graphs,
    };

    for (shard_other k = 0; k < shard_n_others(plan); k++) {
        shard_estimate x = shard_other_of(plan, r->world, k);
        o->v[k] = (Phalanx__Wire__Estimate)PHALANX__WIRE__ESTIMATE__INIT;
        o->v[k].kind = (char *)(uintptr_t)shard_other_name(k);
        o->v[k].estimated = x.bytes, o->v[k].low = x.low, o->v[k].high = x.high;
        o->v[k].measured = reading[k];
        o->p[k] = &o->v[k];
    }
}

/* On a device the backend counts what it has given; the executor counts only the host's arena. */
static void add_device(daemon_rank *r, const shard_rank_bytes *b, const shard_executor_held *held, Phalanx__Wire__Report *w)
{
    kern_info now = {0};

    r->ops->info(r->dev, &now, NULL);
    w->kv_measured = held->kv;
    w->arena_measured += now.held_bytes - held->weights - held->kv - r->sums_held;
    /* NCCL's own buffers, on either side, are among its reading */
    w->comm_planned += r->setup.nccl ? r->sums_held : b->comm_device + b->comm_staging;
    w->comm_measured += r->sums_held;
}

px_code daemon_rank_report(daemon_rank *r, uint32_t stage, uint32_t percent, const px_err *err, size_t n_err, px_err *e)
{
    Phalanx__Wire__Report w = PHALANX__WIRE__REPORT__INIT;
    Phalanx__Wire__Error error[DAEMON_RANK_ERRORS], *errors[DAEMON_RANK_ERRORS];
    subsystems list = { .n = 0 };
    shard_resident now;
    others o;

    if (n_err > DAEMON_RANK_ERRORS) n_err = DAEMON_RANK_ERRORS;
    for (size_t i = 0; i < n_err; i++) {
        daemon_error_to_wire(&err[i], &error[i]);
        error[i].rank = (int32_t)r->rank;
        error[i].host = r->log.host;
        errors[i] = &error[i];
    }
    w.stage = (Phalanx__Wire__Stage)stage;
    w.errors = errors;
    w.n_errors = n_err;
    w.percent = percent;
    shard_measure_resident("", &now, NULL);
    if (r->executor && stage == PHALANX__WIRE__STAGE__WARM_UP) {
        const shard_rank_bytes *b = shard_executor_plan(r->executor);
        const shard_executor_held held = shard_executor_holds(r->executor);
        fill_others(r, b, &now, &o);
        w.others = o.p;
        w.n_others = shard_n_others(b);
        w.weights_planned = b->weights.mapped;
        w.weights_measured = held.weights;
        w.kv_planned = b->kv_pool;
        w.kv_measured = r->kv ? in_memory(r->kv, r->kv_bytes) : 0;
        w.arena_planned = b->activations.bytes + b->rope_tables + b->host.bytes;
        w.arena_measured = held.arenas;
        w.step_planned = b->step_buffers;
        w.step_measured = atomic_load(&r->buffers.count.live);
        w.comm_planned = b->comm_private + (r->rank ? 0 : b->comm_shared);      /* the segment counts on rank 0 */
        w.comm_measured = atomic_load(&r->transport.count.live) + (r->rank ? 0 : comm_shared_held(r->comm));
        w.comm_measured -= r->sums_beside;
        if (r->dev) add_device(r, b, &held, &w);
    }
    w.rss = now.anonymous + now.shared + now.files;
    px_count_each(add_subsystem, &list);
    w.subsystems = list.p;
    w.n_subsystems = list.n;
    return daemon_rank_send(r, PHALANX__WIRE__FRAME_TYPE__REPORT, &w.base, e);
}

void daemon_rank_progress(daemon_rank *r, uint32_t stage, uint64_t done, uint64_t total)
{
    uint32_t percent = total ? (uint32_t)(done * 100 / total) : 100;
    px_err ignored = {0};

    if (percent >= 100 || percent < r->told_percent + 5) return;
    r->told_percent = percent;
    daemon_rank_report(r, stage, percent, NULL, 0, &ignored);
}
