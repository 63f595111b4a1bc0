/* cuda_bench_ops.c - op by op, at the shapes of an 8B model (Llama 3).  Percent: ops over rows, decode's matmuls and attention of the
 * copy rate, by the bytes that they must read and write; matmuls of many rows of the largest matrix product's rate, which is
 * the same op at 16,384 rows. */
#include "tests/bench/cuda_bench.h"

#include <stdio.h>
#include <stdlib.h>

#define COPIES 24u                         /* of weights that would stay in the L2 cache otherwise */
#define TURNS_BYTES ((size_t)512 << 20)

typedef struct matmul { kern_matmul_args m; kern_weight turn[COPIES]; uint32_t n_turns; } matmul;

static px_code put_matmul(const bench *b, void *ctx, uint32_t i, px_err *e)
{
    matmul *x = ctx;

    x->m.w[0] = x->turn[i % x->n_turns];
    return b->ops->matmul(b->d, &x->m, e);
}

/* Seconds of one weight on so many rows. */
static double time_matmul(const bench *b, kern_dtype t, uint32_t out, uint32_t cols, uint32_t rows, uint64_t *bytes)
{
    const kern_shape sh = { .rows = rows, .max_cols = cols, .max_out = out, .n_head = 1, .n_kv_head = 1, .head_dim = 16, .n_ctx = 16 };
    const kern_act act = kern_act_of(t);
    matmul x = { .m = { .rows = { rows, bench_put(b, &rows, 4) }, .act = act, .cols = cols, .n = 1, .out_stride = { out } } };
    px_err e = {0};

    bench_check(kern_panel_bytes(t, out, cols, bytes, &e), &e);
    x.n_turns = (uint32_t)(TURNS_BYTES / *bytes) + 1;
    if (x.n_turns > COPIES) x.n_turns = COPIES;
    if (b->tiny || rows > 64) x.n_turns = 1;
    for (uint32_t i = 0; i < x.n_turns; i++) x.turn[i] = (kern_weight){ .dtype = t, .rows = out, .cols = cols, .panels = bench_alloc(b, *bytes) };
    kern_buf in = bench_alloc(b, (size_t)rows * cols * 4), flags = bench_alloc(b, (size_t)rows * 4);
    x.m.in = bench_alloc(b, kern_act_bytes(KERN_ON_CUDA, act, rows, cols));
    x.m.out[0] = bench_alloc(b, (size_t)rows * out * 4);
    x.m.workspace = bench_alloc(b, kern_workspace_bytes(KERN_ON_CUDA, &sh));
    const kern_quant_args q = { .rows = x.m.rows, .cols = cols, .act = act, .in = in, .out = x.m.in, .flags = flags };
    bench_check(b->ops->quant(b->d, &q, &e), &e);
    const double s = bench_seconds(b, put_matmul, &x);
    kern_buf *all[] = { &x.m.rows.live, &in, &flags, &x.m.in, &x.m.out[0], &x.m.workspace };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_free(b, all[i]);
    for (uint32_t i = 0; i < x.n_turns; i++) bench_free(b, &x.turn[i].panels);
    return s;
}

void bench_matrix(bench *b)
{
    const uint32_t most = b->tiny ? 80 : 16384, side = b->tiny ? 64 : 8192;
    uint64_t bytes;
    char shape[64];

    const double t = time_matmul(b, KERN_BF16, side, side, most, &bytes);
    b->matrix = 2.0 * side * side * most / t;
    snprintf(shape, sizeof shape, "BF16 %ux%u x %u", side, side, most);
    bench_line("matrix", shape, t, b->matrix * 1e-12, "Tflop/s", 0);
}

