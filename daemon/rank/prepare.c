#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/rank/device.h"
#include "daemon/rank/fields.h"
#include "daemon/rank/populate.h"
#include "shard/plan/others.h"

#define HELLO_WAIT_US  (60 * 1000000ll)     /* the coordinator compares, it does not compute */
#define SEND_WAIT_US   (10 * 1000000ll)

static px_code send_message(daemon_rank *r, uint16_t type, const ProtobufCMessage *m, px_err *e)
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

/* ---- hello ---- */

typedef struct facts {
    px_arena *arena;
    Phalanx__Wire__Fact **v; size_t n, cap;
    bool full;
} facts;

static void add_fact(void *ctx, const daemon_fact *f)
{
    facts *l = ctx;
    Phalanx__Wire__Fact *w = px_new(&l->arena->a, Phalanx__Wire__Fact, 1);

    if (!w || l->n == l->cap) {
        l->full = true;
        return;
    }
    *w = (Phalanx__Wire__Fact)PHALANX__WIRE__FACT__INIT;
    w->field = px_strdup(&l->arena->a, f->field);
    w->value = px_strdup(&l->arena->a, f->value);
    w->file = px_strdup(&l->arena->a, f->file);
    if (!w->field || !w->value || !w->file) l->full = true;
    else l->v[l->n++] = w;
}

/* What this host can still give, file pages that can be dropped counted as free: the shard itself lies in those. */
static uint64_t free_bytes(void)
{
    shard_free_memory now;

    return shard_measure_free("", &now, NULL) ? 0 : now.bytes;
}

static void boot_id(char out[64])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    out[0] = 0;
    if (!f) return;
    if (!fgets(out, 64, f)) out[0] = 0;
    fclose(f);
    out[strcspn(out, "\n")] = 0;
}

static int64_t wall_clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The plan that this rank would carve by; a plan that cannot be made is an error of the hello. */
static bool own_plan(daemon_rank *r, shard_rank_bytes *plan)
{
    const shard_manifest *m = &r->manifest;
    shard_demand demand = daemon_contract_demand(&r->config, r->world);
    px_err e = {0};

    if (!r->has_manifest || m->world != r->world) return false;
    if (!shard_rank_bytes_of(&m->arch, &m->types, &m->split, r->rank, &demand,
                             (int)daemon_contract_transport(&r->config, r->world), plan, &e))
        return true;
    if (r->n_err < DAEMON_RANK_ERRORS) r->err[r->n_err++] = e;
    return false;
}

/* What can be read and opened without memory or peers; every mismatch is kept for the hello. */
static void look(daemon_rank *r)
{
    px_err e = {0};
    size_t n = 0;

    if (r->n_err) return;                                  /* the configuration itself is wrong */
    if (r->config.device == PROTO_DEVICE_CUDA ? daemon_rank_device_open(r, &e) : kern_cpu_ops(daemon_contract_cpu(&r->config), &r->ops, &e))
        r->err[r->n_err++] = e;
    px_err_clear(&e);
    if (shard_manifest_read(&r->manifest, &r->heap.a, r->config.set, &e)) {
        r->err[r->n_err++] = e;
        return;
    }
    r->has_manifest = true;
    if (r->manifest.world != r->world) {
        char found[32], expected[32];
        snprintf(found, sizeof found, "%u", r->world);
        snprintf(expected, sizeof expected, "%u", r->manifest.world);
        px_mismatch(&e, "ranks", found, expected);
        px_err_set_file(&e, r->config.set);
        r->err[r->n_err++] = e;
        return;
    }
    shard_file_open(&r->file, &r->heap.a, r->config.set, &r->manifest, r->rank, r->err + r->n_err,
                    DAEMON_RANK_ERRORS - r->n_err, &n);
    r->n_err += n < DAEMON_RANK_ERRORS - r->n_err ? n : DAEMON_RANK_ERRORS - r->n_err;
}

static void short_of(daemon_rank *r, daemon_field f, uint64_t have, uint64_t want)
{
    char found[32], expected[48];

    snprintf(found, sizeof found, "%llu", (unsigned long long)have);
    snprintf(expected, sizeof expected, "at least %llu", (unsigned long long)want);
    if (r->n_err < DAEMON_RANK_ERRORS)
        px_refuse(&r->err[r->n_err++], PX_ERANGE, daemon_field_name(f), found, expected, "a limit of this process is too low");
}

