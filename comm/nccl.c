/* nccl.c - sums by ncclAllReduce on the device's queue, out of place: from a partial buffer into the sum.
 *
 * The communicator does not block: whatever NCCL begins it may finish behind our back, so every call is followed by polls
 * until it is done or a deadline has passed.  One thread at a time is inside NCCL (`lock`).  An abort may come from any
 * thread: it says why and sets a flag, and whoever can have the lock, or leaves it next, ends the communicator, once.
 *
 * A call that fails aborts before it returns, and the abort may take long: a watch that looks meanwhile must find what the
 * call will say, not that there was an abort.
 *
 * ncclCommAbort tells the kernels at once, and then waits, for as long as there is a graph that holds a sum of the communicator:
 * longer than whoever aborts may wait who is to drop those graphs, or to end the process.  So it has a thread of its own. */
#include "comm/nccl_lib.h"
#include "comm/table.h"
#include "proto/base/guard.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LEAVE_US  (5 * (px_time_us)1000000)    /* for others to leave NCCL, and for what a close waits for */
#define END_US    (2 * (px_time_us)1000000)    /* of an abort, for ncclCommAbort to come back */
#define SPINS     200u                         /* polls before sleeping: a sum is begun within some 20 us */
#define NAP_NS    50000
#define ABORTED_TEXT "the communicator was aborted"

enum { LIVES, ENDING, ABORTED };               /* ENDING: `why` is being written */

typedef struct comm_nccl {
    comm_nccl_lib lib;
    pthread_mutex_t lock;
    _Atomic int life;
    px_err why;                                /* of the first abort; there, and constant, once ABORTED */
    void *comm;                                /* ncclComm_t */
    void *doomed; pthread_t ender;             /* the one that is aborted, and the thread that does it */
    bool  ending; _Atomic bool ended;          /* there is that thread; ncclCommAbort has come back */
    void *window;                              /* ncclWindow_t; NULL: not registered */
    void *memory; size_t memory_bytes;         /* of ncclMemAlloc; NULL: the buffers are the device's */
    bool  symmetric;                           /* all ranks could register `memory` */
} comm_nccl;

/* ---- inside NCCL ---- */

static bool aborted(const comm_nccl *n) { return atomic_load(&n->life) == ABORTED; }

static void end(comm_nccl *n)
{
    n->lib.comm_abort(n->doomed);
    atomic_store(&n->ended, true);
}

static void *end_beside(void *arg)
{
    px_guard_exempt(true);                     /* a step may still run */
    end(arg);
    return NULL;
}

static void end_if_aborted(comm_nccl *n)
{
    if (!aborted(n) || !n->comm) return;
    n->doomed = n->comm;
    n->comm = n->window = NULL;                /* from here on nobody else is inside */
    if (!(n->ending = !pthread_create(&n->ender, NULL, end_beside, n))) end(n);
}

static void leave(comm_nccl *n)
{
    end_if_aborted(n);
    pthread_mutex_unlock(&n->lock);
}

static px_code alive(const comm_nccl *n, px_err *e)
{
    return n && aborted(n) ? px_fail(e, PX_EPEER, "nccl", ABORTED_TEXT) : PX_OK;
}

static px_code pass_on(const px_err *why, px_err *e)
{
    if (e && !e->code) *e = *why;
    return why->code;
}

static px_code why_aborted(const comm_nccl *n, px_err *e) { return n && aborted(n) ? pass_on(&n->why, e) : PX_OK; }

static px_code enter(comm_nccl *n, px_err *e)
{
    px_code rc;

    pthread_mutex_lock(&n->lock);
    if ((rc = alive(n, e))) leave(n);
    return rc;
}

static void rest(unsigned turn)
{
    if (turn < SPINS) sched_yield();
    else nanosleep(&(struct timespec){ .tv_nsec = NAP_NS }, NULL);
}

/* false: ncclCommAbort has not come back in time. */
static bool has_ended(const comm_nccl *n, px_time_us wait_us)
{
    const px_time_us until = px_now_us() + wait_us;

    for (unsigned turn = 0; !atomic_load(&n->ended); turn++) {
        if (px_now_us() > until) return false;
        rest(turn);
    }
    return true;
}