static void matmuls(bench *b)
{
    static const struct { const char *name; uint32_t out, cols; } weight[] = {
        { "qkv", 6144, 4096 }, { "attn_out", 4096, 4096 }, { "gate_up", 28672, 4096 }, { "down", 4096, 14336 }, { "head", 128256, 4096 },
    };
    static const kern_dtype types[] = { KERN_BF16, KERN_F16, KERN_FP8, KERN_W8, KERN_Q8_0, KERN_Q8_M, KERN_Q8_H, KERN_W4, KERN_Q4_0, KERN_Q4_1, KERN_Q4_HL,
                                       KERN_Q2_HM };
    static const uint32_t rows[] = { 1, 4, 16, 64, 2048 };
    uint64_t bytes;
    char shape[64];

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t w = 0; w < sizeof weight / sizeof *weight; w++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                const uint32_t out = b->tiny ? 48 : weight[w].out, cols = b->tiny ? 256 : weight[w].cols;
                const uint32_t n = b->tiny && rows[r] > 64 ? 66 : rows[r];
                if (w == 4 && n > 64) continue;          /* never so many rows of the head */
                if (b->tiny && w) continue;
                const double s = time_matmul(b, types[i], out, cols, n, &bytes);
                snprintf(shape, sizeof shape, "%s %s %ux%u rows %u", kern_dtype_get(types[i])->name, weight[w].name, out, cols, n);
                if (n > 64) bench_line("matmul", shape, s, 2e-12 * out * cols * n / s, "Tflop/s", b->matrix * 1e-12);
                else bench_line("matmul", shape, s, 1e-9 * ((double)bytes + 4.0 * n * out + 2.0 * n * cols) / s, "GB/s", b->copy * 1e-9);
            }
}

/* ---- attention, and what goes with it ---- */

static px_code put_attention(const bench *b, void *ctx, uint32_t i, px_err *e)
{
    (void)i;
    return b->ops->attention(b->d, ctx, e);
}

static px_code put_rope(const bench *b, void *ctx, uint32_t i, px_err *e)
{
    (void)i;
    return b->ops->rope_append(b->d, ctx, e);
}

/* `slots` sequences of `n_ctx` tokens; decode: a row each; else one slot, all of whose rows are there.  want: percent that are
 * aimed at, 0: none. */