/* Limits that would end the job half-way: said before anything is taken.  MPI maps libraries and segments of its own. */
static void check_limits(daemon_rank *r, const shard_rank_bytes *plan)
{
    const uint64_t mpi_bytes = 256u << 20;
    struct rlimit l;
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f && fscanf(f, "%lu", &pages) != 1) pages = 0;
    if (f) fclose(f);
    uint64_t want = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) + plan->total - (r->dev ? 0 : plan->weights.mapped) + plan->comm_shared
                  + (r->world > 1 ? mpi_bytes : 0);
    if (!getrlimit(RLIMIT_AS, &l) && l.rlim_cur != RLIM_INFINITY && l.rlim_cur < want)
        short_of(r, DAEMON_FIELD_ULIMIT_SPACE, l.rlim_cur, want);
    want = 64 + 4 * (uint64_t)r->world;
    if (!getrlimit(RLIMIT_NOFILE, &l) && l.rlim_cur != RLIM_INFINITY && l.rlim_cur < want)
        short_of(r, DAEMON_FIELD_ULIMIT_FILES, l.rlim_cur, want);
}

px_code daemon_rank_hello(daemon_rank *r, px_err *e)
{
    Phalanx__Wire__Hello w = PHALANX__WIRE__HELLO__INIT;
    Phalanx__Wire__Device device = PHALANX__WIRE__DEVICE__INIT;
    Phalanx__Wire__Error error[DAEMON_RANK_ERRORS], *errors[DAEMON_RANK_ERRORS];
    Phalanx__Wire__Fact *fact[DAEMON_MAX_FACTS];
    shard_rank_bytes plan;
    char boot[64], features[128], nccl[32];
    px_arena arena;
    px_code rc;

    shard_measure_resident("", &r->at_start, NULL);
    look(r);
    px_arena_init(&arena, &r->talk.a, "wire", 16384, 0, 0);
    facts list = { &arena, fact, 0, sizeof fact / sizeof *fact, false };
    if (r->has_manifest)
        daemon_contract_facts(&r->config, r->config_path, &r->manifest, r->config.set, add_fact, &list);
    if (own_plan(r, &plan)) {
        check_limits(r, &plan);
        daemon_contract_rank_facts(&r->manifest, r->config.set, r->rank, &plan, r->file != NULL, add_fact, &list);
    }
    w.rank = r->rank;
    w.world = r->world;
    w.pid = (uint32_t)getpid();
    w.host = r->log.host;
    w.facts = fact;
    w.n_facts = list.n;
    for (size_t i = 0; i < r->n_err; i++) {
        px_err_set_rank(&r->err[i], (int)r->rank, r->log.host);
        daemon_error_to_wire(&r->err[i], &error[i]);
        errors[i] = &error[i];
    }
    w.errors = errors;
    w.n_errors = r->n_err;
    w.cpu_path = r->ops ? (char *)(uintptr_t)r->ops->name : w.cpu_path;
    w.free_bytes = free_bytes();
    w.threads = daemon_contract_threads(&r->config, r->world);
    boot_id(boot);
    w.boot_id = boot;
    daemon_contract_cpu_features(features, sizeof features);
    w.cpu_features = features;
    if (r->dev) {
        device.name = r->gpu.name;
        device.driver = r->gpu.driver;
        device.runtime = r->gpu.runtime;
        device.arch = r->gpu.arch;
        comm_nccl_version(nccl, sizeof nccl);
        device.nccl = nccl;
        device.ordinal = r->ordinal;
        device.free_bytes = r->gpu.free_bytes;
        device.total_bytes = r->gpu.total_bytes;
        w.device = &device;
    }
    w.time_us = wall_clock_us();
    rc = list.full ? px_fail(e, PX_ENOMEM, "hello", "no memory for the facts")
                   : send_message(r, PHALANX__WIRE__FRAME_TYPE__HELLO, &w.base, e);
    px_arena_deinit(&arena);
    return rc;
}

