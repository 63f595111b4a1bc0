/* prepare.c - SETUP, then the stages of a start, one after the other as the coordinator says GO. */
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/rank/device.h"
#include "daemon/rank/populate.h"

#define HELLO_WAIT_US  (60 * 1000000ll)     /* the coordinator compares, it does not compute */

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
    const size_t of_kv = r->setup.kv_bytes != 0, n = of_kv + (r->setup.shm_bytes != 0);
    if (n && (rc = px_recv_fds(r->fd, fd, n, px_now_us() + HELLO_WAIT_US, e))) return rc;
    r->shm_fd = fd[of_kv];
    if (!of_kv) return PX_OK;
    struct stat st;
    if (fstat(fd[0], &st)) rc = px_fail_errno(e, "setup.kv_bytes", "fstat");
    else if ((uint64_t)st.st_size < r->setup.kv_bytes)
        rc = px_fail(e, PX_EMISMATCH, "setup.kv_bytes", "the KV memory file has %lld bytes, not %llu", (long long)st.st_size,
                     (unsigned long long)r->setup.kv_bytes);
    else if (!(rc = px_map_fd("setup.kv_bytes", fd[0], r->setup.kv_bytes, true, false, &r->kv, e))) r->kv_bytes = r->setup.kv_bytes;
    close(fd[0]);
    return rc;
}

static void map_progress(void *ctx, uint64_t done, uint64_t total) { daemon_rank_progress(ctx, PHALANX__WIRE__STAGE__MAP, done, total); }
/* Of an upload; digests are checked beside it, and the slower of both is the stage's. */
static void upload_progress(void *ctx, uint64_t done, uint64_t total)
{
    daemon_rank *r = ctx;
    uint32_t percent = total ? (uint32_t)(done * 100 / total) : 100, digests = atomic_load(&r->digested) ? 100 : atomic_load(&r->digest_percent);

    daemon_rank_progress(r, PHALANX__WIRE__STAGE__CARVE, percent < digests ? percent : digests, 100);
}
static void carve_progress(void *ctx, uint64_t done, uint64_t total) { daemon_rank_progress(ctx, PHALANX__WIRE__STAGE__CARVE, done, total); }

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
        daemon_rank_progress(r, PHALANX__WIRE__STAGE__CARVE, atomic_load(&r->digest_percent), 100);
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
    const px_time_us limit = (r->config.coldstart_s ? r->config.coldstart_s : DAEMON_MPI_S) * 1000000ll;
    const px_time_us until = px_now_us() + limit - limit / DAEMON_RANK_SOONER;
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
    if ((rc = comm_open(&r->comm, &r->transport.a, &args, e)) || (r->dev && (rc = daemon_rank_device_sums_all(r, until, e)))) return rc;
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
    daemon_rank_device_tell_products(r);
    return daemon_rank_watch_open(r, e);
}

static px_code run_stage(daemon_rank *r, Phalanx__Wire__Stage stage, px_err *e)
{
    switch (stage) {
    case PHALANX__WIRE__STAGE__MAP:     return stage_map(r, e);
    case PHALANX__WIRE__STAGE__MPI:     return stage_mpi(r, e);
    case PHALANX__WIRE__STAGE__CARVE:   return stage_carve(r, e);
    case PHALANX__WIRE__STAGE__WARM_UP: return stage_warm_up(r, e);
    default:                            return px_fail(e, PX_EINTERNAL, "go.stage", "stage %d prepares nothing", (int)stage);
    }
}

/* The stage to begin.  Each needs what the one before has made, so there is one order. */
static px_code take_go(daemon_rank *r, const proto_frame *f, Phalanx__Wire__Stage expected, px_err *e)
{
    Phalanx__Wire__Stage stage = PHALANX__WIRE__STAGE__STAGE_NONE;
    ProtobufCMessage *m;
    px_arena arena;
    px_code rc;

    px_arena_init(&arena, &r->talk.a, "wire", 4096, 0, 1u << 20);
    if (!(rc = proto_pb_unpack(&phalanx__wire__go__descriptor, &arena.a, f->n, f->data, &m, e)))
        stage = ((const Phalanx__Wire__Go *)m)->stage;
    px_arena_deinit(&arena);
    if (!rc && stage != expected) rc = px_fail(e, PX_EINVAL, "go.stage", "stage %d came, stage %d is next", (int)stage, (int)expected);
    return rc;
}

px_code daemon_rank_prepare(daemon_rank *r, px_err *e)
{
    Phalanx__Wire__Stage stage = PHALANX__WIRE__STAGE__STAGE_NONE;     /* the last one; none: without a SETUP yet */
    uint8_t buf[4096];
    proto_frame f;
    px_code rc;
    bool have_setup = false;

    for (;;) {
        /* The coordinator has its own deadline for each step; if it is gone, the socket says so. */
        if ((rc = proto_frame_recv(r->fd, buf, sizeof buf, &f, PX_NEVER, e))) return rc;
        if (f.generation != r->generation) continue;
        if (f.type == PHALANX__WIRE__FRAME_TYPE__BYE) return px_fail(e, PX_ECANCELLED, "bye", "the coordinator ended this job");
        if (f.type == PHALANX__WIRE__FRAME_TYPE__SETUP && !have_setup) {
            if ((rc = take_setup(r, &f, e))) return rc;
            have_setup = true;
            continue;
        }
        if (f.type != PHALANX__WIRE__FRAME_TYPE__GO || !have_setup)
            return px_fail(e, PX_EINVAL, "frame.type", "frame %u is not expected before serving", f.type);
        if ((rc = take_go(r, &f, stage + 1, e))) return rc;
        if (++stage == PHALANX__WIRE__STAGE__SERVE) return PX_OK;
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
