/* cuda_bench.c - how fast the CUDA backend is, beside what the device gave in the same run: copies between two places on it, one
 * large matrix product, copies from pinned memory.  CSV; a line's percent is of the limit that its comment names.  What is aimed
 * at comes first, and each such line has a second one: `# target,WHAT,PERCENT,AIM,reached|missed`.
 * usage: cuda_bench [tiny] [ops] [model] [soak SECONDS]     (ops and model)
 * Without a device: a line that says what is missing, and status 77. */
#include "tests/bench/cuda_bench.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef TEST_CUDA_PLUGIN
#include "kernels/cuda/open.h"
#else
#include "tests/cuda_host/table.h"
#endif

#define GRAPH (KERN_MAX_GRAPHS - 1)

void bench_check(px_code rc, const px_err *e)
{
    char line[512];

    if (!rc) return;
    fprintf(stderr, "cuda_bench: %s\n", px_err_format(e, line, sizeof line));
    exit(1);
}

double bench_now(void) { return 1e-6 * (double)px_now_us(); }

kern_buf bench_put(const bench *b, const void *src, size_t bytes)
{
    kern_buf out;
    px_err e = {0};

    bench_check(b->ops->alloc(b->d, bytes, &out, &e), &e);
    bench_check(b->ops->upload(b->d, out, src, bytes, &e), &e);
    return out;
}

/* Bytes of 0x20 to 0x3f: as fp32, fp16 and bf16 small and finite, as quants anything. */
kern_buf bench_alloc(const bench *b, size_t bytes)
{
    static uint8_t pattern[1 << 20];
    kern_buf out;
    px_err e = {0};

    if (!pattern[0]) {
        uint32_t x = 1;
        for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (uint8_t)(0x20 + ((x = x * 1664525u + 1013904223u) >> 27));
    }
    bench_check(b->ops->alloc(b->d, bytes, &out, &e), &e);
    for (size_t at = 0; at < bytes; at += sizeof pattern) {
        const size_t n = bytes - at < sizeof pattern ? bytes - at : sizeof pattern;
        bench_check(b->ops->upload(b->d, kern_buf_at(out, at, n), pattern, n, &e), &e);
    }
    return out;
}

void bench_free(const bench *b, kern_buf *buf)
{
    if (buf->h) b->ops->free(b->d, buf);
    *buf = (kern_buf){0};
}

double bench_seconds(const bench *b, px_code (*put)(const bench *b, void *ctx, uint32_t i, px_err *e), void *ctx)
{
    const uint32_t calls = b->tiny ? 2 : 20;
    bool replayed = false;
    double best = 1e30;
    px_err e = {0};

    bench_check(put(b, ctx, 0, &e), &e);                /* the first launch loads code, and the first gemm chooses */
    bench_check(b->ops->wait(b->d, &e), &e);
    bench_check(b->ops->record(b->d, GRAPH, &e), &e);
    for (uint32_t i = 0; i < calls; i++) bench_check(put(b, ctx, i, &e), &e);
    bench_check(b->ops->end(b->d, &e), &e);
    for (uint32_t i = 0; i < (b->tiny ? 1 : 6); i++) {
        const double t = bench_now();
        bench_check(b->ops->replay(b->d, GRAPH, &replayed, &e), &e);
        bench_check(b->ops->wait(b->d, &e), &e);
        if (bench_now() - t < best) best = bench_now() - t;
        if (!replayed) {
            fprintf(stderr, "cuda_bench: the graph was not replayed\n");
            exit(1);
        }
    }
    return best / calls;
}

void bench_line(const char *what, const char *shape, double seconds, double value, const char *unit, double limit)
{
    printf("%s,%s,%.2f,%.2f,%s,", what, shape, seconds * 1e6, value, unit);
    if (limit > 0) printf("%.1f", 100 * value / limit);
    printf("\n");
    fflush(stdout);
}

void bench_target(const char *what, const char *shape, double seconds, double value, const char *unit, double limit, double want)
{
    const double percent = 100 * value / limit;

    bench_line(what, shape, seconds, value, unit, limit);
    printf("# target,%s %s,%.1f,%.0f,%s\n", what, shape, percent, want, percent >= want ? "reached" : "missed");
    fflush(stdout);
}

static void cuda(cudaError_t s, const char *what)
{
    if (!s) return;
    fprintf(stderr, "cuda_bench: %s: %s\n", what, cudaGetErrorString(s));
    exit(1);
}