static void abort_for(comm_nccl *n, const px_err *why)
{
    const px_time_us until = px_now_us() + LEAVE_US;
    unsigned turn = 0;
    int was = LIVES;

    if (!atomic_compare_exchange_strong(&n->life, &was, ENDING)) return;
    n->why = *why;
    atomic_store(&n->life, ABORTED);
    while (pthread_mutex_trylock(&n->lock)) {
        if (px_now_us() > until) return;                   /* whoever is inside ends it on leaving */
        rest(turn++);
    }
    const bool begun = n->comm || n->doomed;
    leave(n);
    if (begun) has_ended(n, END_US);
}

static void nccl_abort(comm *c)
{
    px_err why = {0};

    if (!c->nccl) return;
    px_fail(&why, PX_EPEER, "nccl", ABORTED_TEXT);
    abort_for(c->nccl, &why);
}

/* A call's error, which ends the communicator. */
static px_code end_with(comm_nccl *n, const px_err *why, px_err *e)
{
    abort_for(n, why);
    return pass_on(why, e);
}

static px_code code_of(int result)
{
    switch (result) {
    case COMM_NCCL_CUDA:   return PX_EDEVICE;
    case COMM_NCCL_SYSTEM: return PX_EIO;
    case COMM_NCCL_REMOTE: return PX_EPEER;
    default:               return PX_EINTERNAL;
    }
}

/* Inside: NCCL remembers more than its result says. */
static px_code refused(comm_nccl *n, const char *what, int result, px_err *e)
{
    const char *word = n->lib.get_error_string(result), *last = n->lib.get_last_error(n->comm);

    return px_fail(e, code_of(result), "nccl", "%s: %.90s%s%.110s", what, word ? word : "?", last && last[0] ? ": " : "",
                   last ? last : "");
}

/* What was begun with `result`, until it is done.  An error and a deadline end the communicator.  After the deadline there is
 * one more look: a thread that was not run meanwhile finds that NCCL has done its part. */
static px_code settle(comm *c, int result, const char *what, px_time_us wait_us, px_err *e)
{
    comm_nccl *n = c->nccl;
    const px_time_us begun = px_now_us();
    px_err why = {0};
    px_code rc;
    int state = result;

    for (unsigned turn = 0; state == COMM_NCCL_IN_PROGRESS; turn++) {
        const bool last = px_now_us() - begun > wait_us;
        rest(turn);
        if ((rc = enter(n, e))) return rc;
        int r = n->lib.comm_get_async_error(n->comm, &state);
        if (r && r != COMM_NCCL_IN_PROGRESS) state = r;
        if (state && state != COMM_NCCL_IN_PROGRESS) refused(n, what, state, &why);
        leave(n);
        if (state == COMM_NCCL_IN_PROGRESS && last) {
            px_fail(&why, PX_ETIMEOUT, "nccl", "%s: still in progress after %lld ms on rank %u", what, (long long)(wait_us / 1000), c->rank);
            break;
        }
    }
    return why.code ? end_with(n, &why, e) : PX_OK;
}

/* After a call that has returned `result` inside. */
static px_code done(comm *c, int result, const char *what, px_time_us wait_us, px_err *e)
{
    comm_nccl *n = c->nccl;
    px_err why = {0};

    if (result && result != COMM_NCCL_IN_PROGRESS) refused(n, what, result, &why);
    leave(n);
    return why.code ? end_with(n, &why, e) : settle(c, result, what, wait_us, e);
}

/* ---- windows ---- */

static px_code register_all(comm *c, px_err *e)
{
    comm_nccl *n = c->nccl;
    px_code rc = enter(n, e);

    if (rc) return rc;
    int r = n->lib.window_register(n->comm, n->memory, n->memory_bytes, &n->window, COMM_NCCL_COLL_SYMMETRIC);
    return done(c, r, "ncclCommWindowRegister", c->dev.timeout_us, e);
}

