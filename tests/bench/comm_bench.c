/* comm_bench.c - how long a reduce takes, as CSV.
 * usage: comm_bench shm RANKS [LABEL] | mpirun ... comm_bench mpi [LABEL]
 * A line a message size: the call alone, and the call with the addition of the views in tree order (what a step pays;
 * only so are transports with n views and with one comparable). */
#include "comm/comm.h"
#include "proto/base/tree.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST  ((size_t)1 << 20)
#define BLOCK 1024u

static const size_t sizes[] = { 2304, 8192, 16384, 65536, MOST };

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void add_views(float *restrict out, const float *const *v, unsigned n, size_t at, size_t len)
{
    float right[BLOCK];
    if (n == 1) { memcpy(out, v[0] + at, len * sizeof *out); return; }
    unsigned left = px_tree_split(n);
    add_views(out, v, left, at, len);
    add_views(right, v + left, n - left, at, len);
    for (size_t i = 0; i < len; i++) out[i] += right[i];
}

static void machine(char *out, size_t cap)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, cap, "unknown");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "model name", 10)) {
            char *at = strchr(line, ':');
            line[strcspn(line, "\n")] = 0;
            snprintf(out, cap, "%s x%ld", at ? at + 2 : "?", sysconf(_SC_NPROCESSORS_ONLN));
            break;
        }
    if (f) fclose(f);
}

static int bench(comm *c, uint32_t rank, uint32_t world, const char *label)
{
    enum { MOST_ROUNDS = 4000 };
    double *call = malloc(MOST_ROUNDS * sizeof *call), *with_sum = malloc(MOST_ROUNDS * sizeof *with_sum);
    float *out = aligned_alloc(64, MOST);
    char cpu[128];
    unsigned which = 0;

    if (!call || !with_sum || !out) return 1;
    memset(out, 0, MOST);
    machine(cpu, sizeof cpu);
    if (rank == 0) puts("machine,label,transport,ranks,bytes,views,reduce_p50_us,reduce_p99_us,with_sum_p50_us,with_sum_p99_us");
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        unsigned rounds = sizes[k] > 65536 ? 400 : MOST_ROUNDS;
        uint32_t n = 0;
        for (unsigned i = 0; i < rounds; i++, which ^= 1) {
            const float *const *v;
            px_err e = {0};
            double t0 = now_us();
            if (comm_reduce_views_all(c, which, sizes[k], &v, &n, &e)) {
                fprintf(stderr, "rank %u: %s\n", rank, e.text);
                return 1;
            }
            double t1 = now_us();
            for (size_t at = 0; at < sizes[k] / sizeof(float); at += BLOCK) {
                size_t len = sizes[k] / sizeof(float) - at;
                add_views(out + at, v, n, at, len < BLOCK ? len : BLOCK);
            }
            call[i] = t1 - t0;
            with_sum[i] = now_us() - t0;
        }
        qsort(call, rounds, sizeof *call, by_size);
        qsort(with_sum, rounds, sizeof *with_sum, by_size);
        if (rank == 0)
            printf("\"%s\",%s,%s,%u,%zu,%u,%.1f,%.1f,%.1f,%.1f\n", cpu, label, comm_name(c), world, sizes[k], n,
                   call[rounds / 2], call[rounds * 99 / 100], with_sum[rounds / 2], with_sum[rounds * 99 / 100]);
    }
    free(call);
    free(with_sum);
    free(out);
    return 0;
}

static int run(comm_args args, const char *label)
{
    px_heap heap;
    px_err e = {0};
    comm *c;
    px_heap_init(&heap, "bench");
    args.partial_bytes = MOST;
    args.gather_bytes = 64;
    if (comm_open(&c, &heap.a, &args, &e)) {
        fprintf(stderr, "rank %u: %s\n", args.rank, e.text);
        return 1;
    }
    int rc = comm_barrier_all(c, NULL) || bench(c, args.rank, args.world, label);
    (void)comm_barrier_all(c, NULL);
    comm_close(c);
    px_heap_deinit(&heap);
    return rc;
}

/* As mpirun's --bind-to core: without it two ranks may sit on one core and wait for each other's time slices. */
static void bind_to_core(uint32_t rank, uint32_t world)
{
    cpu_set_t set;
    if ((long)world > sysconf(_SC_NPROCESSORS_ONLN)) return;
    CPU_ZERO(&set);
    CPU_SET(rank, &set);
    if (sched_setaffinity(0, sizeof set, &set)) perror("sched_setaffinity");
}

static int run_shm(uint32_t world, const char *label)
{
    comm_args args = { .kind = COMM_SHM, .world = world };
    px_err e = {0};
    int bad = 0, status;

    if (px_memfd("comm-bench", comm_shm_bytes(world, MOST, 64), &args.shm_fd, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    for (uint32_t r = 1; r < world; r++)
        if (fork() == 0) {
            args.rank = r;
            bind_to_core(r, world);
            _exit(run(args, label));
        }
    bind_to_core(0, world);
    bad = run(args, label);
    while (wait(&status) > 0) bad |= status != 0;
    return bad;
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "shm")) {
        long world = strtol(argv[2], NULL, 10);
        if (world >= 1 && world <= (long)COMM_MAX_WORLD) return run_shm((uint32_t)world, argc > 3 ? argv[3] : "");
    } else if (argc > 1 && !strcmp(argv[1], "mpi")) {
        comm_args args = { .kind = COMM_MPI };
        px_err e = {0};
        if (comm_mpi_init(&args.rank, &args.world, &e)) {
            fprintf(stderr, "%s\n", e.text);
            return 1;
        }
        int rc = run(args, argc > 2 ? argv[2] : "");
        comm_mpi_finalize();
        return rc;
    }
    fprintf(stderr, "usage: %s shm RANKS [LABEL] | mpirun ... %s mpi [LABEL]\n", argv[0], argv[0]);
    return 2;
}
