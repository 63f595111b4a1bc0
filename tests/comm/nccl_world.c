#include "tests/comm/nccl_world.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/nccl_abi.h"
#include "comm/table.h"

fake_world *test_nccl;
const char *test_nccl_lacks;
bool        test_nccl_absent;
_Atomic int test_nccl_opened;

static px_heap heap;
static void *library;                                  /* the test's own handle of the fake */
static void (*fake_rank)(uint32_t rank);
static _Thread_local const test_rank *self;

void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);
void *__real_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name);

void *__wrap_dlopen(const char *name, int flags)
{
    if (!name || strcmp(name, COMM_NCCL_FILE)) return __real_dlopen(name, flags);
    atomic_fetch_add(&test_nccl_opened, 1);
    const bool absent = test_nccl_absent || (self && self->lacks_nccl);
    return __real_dlopen(absent ? "libphalanx-there-is-none.so.2" : TEST_FAKE_NCCL, flags);
}

static int other_version(int *version)
{
    *version = self->version;
    return 0;
}

void *__wrap_dlsym(void *handle, const char *name)
{
    void *f = test_nccl_lacks && !strcmp(name, test_nccl_lacks) ? NULL : __real_dlsym(handle, name);
    int (*other)(int *) = other_version;

    if (self && self->version && !strcmp(name, "ncclGetVersion")) memcpy(&f, &other, sizeof f);
    return f;
}

