/* cuda_bench_model.c - whole steps of an 8B model (Llama 3's shape, numbers that nobody trained), one rank: the load of its shard
 * from a file that lies in memory, decode at 2k of context, a prompt of 2,048 tokens, and the soak.  Times are the host's, from a
 * step's call to its answer.  Percent: decode of its bandwidth bound, the bytes of all weights but the table and of the cache read
 * once, at the copy rate; the prompt of the largest matrix product's rate; the load of the rate from pinned memory. */
#include "tests/bench/cuda_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/device.h"
#include "shard/run/engine.h"
#include "tests/shard/synthetic.h"

#define MOST_SLOTS 16u

/* What is aimed at, in percent; 0: nothing. */
typedef struct aims { const char *format; double load, prefill, alone, together; } aims;
static const aims aim[] = { { "bf16", 70, 60, 85, 75 }, { "w8a16_g128", 0, 0, 80, 0 }, { "w4a16_g128", 0, 0, 70, 0 } };

typedef struct model {
    bench *b;
    test_shape shape;
    shard_manifest m;
    shard_file *file;
    shard_demand demand;
    shard_rank_bytes plan;
    comm *host, *sums;
    comm_device device;
    shard_executor *x;
    uint32_t blocks;                       /* of a slot */
} model;

static void line(double want, const char *what, const char *shape, double seconds, double value, const char *unit, double limit)
{
    if (want > 0) bench_target(what, shape, seconds, value, unit, limit, want);
    else bench_line(what, shape, seconds, value, unit, limit);
}

/* ---- comm's side: one rank copies nothing, but its partial sums lie on the device ---- */

static px_code get(void *ctx, size_t bytes, void **out, px_err *e)
{
    const bench *b = ((model *)ctx)->b;
    kern_buf buf;
    px_code rc = b->ops->alloc(b->d, bytes, &buf, e);

    *out = buf.h;
    return rc;
}

static void put(void *ctx, void *p, size_t bytes)
{
    const bench *b = ((model *)ctx)->b;
    b->ops->free(b->d, &(kern_buf){ p, bytes });
}

static px_code to_host(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    const bench *b = ((model *)ctx)->b;
    return b->ops->download(b->d, dst, (kern_buf){ (void *)(uintptr_t)src, bytes }, bytes, e);
}

static px_code to_device(void *ctx, void *dst, const void *src, size_t bytes, px_err *e)
{
    const bench *b = ((model *)ctx)->b;
    return b->ops->upload(b->d, (kern_buf){ dst, bytes }, src, bytes, e);
}

/* ---- open ---- */

typedef struct upload { double first, last; } upload;

static void uploaded(void *ctx, uint64_t done, uint64_t total)
{
    upload *u = ctx;

    (void)done, (void)total;
    u->last = bench_now();
    if (u->first == 0) u->first = u->last;
}

static void open_model(model *k, bench *b, const aims *want, uint32_t slots, uint32_t n_ctx, uint32_t budget)
{
    const char *format = want->format;
    const test_shards *made = test_synthetic_shards();
    upload u = {0};
    char shape[64];
    px_err e = {0};

    *k = (model){ .b = b };
    k->shape = b->tiny ? (test_shape){ .n_layer = 2, .d_model = 128, .d_ff = 256, .n_head = 4, .n_kv_head = 2, .head_dim = 32, .n_vocab = 500, .n_ctx = 512 }
                       : (test_shape){ .n_layer = 32, .d_model = 4096, .d_ff = 14336, .n_head = 32, .n_kv_head = 8, .head_dim = 128, .n_vocab = 128256, .n_ctx = 8192 };
    k->shape.format = format;
    k->shape.world = 1;
    k->shape.in_file = true;
    k->demand = (shard_demand){ .backend = b->ops->backend, .kv_tokens = slots * n_ctx, .kv_block = 64, .max_sequences = slots, .token_budget = budget,
                                .threads = b->threads };
    double t = bench_now();
    bench_check(made->manifest(&k->m, b->a, (const char *)(const void *)&k->shape, &e), &e);
    bench_check(made->open(&k->file, b->a, (const char *)(const void *)&k->shape, &k->m, 0, &e), &e);
    fprintf(stderr, "cuda_bench: numbers for %s: %.1f s\n", format, bench_now() - t);
    bench_check(shard_rank_bytes_of(&k->m.arch, &k->m.types, &k->m.split, 0, &k->demand, COMM_LOCAL, &k->plan, &e), &e);
    const comm_args ca = { .kind = COMM_LOCAL, .world = 1, .partial_bytes = k->plan.partial_bytes, .gather_bytes = k->plan.gather_bytes };
    bench_check(comm_open(&k->host, b->a, &ca, &e), &e);
    k->device = (comm_device){ .ctx = k, .queue = b->ops->native_queue(b->d), .get = get, .put = put, .to_host = to_host, .to_device = to_device };
    const comm_device_args da = { .device = &k->device, .host = k->host, .partial_bytes = k->plan.partial_bytes };
    bench_check(comm_open_staged(&k->sums, b->a, &da, &e), &e);
    const shard_executor_args xa = { .ops = b->ops, .dev = b->d, .manifest = &k->m, .file = k->file, .comm = k->sums, .demand = &k->demand, .n_blocks = k->plan.n_blocks,
                                     .progress = { uploaded, &u } };
    t = bench_now();
    bench_check(shard_executor_open(&k->x, b->a, &xa, &e), &e);
    t = bench_now() - t;
    snprintf(shape, sizeof shape, "%s shard of %.1f GB", format, 1e-9 * (double)k->plan.weights.mapped);
    line(want->load, "load", shape, t, 1e-9 * (double)k->plan.weights.mapped / t, "GB/s", b->to_device * 1e-9);
    if (u.last > u.first)                  /* without the memory that is taken before it and after it, and the tables */
        bench_line("load's upload", shape, u.last - u.first, 1e-9 * (double)k->plan.weights.mapped / (u.last - u.first), "GB/s", b->to_device * 1e-9);
    t = bench_now();
    bench_check(shard_executor_warm_up_all(k->x, &e), &e);
    bench_line("warm-up", format, bench_now() - t, (double)__builtin_popcountll(k->x->recorded), "graphs", 0);
    k->blocks = n_ctx / 64;
}

