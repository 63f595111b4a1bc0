/* Under mpirun: mpi gives the bits of shm and of the plain loop, in its small and its large form.
 * usage: comm_mpi_test sums | lie-rank | lie-world | abort.  Exit code 0: passed. */
#include "comm/comm.h"
#include "proto/base/tree.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_FLOATS ((1u << 18) + 21u)
#define PARTIAL     (MOST_FLOATS * sizeof(float))
#define GATHER      5000u

static uint32_t rank, world;

#define CHECK(is, ...)                                                                                 \
    do {                                                                                               \
        if (!(is)) {                                                                                   \
            fprintf(stderr, "rank %u, %s:%d: " #is ": ", rank, __FILE__, __LINE__);                    \
            fprintf(stderr, __VA_ARGS__);                                                              \
            fputc('\n', stderr);                                                                       \
            comm_mpi_abort(1);                                                                         \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

static float value(uint32_t r, unsigned round, size_t i)
{
    uint64_t z = ((uint64_t)r << 40 ^ (uint64_t)round << 24 ^ i) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z ^= z >> 31;
    return (float)(int32_t)(uint32_t)z * 0x1p-31f * (float)(1u << (z >> 60));
}

/* The memory file that rank 0 makes, opened by the others through its process. */
static int share_file(comm *m, size_t bytes)
{
    struct { int64_t pid, fd; } mine = { getpid(), -1 }, all[COMM_MAX_WORLD];
    char path[64];
    px_err e = {0};
    int fd = -1;

    if (rank == 0) {
        CHECK(px_memfd("comm-test", bytes, &fd, &e) == PX_OK, "%s", e.text);
        mine.fd = fd;
    }
    CHECK(comm_gather_all(m, &mine, sizeof mine, all, &e) == PX_OK, "%s", e.text);
    if (rank != 0) {
        snprintf(path, sizeof path, "/proc/%" PRId64 "/fd/%" PRId64, all[0].pid, all[0].fd);
        fd = open(path, O_RDWR | O_CLOEXEC);
    }
    CHECK(fd >= 0, "no memory file");
    CHECK(comm_barrier_all(m, &e) == PX_OK, "%s", e.text);
    return fd;
}

static void check_sums(comm *m, comm *s, bool *order_matters)
{
    static const size_t lens[] = { 0, 1, 16, 576, 577, 4096, 4097, 25000, 65536, 65537, MOST_FLOATS };
    const float *const *fixed[2][2] = { { NULL } };        /* by buffer and form */
    unsigned round = 0, forms = 0;
    for (unsigned again = 0; again < 4; again++)
        for (size_t k = 0; k < sizeof lens / sizeof *lens; k++, round++) {
            size_t len = lens[k];
            unsigned which = round & 1;
            const float *const *vm, *const *vs;
            uint32_t nm = 0, ns = 0;
            px_err e = {0};
            for (size_t i = 0; i < len; i++) comm_partial(m, which)[i] = comm_partial(s, which)[i] = value(rank, round, i);
            CHECK(comm_reduce_views_all(m, which, len * sizeof(float), &vm, &nm, &e) == PX_OK, "%s", e.text);
            CHECK(comm_reduce_views_all(s, which, len * sizeof(float), &vs, &ns, &e) == PX_OK, "%s", e.text);
            CHECK(ns == world && (nm == world || nm == 1), "%u and %u views", ns, nm);
            bool large = nm != world;
            forms |= 1u << large;
            CHECK(!fixed[which][large] || fixed[which][large] == vm, "the views have moved");
            fixed[which][large] = vm;
            for (size_t i = 0; i < len; i++) {
                float by[COMM_MAX_WORLD], chain = 0;
                const float *one[COMM_MAX_WORLD];
                for (uint32_t r = 0; r < world; r++) {
                    by[r] = value(r, round, i);
                    one[r] = &by[r];
                    chain = r ? chain + by[r] : by[r];
                }
                float plain = px_tree_sum(one, world, 0), a = px_tree_sum(vm, nm, i), b = px_tree_sum(vs, ns, i);
                CHECK(!memcmp(&plain, &a, sizeof a), "mpi: length %zu, element %zu: %a, expected %a", len, i, a, plain);
                CHECK(!memcmp(&plain, &b, sizeof b), "shm: length %zu, element %zu: %a, expected %a", len, i, b, plain);
                if (memcmp(&plain, &chain, sizeof chain)) *order_matters = true;
            }
            CHECK(len == 0 || comm_partial(m, which)[0] == value(rank, round, 0), "the partial sum itself was changed");
        }
    CHECK(world == 1 || forms == 3, "not both forms were seen");
}

/* A rank overwrites a buffer as soon as the next reduce has returned; some read late. */
static void check_promise(comm *m)
{
    enum { SMALL = 50, LARGE = 20000 };
    uint64_t draw = rank;
    for (unsigned k = 0; k < 600; k++) {
        unsigned which = k & 1;
        size_t len = k % 3 == 2 ? LARGE : SMALL;
        const float *const *v;
        uint32_t n;
        px_err e = {0};
        for (size_t i = 0; i < len; i++) comm_partial(m, which)[i] = (float)(k * 8 + rank);
        CHECK(comm_reduce_views_all(m, which, len * sizeof(float), &v, &n, &e) == PX_OK, "%s", e.text);
        draw = draw * 6364136223846793005u + 1442695040888963407u;
        if (draw >> 59 == 0) usleep((useconds_t)(draw >> 40 & 255));
        float expected = 0;
        for (uint32_t r = 0; r < world; r++) expected += (float)(k * 8 + r);      /* integers: any order */
        for (size_t i = 0; i < len; i += 7) CHECK(px_tree_sum(v, n, i) == expected, "round %u", k);
    }
}

static void check_gather(comm *m)
{
    static uint8_t mine[GATHER], all[COMM_MAX_WORLD * GATHER];
    for (unsigned k = 0; k < 200; k++) {
        size_t len = k == 0 ? GATHER : k * 37 % GATHER;
        bool in_place = k % 4 == 1 && len;
        px_err e = {0};
        uint8_t *from = in_place ? all + rank * len : mine;
        for (size_t i = 0; i < len; i++) from[i] = (uint8_t)(rank * 31 + k + i);
        CHECK(comm_gather_all(m, from, len, all, &e) == PX_OK, "%s", e.text);
        for (uint32_t r = 0; r < world; r++)
            for (size_t i = 0; i < len; i++) CHECK(all[r * len + i] == (uint8_t)(r * 31 + k + i), "call %u", k);
        if (k % 10 == 0) CHECK(comm_barrier_all(m, &e) == PX_OK, "%s", e.text);
    }
}

static void refuse(comm_args args, px_alloc *a, px_code code, const char *field)
{
    px_err e = {0};
    comm *c;
    px_code rc = comm_open(&c, a, &args, &e);
    CHECK(rc == code && !strcmp(e.field, field) && !c, "code %s, field %s", px_code_name(rc), e.field);
}

static void check_misuse(comm *m, px_alloc *a)
{
    comm_args args = { .kind = COMM_MPI, .rank = rank, .world = world, .partial_bytes = 64 }, wrong = args;
    const float *const *v;
    uint32_t n, r;
    px_err e = {0};

    if (world > 1) {
        wrong.world = world + 1;
        refuse(wrong, a, PX_EMISMATCH, "world");
        wrong = args; wrong.rank = (rank + 1) % world;
        refuse(wrong, a, PX_EMISMATCH, "rank");
    }
    wrong = args; wrong.partial_bytes = (size_t)1 << 31;
    refuse(wrong, a, PX_ERANGE, "partial_bytes");
    CHECK(comm_mpi_init(&r, &n, &e) == PX_EINVAL && !strcmp(e.field, "mpi"), "initialised twice");
    CHECK(comm_reduce_views_all(m, 0, 64, &v, &n, NULL) == PX_OK, "the first");
    px_err_clear(&e);
    CHECK(comm_reduce_views_all(m, 0, 64, &v, &n, &e) == PX_EINVAL && !strcmp(e.field, "which"), "%s", e.field);
    CHECK(comm_reduce_views_all(m, 1, 64, &v, &n, NULL) == PX_OK, "still in step");
}

static int sums(void)
{
    px_heap heap;
    px_err e = {0};
    comm *m = NULL, *s = NULL, *fresh = NULL;
    bool order_matters = false;
    comm_args args = { .kind = COMM_MPI, .rank = rank, .world = world, .partial_bytes = PARTIAL, .gather_bytes = GATHER };

    px_heap_init(&heap, "test");
    CHECK(comm_open(&m, &heap.a, &args, &e) == PX_OK, "%s", e.text);
    CHECK(heap.count.live == comm_private_bytes(COMM_MPI, world, PARTIAL, GATHER), "%zu bytes", (size_t)heap.count.live);
    CHECK(!strcmp(comm_name(m), "mpi"), "%s", comm_name(m));
    for (unsigned i = 0; i < 2; i++)
        for (size_t k = 0; k < MOST_FLOATS; k++) CHECK(comm_partial(m, i)[k] == 0, "not zeroed");
    args.kind = COMM_SHM;
    args.shm_fd = share_file(m, comm_shm_bytes(world, PARTIAL, GATHER));
    CHECK(comm_open(&s, &heap.a, &args, &e) == PX_OK, "%s", e.text);
    check_sums(m, s, &order_matters);
    CHECK(world < 4 || order_matters, "these numbers cannot tell a wrong order");
    args.kind = COMM_MPI;
    CHECK(comm_open(&fresh, &heap.a, &args, &e) == PX_OK, "%s", e.text);
    check_promise(fresh);
    check_gather(fresh);
    comm_close(fresh);
    CHECK(comm_open(&fresh, &heap.a, &args, &e) == PX_OK, "%s", e.text);
    check_misuse(fresh, &heap.a);
    comm_close(fresh);
    CHECK(comm_barrier_all(s, &e) == PX_OK, "%s", e.text);
    comm_close(s);
    comm_close(m);
    close(args.shm_fd);
    CHECK(heap.count.live == 0, "%zu bytes leaked", (size_t)heap.count.live);
    px_heap_deinit(&heap);
    return 0;
}

/* The launcher's word and MPI's differ: refused by field, before anything is computed. */
static int lie(const char *name, uint32_t told, const char *field)
{
    char text[16];
    px_err e = {0};
    uint32_t r, w;
    snprintf(text, sizeof text, "%u", told);
    setenv(name, text, 1);
    px_code rc = comm_mpi_init(&r, &w, &e);
    int ok = rc == PX_EMISMATCH && !strcmp(e.field, field) && e.found[0] && e.expected[0];
    if (!ok) fprintf(stderr, "rank %u: code %s, field %s\n", rank, px_code_name(rc), e.field);
    comm_mpi_finalize();
    return !ok;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "sums";
    uint32_t told_rank = 0, told_world = 0;
    px_err e = {0};

    CHECK(comm_launcher_rank(&told_rank, &told_world, &e) == PX_OK, "%s", e.text);
    rank = told_rank;
    if (!strcmp(mode, "lie-rank")) return lie("OMPI_COMM_WORLD_RANK", (told_rank + 1) % told_world, "mpi.rank");
    if (!strcmp(mode, "lie-world")) return lie("OMPI_COMM_WORLD_SIZE", told_world + 1, "mpi.world");
    CHECK(comm_mpi_init(&rank, &world, &e) == PX_OK, "%s", e.text);
    CHECK(rank == told_rank && world == told_world, "rank %u of %u", rank, world);
    if (!strcmp(mode, "abort")) {
        if (rank == world - 1) comm_mpi_abort(7);
        for (;;) pause();                                  /* until the job ends us */
    }
    CHECK(!strcmp(mode, "sums"), "no mode %s", mode);
    int rc = sums();
    comm_mpi_finalize();
    comm_mpi_finalize();
    return rc;
}