static px_code deregister(comm *c, px_time_us wait_us, px_err *e)
{
    comm_nccl *n = c->nccl;
    px_code rc = enter(n, e);

    if (rc) return rc;
    int r = n->window ? n->lib.window_deregister(n->comm, n->window) : COMM_NCCL_OK;
    n->window = NULL;
    return done(c, r, "ncclCommWindowDeregister", wait_us, e);
}

bool comm_nccl_has(const comm *c, comm_algorithm how)
{
    if (how == COMM_STAGED) return c->dev.on && c->world > 1 && c->dev.host->partial_bytes >= c->partial_bytes;
    return c->nccl && (how == COMM_PLAIN || c->nccl->symmetric);
}

px_code comm_nccl_use_all(comm *c, comm_algorithm how, px_err *e)
{
    comm_nccl *n = c->nccl;
    px_code rc = PX_OK;

    c->dev.staged = how == COMM_STAGED;
    c->any_turn = !c->dev.staged;                          /* a queue's order keeps a partial sum until it is read */
    if (how == COMM_STAGED) return comm_staged_room(c, e);
    comm_staged_leave(c);
    if (how == COMM_SYMMETRIC && !n->window) rc = register_all(c, e);
    if (how == COMM_PLAIN && n->window) rc = deregister(c, c->dev.timeout_us, e);
    return rc;
}

/* ---- the table ---- */

static px_code nccl_reduce(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *count, px_err *e)
{
    comm_nccl *n = c->nccl;
    px_code rc;

    if (!n || c->dev.staged) return comm_staged_table.reduce(c, which, bytes, views, count, e);
    *views = c->dev.view[which];
    *count = 1;
    if (!bytes) return PX_OK;
    if ((rc = enter(n, e))) return rc;
    int r = n->lib.all_reduce(c->partial[which], c->dev.sum, bytes / sizeof(float), COMM_NCCL_FLOAT32, COMM_NCCL_SUM, n->comm,
                              c->dev.on->queue);
    return done(c, r, "ncclAllReduce", c->dev.timeout_us, e);
}

static px_code nccl_gather(comm *c, const void *mine, size_t bytes, void *all, px_err *e)
{
    px_code rc = alive(c->nccl, e);
    return rc ? rc : comm_device_gather(c, mine, bytes, all, e);
}

static px_code nccl_barrier(comm *c, px_err *e)
{
    px_code rc = alive(c->nccl, e);
    return rc ? rc : comm_device_barrier(c, e);
}

static px_code nccl_poll(comm *c, px_err *e)
{
    comm_nccl *n = c->nccl;
    int state = COMM_NCCL_OK;
    px_code rc;

    /* Who is inside sees NCCL's errors, or never comes out: the clock of a watch must not wait for that. */
    if ((rc = why_aborted(n, e)) || !n || pthread_mutex_trylock(&n->lock)) return rc;
    if ((rc = why_aborted(n, e))) return leave(n), rc;
    int r = n->comm ? n->lib.comm_get_async_error(n->comm, &state) : COMM_NCCL_OK;
    if (r) state = r;
    if (state && state != COMM_NCCL_IN_PROGRESS) rc = refused(n, "ncclCommGetAsyncError", state, e);
    leave(n);
    return rc;
}

/* Orderly where nothing went wrong: the window, what is under way, the communicator; else an abort. */
static void end_communicator(comm *c)
{
    comm_nccl *n = c->nccl;

    if (c->failed) {
        nccl_abort(c);
        return;
    }
    if (deregister(c, LEAVE_US, NULL) || enter(n, NULL)) return;
    int r = n->lib.comm_finalize(n->comm);
    if (done(c, r, "ncclCommFinalize", LEAVE_US, NULL) || enter(n, NULL)) return;
    n->lib.comm_destroy(n->comm);
    n->comm = NULL;
    leave(n);
}

