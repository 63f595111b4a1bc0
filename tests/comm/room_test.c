/* local and shm: the same bits as a plain loop, the promise about the buffers, misuse, ends, sizes. */
#include "comm/table.h"
#include "proto/base/tree.h"
#include "tests/testlib.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST    5u
#define FLOATS  700u
#define PARTIAL (FLOATS * sizeof(float))
#define GATHER  333u

static px_heap heap;

/* Every rank can tell what every rank has put in, without a word between them. */
static float value(uint32_t rank, unsigned round, size_t i)
{
    uint64_t s = (uint64_t)rank << 40 ^ (uint64_t)round << 20 ^ i;
    uint64_t z = test_rand(&s);
    float unit = (float)(int32_t)(uint32_t)z * 0x1p-31f;
    return unit * (float)(1u << (z >> 60));
}

/* ---- a world of n ranks: threads or processes, local or shm ---- */

typedef struct world {
    comm_kind  kind;
    uint32_t   n;
    px_time_us timeout_us;
    comm_local_group *group;
    int        fd;
} world;

static void world_make(world *w, comm_kind kind, uint32_t n, px_time_us timeout_us)
{
    px_err e = {0};
    *w = (world){ .kind = kind, .n = n, .timeout_us = timeout_us, .fd = -1 };
    if (kind == COMM_LOCAL) assert_int_equal(comm_local_group_open(&w->group, &heap.a, n, &e), PX_OK);
    else assert_int_equal(px_memfd("comm-test", comm_shm_bytes(n, PARTIAL, GATHER), &w->fd, &e), PX_OK);
}

static void world_drop(world *w)
{
    comm_local_group_close(w->group);
    if (w->fd >= 0) close(w->fd);
}

static comm_args args_of(const world *w, uint32_t rank)
{
    return (comm_args){ .kind = w->kind, .rank = rank, .world = w->n, .partial_bytes = PARTIAL, .gather_bytes = GATHER,
                        .timeout_us = w->timeout_us, .shm_fd = w->fd, .group = w->group };
}

typedef const char *rank_main(comm *c, uint32_t rank, uint32_t n, unsigned rounds);   /* NULL, or what went wrong */

typedef struct job { world *w; uint32_t rank; unsigned rounds; rank_main *run; const char *wrong; char text[400]; } job;

static void *run_rank(void *arg)
{
    job *j = arg;
    comm_args args = args_of(j->w, j->rank);
    px_err e = {0};
    comm *c;
    if (comm_open(&c, &heap.a, &args, &e)) { px_err_format(&e, j->text, sizeof j->text); j->wrong = j->text; return NULL; }
    j->wrong = j->run(c, j->rank, j->w->n, j->rounds);
    comm_close(c);
    return NULL;
}

static void run_threads(comm_kind kind, uint32_t n, unsigned rounds, rank_main *run)
{
    world w;
    job j[MOST];
    pthread_t t[MOST];
    world_make(&w, kind, n, 20 * 1000000);
    for (uint32_t r = 0; r < n; r++) {
        j[r] = (job){ &w, r, rounds, run, NULL, "" };
        assert_int_equal(pthread_create(&t[r], NULL, run_rank, &j[r]), 0);
    }
    for (uint32_t r = 0; r < n; r++) pthread_join(t[r], NULL);
    for (uint32_t r = 0; r < n; r++)
        if (j[r].wrong) fail_msg("kind %d, rank %u of %u: %s", (int)kind, r, n, j[r].wrong);
    world_drop(&w);
}