/* ---- reports ---- */

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
        px_err copy = err[i];
        px_err_set_rank(&copy, (int)r->rank, r->log.host);
        daemon_error_to_wire(&copy, &error[i]);
        error[i].rank = (int32_t)r->rank;
        error[i].host = r->log.host;
        error[i].file = (char *)(uintptr_t)err[i].file;
        error[i].field = (char *)(uintptr_t)err[i].field;
        error[i].found = (char *)(uintptr_t)err[i].found;
        error[i].expected = (char *)(uintptr_t)err[i].expected;
        error[i].text = (char *)(uintptr_t)err[i].text;
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
    return send_message(r, PHALANX__WIRE__FRAME_TYPE__REPORT, &w.base, e);
}

/* ---- stages ---- */

static px_code take_setup(daemon_rank *r, const proto_frame *f, px_err *e)
{
    ProtobufCMessage *m;
    px_arena arena;
    px_code rc;
    int fd[2] = { -1, -1 };

    px_arena_init(&arena, &r->talk.a, "wire", 4096, 0, 1u << 20);
    if (!(rc = proto_pb_unpack(&phalanx__wire__setup__descriptor, &arena.a, f->n, f->data, &m, e)))
        r->setup = *(const Phalanx__Wire__Setup *)m;        /* numbers only: nothing points into the arena */
    px_arena_deinit(&arena);
    if (rc) return rc;
    size_t n = 0, of_kv = r->setup.kv_bytes != 0;
    n = of_kv + (r->setup.shm_bytes != 0);
    if (n && (rc = px_recv_fds(r->fd, fd, n, px_now_us() + HELLO_WAIT_US, e))) return rc;
    r->shm_fd = fd[of_kv];
    if (!of_kv) return PX_OK;
    struct stat st;
    if (fstat(fd[0], &st) || (uint64_t)st.st_size < r->setup.kv_bytes)
        rc = px_fail(e, PX_EMISMATCH, "setup.kv_bytes", "the KV memory file has %lld bytes, not %llu", (long long)st.st_size,
                     (unsigned long long)r->setup.kv_bytes);
    else if (!(rc = px_map_fd(fd[0], r->setup.kv_bytes, true, false, &r->kv, e)))
        r->kv_bytes = r->setup.kv_bytes;
    close(fd[0]);
    return rc;
}

/* Told in steps of five per cent; 100 is said with the stage's verdict. */
static void tell_progress(daemon_rank *r, uint32_t stage, uint64_t done, uint64_t total)
{
    uint32_t percent = total ? (uint32_t)(done * 100 / total) : 100;
    px_err ignored = {0};

    if (percent >= 100 || percent < r->told_percent + 5) return;
    r->told_percent = percent;
    daemon_rank_report(r, stage, percent, NULL, 0, &ignored);
}

static void map_progress(void *ctx, uint64_t done, uint64_t total) { tell_progress(ctx, PHALANX__WIRE__STAGE__MAP, done, total); }
/* Of an upload; digests are checked beside it, and the slower of both is the stage's. */
static void upload_progress(void *ctx, uint64_t done, uint64_t total)
{
    daemon_rank *r = ctx;
    uint32_t percent = total ? (uint32_t)(done * 100 / total) : 100, digests = atomic_load(&r->digested) ? 100 : atomic_load(&r->digest_percent);

    tell_progress(r, PHALANX__WIRE__STAGE__CARVE, percent < digests ? percent : digests, 100);
}
static void carve_progress(void *ctx, uint64_t done, uint64_t total) { tell_progress(ctx, PHALANX__WIRE__STAGE__CARVE, done, total); }

static px_code check_args(const daemon_rank *r, shard_check_args *args, px_err *e)
{
    px_code rc;

    *args = (shard_check_args){ .depth = SHARD_CHECK_AUTO, .seed = r->setup.sample_seed, .ctx = (void *)(uintptr_t)r,
                                .threads = daemon_contract_threads(&r->config, r->world) };
    if (r->config.verify[0] && (rc = shard_depth_parse(r->config.verify, &args->depth, e))) return rc;
    args->depth = shard_depth_resolve(args->depth, shard_file_bytes(r->file), (uint64_t)r->config.verify_full_mib << 20);
    return PX_OK;
}

/* ---- digests beside the upload: a device's weights are read once for both ---- */

