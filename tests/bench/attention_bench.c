/* attention_bench.c - how long the ops over rows, heads and vocabulary take, as CSV.
 * usage: attention_bench [THREADS]
 * A line an op, shape and path: the median and the best of many calls, in microseconds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

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

typedef struct bench {
    const kern_ops *ops;
    kern_dev *dev;
    uint32_t threads;
} bench;

static kern_buf numbers(bench *b, size_t n, float scale)
{
    kern_buf out;
    px_err e = {0};
    if (b->ops->alloc(b->dev, n * 4, &out, &e)) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    for (size_t i = 0; i < n; i++) ((float *)out.h)[i] = ((float)(i * 2654435761u % 65536) / 32768.0f - 1.0f) * scale;
    return out;
}

static kern_buf words(bench *b, size_t n, uint32_t first, uint32_t step)
{
    kern_buf out = numbers(b, n, 0.0f);
    for (size_t i = 0; i < n; i++) ((uint32_t *)out.h)[i] = first + (uint32_t)i * step;
    return out;
}

typedef px_code call_fn(bench *b, const void *args, px_err *e);

static void measure(bench *b, const char *op, const char *shape, call_fn *call, const void *args)
{
    enum { MOST = 3000 };
    static double us[MOST];
    double begin = now_us();
    int n = 0;

    while (n < MOST && (n < 20 || now_us() - begin < 4e5)) {
        px_err e = {0};
        double t = now_us();
        if (call(b, args, &e)) {
            fprintf(stderr, "%s %s: %s: %s\n", op, shape, e.field, e.text);
            exit(1);
        }
        us[n++] = now_us() - t;
    }
    qsort(us, (size_t)n, sizeof *us, by_size);
    printf("%s,%s,%s,%u,%.2f,%.2f\n", op, shape, b->ops->name, b->threads, us[n / 2], us[0]);
}

static px_code do_norm(bench *b, const void *a, px_err *e) { return b->ops->add_norm(b->dev, a, e); }
static px_code do_rope(bench *b, const void *a, px_err *e) { return b->ops->rope_append(b->dev, a, e); }
static px_code do_attention(bench *b, const void *a, px_err *e) { return b->ops->attention(b->dev, a, e); }
static px_code do_swiglu(bench *b, const void *a, px_err *e) { return b->ops->swiglu(b->dev, a, e); }
static px_code do_candidates(bench *b, const void *a, px_err *e) { return b->ops->candidates(b->dev, a, e); }

static void bench_norm(bench *b, uint32_t rows, uint32_t cols, uint32_t views)
{
    char shape[64];
    kern_add_norm_args a = { .rows = { rows, words(b, 1, rows, 0) }, .cols = cols, .eps = 1e-5f, .n_views = views,
                             .first = true };
    for (uint32_t i = 0; i < views; i++) a.view[i] = numbers(b, (size_t)rows * cols, 1);
    a.residual = numbers(b, (size_t)rows * cols, 1);
    a.weight = numbers(b, cols, 1);
    a.out = numbers(b, (size_t)rows * cols, 1);
    snprintf(shape, sizeof shape, "%ux%u views %u", rows, cols, views);
    measure(b, "add_norm", shape, do_norm, &a);
    kern_swiglu_args s = { .rows = a.rows, .cols = cols, .stride = cols, .gate = a.residual, .up = a.view[0], .out = a.out };
    snprintf(shape, sizeof shape, "%ux%u", rows, cols);
    measure(b, "swiglu", shape, do_swiglu, &s);
}

/* `rows` rows of one slot, the last at position ctx - 1. */
static void bench_attention(bench *b, uint32_t rows, uint32_t ctx, uint32_t n_head, uint32_t n_kv, uint32_t dim, uint32_t block)
{
    char shape[80];
    uint32_t blocks = (ctx + block - 1) / block;
    kern_shape sh = { .rows = rows, .threads = b->threads, .n_head = n_head, .head_dim = dim, .max_cols = n_head * dim,
                      .n_ctx = ctx };
    kern_rope_append_args r = { .rows = { rows, words(b, 1, rows, 0) }, .n_head = n_head, .n_kv_head = n_kv, .head_dim = dim,
                                .q = numbers(b, (size_t)rows * n_head * dim, 1), .k = numbers(b, (size_t)rows * n_kv * dim, 1),
                                .v = numbers(b, (size_t)rows * n_kv * dim, 1), .cos = numbers(b, (size_t)ctx * dim / 2, 0.7f),
                                .sin = numbers(b, (size_t)ctx * dim / 2, 0.7f), .pos = words(b, rows, ctx - rows, 1),
                                .row_slot = words(b, rows, 0, 0), .block_table = words(b, blocks, 0, 1), .table_stride = blocks,
                                .flags = words(b, rows, 0, 0) };
    r.kv = (kern_kv){ .dtype = KERN_KV_F16, .n_layer = 1, .n_blocks = blocks, .block = block, .n_kv_head = n_kv, .head_dim = dim };
    r.kv.pool = numbers(b, (size_t)blocks * n_kv * block * dim, 0);      /* fp16: two elements a word */
    for (size_t i = 0; i < r.kv.pool.bytes / 2; i++)
        ((uint16_t *)r.kv.pool.h)[i] = kern_f32_to_f16((float)(i % 1013) / 500.0f - 1.0f);
    kern_attention_args a = { .rows = r.rows, .n_head = n_head, .n_kv_head = n_kv, .head_dim = dim, .q = numbers(b, (size_t)rows * n_head * dim, 0.3f),
                              .head_map = words(b, n_head, 0, 0), .pos = r.pos, .row_slot = r.row_slot,
                              .block_table = r.block_table, .table_stride = blocks, .kv = r.kv,
                              .out = numbers(b, (size_t)rows * n_head * dim, 1),
                              .workspace = numbers(b, kern_workspace_bytes(KERN_ON_CPU, &sh) / 4 + 1, 0) };
    for (uint32_t h = 0; h < n_head; h++) ((uint32_t *)a.head_map.h)[h] = h * n_kv / n_head;
    snprintf(shape, sizeof shape, "%u rows ctx %u heads %u/%u dim %u block %u", rows, ctx, n_head, n_kv, dim, block);
    measure(b, "rope_append", shape, do_rope, &r);
    measure(b, "attention", shape, do_attention, &a);
}