static void run_processes(uint32_t n, unsigned rounds, rank_main *run)
{
    world w;
    pid_t pid[MOST];
    world_make(&w, COMM_SHM, n, 20 * 1000000);
    for (uint32_t r = 0; r < n; r++) {
        pid[r] = fork();
        assert_true(pid[r] >= 0);
        if (!pid[r]) {
            job j = { &w, r, rounds, run, NULL, "" };
            alarm(60);
            run_rank(&j);
            if (j.wrong) fprintf(stderr, "rank %u of %u: %s\n", r, n, j.wrong);
            _exit(j.wrong != NULL);
        }
    }
    int bad = 0;
    for (uint32_t r = 0; r < n; r++) {
        int status = -1;
        assert_int_equal(waitpid(pid[r], &status, 0), pid[r]);
        bad |= status;
    }
    assert_int_equal(bad, 0);
    world_drop(&w);
}

static void everywhere(unsigned rounds, rank_main *run)
{
    for (uint32_t n = 1; n <= MOST; n++) {
        run_threads(COMM_LOCAL, n, rounds, run);
        run_threads(COMM_SHM, n, rounds, run);
        run_processes(n, rounds, run);
    }
}

/* ---- sums ---- */

static const char *sums_are_the_plain_loop(comm *c, uint32_t rank, uint32_t n, unsigned rounds)
{
    const float *const *fixed[2] = { NULL, NULL };
    uint64_t seed = 11;                                    /* the same sizes on every rank */
    for (unsigned k = 0; k < rounds; k++) {
        unsigned which = k & 1;
        size_t len = test_rand(&seed) % (FLOATS + 1);
        const float *const *v;
        uint32_t n_views = 0;
        px_err e = {0};
        float *mine = comm_partial(c, which);
        for (size_t i = 0; i < len; i++) mine[i] = value(rank, k, i);
        if (comm_reduce_views_all(c, which, len * sizeof *mine, &v, &n_views, &e)) return "reduce failed";
        if (n_views != n) return "not world views";
        if (fixed[which] && fixed[which] != v) return "views moved";
        fixed[which] = v;
        for (size_t i = 0; i < len; i++) {
            float all[MOST];                               /* the order written out by hand */
            for (uint32_t r = 0; r < n; r++) all[r] = value(r, k, i);
            float expected = all[0], got = px_tree_sum(v, n_views, i);
            if (n == 2) expected = all[0] + all[1];
            if (n == 3) expected = (all[0] + all[1]) + all[2];
            if (n == 4) expected = (all[0] + all[1]) + (all[2] + all[3]);
            if (n == 5) expected = ((all[0] + all[1]) + (all[2] + all[3])) + all[4];
            if (memcmp(&expected, &got, sizeof got)) return "other bits than the plain loop";
        }
    }
    return comm_barrier_all(c, NULL) ? "barrier failed" : NULL;
}
static void sums_are_bit_equal_everywhere(void **state) { (void)state; everywhere(60, sums_are_the_plain_loop); }

/* Integers in the partials, overwritten as soon as the next reduce lets them go; some ranks read late, with gathers and
 * barriers between.  A buffer given back too early shows another round's number. */
static const char *the_promise_holds(comm *c, uint32_t rank, uint32_t n, unsigned rounds)
{
    uint64_t own = rank + 1, shared = 5;
    enum { LEN = 40 };
    for (unsigned k = 0; k < rounds; k++) {
        unsigned which = k & 1, extra = (unsigned)(test_rand(&shared) % 8);
        const float *const *v;
        uint32_t n_views;
        float *mine = comm_partial(c, which);
        for (size_t i = 0; i < LEN; i++) mine[i] = (float)(k * 8 + rank);
        if (comm_reduce_views_all(c, which, LEN * sizeof *mine, &v, &n_views, NULL)) return "reduce failed";
        if (test_rand(&own) % 512 == 0) usleep((useconds_t)(test_rand(&own) % 300));      /* a slow reader */
        for (uint32_t r = 0; r < n; r++)
            for (size_t i = 0; i < LEN; i++)
                if (v[r][i] != (float)(k * 8 + r)) return "a view changed under its reader";
        if (extra == 0) {
            uint32_t tell = k * 8 + rank, all[MOST];
            if (comm_gather_all(c, &tell, sizeof tell, all, NULL)) return "gather failed";
            for (uint32_t r = 0; r < n; r++)
                if (all[r] != k * 8 + r) return "gather mixed the ranks or rounds";
        } else if (extra == 1 && comm_barrier_all(c, NULL)) {
            return "barrier failed";
        }
    }
    return comm_barrier_all(c, NULL) ? "barrier failed" : NULL;
}
static void the_promise_holds_everywhere(void **state) { (void)state; everywhere(3000, the_promise_holds); }
static void the_promise_holds_for_long(void **state)
{
    (void)state;
    run_processes(3, 100000, the_promise_holds);
    run_processes(4, 100000, the_promise_holds);
    run_threads(COMM_LOCAL, 3, 100000, the_promise_holds);
    run_threads(COMM_SHM, 4, 100000, the_promise_holds);
}

