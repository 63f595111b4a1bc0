/* fake_nccl.c - a libnccl.so.2 without GPUs: the functions that comm/nccl_lib.c finds by name, over shared memory, with
 * faults where a test wants them.  Sums run when the test's device waits for its queue. */
#include "tests/comm/fake_nccl.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/comm/nccl_exports.h"

static fake_world *world;
static _Thread_local uint32_t this_rank;       /* of calls without a communicator; the test says it */

EXPORT void fake_nccl_use(fake_world *w);
EXPORT void fake_nccl_rank(uint32_t rank);
EXPORT int ncclMemAlloc(void **p, size_t bytes);
EXPORT int ncclMemFree(void *p);
EXPORT int ncclCommWindowRegister(void *comm, void *p, size_t bytes, void **window, int flags);
EXPORT int ncclCommWindowDeregister(void *comm, void *window);

void fake_nccl_use(fake_world *w) { world = w; }
void fake_nccl_rank(uint32_t rank) { this_rank = rank; }

static void nap(unsigned us) { nanosleep(&(struct timespec){ .tv_nsec = (long)us * 1000 }, NULL); }

static void stay(void)
{
    atomic_store(&world->stays, 1);
    for (int i = 0; i < 400000 && atomic_load(&world->stays); i++) nap(200);
    atomic_store(&world->stays, 0);
}

static void *over(const void *p) { return (void *)((uintptr_t)p ^ FAKE_TURN); }

/* ---- faults, and who is inside ---- */

static bool faulty(uint32_t rank, fake_call call)
{
    return ++world->calls[rank][call] == world->fault.nth && world->fault.call == call && world->fault.rank == rank;
}

static void go_in(fake_comm *c)
{
    if (atomic_fetch_add(&c->inside, 1) || !c->live) atomic_fetch_add(&world->misuse, 1);
}

static int come_out(fake_comm *c, int result)
{
    atomic_fetch_sub(&c->inside, 1);
    return result;
}

/* Begins something: its result, or in progress. */
static int begin(fake_comm *c, bool bad)
{
    if (c->left) atomic_fetch_add(&world->misuse, 1);      /* something else is still in progress */
    c->then = COMM_NCCL_OK;
    c->left = world->polls;
    if (bad && world->fault.how == FAKE_REFUSES) return world->fault.result;
    if (bad && world->fault.how == FAKE_HANGS) c->left = -1;
    if (bad && world->fault.how == FAKE_LATER) {
        c->left = world->polls + 1;
        c->then = world->fault.result;
    }
    return c->left || c->joins ? COMM_NCCL_IN_PROGRESS : COMM_NCCL_OK;
}

/* ---- without a communicator ---- */

int ncclGetVersion(int *version)
{
    *version = world->version;
    return COMM_NCCL_OK;
}

