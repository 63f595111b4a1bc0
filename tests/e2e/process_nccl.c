/* A libnccl.so.2 for ranks that are processes of one host with the CUDA backend of tests/cuda_host: sums over a mapped file beside
 * the library, put on the stream that the caller names.  tests/comm/fake_nccl.c is the one for all that NCCL can do to its
 * caller; this one carries a service.
 *
 * What it is told (says.h), whenever it looks:
 *   init hang | refuse     ncclCommInitRankConfig never ends; is refused
 *   sum stall | break      from the next sum on none ends; and the asynchronous error says so */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/comm/nccl_exports.h"
#include "tests/e2e/says.h"

#define RANKS  4u
#define FLOATS 4096u

typedef struct meeting {                       /* the file, zeroed when it is made */
    _Atomic uint32_t joined, came[RANKS];
    float slot[RANKS][2][FLOATS];
} meeting;

typedef struct communicator {                  /* what an ncclComm_t points to */
    meeting *at;
    uint32_t rank, world, seq;
    bool     hangs;                            /* its init */
    _Atomic int async, aborted;
} communicator;

typedef struct stream { int (*put)(struct stream *s, void (*fn)(void *), void *arg); } stream;     /* as tests/cuda_host/stream.cpp has it */

typedef struct sum { communicator *c; const float *send; float *recv; size_t n; struct sum *next; } sum;
static sum *sums;                              /* all that were ever begun: a graph keeps its own for ever */

static void nap(long us) { nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL); }

static bool told(const char *key, const char *word)
{
    char value[TEST_SAYS_WORD];

    return test_says(key, value) && !strcmp(value, word);
}

/* Without windows: the caller's buffers are the device's. */
int ncclGetVersion(int *version)
{
    *version = 22605;
    return COMM_NCCL_OK;
}

const char *ncclGetErrorString(int result) { return result == COMM_NCCL_REMOTE ? "remote process exited or there was a network error" : "a fake's error"; }

const char *ncclGetLastError(void *comm)
{
    (void)comm;
    return "as it was told to";
}

/* ---- a communicator's life ---- */

static bool path_of(const comm_nccl_id *id, char out[TEST_SAYS_PATH])
{
    return !memcmp(id->bytes, ".", 1) && memchr(id->bytes, 0, sizeof id->bytes) && test_says_beside(id->bytes, out);
}

int ncclGetUniqueId(comm_nccl_id *id)
{
    char path[TEST_SAYS_PATH];
    int fd;

    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, ".world.%d.%lld", (int)getpid(), (long long)time(NULL));
    if (!path_of(id, path) || (fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600)) < 0) return COMM_NCCL_SYSTEM;
    const int rc = ftruncate(fd, sizeof(meeting));
    close(fd);
    return rc ? COMM_NCCL_SYSTEM : COMM_NCCL_OK;
}

static meeting *map(const char *path)
{
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(meeting), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (fd >= 0) close(fd);
    return p == MAP_FAILED ? NULL : p;
}

int ncclCommInitRankConfig(void **comm, int n, comm_nccl_id id, int rank, comm_nccl_config *config)
{
    char path[TEST_SAYS_PATH];
    communicator *c;

    if (n < 1 || n > (int)RANKS || rank < 0 || rank >= n || config->magic != COMM_NCCL_MAGIC || config->blocking || !path_of(&id, path))
        return COMM_NCCL_ARGUMENT;
    if (told("init", "refuse")) return COMM_NCCL_USAGE;
    if (!(c = calloc(1, sizeof *c)) || !(c->at = map(path))) {
        free(c);
        return COMM_NCCL_SYSTEM;
    }
    c->rank = (uint32_t)rank;
    c->world = (uint32_t)n;
    c->hangs = told("init", "hang");
    if (!c->hangs && atomic_fetch_add(&c->at->joined, 1) + 1 == c->world) unlink(path);
    *comm = c;
    return COMM_NCCL_IN_PROGRESS;
}

int ncclCommGetAsyncError(void *comm, int *state)
{
    communicator *c = comm;

    *state = c->hangs || atomic_load(&c->at->joined) < c->world ? COMM_NCCL_IN_PROGRESS : atomic_load(&c->async);
    return COMM_NCCL_OK;
}

int ncclCommFinalize(void *comm)
{
    (void)comm;
    return COMM_NCCL_OK;
}

int ncclCommDestroy(void *comm)
{
    communicator *c = comm;

    while (sums) {
        sum *next = sums->next;
        free(sums);
        sums = next;
    }
    munmap(c->at, sizeof *c->at);
    free(c);
    return COMM_NCCL_OK;
}

/* What runs on a stream may still look at it: it stays. */
int ncclCommAbort(void *comm)
{
    communicator *c = comm;

    atomic_store(&c->aborted, 1);
    return COMM_NCCL_OK;
}

/* ---- sums ---- */

/* As a kernel does: until all have come, or the communicator is aborted. */
static bool meet(communicator *c, uint32_t seq)
{
    for (uint32_t r = 0; r < c->world; r++)
        while ((int32_t)(atomic_load(&c->at->came[r]) - seq) < 0) {
            if (atomic_load(&c->aborted)) return false;
            nap(20);
        }
    return true;
}

static void run(void *arg)
{
    const sum *s = arg;
    communicator *c = s->c;
    const uint32_t seq = ++c->seq;

    if (told("sum", "break")) atomic_store(&c->async, COMM_NCCL_REMOTE);
    while ((told("sum", "break") || told("sum", "stall")) && !atomic_load(&c->aborted)) nap(1000);
    if (atomic_load(&c->aborted)) return;
    memcpy(c->at->slot[c->rank][seq % 2], s->send, s->n * sizeof *s->send);
    atomic_store(&c->at->came[c->rank], seq);
    if (!meet(c, seq)) return;
    for (size_t i = 0; i < s->n; i++) {
        float total = 0;
        for (uint32_t r = c->world; r-- > 0;) total += c->at->slot[r][seq % 2][i];       /* an order that is not the tree's */
        s->recv[i] = total;
    }
}

int ncclAllReduce(const void *send, void *recv, size_t n, int type, int op, void *comm, void *on)
{
    stream *s = on;
    sum *x;

    if (type != COMM_NCCL_FLOAT32 || op != COMM_NCCL_SUM || n > FLOATS || send == recv) return COMM_NCCL_ARGUMENT;
    if (!(x = malloc(sizeof *x))) return COMM_NCCL_SYSTEM;
    *x = (sum){ .c = comm, .send = send, .recv = recv, .n = n, .next = sums };
    sums = x;
    return s->put(s, run, x) ? COMM_NCCL_CUDA : COMM_NCCL_OK;
}