static const char *gathers_in_rank_order(comm *c, uint32_t rank, uint32_t n, unsigned rounds)
{
    uint64_t seed = 17;
    uint8_t mine[GATHER], all[MOST * GATHER + 1];
    for (unsigned k = 0; k < rounds; k++) {
        size_t len = k == 0 ? GATHER : test_rand(&seed) % (GATHER + 1);
        for (size_t i = 0; i < len; i++) mine[i] = (uint8_t)(rank * 31 + k + i);
        all[n * len] = 0xee;
        if (k % 4 == 1 && len) {                           /* in place */
            memcpy(all + rank * len, mine, len);
            if (comm_gather_all(c, all + rank * len, len, all, NULL)) return "gather failed";
        } else if (comm_gather_all(c, len ? mine : NULL, len, len ? all : NULL, NULL)) {
            return "gather failed";
        }
        for (uint32_t r = 0; r < n; r++)
            for (size_t i = 0; i < len; i++)
                if (all[r * len + i] != (uint8_t)(r * 31 + k + i)) return "wrong bytes gathered";
        if (all[n * len] != 0xee) return "wrote past the end";
    }
    return NULL;
}
static void gathers_are_in_rank_order(void **state) { (void)state; everywhere(400, gathers_in_rank_order); }

/* ---- buffers and sizes ---- */

static const char *buffers_are_fresh(comm *c, uint32_t rank, uint32_t n, unsigned rounds)
{
    (void)rank; (void)n; (void)rounds;
    if (comm_partial(c, 0) == comm_partial(c, 1)) return "one buffer for both";
    if (comm_partial(c, 2)) return "a third buffer";
    for (unsigned i = 0; i < 2; i++) {
        float *p = comm_partial(c, i);
        if ((uintptr_t)p % 64) return "not aligned";
        for (size_t k = 0; k < FLOATS; k++)
            if (p[k] != 0) return "not zero";
    }
    return NULL;
}
static void buffers_are_aligned_and_zero(void **state) { (void)state; everywhere(1, buffers_are_fresh); }