static void close_model(model *k)
{
    shard_executor_close(k->x);
    comm_close(k->sums);
    comm_close(k->host);
    test_synthetic_shards()->close(k->file);
    test_synthetic_shards()->drop(&k->m);
}

/* ---- steps ---- */

static void step(model *k, const shard_step *in, shard_result *r)
{
    px_err e = {0};
    bench_check(shard_executor_step_all(k->x, in, r, &e), &e);
}

static void open_slot(model *k, uint32_t slot)
{
    uint32_t block[512];
    shard_result r;

    for (uint32_t i = 0; i < k->blocks && i < 512; i++) block[i] = slot * k->blocks + k->blocks - 1 - i;
    const shard_slot_op op = { .op = SHARD_SLOT_OPEN, .slot = slot, .block = block, .n_blocks = k->blocks, .sampling = { .top_p = 1 } };
    step(k, &(shard_step){ .op = &op, .n_ops = 1 }, &r);
}

static void close_slot(model *k, uint32_t slot)
{
    const shard_slot_op op = { .op = SHARD_SLOT_CLOSE, .slot = slot };
    shard_result r;
    step(k, &(shard_step){ .op = &op, .n_ops = 1 }, &r);
}

/* n tokens of a prompt in one slot; the last one samples. */
static double prefill(model *k, uint32_t slot, uint32_t n)
{
    uint32_t *id = calloc(n, sizeof *id);
    shard_result r;

    if (!id) exit(1);
    for (uint32_t i = 0; i < n; i++) id[i] = (i * 7919u + slot * 31u + 1) % k->shape.n_vocab;
    const double t = bench_now();
    for (uint32_t at = 0; at < n; at += k->demand.token_budget) {
        const uint32_t m = n - at < k->demand.token_budget ? n - at : k->demand.token_budget;
        const bool last = at + m == n;
        const shard_entry en = { .slot = slot, .first_pos = at, .n = m, .id = id + at, .rows = last ? SHARD_ROWS_LAST : SHARD_ROWS_NONE, .sample = last };
        step(k, &(shard_step){ .entry = &en, .n_entries = 1 }, &r);
    }
    free(id);
    return bench_now() - t;
}

/* The next token of each of the first n slots, which have `pos` tokens. */
static double decode(model *k, uint32_t n, uint32_t pos, uint32_t *id)
{
    shard_entry en[MOST_SLOTS];
    shard_result r;

    for (uint32_t i = 0; i < n; i++) en[i] = (shard_entry){ .slot = i, .first_pos = pos, .n = 1, .rows = SHARD_ROWS_LAST, .sample = true };
    const double t = bench_now();
    step(k, &(shard_step){ .entry = en, .n_entries = n }, &r);
    for (uint32_t i = 0; id && i < n; i++) id[i] = r.entry[i].row[0].id;
    return bench_now() - t;
}