static void digest_progress(void *ctx, uint64_t done, uint64_t total)
{
    daemon_rank *r = ctx;

    atomic_store(&r->digest_percent, total ? (uint32_t)(done * 100 / total) : 100);
}

static void *digest(void *arg)
{
    daemon_rank *r = arg;
    shard_check_args args;
    px_err e = {0};

    if (!(r->digest_rc = check_args(r, &args, &e))) {
        args.progress = digest_progress;
        args.cancel = &r->stop_check;
        r->digest_rc = shard_file_check(r->file, &args, r->digest_err, DAEMON_RANK_ERRORS, &r->n_digest_err);
    } else r->digest_err[r->n_digest_err++] = e;
    atomic_store(&r->digested, true);
    return NULL;
}

/* The first errors are the digests': what was computed with damaged weights is of no interest. */
static px_code await_digests(daemon_rank *r, px_err *e)
{
    while (!atomic_load(&r->digested)) {
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
        tell_progress(r, PHALANX__WIRE__STAGE__CARVE, atomic_load(&r->digest_percent), 100);
    }
    pthread_join(r->digester, NULL);
    r->digesting = false;
    if (!r->digest_rc) return PX_OK;
    r->n_err = r->n_digest_err;
    memcpy(r->err, r->digest_err, r->n_err * sizeof *r->err);
    if (r->n_err) *e = r->err[0];
    return r->digest_rc;
}

static px_code stage_map(daemon_rank *r, px_err *e)
{
    shard_check_args args;
    px_code rc;

    if (r->dev) {
        r->digesting = !pthread_create(&r->digester, NULL, digest, r);
        return r->digesting ? PX_OK : px_fail(e, PX_ENOMEM, "threads", "no thread for the digests");
    }
    if ((rc = check_args(r, &args, e))) return rc;
    args.progress = map_progress;
    r->n_err = 0;
    r->told_percent = 0;
    rc = shard_file_check(r->file, &args, r->err, DAEMON_RANK_ERRORS, &r->n_err);
    if (rc && r->n_err) *e = r->err[0];
    return rc;
}

static uint64_t grown(uint64_t from, uint64_t to) { return to > from ? to - from : 0; }

static px_code stage_mpi(daemon_rank *r, px_err *e)
{
    uint32_t rank, world;
    px_code rc;

    if (r->world > 1) {
        shard_resident before, after;
        shard_measure_resident("", &before, NULL);
        if ((rc = comm_mpi_init(&rank, &world, e))) return rc;
        shard_measure_resident("", &after, NULL);
        r->mpi = (shard_resident){ grown(before.anonymous, after.anonymous), grown(before.shared, after.shared),
                                   grown(before.files, after.files) };
        if (rank != r->rank || world != r->world)
            return px_fail(e, PX_EMISMATCH, "mpi.rank", "MPI says rank %u of %u, the launcher's environment said %u of %u",
                           rank, world, r->rank, r->world);
    }
    comm_args args = { .kind = (comm_kind)r->setup.transport, .rank = r->rank, .world = r->world,
                       .partial_bytes = r->setup.partial_bytes, .gather_bytes = r->setup.gather_bytes,
                       .shm_fd = r->shm_fd };
    if ((rc = comm_open(&r->comm, &r->transport.a, &args, e)) || (r->dev && (rc = daemon_rank_device_sums_all(r, e)))) return rc;
    if (!r->config.check_sequence) return PX_OK;
    const size_t before = atomic_load(&r->transport.count.live);
    rc = comm_sequence_on(r->dev ? r->sums : r->comm, e);
    r->sums_beside += atomic_load(&r->transport.count.live) - before;
    return rc;
}