static void nccl_close(comm *c)
{
    comm_nccl *n = c->nccl;

    bool left = false;

    if (n) {
        end_communicator(c);
        pthread_mutex_lock(&n->lock);
        const bool ending = n->ending;
        pthread_mutex_unlock(&n->lock);
        /* What still waits for a graph that nobody drops (of a device that is lost) has the memory, and keeps it. */
        if (ending && (left = !has_ended(n, LEAVE_US))) pthread_detach(n->ender);
        else if (ending) pthread_join(n->ender, NULL);
        if (!left && n->memory) n->lib.mem_free(n->memory);
        if (!left) pthread_mutex_destroy(&n->lock);
    }
    comm_device_close(c);
    px_del(c->a, left ? NULL : n, n && !left ? 1 : 0);
    c->nccl = NULL;
}

const comm_table comm_nccl_table = {
    .name = "nccl", .close = nccl_close, .reduce = nccl_reduce, .gather = nccl_gather, .barrier = nccl_barrier, .poll = nccl_poll,
    .abort = nccl_abort,
};

/* ---- opening ---- */

#define HEAD_BYTES (1 + 4 + COMM_NCCL_ID_BYTES)            /* code, version, and rank 0's id */

static px_code same_versions(const comm *c, const uint8_t (*all)[HEAD_BYTES], px_err *e)
{
    char found[24], expected[24];

    for (uint32_t r = 1; r < c->world; r++) {
        uint32_t v[2];
        for (int i = 0; i < 2; i++) {
            const uint8_t *b = all[i ? r : 0] + 1;
            v[i] = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        }
        if (v[0] == v[1]) continue;
        comm_nccl_version_text((int)v[1], found, sizeof found);
        comm_nccl_version_text((int)v[0], expected, sizeof expected);
        return px_refuse(e, PX_EMISMATCH, "nccl", found, expected, "ncclGetVersion: rank %u has %s, rank 0 has %s", r, found, expected);
    }
    return PX_OK;
}

/* The library on every rank, and one id for all. */
static px_code load_all(comm *c, comm_nccl_id *id, px_err *e)
{
    comm_nccl *n = c->nccl;
    uint8_t mine[HEAD_BYTES] = {0}, all[COMM_MAX_WORLD][HEAD_BYTES];
    px_code rc = comm_nccl_lib_open(&n->lib, e), gathered;
    int r;

    if (!rc && c->rank == 0 && (r = n->lib.get_unique_id(id))) rc = refused(n, "ncclGetUniqueId", r, e);
    mine[0] = (uint8_t)rc;
    for (int i = 0; i < 4; i++) mine[1 + i] = (uint8_t)((uint32_t)n->lib.version >> 8 * i);
    memcpy(mine + 5, id->bytes, sizeof id->bytes);
    gathered = comm_gather_pieces_all(c->dev.host, mine, sizeof mine, all, rc ? NULL : e);
    if (rc || (rc = gathered)) return rc;
    for (uint32_t k = 0; k < c->world; k++)
        if (all[k][0])
            return px_refuse(e, PX_EPEER, "nccl", px_code_name(all[k][0] < PX_N_CODES ? (px_code)all[k][0] : PX_EINTERNAL), "",
                             "%s failed on rank %u", COMM_NCCL_FILE, k);
    memcpy(id->bytes, all[0] + 5, sizeof id->bytes);
    return same_versions(c, (const uint8_t (*)[HEAD_BYTES])all, e);
}

/* Buffers that NCCL can map into its peers, where it can; the device's own otherwise. */
static px_code take_buffers(comm *c, px_err *e)
{
    comm_nccl *n = c->nccl;

    n->memory_bytes = px_align_up(3 * c->dev.each, COMM_NCCL_WINDOW_ALIGN);
    if (comm_nccl_lib_symmetric(&n->lib)) {
        if (n->lib.mem_alloc(&n->memory, n->memory_bytes) || !n->memory) n->memory = NULL;
        else comm_device_place(c, n->memory);
    }
    return n->memory ? PX_OK : comm_device_take(c, e);
}