/* The limits of this device: what plain copies reach. */
static void rates(bench *b)
{
    const size_t bytes = b->tiny ? 1 << 20 : (size_t)1 << 30, host_bytes = b->tiny ? 1 << 20 : (size_t)256 << 20;
    const cudaStream_t s = (cudaStream_t)b->ops->native_queue(b->d);
    kern_buf from = bench_alloc(b, bytes), to = bench_alloc(b, bytes);
    double best = 1e30;
    void *pinned;
    px_err e = {0};

    for (int i = 0; i < 5; i++) {
        bench_check(b->ops->wait(b->d, &e), &e);
        const double t = bench_now();
        for (int k = 0; k < 4; k++) cuda(cudaMemcpyAsync(to.h, from.h, bytes, cudaMemcpyDeviceToDevice, s), "copy");
        bench_check(b->ops->wait(b->d, &e), &e);
        if (bench_now() - t < best) best = bench_now() - t;
    }
    b->copy = 4 * 2 * (double)bytes / best;
    bench_line("copy", "on the device", best / 4, b->copy * 1e-9, "GB/s", 0);

    cuda(cudaHostAlloc(&pinned, host_bytes, cudaHostAllocDefault), "pinned memory");
    memset(pinned, 1, host_bytes);
    best = 1e30;
    for (int i = 0; i < 5; i++) {
        const double t = bench_now();
        cuda(cudaMemcpyAsync(to.h, pinned, host_bytes, cudaMemcpyHostToDevice, s), "copy");
        bench_check(b->ops->wait(b->d, &e), &e);
        if (bench_now() - t < best) best = bench_now() - t;
    }
    b->to_device = (double)host_bytes / best;
    bench_line("copy", "pinned to device", best, b->to_device * 1e-9, "GB/s", 0);

    cuda(cudaFreeHost(pinned), "pinned memory");
    bench_free(b, &from);
    bench_free(b, &to);
}

/* As weights travel, by so many threads that fill the ring: from memory of this process, and from a file's pages that lie in
 * memory and in no page table yet. */
static void uploads(const bench *b)
{
    const size_t bytes = b->tiny ? 1 << 20 : (size_t)1 << 30;
    kern_buf to = bench_alloc(b, bytes);
    void *pages = NULL;
    char shape[64];
    px_err e = {0};
    int fd = -1;

    bench_check(px_memfd("bench", bytes, &fd, &e), &e);
    bench_check(px_map_fd("bench", fd, bytes, true, false, &pages, &e), &e);
    memset(pages, 3, bytes);
    munmap(pages, bytes);
    for (uint32_t threads = 1; threads <= b->threads; threads *= 2) {
        kern_dev *d = NULL;

        bench_check(b->ops->open(&d, b->a, &(kern_open_args){ .threads = threads }, &e), &e);
        bench_check(px_map_fd("bench", fd, bytes, false, false, &pages, &e), &e);
        for (int touched = 0; touched < 2; touched++) {
            double t = bench_now();
            bench_check(b->ops->upload(d, to, pages, bytes, &e), &e);
            bench_check(b->ops->wait(d, &e), &e);
            t = bench_now() - t;
            snprintf(shape, sizeof shape, "%s %u threads", touched ? "mapped pages" : "pages not yet mapped", threads);
            bench_line("upload", shape, t, 1e-9 * (double)bytes / t, "GB/s", b->to_device * 1e-9);
        }
        munmap(pages, bytes);
        b->ops->close(d);
    }
    close(fd);
    bench_free(b, &to);
}

static uint32_t cores(void)
{
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 16 ? 16 : (uint32_t)n;
}

int main(int argc, char **argv)
{
    bool ops = false, model = false;
    px_heap heap;
    px_err e = {0};
    kern_info info;
    bench b = { 0 };

#ifdef BENCH_TINY
    b.tiny = true;                         /* a test: does it run? */
    b.soak_seconds = 0.1;
#endif
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "tiny")) b.tiny = true;
        else if (!strcmp(argv[i], "ops")) ops = true;
        else if (!strcmp(argv[i], "model")) model = true;
        else if (!strcmp(argv[i], "soak") && i + 1 < argc) b.soak_seconds = atof(argv[++i]);
        else {
            fprintf(stderr, "usage: cuda_bench [tiny] [ops] [model] [soak SECONDS]\n");
            return 2;
        }
    }
#ifdef TEST_CUDA_PLUGIN
    if (kern_cuda_ops(&b.ops, TEST_CUDA_PLUGIN, &e)) {
        printf("SKIPPED: %s: %s\n", e.field, e.text);
        return 77;
    }
#else
    b.ops = cuda_host_ops();
#endif
    px_heap_init(&heap, "bench");
    b.a = &heap.a;
    kern_ftz_set();
    b.threads = b.tiny ? 1 : cores();
    bench_check(b.ops->open(&b.d, b.a, &(kern_open_args){ .threads = b.threads }, &e), &e);
    bench_check(b.ops->info(b.d, &info, &e), &e);
    printf("# %s, driver %s, runtime %s, %s\n", info.name, info.driver, info.runtime, b.ops->name);
    printf("what,shape,us,value,unit,percent\n");
    rates(&b);
    uploads(&b);
    bench_matrix(&b);
    if (ops || !model) bench_long_decode(&b);
    if (model || !ops) bench_model(&b);
    if (ops || !model) bench_ops(&b);
    b.ops->close(b.d);
    px_heap_deinit(&heap);
    return 0;
}