static void attention(bench *b, kern_kv_dtype kv, uint32_t slots, uint32_t n_ctx, bool decode, double want)
{
    static const char *const name[] = { "f16", "f32", "bf16", "int8", "fp8" };
    const uint32_t heads = 32, kv_heads = 8, dim = 128, block = 64, stride = (n_ctx + block - 1) / block, rows = decode ? slots : n_ctx;
    const kern_shape sh = { .rows = rows, .n_head = heads, .n_kv_head = kv_heads, .head_dim = dim, .max_cols = heads * dim, .max_out = heads * dim, .n_ctx = n_ctx };
    const size_t head_bytes = (size_t)heads * dim * 4, kv_bytes = (size_t)kv_heads * dim * 4;
    uint32_t *word = calloc((size_t)rows + heads + slots * stride, sizeof *word);
    char shape[96];

    if (!word) exit(1);
    kern_attention_args a = { .n_head = heads, .n_kv_head = kv_heads, .head_dim = dim, .table_stride = stride };
    a.rows = (kern_rows){ rows, bench_put(b, &rows, 4) };
    for (uint32_t i = 0; i < rows; i++) word[i] = decode ? n_ctx - 1 : i;
    a.pos = bench_put(b, word, (size_t)rows * 4);
    for (uint32_t i = 0; i < rows; i++) word[i] = decode ? i : 0;
    a.row_slot = bench_put(b, word, (size_t)rows * 4);
    for (uint32_t i = 0; i < heads; i++) word[i] = i * kv_heads / heads;
    a.head_map = bench_put(b, word, heads * 4);
    for (uint32_t i = 0; i < slots * stride; i++) word[i] = (uint32_t)((uint64_t)i * 7919u % (slots * stride));   /* scattered */
    a.block_table = bench_put(b, word, (size_t)slots * stride * 4);
    free(word);
    a.kv = (kern_kv){ .dtype = kv, .n_layer = 1, .n_blocks = slots * stride, .block = block, .n_kv_head = kv_heads, .head_dim = dim };
    const size_t pool = slots * stride * kern_kv_block_bytes(kv, 1, block, kv_heads, dim);
    a.kv.pool = bench_alloc(b, pool);
    a.q = bench_alloc(b, rows * head_bytes);
    a.out = bench_alloc(b, rows * head_bytes);
    a.workspace = bench_alloc(b, kern_workspace_bytes(KERN_ON_CUDA, &sh));
    kern_rope_append_args r = { .rows = a.rows, .n_head = heads, .n_kv_head = kv_heads, .head_dim = dim, .q = a.q, .k = bench_alloc(b, rows * kv_bytes),
                                .v = bench_alloc(b, rows * kv_bytes), .cos = bench_alloc(b, (size_t)n_ctx * dim * 2), .sin = bench_alloc(b, (size_t)n_ctx * dim * 2),
                                .pos = a.pos, .row_slot = a.row_slot, .block_table = a.block_table, .table_stride = stride, .kv = a.kv, .flags = bench_alloc(b, (size_t)rows * 4) };
    snprintf(shape, sizeof shape, "KV %s %u x %u heads %u/%u dim %u", name[kv], slots, n_ctx, heads, kv_heads, dim);
    double s = bench_seconds(b, put_attention, &a);
    const double rate = 1e-9 * ((double)pool + 2.0 * (double)(rows * head_bytes)) / s;
    if (want > 0) bench_target("attention decode", shape, s, rate, "GB/s", b->copy * 1e-9, want);
    else if (decode) bench_line("attention decode", shape, s, rate, "GB/s", b->copy * 1e-9);
    else bench_line("attention prefill", shape, s, 2e-12 * (double)n_ctx * n_ctx * heads * dim / s, "Tflop/s", b->matrix * 1e-12);
    s = bench_seconds(b, put_rope, &r);
    bench_line("rope_append", shape, s, 1e-9 * (double)rows * (2.0 * (double)head_bytes + 3.0 * (double)kv_bytes) / s, "GB/s", b->copy * 1e-9);
    kern_buf *all[] = { &a.rows.live, &a.pos, &a.row_slot, &a.head_map, &a.block_table, &a.kv.pool, &a.q, &a.out, &a.workspace, &r.k, &r.v, &r.cos, &r.sin, &r.flags };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_free(b, all[i]);
}

/* ---- rows ---- */

static px_code put_norm(const bench *b, void *ctx, uint32_t i, px_err *e)
{
    (void)i;
    return b->ops->add_norm(b->d, ctx, e);
}

static px_code put_swiglu(const bench *b, void *ctx, uint32_t i, px_err *e)
{
    (void)i;
    return b->ops->swiglu(b->d, ctx, e);
}

static px_code put_quant(const bench *b, void *ctx, uint32_t i, px_err *e)
{
    (void)i;
    return b->ops->quant(b->d, ctx, e);
}

static px_code put_candidates(const bench *b, void *ctx, uint32_t i, px_err *e)
{
    (void)i;
    return b->ops->candidates(b->d, ctx, e);
}