static px_code stage_carve(daemon_rank *r, px_err *e)
{
    shard_demand demand = daemon_contract_demand(&r->config, r->world);
    shard_executor_args args = { .ops = r->ops, .manifest = &r->manifest, .file = r->file, .rank = r->rank, .comm = r->comm,
                                 .demand = &demand, .n_blocks = r->setup.n_blocks, .kv_memory = r->kv,
                                 .kv_bytes = r->kv_bytes, .check_samples = r->setup.check_samples };
    px_code rc;

    r->told_percent = 0;
    if (r->dev) {
        args.dev = r->dev;
        args.comm = r->sums;
        args.progress = (shard_progress){ upload_progress, r };
    } else if ((rc = daemon_populate(r->kv, r->kv_bytes, demand.threads, carve_progress, r, e))) return rc;
    r->frame = px_new(&r->buffers.a, uint8_t, SHARD_STEP_FRAME);
    r->scratch = px_new(&r->buffers.a, uint8_t, SHARD_STEP_SCRATCH);
    r->buffers.populate = false;
    if (r->rank == 0) r->answer = r->buffers.a.get(&r->buffers.a, SHARD_STEP_ANSWER, 64);      /* not written: nor touched */
    if (!r->frame || !r->scratch || (r->rank == 0 && !r->answer)) return px_fail(e, PX_ENOMEM, "step", "no memory for the step's frames");
    rc = shard_executor_open(&r->executor, &r->heap.a, &args, e);
    if (!r->dev) return rc;
    px_err of_digests = {0};
    px_code digests = await_digests(r, &of_digests);
    if (digests) *e = of_digests;
    return digests ? digests : rc;
}

static px_code stage_warm_up(daemon_rank *r, px_err *e)
{
    uint64_t before = 0;
    px_code rc;

    if (r->dev) daemon_rank_device_taken(r, &before);
    if ((rc = shard_executor_warm_up_all(r->executor, e)) || !r->dev) return rc;
    r->taken_graphs = daemon_rank_device_taken(r, &before);
    return daemon_rank_watch_open(r, e);
}

static px_code run_stage(daemon_rank *r, Phalanx__Wire__Stage stage, px_err *e)
{
    switch (stage) {
    case PHALANX__WIRE__STAGE__MAP:     return stage_map(r, e);
    case PHALANX__WIRE__STAGE__MPI:     return stage_mpi(r, e);
    case PHALANX__WIRE__STAGE__CARVE:   return stage_carve(r, e);
    case PHALANX__WIRE__STAGE__WARM_UP: return stage_warm_up(r, e);
    default: return px_fail(e, PX_EINVAL, "go.stage", "unknown stage %d", (int)stage);
    }
}

px_code daemon_rank_prepare(daemon_rank *r, px_err *e)
{
    uint8_t buf[4096];
    proto_frame f;
    px_code rc;
    bool have_setup = false;

    for (;;) {
        /* The coordinator has its own deadline for each step; if it is gone, the socket says so. */
        if ((rc = proto_frame_recv(r->fd, buf, sizeof buf, &f, PX_NEVER, e))) return rc;
        if (f.generation != r->generation) continue;
        if (f.type == PHALANX__WIRE__FRAME_TYPE__BYE) return px_fail(e, PX_ECANCELLED, "bye", "the coordinator ended this job");
        if (f.type == PHALANX__WIRE__FRAME_TYPE__SETUP) {
            if ((rc = take_setup(r, &f, e))) return rc;
            have_setup = true;
            continue;
        }
        if (f.type != PHALANX__WIRE__FRAME_TYPE__GO || !have_setup)
            return px_fail(e, PX_EINVAL, "frame.type", "frame %u is not expected before serving", f.type);
        px_arena arena;
        ProtobufCMessage *m;
        Phalanx__Wire__Stage stage = PHALANX__WIRE__STAGE__STAGE_NONE;
        px_arena_init(&arena, &r->talk.a, "wire", 4096, 0, 1u << 20);
        if (!(rc = proto_pb_unpack(&phalanx__wire__go__descriptor, &arena.a, f.n, f.data, &m, e)))
            stage = ((const Phalanx__Wire__Go *)m)->stage;
        px_arena_deinit(&arena);
        if (rc) return rc;
        if (stage == PHALANX__WIRE__STAGE__SERVE) return PX_OK;
        r->n_err = 0;
        px_err_clear(e);
        rc = run_stage(r, stage, e);
        if (rc && !r->n_err) r->err[r->n_err++] = *e;
        px_err send_error = {0};
        px_code sent = daemon_rank_report(r, stage, rc ? 0 : 100, r->err, r->n_err, &send_error);
        if (sent) return *e = send_error, sent;
        /* After a failure the coordinator says what follows: BYE, or the socket's end. */
    }
}