void test_nccl_fresh(void)
{
    if (!library) {
        void (*use)(fake_world *);
        void *f;
        px_heap_init(&heap, "test");
        test_nccl = mmap(NULL, sizeof *test_nccl, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(test_nccl != MAP_FAILED);
        library = __real_dlopen(TEST_FAKE_NCCL, RTLD_NOW | RTLD_LOCAL);
        assert_non_null(library);
        f = __real_dlsym(library, "fake_nccl_use");
        memcpy(&use, &f, sizeof f);
        f = __real_dlsym(library, "fake_nccl_rank");
        memcpy(&fake_rank, &f, sizeof f);
        use(test_nccl);
    }
    memset(test_nccl, 0, sizeof *test_nccl);
    test_nccl->version = 22809;
    test_nccl->polls = 2;
    test_nccl_lacks = NULL;
    test_nccl_absent = false;
    atomic_store(&test_nccl_opened, 0);
}

/* ---- the device ---- */

void *test_over(const void *p) { return (void *)((uintptr_t)p ^ FAKE_TURN); }

static px_code drain(test_rank *r, px_err *e)
{
    const unsigned n = r->queue.n;
    int broken = 0;

    r->queue.n = 0;
    for (unsigned i = 0; i < n && !broken; i++) {
        const fake_op *o = &r->queue.op[i];
        broken = o->run(o->comm, o->send, o->recv, o->n, o->stalls);
    }
    return broken ? px_fail(e, PX_EDEVICE, "device", "the queue is broken") : PX_OK;
}

static px_code get(void *ctx, size_t bytes, void **out, px_err *e)
{
    test_rank *r = ctx;
    void *p = NULL;

    if (posix_memalign(&p, 256, bytes)) return px_fail(e, PX_ENOMEM, "device", "%zu bytes", bytes);
    memset(p, 0, bytes);
    r->held += bytes;
    *out = test_over(p);
    return PX_OK;
}

static void put(void *ctx, void *p, size_t bytes)
{
    ((test_rank *)ctx)->held -= bytes;
    free(test_over(p));
}

static px_code to_host(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    px_code rc = drain(ctx, e);
    if (!rc) memcpy(dst, test_over(src), bytes);
    return rc;
}

static px_code to_device(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    px_code rc = drain(ctx, e);
    if (!rc) memcpy(test_over(dst), src, bytes);
    return rc;
}

static px_code record(void *ctx, px_err *e)
{
    fake_queue *q = &((test_rank *)ctx)->queue;

    (void)e;
    q->recording = true;
    q->n_graph = 0;
    return PX_OK;
}

static px_code end(void *ctx, px_err *e)
{
    (void)e;
    ((test_rank *)ctx)->queue.recording = false;
    return PX_OK;
}

static px_code replay(void *ctx, px_err *e)
{
    fake_queue *q = &((test_rank *)ctx)->queue;

    if (q->n + q->n_graph > FAKE_OPS) return px_fail(e, PX_EDEVICE, "device", "the queue is full");
    memcpy(q->op + q->n, q->graph, q->n_graph * sizeof *q->op);
    q->n += q->n_graph;
    return PX_OK;
}

/* ---- ranks ---- */

void test_nccl_rank(test_rank *r, const comm_args *host, void (*fn)(test_rank *r))
{
    self = r;
    fake_rank(r->rank);
    if (!r->a) r->a = &heap.a;
    r->device = (comm_device){ .ctx = r, .queue = &r->queue, .get = get, .put = put, .to_host = to_host, .to_device = to_device,
                               .record = record, .end = end, .replay = replay };
    r->rc = comm_open(&r->host, r->a, host, &r->e);
    r->args.device = &r->device;
    r->args.host = r->host;
    r->args.partial_bytes = PARTIAL;
    if (!r->rc) r->rc = comm_open_nccl_all(&r->c, r->a, &r->args, &r->e);
    if (fn) fn(r);
    comm_close(r->c);
    comm_close(r->host);
    r->c = r->host = NULL;
    self = NULL;
}

void test_nccl_limits(test_rank *r, px_time_us call_us, px_time_us host_us)
{
    r->c->dev.timeout_us = call_us;
    r->host->room.at.timeout_us = host_us;
}

typedef struct start { test_rank *r; comm_local_group *group; void (*fn)(test_rank *r); } start;

static void *run(void *arg)
{
    const start *s = arg;

    test_nccl_rank(s->r, &(comm_args){ .kind = COMM_LOCAL, .rank = s->r->rank, .world = s->r->world,
                                       .partial_bytes = s->r->host_is_small ? 4 : PARTIAL,
                                       .gather_bytes = 40, .timeout_us = WAIT_US, .group = s->group }, s->fn);
    return NULL;
}

void test_nccl_nothing_left(void)
{
    assert_int_equal(test_nccl->live, 0);
    assert_int_equal(test_nccl->memory, 0);
    assert_int_equal(test_nccl->windows, 0);
    assert_int_equal(test_nccl->misuse, 0);
    assert_int_equal(heap.count.live, 0);
}

void test_nccl_ranks(test_rank *r, uint32_t n, px_time_us timeout_us, void (*fn)(test_rank *r))
{
    comm_local_group *group = NULL;
    pthread_t t[FAKE_RANKS];
    start s[FAKE_RANKS];
    px_err e = {0};

    assert_int_equal(comm_local_group_open(&group, &heap.a, n, &e), PX_OK);
    for (uint32_t i = 0; i < n; i++) {
        r[i].rank = i;
        r[i].world = n;
        if (!r[i].args.timeout_us) r[i].args.timeout_us = timeout_us;
        s[i] = (start){ .r = &r[i], .group = group, .fn = fn };
        assert_int_equal(pthread_create(&t[i], NULL, run, &s[i]), 0);
    }
    for (uint32_t i = 0; i < n; i++) pthread_join(t[i], NULL);
    comm_local_group_close(group);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(r[i].held, 0);
    test_nccl_nothing_left();
}

void test_nccl_processes(uint32_t n, void (*fn)(test_rank *r), int *status)
{
    pid_t pid[FAKE_RANKS];
    px_err e = {0};
    int fd;

    assert_int_equal(px_memfd("comm-test", comm_shm_bytes(n, PARTIAL, 40), &fd, &e), PX_OK);
    for (uint32_t i = 0; i < n; i++) {
        assert_true((pid[i] = fork()) >= 0);
        if (pid[i]) continue;
        static test_rank r;
        char text[600];
        r = (test_rank){ .rank = i, .world = n, .args.timeout_us = WAIT_US };
        test_nccl_rank(&r, &(comm_args){ .kind = COMM_SHM, .rank = i, .world = n, .partial_bytes = PARTIAL, .gather_bytes = 40,
                                         .timeout_us = WAIT_US, .shm_fd = fd }, fn);
        if (r.rc) fprintf(stderr, "rank %u: %s\n", i, px_err_format(&r.e, text, sizeof text));
        _exit((int)r.rc);
    }
    for (uint32_t i = 0; i < n; i++) assert_int_equal(waitpid(pid[i], &status[i], 0), pid[i]);
    close(fd);
}

/* Quarters of small numbers: exact in every order. */
static float number(uint32_t rank, unsigned round, size_t i) { return (float)((i * 31 + round * 7 + rank * 13) % 1009) / 4 - 100; }

px_code test_nccl_round(test_rank *r, unsigned which, unsigned round, size_t n)
{
    float mine[PARTIAL_FLOATS], sum[PARTIAL_FLOATS];
    const float *const *views;
    uint32_t n_views;
    px_code rc;

    for (size_t i = 0; i < n; i++) mine[i] = number(r->rank, round, i);
    if ((rc = to_device(r, comm_partial(r->c, which), mine, n * sizeof *mine, &r->e))
        || (rc = comm_reduce_views_all(r->c, which, n * sizeof *mine, &views, &n_views, &r->e))
        || (rc = to_host(r, sum, views[0], n * sizeof *sum, &r->e)))
        return rc;
    if (n_views != 1) return px_fail(&r->e, PX_ECORRUPT, "views", "%u", n_views);
    for (size_t i = 0; i < n; i++) {
        float want = 0;
        for (uint32_t k = 0; k < r->world; k++) want += number(k, round, i);
        if (sum[i] != want) return px_fail(&r->e, PX_ECORRUPT, "sum", "round %u, number %zu: %g, not %g", round, i, (double)sum[i], (double)want);
    }
    return PX_OK;
}