/* ---- what is printed ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void decode_speed(model *k, uint32_t n, uint32_t ctx, uint32_t steps, double want)
{
    const shard_arch *m = &k->m.arch;
    double *t = calloc(steps, sizeof *t), token_bytes;
    uint64_t table = 0;
    char shape[64];
    px_err e = {0};

    if (!t) exit(1);
    for (uint32_t i = 0; i < steps; i++) t[i] = decode(k, n, ctx + i, NULL);
    qsort(t, steps, sizeof *t, by_size);
    if (!m->tied) bench_check(kern_panel_bytes(k->x->weights.embd.dtype, k->x->weights.embd.rows, m->d_model, &table, &e), &e);
    token_bytes = 2.0 * m->n_layer * m->n_kv_head * (double)kern_kv_vector_bytes(KERN_KV_F16, m->head_dim);
    const double bytes = (double)k->plan.weights.mapped - (double)table + n * (ctx + steps / 2.0) * token_bytes;
    snprintf(shape, sizeof shape, "%s batch %u context %u", k->shape.format, n, ctx);
    line(want, "decode", shape, t[steps / 2], n / t[steps / 2], "tokens/s", n * k->b->copy / bytes);
    free(t);
}

static void prefill_speed(model *k, uint32_t n, double want)
{
    const shard_arch *m = &k->m.arch;
    const double heads = (double)m->n_head * m->head_dim, layer = (double)m->d_model * (2 * heads + 2.0 * m->n_kv_head * m->head_dim + 3.0 * m->d_ff);
    const double flops = m->n_layer * (2.0 * n * layer + 2.0 * n * n * heads);       /* causal: half of 4 n^2 */
    double best = 1e30;
    char shape[64];

    for (int i = 0; i < 4; i++) {
        open_slot(k, 0);
        const double t = prefill(k, 0, n);
        if (t < best) best = t;
        close_slot(k, 0);
    }
    snprintf(shape, sizeof shape, "%s %u tokens", k->shape.format, n);
    line(want, "prefill", shape, best, flops / best * 1e-12, "Tflop/s", k->b->matrix * 1e-12);
}

/* The same requests again and again: every answer is that of the first round, and the device's memory stays what it was. */
static void soak(model *k)
{
    enum { N = 12 };
    const double end = bench_now() + k->b->soak_seconds;
    uint32_t want[N][MOST_SLOTS], got[N][MOST_SLOTS], n = k->demand.max_sequences, rounds = 0;
    const uint32_t prompt = k->b->tiny ? 9 : 200;
    kern_info before, now;
    px_err e = {0};

    bench_check(k->b->ops->info(k->b->d, &before, &e), &e);
    while (!rounds || bench_now() < end) {
        for (uint32_t i = 0; i < n; i++) {
            open_slot(k, i);
            prefill(k, i, prompt);
        }
        for (uint32_t i = 0; i < N; i++) decode(k, n, prompt + i, got[i]);
        for (uint32_t i = 0; i < n; i++) close_slot(k, i);
        if (!rounds++) memcpy(want, got, sizeof want);
        for (uint32_t i = 0; i < N; i++)
            if (memcmp(want[i], got[i], n * sizeof **got)) {
                fprintf(stderr, "cuda_bench: soak: round %u answers differently\n", rounds);
                exit(1);
            }
    }
    bench_check(k->b->ops->info(k->b->d, &now, &e), &e);
    if (now.held_bytes != before.held_bytes) {
        fprintf(stderr, "cuda_bench: soak: device memory grew by %lld bytes\n", (long long)(now.held_bytes - before.held_bytes));
        exit(1);
    }
    if (k->x->ran && k->x->graphs && rounds > 1 && !k->x->replayed) exit(1);
    printf("# soak: %.1f minutes, %u rounds of %u requests, every answer the same, memory the same\n", k->b->soak_seconds / 60, rounds, n);
}

void bench_model(bench *b)
{
    const uint32_t slots = b->tiny ? 3 : MOST_SLOTS, ctx = b->tiny ? 60 : 2048, steps = b->tiny ? 2 : 48, n = sizeof aim / sizeof *aim;

    for (uint32_t i = 0; i < n; i++) {
        model k;

        open_model(&k, b, &aim[i], slots, ctx + 64, b->tiny ? 30 : 2048);
        prefill_speed(&k, b->tiny ? 30 : 2048, aim[i].prefill);
        open_slot(&k, 0);
        prefill(&k, 0, ctx);
        decode_speed(&k, 1, ctx, steps, aim[i].alone);
        close_slot(&k, 0);
        for (uint32_t s = 0; s < slots; s++) {
            open_slot(&k, s);
            prefill(&k, s, ctx);
        }
        decode_speed(&k, slots, ctx, steps, aim[i].together);
        for (uint32_t s = 0; s < slots; s++) close_slot(&k, s);
        if (i + 1 == n && b->soak_seconds > 0) soak(&k);       /* the last one: what is aimed at has been measured */
        close_model(&k);
    }
}