static px_code begin_all(comm *c, const comm_nccl_id *id, uint32_t channels, px_err *e)
{
    comm_nccl *n = c->nccl;
    const int most = channels ? (int)channels : COMM_NCCL_UNSET;
    comm_nccl_config config = { .size = sizeof config, .magic = COMM_NCCL_MAGIC, .version = COMM_NCCL_CONFIG, .blocking = 0,
                                .cga_cluster = COMM_NCCL_UNSET, .min_ctas = channels ? 1 : COMM_NCCL_UNSET, .max_ctas = most };
    px_code rc = enter(n, e);

    if (rc) return rc;
    int r = n->lib.comm_init_rank_config(&n->comm, (int)c->world, *id, (int)c->rank, &config);
    if (!n->comm && (!r || r == COMM_NCCL_IN_PROGRESS)) r = COMM_NCCL_INTERNAL;
    return done(c, r, "ncclCommInitRankConfig", c->dev.timeout_us, e);
}

/* A window on every rank, or on none.  NCCL says nothing where the hardware has none: the window is then NULL. */
static px_code windows_all(comm *c, px_err *e)
{
    comm_nccl *n = c->nccl;
    uint8_t mine = n->memory != NULL, all[COMM_MAX_WORLD], least;
    px_code rc;

    for (int step = 0; step < 2; step++) {
        if ((rc = comm_gather_pieces_all(c->dev.host, &mine, 1, all, e))) return rc;
        least = 1;
        for (uint32_t r = 0; r < c->world; r++)
            if (!all[r]) least = 0;
        if (!least) return deregister(c, c->dev.timeout_us, e);
        n->symmetric = step == 1;
        if (!step && (rc = comm_device_agree_all(c, register_all(c, e), "ncclCommWindowRegister", e))) return rc;
        mine = n->window != NULL;
    }
    return PX_OK;
}

/* The device's buffers come zeroed, NCCL's do not. */
static px_code clear(comm *c, px_err *e)
{
    static const uint8_t zero[1 << 16];
    const comm_nccl *n = c->nccl;
    px_code rc = PX_OK;

    for (size_t at = 0, each; n->memory && at < n->memory_bytes && !rc; at += each) {
        each = n->memory_bytes - at < sizeof zero ? n->memory_bytes - at : sizeof zero;
        rc = c->dev.on->to_device(c->dev.on->ctx, (uint8_t *)n->memory + at, zero, each, e);
    }
    return rc;
}

static px_code open_communicator_all(comm *c, const comm_device_args *args, px_err *e)
{
    comm_nccl_id id = {0};
    px_code rc;

    if (!(c->nccl = px_new(c->a, comm_nccl, 1))) return px_fail(e, PX_ENOMEM, "nccl", "%zu bytes", sizeof(comm_nccl));
    pthread_mutex_init(&c->nccl->lock, NULL);      /* with default attributes it cannot fail on Linux */
    c->dev.apart = c->any_turn = true;
    if ((rc = load_all(c, &id, e)) ||
        (rc = comm_device_agree_all(c, take_buffers(c, e), "the memory of the sums", e)) ||
        (rc = comm_device_agree_all(c, begin_all(c, &id, args->channels, e), "ncclCommInitRankConfig", e)) ||
        (rc = windows_all(c, e)))
        return rc;
    return comm_device_agree_all(c, clear(c, e), "the first copy to the device", e);
}

px_code comm_open_nccl_all(comm **out, px_alloc *a, const comm_device_args *args, px_err *e)
{
    px_code rc = comm_device_open(out, a, &comm_nccl_table, args, e);

    if (rc) return rc;
    if (args->channels > INT_MAX) rc = px_fail(e, PX_ERANGE, "channels", "%u", args->channels);
    else rc = (*out)->world > 1 || args->alone ? open_communicator_all(*out, args, e) : comm_device_take(*out, e);
    if (!rc) return PX_OK;
    (*out)->failed = true;
    comm_close(*out);
    *out = NULL;
    return rc;
}

px_code comm_open_device_all(comm **c, px_alloc *a, const comm_device_args *args, comm_reduce how, px_err *e)
{
    if (how == COMM_REDUCE_ORDERED || (args->host->world == 1 && !args->alone)) return comm_open_staged(c, a, args, e);
    return comm_open_nccl_all(c, a, args, e);
}