static void private_bytes_are_what_is_taken(void **state)
{
    static const size_t sizes[] = { 0, 1, 64, 2304, 65536, 65540, 1000000 };
    (void)state;
    for (int kind = COMM_LOCAL; kind <= COMM_MPI; kind++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            px_debug d;
            px_err e = {0};
            comm *c;
            comm_args args = { .kind = (comm_kind)kind, .world = 1, .partial_bytes = sizes[i], .gather_bytes = sizes[i] / 2,
                               .shm_fd = -1 };
            px_debug_init(&d, "test", -1);
            if (kind == COMM_SHM)
                assert_int_equal(px_memfd("comm-test", comm_shm_bytes(1, sizes[i], sizes[i] / 2), &args.shm_fd, &e), PX_OK);
            assert_int_equal(comm_open(&c, &d.a, &args, &e), PX_OK);
            assert_int_equal(d.count.live, comm_private_bytes((comm_kind)kind, 1, sizes[i], sizes[i] / 2));
            comm_close(c);
            if (args.shm_fd >= 0) close(args.shm_fd);
            assert_int_equal(px_debug_deinit(&d), 0);
        }
    /* With a group, its allocator pays for the buffers: the sum is the same. */
    px_debug d;
    px_err e = {0};
    comm_local_group *g;
    comm *c[3];
    px_debug_init(&d, "test", -1);
    assert_int_equal(comm_local_group_open(&g, &d.a, 3, &e), PX_OK);
    size_t alone = d.count.live;
    for (uint32_t r = 0; r < 3; r++) {
        comm_args args = { .kind = COMM_LOCAL, .rank = r, .world = 3, .partial_bytes = 1000, .gather_bytes = 100, .group = g };
        assert_int_equal(comm_open(&c[r], &d.a, &args, &e), PX_OK);
    }
    assert_int_equal(d.count.live - alone, 3 * comm_private_bytes(COMM_LOCAL, 3, 1000, 100));
    for (uint32_t r = 0; r < 3; r++) comm_close(c[r]);
    assert_int_equal(d.count.live, alone);
    comm_local_group_close(g);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void sizes_that_cannot_be_are_zero(void **state)
{
    (void)state;
    assert_int_equal(comm_shm_bytes(0, 1, 1), 0);
    assert_int_equal(comm_shm_bytes(COMM_MAX_WORLD + 1, 1, 1), 0);
    assert_int_equal(comm_shm_bytes(2, SIZE_MAX, 1), 0);
    assert_int_equal(comm_shm_bytes(2, 1, SIZE_MAX - 63), 0);
    assert_true(comm_shm_bytes(COMM_MAX_WORLD, (size_t)1 << 40, (size_t)1 << 40) > (size_t)1 << 48);
    assert_int_equal(comm_private_bytes(COMM_MPI, 2, SIZE_MAX, 1), 0);
    assert_int_equal(comm_private_bytes((comm_kind)9, 2, 1, 1), 0);
    assert_int_equal(comm_shm_bytes(3, 100, 100) % 4096, 0);
}

static px_code with_args(comm_args args, const char *field)
{
    px_debug d;
    px_err e = {0};
    comm *c = (comm *)&d;
    px_debug_init(&d, "test", -1);
    px_code rc = comm_open(&c, &d.a, &args, &e);
    assert_int_equal(e.code, rc);
    assert_string_equal(e.field, field);
    assert_null(c);
    assert_int_equal(px_debug_deinit(&d), 0);
    return rc;
}

static void wrong_arguments_are_refused_by_name(void **state)
{
    comm_local_group *g;
    px_err e = {0};
    (void)state;
    assert_int_equal(with_args((comm_args){ .kind = (comm_kind)7, .world = 1 }, "kind"), PX_EINVAL);
    assert_int_equal(with_args((comm_args){ .world = 0 }, "world"), PX_ERANGE);
    assert_int_equal(with_args((comm_args){ .world = COMM_MAX_WORLD + 1 }, "world"), PX_ERANGE);
    assert_int_equal(with_args((comm_args){ .world = 2, .rank = 2 }, "rank"), PX_ERANGE);
    assert_int_equal(with_args((comm_args){ .world = 1, .partial_bytes = SIZE_MAX }, "partial_bytes"), PX_ERANGE);
    assert_int_equal(with_args((comm_args){ .world = 1, .gather_bytes = SIZE_MAX }, "gather_bytes"), PX_ERANGE);
    assert_int_equal(with_args((comm_args){ .world = 1, .timeout_us = -1 }, "timeout_us"), PX_EINVAL);
    assert_int_equal(with_args((comm_args){ .world = 2 }, "group"), PX_EINVAL);
    assert_int_equal(with_args((comm_args){ .kind = COMM_MPI, .world = 2 }, "mpi"), PX_EINVAL);
    assert_int_equal(with_args((comm_args){ .kind = COMM_SHM, .world = 2, .shm_fd = -1 }, "shm_fd"), PX_EINVAL);

    assert_int_equal(comm_local_group_open(&g, &heap.a, 0, &e), PX_ERANGE);
    assert_string_equal(e.field, "world");
    px_err_clear(&e);
    assert_int_equal(comm_local_group_open(&g, &heap.a, 3, &e), PX_OK);
    comm_args first = { .rank = 0, .world = 3, .partial_bytes = 64, .gather_bytes = 64, .group = g }, next = first;
    comm *c;
    assert_int_equal(comm_open(&c, &heap.a, &first, &e), PX_OK);
    next.world = 2;
    assert_int_equal(with_args(next, "world"), PX_EMISMATCH);
    next = first; next.rank = 1; next.partial_bytes = 128;
    assert_int_equal(with_args(next, "partial_bytes"), PX_EMISMATCH);
    next = first; next.rank = 1; next.gather_bytes = 128;
    assert_int_equal(with_args(next, "gather_bytes"), PX_EMISMATCH);
    assert_int_equal(with_args(first, "rank"), PX_EBUSY);
    comm_close(c);
    assert_int_equal(comm_open(&c, &heap.a, &first, &e), PX_OK);      /* all had closed: the group can be used again */
    comm_close(c);
    comm_local_group_close(g);
}

static void a_memory_file_of_others_is_refused(void **state)
{
    world w;
    px_err e = {0};
    comm *c;
    (void)state;
    world_make(&w, COMM_SHM, 3, 0);
    comm_args first = args_of(&w, 0), next = first;
    assert_int_equal(comm_open(&c, &heap.a, &first, &e), PX_OK);
    assert_int_equal(with_args(first, "rank"), PX_EBUSY);
    next.rank = 1;
    next.partial_bytes = PARTIAL - 4;                      /* rounds to the same file size: the head tells */
    assert_int_equal(comm_shm_bytes(3, next.partial_bytes, GATHER), comm_shm_bytes(3, PARTIAL, GATHER));
    assert_int_equal(with_args(next, "partial_bytes"), PX_EMISMATCH);
    next = first; next.rank = 1; next.gather_bytes = GATHER + 1;
    assert_int_equal(with_args(next, "gather_bytes"), PX_EMISMATCH);
    next = first; next.world = 2;
    assert_int_equal(with_args(next, "shm_fd"), PX_EMISMATCH);
    comm_close(c);

    int fd;
    assert_int_equal(px_memfd("comm-test", comm_shm_bytes(3, PARTIAL, GATHER) - 4096, &fd, &e), PX_OK);
    next = first; next.shm_fd = fd;
    px_err wrong = {0};
    assert_int_equal(comm_open(&c, &heap.a, &next, &wrong), PX_EMISMATCH);
    assert_string_equal(wrong.field, "shm_fd");
    char expected[64];
    snprintf(expected, sizeof expected, "%zu bytes", comm_shm_bytes(3, PARTIAL, GATHER));
    assert_string_equal(wrong.expected, expected);
    close(fd);
    world_drop(&w);
}

/* ---- misuse and ends ---- */

static const char *misuse_changes_nothing(comm *c, uint32_t rank, uint32_t n, unsigned rounds)
{
    const float *const *v;
    uint32_t n_views;
    uint8_t big[MOST * (GATHER + 1)];
    (void)rounds;
    for (unsigned k = 0; k < 4; k++) {
        px_err e = {0};
        if (comm_reduce_views_all(c, k & 1, 64, &v, &n_views, NULL)) return "reduce failed";
        if (comm_reduce_views_all(c, k & 1, 64, &v, &n_views, &e) != PX_EINVAL || strcmp(e.field, "which")) return "twice";
        px_err_clear(&e);
        if (comm_reduce_views_all(c, 2, 64, &v, &n_views, &e) != PX_EINVAL || strcmp(e.field, "which")) return "which";
        px_err_clear(&e);
        if (comm_reduce_views_all(c, !(k & 1), 63, &v, &n_views, &e) != PX_EINVAL || strcmp(e.field, "bytes")) return "odd";
        px_err_clear(&e);
        if (comm_reduce_views_all(c, !(k & 1), PARTIAL + 4, &v, &n_views, &e) != PX_ERANGE || strcmp(e.field, "bytes"))
            return "too large";
        px_err_clear(&e);
        if (comm_gather_all(c, big, GATHER + 1, big, &e) != PX_ERANGE || strcmp(e.field, "bytes")) return "gather";
    }
    return sums_are_the_plain_loop(c, rank, n, 4);         /* still in step */
}
static void misuse_is_refused_and_changes_nothing(void **state) { (void)state; everywhere(1, misuse_changes_nothing); }

static void names_are_the_kinds(void **state)
{
    static const char *const name[] = { "local", "shm", "mpi" };
    (void)state;
    for (int kind = COMM_LOCAL; kind <= COMM_MPI; kind++) {
        comm_args args = { .kind = (comm_kind)kind, .world = 1, .partial_bytes = PARTIAL, .gather_bytes = GATHER };
        px_err e = {0};
        comm *c;
        int fd = -1;
        if (kind == COMM_SHM) assert_int_equal(px_memfd("comm-test", comm_shm_bytes(1, PARTIAL, GATHER), &fd, &e), PX_OK);
        args.shm_fd = fd;
        assert_int_equal(comm_open(&c, &heap.a, &args, &e), PX_OK);
        assert_string_equal(comm_name(c), name[kind]);
        assert_null(sums_are_the_plain_loop(c, 0, 1, 5));                /* a world of one needs nobody, MPI neither */
        assert_null(gathers_in_rank_order(c, 0, 1, 5));
        comm_close(c);
        if (fd >= 0) close(fd);
    }
    comm_close(NULL);
}

static void a_rank_that_does_not_come_is_named(void **state)
{
    (void)state;
    for (int kind = COMM_LOCAL; kind <= COMM_SHM; kind++) {
        world w;
        px_err e = {0};
        comm *c;
        const float *const *v;
        uint32_t n;
        world_make(&w, (comm_kind)kind, 2, 30000);
        comm_args args = args_of(&w, 0);
        assert_int_equal(comm_open(&c, &heap.a, &args, &e), PX_OK);
        assert_int_equal(comm_reduce_views_all(c, 0, 64, &v, &n, &e), PX_ETIMEOUT);
        assert_string_equal(e.field, "comm");
        assert_string_equal(e.found, "rank 1 has not come");
        px_err_clear(&e);
        assert_int_equal(comm_barrier_all(c, &e), PX_EPEER);              /* and then it stays ended, at once */
        assert_string_equal(e.field, "comm");
        comm_close(c);
        world_drop(&w);
    }
}

static void *break_later(void *arg)
{
    usleep(20000);
    comm_local_group_break(arg);
    return NULL;
}

static void a_broken_group_ends_every_wait(void **state)
{
    world w;
    px_err e = {0};
    comm *c[2];
    pthread_t t;
    (void)state;
    world_make(&w, COMM_LOCAL, 3, 20 * 1000000);
    for (uint32_t r = 0; r < 2; r++) {
        comm_args args = args_of(&w, r);
        assert_int_equal(comm_open(&c[r], &heap.a, &args, &e), PX_OK);
    }
    px_time_us before = px_now_us();
    assert_int_equal(pthread_create(&t, NULL, break_later, w.group), 0);
    assert_int_equal(comm_barrier_all(c[0], &e), PX_EPEER);               /* a present wait */
    assert_string_equal(e.field, "comm");
    px_err_clear(&e);
    assert_int_equal(comm_barrier_all(c[1], &e), PX_EPEER);               /* a future one */
    assert_true(px_now_us() - before < 10 * 1000000);
    pthread_join(t, NULL);
    comm_close(c[0]);
    assert_non_null(comm_partial(c[1], 0));
    comm_partial(c[1], 0)[0] = 1;                                         /* who is still open keeps its buffers */
    comm_close(c[1]);
    world_drop(&w);
}

/* A rank that was killed in its sleep leaves its mark in a seat; the others notice only that it does not come. */
static void a_killed_rank_is_named(void **state)
{
    world w;
    px_err e = {0};
    comm *c[2];
    (void)state;
    world_make(&w, COMM_SHM, 3, 200000);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        comm_args args = args_of(&w, 2);
        args.timeout_us = 50 * 1000000;
        comm *mine;
        if (comm_open(&mine, &heap.a, &args, NULL)) _exit(1);
        alarm(60);
        (void)comm_barrier_all(mine, NULL);
        (void)comm_barrier_all(mine, NULL);
        _exit(0);
    }
    for (uint32_t r = 0; r < 2; r++) {
        comm_args args = args_of(&w, r);
        assert_int_equal(comm_open(&c[r], &heap.a, &args, &e), PX_OK);
    }
    const comm_seat *seat = c[0]->room.at.seat;            /* it comes to the first meeting and falls asleep there */
    for (unsigned i = 0; i < 10000 && !atomic_load(&seat[0].sleepers); i++) usleep(1000);
    assert_int_equal(atomic_load(&seat[0].sleepers), 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    c[0]->room.at.timeout_us = 100000;
    assert_int_equal(comm_barrier_all(c[0], &e), PX_ETIMEOUT);            /* rank 1 of this very thread has not come */
    assert_string_equal(e.found, "rank 1 has not come");
    px_err_clear(&e);
    assert_int_equal(comm_barrier_all(c[1], &e), PX_OK);                  /* all three seats say: came */
    assert_int_equal(comm_barrier_all(c[1], &e), PX_ETIMEOUT);
    assert_string_equal(e.found, "rank 2 has not come");
    comm_close(c[0]);
    comm_close(c[1]);
    world_drop(&w);
}

static px_code build_and_drop(px_alloc *a, px_err *e)
{
    comm_local_group *g = NULL;
    comm *c[2] = { NULL, NULL };
    px_code rc;
    if ((rc = comm_local_group_open(&g, a, 2, e))) return rc;
    for (uint32_t r = 0; r < 2 && !rc; r++) {
        comm_args args = { .rank = r, .world = 2, .partial_bytes = 100, .gather_bytes = 10, .group = g };
        rc = comm_open(&c[r], a, &args, e);
    }
    comm_args solo = { .world = 1, .partial_bytes = 100 }, mpi = { .kind = COMM_MPI, .world = 1, .partial_bytes = 100 };
    comm *s = NULL, *m = NULL;
    if (!rc) rc = comm_open(&s, a, &solo, e);
    if (!rc) rc = comm_open(&m, a, &mpi, e);
    comm_close(m);
    comm_close(s);
    comm_close(c[0]);
    comm_close(c[1]);
    comm_local_group_close(g);
    return rc;
}
static void open_survives_every_oom(void **state) { (void)state; test_oom_sweep(build_and_drop); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_bit_equal_everywhere),
        cmocka_unit_test(the_promise_holds_everywhere),
        cmocka_unit_test(the_promise_holds_for_long),
        cmocka_unit_test(gathers_are_in_rank_order),
        cmocka_unit_test(buffers_are_aligned_and_zero),
        cmocka_unit_test(private_bytes_are_what_is_taken),
        cmocka_unit_test(sizes_that_cannot_be_are_zero),
        cmocka_unit_test(wrong_arguments_are_refused_by_name),
        cmocka_unit_test(a_memory_file_of_others_is_refused),
        cmocka_unit_test(misuse_is_refused_and_changes_nothing),
        cmocka_unit_test(names_are_the_kinds),
        cmocka_unit_test(a_rank_that_does_not_come_is_named),
        cmocka_unit_test(a_broken_group_ends_every_wait),
        cmocka_unit_test(a_killed_rank_is_named),
        cmocka_unit_test(open_survives_every_oom),
    };
    px_heap_init(&heap, "test");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