const char *ncclGetErrorString(int result)
{
    static const char *const text[] = { "no error", "unhandled cuda error", "unhandled system error", "internal error",
                                        "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                        "operation in progress" };
    return (unsigned)result < sizeof text / sizeof *text ? text[result] : "unknown result code";
}

const char *ncclGetLastError(void *comm)
{
    (void)comm;
    return "the fake\nwas told to";
}

int ncclGetUniqueId(comm_nccl_id *id)
{
    if (faulty(this_rank, FAKE_ID)) return world->fault.result;
    for (int i = 0; i < COMM_NCCL_ID_BYTES; i++) id->bytes[i] = (char)(i * 7 + 1);
    return COMM_NCCL_OK;
}

int ncclMemAlloc(void **p, size_t bytes)
{
    void *block = NULL;

    if (faulty(this_rank, FAKE_MEM)) return world->fault.result;
    if (posix_memalign(&block, 4096, bytes)) return COMM_NCCL_SYSTEM;
    memset(block, 0xA5, bytes);                            /* NCCL promises nothing about what is in it */
    atomic_fetch_add(&world->memory, 1);
    *p = over(block);
    return COMM_NCCL_OK;
}

int ncclMemFree(void *p)
{
    free(over(p));
    atomic_fetch_sub(&world->memory, 1);
    return COMM_NCCL_OK;
}

/* ---- a communicator's life ---- */

static bool id_is_ours(const comm_nccl_id *id)
{
    for (int i = 0; i < COMM_NCCL_ID_BYTES; i++)
        if (id->bytes[i] != (char)(i * 7 + 1)) return false;
    return true;
}

int ncclCommInitRankConfig(void **comm, int n, comm_nccl_id id, int rank, comm_nccl_config *config)
{
    const bool bad = faulty((uint32_t)rank, FAKE_INIT);
    fake_comm *c = &world->comm[rank];

    if (!id_is_ours(&id) || n < 1 || n > (int)FAKE_RANKS || config->magic != COMM_NCCL_MAGIC || config->size != sizeof *config
        || config->version != COMM_NCCL_CONFIG || config->blocking)
        return COMM_NCCL_ARGUMENT;
    world->max_ctas = config->max_ctas;
    *c = (fake_comm){ .live = true, .rank = (uint32_t)rank, .world = (uint32_t)n, .joins = true };
    go_in(c);
    atomic_fetch_add(&world->live, 1);
    if (!bad) atomic_fetch_add(&world->joined, 1);
    *comm = c;
    return come_out(c, begin(c, bad));
}

int ncclCommGetAsyncError(void *comm, int *state)
{
    fake_comm *c = comm;

    go_in(c);
    *state = COMM_NCCL_IN_PROGRESS;
    if (c->left > 0) c->left--;
    else if (!c->left && c->joins && !c->then) c->joins = atomic_load(&world->joined) < c->world;
    if (!c->left && (c->then || !c->joins)) *state = c->then ? c->then : atomic_load(&c->async);
    return come_out(c, COMM_NCCL_OK);
}

static void end(fake_comm *c)
{
    c->live = false;
    atomic_fetch_sub(&world->live, 1);
}

int ncclCommFinalize(void *comm)
{
    fake_comm *c = comm;

    go_in(c);
    if (c->window) atomic_fetch_add(&world->misuse, 1);
    const int r = begin(c, faulty(c->rank, FAKE_FINALIZE));
    for (unsigned i = 0; c->queue && i < c->queue->n_graph; i++)
        if (c->queue->graph[i].comm == c) c->left = -1;
    return come_out(c, c->left < 0 ? COMM_NCCL_IN_PROGRESS : r);
}

int ncclCommDestroy(void *comm)
{
    fake_comm *c = comm;
    const bool bad = faulty(c->rank, FAKE_DESTROY);

    go_in(c);
    end(c);
    return come_out(c, bad ? world->fault.result : COMM_NCCL_OK);
}

int ncclCommAbort(void *comm)
{
    fake_comm *c = comm;

    go_in(c);
    atomic_store(&c->aborted, 1);
    atomic_fetch_add(&world->aborts, 1);
    if (world->abort_stays) stay();
    for (int i = 0; i < 400000 && c->queue && c->queue->n_graph; i++) nap(200);
    if (c->window) atomic_fetch_sub(&world->windows, 1);
    end(c);
    return come_out(c, COMM_NCCL_OK);
}

/* ---- windows ---- */

int ncclCommWindowRegister(void *comm, void *p, size_t bytes, void **window, int flags)
{
    fake_comm *c = comm;

    go_in(c);
    if (flags != COMM_NCCL_COLL_SYMMETRIC || (uintptr_t)p % COMM_NCCL_WINDOW_ALIGN) return come_out(c, COMM_NCCL_ARGUMENT);
    const int r = begin(c, faulty(c->rank, FAKE_WINDOW));
    if (!world->no_window && (!r || r == COMM_NCCL_IN_PROGRESS)) {
        c->window = p;
        c->window_bytes = bytes;
        *window = &c->window;
        atomic_fetch_add(&world->windows, 1);
    }
    return come_out(c, r);
}

int ncclCommWindowDeregister(void *comm, void *window)
{
    fake_comm *c = comm;

    go_in(c);
    if (window != &c->window || !c->window) atomic_fetch_add(&world->misuse, 1);
    const int r = begin(c, faulty(c->rank, FAKE_DEREGISTER));
    c->window = NULL;
    atomic_fetch_sub(&world->windows, 1);
    return come_out(c, r);
}

/* ---- sums ---- */

/* As a kernel does: until all have come, or the communicator is aborted. */
static bool meet(fake_comm *c, uint32_t seq)
{
    for (uint32_t r = 0; r < c->world; r++)
        while ((int32_t)(atomic_load(&world->came[r]) - seq) < 0) {
            if (atomic_load(&c->aborted)) return false;
            nap(20);
        }
    return true;
}

static bool inside_window(const fake_comm *c, const void *p, size_t bytes)
{
    const uint8_t *at = p, *base = c->window;

    return base && at >= base && at + bytes <= base + c->window_bytes;
}

static int run(fake_comm *c, const float *send, float *recv, size_t n, bool stalls)
{
    const unsigned way = inside_window(c, send, n * sizeof *send) && inside_window(c, recv, n * sizeof *recv);
    const uint32_t seq = ++c->seq;
    float *out = over(recv);

    if (stalls && world->fault.how == FAKE_BREAKS) atomic_store(&c->async, world->fault.result);
    while (stalls && !atomic_load(&c->aborted)) nap(200);
    if (stalls || atomic_load(&c->aborted)) return 1;
    if (world->delay_us[way]) nap(world->delay_us[way]);
    memcpy(world->slot[c->rank][seq % 2], over(send), n * sizeof *send);
    atomic_store(&world->came[c->rank], seq);
    if (!meet(c, seq)) return 1;
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (uint32_t r = c->world; r-- > 0;) sum += world->slot[r][seq % 2][i];       /* an order that is not the tree's */
        out[i] = sum;
    }
    if (world->wrong[way]) out[n - 1] += 1;
    atomic_fetch_add(&world->sums[way], 1);
    return 0;
}

int ncclAllReduce(const void *send, void *recv, size_t n, int type, int op, void *comm, void *stream)
{
    fake_comm *c = comm;
    fake_queue *q = stream;

    go_in(c);
    if (type != COMM_NCCL_FLOAT32 || op != COMM_NCCL_SUM || n > FAKE_FLOATS || send == recv) return come_out(c, COMM_NCCL_ARGUMENT);
    const bool bad = faulty(c->rank, FAKE_REDUCE);
    if (bad && world->fault.how == FAKE_STAYS) stay();
    const bool stalls = bad && (world->fault.how == FAKE_STALLS || world->fault.how == FAKE_BREAKS);
    const int r = begin(c, bad);
    if (r && r != COMM_NCCL_IN_PROGRESS) return come_out(c, r);
    c->queue = q;
    if ((q->recording ? q->n_graph : q->n) == FAKE_OPS) return come_out(c, COMM_NCCL_INTERNAL);
    *(q->recording ? &q->graph[q->n_graph++] : &q->op[q->n++]) = (fake_op){ .run = run, .comm = c, .send = send, .recv = recv, .n = n, .stalls = stalls };
    return come_out(c, r);
}
