/* kernels_bench.c - how fast the kernels of this machine are, beside the read bandwidth of the same run, as CSV.
 * usage: kernels_bench [THREADS [MEGABYTES [PATH]]]   (1, 512, all paths: scalar avx2 avx512)
 * gemv and batch walk a matrix larger than the caches; layer is one rank's seven matmuls of the default model on two
 * ranks, 30 layers of them; ratio is the weights' bytes per second over the read bandwidth (8 streams a thread). */
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef uint64_t lane __attribute__((vector_size(32)));
#define REPEAT 5

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 8 streams, 64 bytes of each in turn. */
__attribute__((target("avx2"), noinline)) static uint64_t read_streams(const uint8_t *p, size_t bytes)
{
    size_t stream = bytes / 8 / 64 * 64;
    lane s[8] = {0}, r = {0};

    for (size_t i = 0; i < stream; i += 64)
        for (int k = 0; k < 8; k++) {
            const lane *at = (const lane *)(p + k * stream + i);
            s[k] += at[0] ^ at[1];
        }
    for (int k = 0; k < 8; k++) r += s[k];
    return r[0] + r[1] + r[2] + r[3];
}

static double bandwidth(const uint8_t *p, size_t bytes, int threads)
{
    double best = 0;
    volatile uint64_t sink = 0;

    for (int i = 0; i < REPEAT; i++) {
        double t = now();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int k = 0; k < threads; k++) {
            uint64_t v = read_streams(p + bytes / (size_t)threads / 64 * 64 * (size_t)k, bytes / (size_t)threads);
#pragma omp atomic
            sink += v;
        }
        t = now() - t;
        if ((double)bytes / t > best) best = (double)bytes / t;
    }
    return best / 1e9;
}

typedef struct job { const kern_ops *ops; kern_dev *d; uint8_t *weights; size_t bytes; double read; uint32_t threads; } job;

static void die(px_code rc, const px_err *e)
{
    char line[1024];
    if (!rc) return;
    fprintf(stderr, "%s\n", px_err_format(e, line, sizeof line));
    exit(1);
}

/* Valid blocks everywhere: one random panel, over and over. */
static void fill(const job *j, kern_dtype t, uint32_t cols)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    size_t head = t == KERN_FP8 ? 4 : 0, row = head + cols / f->block * f->block_bytes, stride = kern_panel_stride(t, cols);
    uint8_t *rows = malloc(16 * row);
    const void *src[16];
    uint64_t x = 1;

    for (size_t i = 0; i < 16 * row; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        rows[i] = (uint8_t)(x >> 56);
    }
    for (size_t i = 0; head && i < 16 * row; i += row) {
        const float d = 1e-4f;
        memcpy(rows + i, &d, 4);
    }
    for (size_t i = 0; !head && i < 16 * row; i += f->block_bytes) {
        uint16_t h = 0x2345;
        float v = 0.01f * (float)(i % 7);
        if (f->block == 1) kern_row_from_f32(t, &v, 1, rows + i);
        else for (size_t k = t == KERN_Q2_HM ? 16 : 0; k < (t == KERN_Q2_HM ? 32 : 2); k += 2) memcpy(rows + i + k, &h, 2);
        if (t == KERN_Q4_1 || t == KERN_Q8_M || t == KERN_Q8_H || t == KERN_Q4_HL) memcpy(rows + i + 2, &h, 2);
    }
    for (int r = 0; r < 16; r++) src[r] = rows + (size_t)r * row;
    kern_panel_pack(t, src, 16, cols, j->weights);
    for (size_t at = stride; at + stride <= j->bytes; at += stride) memcpy(j->weights + at, j->weights, stride);
    free(rows);
}

static void *zeros(size_t bytes) { void *p = aligned_alloc(64, px_align_up(bytes, 64)); memset(p, 0, bytes); return p; }

static void *activations(const job *j, kern_dtype t, uint32_t rows, uint32_t cols, double *seconds)
{
    size_t bytes = kern_act_bytes(KERN_ON_CPU, kern_act_of(t), rows, cols);
    float *x = zeros((size_t)rows * cols * 4);
    void *out = zeros(bytes), *flags = zeros(rows * 4);
    px_err e = {0};

    for (size_t i = 0; i < (size_t)rows * cols; i++) x[i] = (float)((i * 2654435761u) % 1000) / 500 - 1;
    kern_quant_args a = { .rows = { rows, { &rows, 4 } }, .cols = cols, .act = kern_act_of(t),
                          .in = { x, (size_t)rows * cols * 4 }, .out = { out, bytes }, .flags = { flags, rows * 4 } };
    *seconds = 1e9;
    for (int i = 0; i < 20; i++) {
        double s = now();
        die(j->ops->quant(j->d, &a, &e), &e);
        if (now() - s < *seconds) *seconds = now() - s;
    }
    free(x), free(flags);
    return out;
}

static void line(const job *j, const char *op, kern_dtype t, const char *shape, uint32_t rows, double seconds, double bytes,
                 double flops)
{
    printf("%s,%s,%s,%u,%s,%u,%.4f,%.2f,%.1f,%.3f\n", op, kern_dtype_get(t)->name, shape, rows, j->ops->name, j->threads,
           seconds * 1e3, bytes / seconds / 1e9, flops / seconds / 1e9, bytes / seconds / 1e9 / j->read);
    fflush(stdout);
}