static void rows_of(bench *b, uint32_t rows)
{
    const uint32_t d = b->tiny ? 128 : 4096, ff = b->tiny ? 256 : 14336, vocab = b->tiny ? 5000 : 128256, heads = rows < 64 ? rows : 64;
    const kern_shape sh = { .rows = rows, .n_head = 1, .n_kv_head = 1, .head_dim = 16, .max_cols = ff, .max_out = vocab, .n_ctx = 16 };
    kern_add_norm_args n = { .rows = { rows, bench_put(b, &rows, 4) }, .cols = d, .eps = 1e-5f, .n_views = 1, .first = true };
    kern_buf x = bench_alloc(b, (size_t)rows * ff * 4), y = bench_alloc(b, (size_t)rows * ff * 4), z = bench_alloc(b, (size_t)rows * ff * 4);
    kern_buf flags = bench_alloc(b, (size_t)rows * 4), logits = bench_alloc(b, (size_t)heads * vocab * 4), work = bench_alloc(b, kern_workspace_bytes(KERN_ON_CUDA, &sh));
    kern_cand_param *p = calloc(heads, sizeof *p);
    char shape[64];

    if (!p) exit(1);
    for (uint32_t i = 0; i < heads; i++) p[i] = (kern_cand_param){ .seed = i, .temperature = 0.8f, .n_list = 64, .draw = 1, .target = UINT32_MAX };
    n.view[0] = kern_buf_at(x, 0, (size_t)rows * d * 4);
    n.residual = kern_buf_at(y, 0, (size_t)rows * d * 4);
    n.out = kern_buf_at(z, 0, (size_t)rows * d * 4);
    n.weight = bench_alloc(b, (size_t)d * 4);
    double s = bench_seconds(b, put_norm, &n);
    snprintf(shape, sizeof shape, "%ux%u", rows, d);
    bench_line("add_norm", shape, s, 1e-9 * 12.0 * rows * d / s, "GB/s", b->copy * 1e-9);
    const kern_swiglu_args w = { .rows = n.rows, .cols = ff, .gate = x, .up = y, .out = z, .stride = ff };
    s = bench_seconds(b, put_swiglu, (void *)(uintptr_t)&w);
    snprintf(shape, sizeof shape, "%ux%u", rows, ff);
    bench_line("swiglu", shape, s, 1e-9 * 12.0 * rows * ff / s, "GB/s", b->copy * 1e-9);
    const kern_quant_args q = { .rows = n.rows, .cols = ff, .act = KERN_ACT_BF16, .in = x, .out = z, .flags = flags };
    s = bench_seconds(b, put_quant, (void *)(uintptr_t)&q);
    bench_line("quant", shape, s, 1e-9 * 6.0 * rows * ff / s, "GB/s", b->copy * 1e-9);
    kern_candidates_args c = { .rows = { heads, bench_put(b, &heads, 4) }, .logits = logits, .stride = vocab, .n_valid = vocab, .workspace = work,
                               .params = bench_put(b, p, heads * sizeof *p), .out_stride = sizeof(kern_cand_head) + 64 * sizeof(kern_cand_entry) };
    c.out = bench_alloc(b, (size_t)heads * c.out_stride);
    s = bench_seconds(b, put_candidates, &c);
    snprintf(shape, sizeof shape, "%ux%u", heads, vocab);
    bench_line("candidates", shape, s, 4e-9 * heads * vocab / s, "GB/s", b->copy * 1e-9);
    free(p);
    kern_buf *all[] = { &n.rows.live, &x, &y, &z, &flags, &logits, &work, &n.weight, &c.rows.live, &c.params, &c.out };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench_free(b, all[i]);
}

void bench_long_decode(bench *b) { attention(b, KERN_KV_F16, b->tiny ? 2 : 32, b->tiny ? 70 : 8192, true, 80); }

void bench_ops(bench *b)
{
    attention(b, KERN_KV_F16, b->tiny ? 2 : 1, b->tiny ? 70 : 2048, true, 0);
    attention(b, KERN_KV_INT8, b->tiny ? 2 : 32, b->tiny ? 70 : 8192, true, 0);
    attention(b, KERN_KV_FP8, b->tiny ? 2 : 32, b->tiny ? 70 : 8192, true, 0);
    attention(b, KERN_KV_F16, 1, b->tiny ? 33 : 2048, false, 0);
    matmuls(b);
    rows_of(b, 1);
    rows_of(b, b->tiny ? 5 : 16);
    if (!b->tiny) rows_of(b, 2048);
}