static void bench_candidates(bench *b, uint32_t rows, uint32_t n, uint32_t list, float temperature)
{
    char shape[64];
    kern_candidates_args a = { .rows = { rows, words(b, 1, rows, 0) }, .logits = numbers(b, (size_t)rows * n, 12), .stride = n,
                               .n_valid = n, .params = numbers(b, rows * sizeof(kern_cand_param) / 4, 0),
                               .out_stride = sizeof(kern_cand_head) + KERN_MAX_CANDIDATES * sizeof(kern_cand_entry) };
    a.out = numbers(b, (size_t)rows * a.out_stride / 4, 0);
    for (uint32_t t = 0; t < rows; t++)
        ((kern_cand_param *)a.params.h)[t] = (kern_cand_param){ .seed = t, .temperature = temperature, .n_list = list,
                                                                .draw = temperature > 0, .target = UINT32_MAX };
    snprintf(shape, sizeof shape, "%ux%u list %u temperature %.1f", rows, n, list, (double)temperature);
    measure(b, "candidates", shape, do_candidates, &a);
}

int main(int argc, char **argv)
{
    px_heap heap;
    bench b = { .threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 1 };

    kern_ftz_set();
    px_heap_init(&heap, "bench");
    puts("op,shape,path,threads,median_us,best_us");
    for (kern_path p = KERN_PATH_AVX2; p < KERN_N_PATHS; p++) {
        px_err e = {0};
        if (kern_cpu_ops(p, &b.ops, &e) || b.ops->open(&b.dev, &heap.a, &(kern_open_args){ .threads = b.threads }, &e)) {
            printf("# %s\n", e.text);
            continue;
        }
        bench_norm(&b, 2, 576, 2);
        bench_norm(&b, 1, 1536, 1);
        bench_norm(&b, 256, 1536, 2);
        bench_attention(&b, 1, 1000, 6, 2, 64, 16);
        bench_attention(&b, 1, 1000, 9, 3, 64, 16);
        bench_attention(&b, 1, 4000, 32, 4, 64, 64);
        bench_attention(&b, 1, 1000, 1, 1, 128, 16);
        bench_attention(&b, 256, 256, 6, 2, 64, 16);
        bench_attention(&b, 256, 1000, 6, 2, 64, 16);
        bench_attention(&b, 256, 1000, 8, 2, 128, 32);
        bench_candidates(&b, 1, 24576, 0, 0.0f);
        bench_candidates(&b, 1, 24576, 10, 0.8f);
        bench_candidates(&b, 1, 24576, 256, 0.8f);
        b.ops->close(b.dev);                 /* its buffers go with the process */
    }
    px_heap_deinit(&heap);
    return 0;
}