/* One large matrix times `rows` rows. */
static void large(const job *j, kern_dtype t, uint32_t rows, size_t use)
{
    enum { K = 2048 };
    size_t stride = kern_panel_stride(t, K);
    uint32_t out = (uint32_t)((use < j->bytes ? use : j->bytes) / stride * 16);
    double best = 1e9, s;
    char shape[32];
    void *in = activations(j, t, rows, K, &s);
    float *y = zeros((size_t)rows * out * 4);
    px_err e = {0};
    kern_matmul_args a = {
        .rows = { rows, { &rows, 4 } }, .act = kern_act_of(t), .cols = K,
        .in = { in, kern_act_bytes(KERN_ON_CPU, kern_act_of(t), rows, K) }, .n = 1,
        .w = { { t, out, K, { j->weights, out / 16 * stride } } }, .out = { { y, (size_t)rows * out * 4 } },
        .out_stride = { out },
    };

    for (int i = 0; i < REPEAT; i++) {
        s = now();
        die(j->ops->matmul(j->d, &a, &e), &e);
        s = now() - s;
        if (s < best) best = s;
    }
    snprintf(shape, sizeof shape, "%ux%u", out, (unsigned)K);
    line(j, rows == 1 ? "gemv" : "batch", t, shape, rows, best, (double)(out / 16) * (double)stride, 2.0 * rows * out * K);
    free(in), free(y);
}

/* q k v, output, gate up, down of one rank of two, layer after layer. */
static void layers(const job *j, kern_dtype t, uint32_t rows)
{
    static const struct { uint32_t cols, n, out[3]; } mm[4] = {
        { 576, 3, { 384, 128, 128 } }, { 384, 1, { 576 } }, { 576, 2, { 768, 768 } }, { 768, 1, { 576 } },
    };
    void *in[4];
    double best = 1e9, s, bytes = 0, flops = 0, quant = 0;
    float *y = zeros((size_t)rows * 768 * 4 * 3);
    px_err e = {0};

    for (int k = 0; k < 4; k++) in[k] = activations(j, t, rows, mm[k].cols, &s), quant += s;
    for (int i = 0; i < REPEAT; i++) {
        size_t at = 0;
        s = now();
        bytes = flops = 0;
        for (int l = 0; l < 30; l++)
            for (int k = 0; k < 4; k++) {
                kern_matmul_args a = { .rows = { rows, { &rows, 4 } }, .act = kern_act_of(t), .cols = mm[k].cols,
                                       .in = { in[k], kern_act_bytes(KERN_ON_CPU, kern_act_of(t), rows, mm[k].cols) }, .n = mm[k].n };
                for (uint32_t w = 0; w < mm[k].n; w++) {
                    size_t size = mm[k].out[w] / 16 * kern_panel_stride(t, mm[k].cols);
                    if (at + size > j->bytes) at = 0;
                    a.w[w] = (kern_weight){ t, mm[k].out[w], mm[k].cols, { j->weights + at, size } };
                    a.out[w] = (kern_buf){ y + (size_t)w * rows * 768, (size_t)rows * 768 * 4 };
                    a.out_stride[w] = 768;
                    at += size, bytes += (double)size, flops += 2.0 * rows * mm[k].out[w] * mm[k].cols;
                }
                die(j->ops->matmul(j->d, &a, &e), &e);
            }
        s = now() - s;
        if (s < best) best = s;
    }
    line(j, "layer", t, "30x(q k v o gate up down)/2", rows, best, bytes, flops);
    line(j, "quant", t, "the inputs of these", rows, quant * 30, 30.0 * rows * 4 * (576 + 384 + 576 + 768), 0);
    for (int k = 0; k < 4; k++) free(in[k]);
    free(y);
}

int main(int argc, char **argv)
{
    static const kern_dtype types[] = { KERN_Q4_1, KERN_Q4_0, KERN_Q8_0, KERN_Q8_M, KERN_Q8_H, KERN_Q2_HM, KERN_Q4_HL, KERN_W4, KERN_W8, KERN_FP8, KERN_BF16, KERN_F16, KERN_F32 };
    job j = { .threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 1, .bytes = (size_t)(argc > 2 ? atoi(argv[2]) : 512) << 20 };
    px_heap heap;
    px_err e = {0};

    kern_ftz_set();
    px_heap_init(&heap, "bench");
    j.weights = aligned_alloc(4096, j.bytes);
    if (!j.weights || !j.bytes) return 1;
    memset(j.weights, 1, j.bytes);
    printf("op,dtype,shape,rows,path,threads,ms,GB/s,GFLOP/s,ratio\n");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        kern_dtype t = types[i];
        for (kern_path p = KERN_PATH_AVX512; p >= KERN_PATH_SCALAR; p--) {
            if (!kern_cpu_has(p)) continue;
            die(kern_cpu_ops(p, &j.ops, &e), &e);
            if (argc > 3 && strcmp(j.ops->name + 4, argv[3]) != 0) continue;
            die(j.ops->open(&j.d, &heap.a, &(kern_open_args){ .threads = j.threads }, &e), &e);
            fill(&j, t, 2048);
            j.read = bandwidth(j.weights, j.bytes, (int)j.threads);
            printf("read,,%zu MB,,,%u,,%.2f,,1\n", j.bytes >> 20, j.threads, j.read);
            bool fast = p != KERN_PATH_SCALAR;
            large(&j, t, 1, fast ? j.bytes : 8 << 20);
            for (uint32_t rows = 2; fast && rows <= 32; rows *= 2) large(&j, t, rows, 64 << 20);
            if (fast) layers(&j, t, 1);
            if (fast) layers(&j, t, 256);
            j.ops->close(j.d);
        }
    }
    free(j.weights);
    px_heap_deinit(&heap);
    return 0;
}
