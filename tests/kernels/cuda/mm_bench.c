#include "tests/kernels/cuda/mm_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static kern_buf workspace(const mm_bench *b, size_t bytes);

static mm_bench kept[3];                                /* plain, deterministic, with fp8_activations */

mm_bench mm_bench_open(bool deterministic, const kern_shape *shape)
{
    mm_bench *b = &kept[shape->fp8_activations ? 2 : deterministic];

    cuda_ops_next_schedule();
    if (!b->d) {
        assert_non_null(b->heap = malloc(sizeof *b->heap));
        px_heap_init(b->heap, "test");
        b->d = cuda_ops_open(&b->ops, &b->heap->a, &(kern_open_args){ .threads = 1, .deterministic = deterministic, .fp8_activations = shape->fp8_activations });
    }
    mm_bench out = *b;
    out.workspace = workspace(&out, kern_workspace_bytes(KERN_ON_CUDA, shape));
    return out;
}

void mm_bench_close(mm_bench *b)
{
    b->ops->free(b->d, &b->workspace);
    *b = (mm_bench){0};
}

static int close_kept(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        if (!kept[i].d) continue;
        kept[i].ops->close(kept[i].d);
        assert_int_equal(atomic_load(&kept[i].heap->count.live), 0);
        px_heap_deinit(kept[i].heap);
        free(kept[i].heap);
        kept[i] = (mm_bench){0};
    }
    return 0;
}

bool mm_bench_little_shared(bool little)
{
    close_kept(NULL);
    return cuda_ops_little_shared(little);
}

kern_buf mm_bench_put(const mm_bench *b, const void *src, size_t bytes)
{
    kern_buf out;
    px_err e = {0};

    if (b->ops->alloc(b->d, bytes, &out, &e) || b->ops->upload(b->d, out, src, bytes, &e)) fail_msg("%s: %s", e.field, e.text);
    return out;
}

kern_buf mm_bench_filled(const mm_bench *b, uint8_t with, size_t bytes)
{
    void *p = malloc(bytes + 1);

    assert_non_null(p);
    memset(p, with, bytes + 1);
    kern_buf out = mm_bench_put(b, p, bytes ? bytes : 1);
    free(p);
    return out;
}

kern_buf mm_bench_poisoned(const mm_bench *b, size_t bytes) { return mm_bench_filled(b, 0xff, bytes); }

/* Poisoned where the backend's own kernels work: at both ends.  The 32 MiB in between are a library's, when it is large at all. */
static kern_buf workspace(const mm_bench *b, size_t bytes)
{
    const size_t end = 2u << 20;
    kern_buf out;
    px_err e = {0};

    if (bytes <= 2 * end) return mm_bench_poisoned(b, bytes);
    void *p = malloc(end);
    assert_non_null(p);
    memset(p, 0xff, end);
    if (b->ops->alloc(b->d, bytes, &out, &e) || b->ops->upload(b->d, out, p, end, &e)
        || b->ops->upload(b->d, (kern_buf){ (char *)out.h + bytes - end, end }, p, end, &e)) fail_msg("%s: %s", e.field, e.text);
    free(p);
    return out;
}

void mm_bench_get(const mm_bench *b, void *dst, kern_buf src, size_t bytes)
{
    px_err e = {0};

    if (b->ops->download(b->d, dst, src, bytes, &e)) fail_msg("%s: %s", e.field, e.text);
}

int mm_bench_main(const struct CMUnitTest *tests, size_t n) { return cuda_ops_main(tests, n, close_kept); }

/* ---- weights ---- */

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return kern_f16_to_f32(h);
}

/* Of a real model's size, or zero, subnormal, the smallest normal. */
static void half_random(uint8_t *p, uint64_t *seed)
{
    static const uint16_t edge[] = { 0, 0x8000, 1, 0x8001, 0x3ff, 0x400 };
    const uint16_t h = test_rand(seed) % 8 ? kern_f32_to_f16(0.02f * test_rand_normal(seed)) : edge[test_rand(seed) % 6];
    memcpy(p, &h, 2);
}

/* Element k of a plain row: by the format's own text. */
static void element(kern_dtype t, const uint8_t *row, uint32_t k, double *value, double *size)
{
    const uint32_t block = k / 32;
    uint32_t i = k % 32;
    const uint8_t *p;
    float f;
    uint16_t h;

    switch (t) {
    case KERN_F32: memcpy(&f, row + 4 * (size_t)k, 4); *value = f; break;
    case KERN_F16: *value = half_at(row + 2 * (size_t)k); break;
    case KERN_BF16: memcpy(&h, row + 2 * (size_t)k, 2); *value = kern_bf16_to_f32(h); break;
    case KERN_FP8:                     /* e4m3, behind the row's scale; 0x7f is 480 here */
        memcpy(&f, row, 4);
        i = row[4 + (size_t)k];
        *value = (double)f * (i & 0x80 ? -1 : 1) * ldexp(i & 0x78 ? 8 + i % 8 : i % 8, (i & 0x78 ? (int)(i / 8 % 16) : 1) - 10);
        break;
    case KERN_Q8_0: p = row + (size_t)block * 34; *value = (double)half_at(p) * (int8_t)p[2 + i]; break;
    case KERN_Q8_H:
        p = row + (size_t)block * 36;
        *value = (double)half_at(p + (i < 16 ? 0 : 2)) * (int8_t)p[4 + i];
        break;
    case KERN_Q4_HL: {                 /* Q3_K's three bits less 4, IQ2_XS's eights, and those behind them negative */
        static const int big[] = { 8, 25, 43, 0 };
        p = row + (size_t)block * 20;
        const int n = i < 16 ? p[4 + i] & 15 : p[4 + i - 16] >> 4;
        *value = (double)half_at(p + (i < 16 ? 0 : 2)) * (n < 8 ? n - 4 : n < 12 ? big[n - 8] : -big[n - 12]);
        break;
    }
    case KERN_Q2_HM:                   /* a pair of scale and minimum behind the quants for each 16 columns */
        p = row + (size_t)(k / 64) * 32;
        i = k % 64 / 16;
        *value = (double)half_at(p + 16 + 4 * i) * (p[k % 16] >> 2 * i & 3);
        *size = fabs(*value) + fabs((double)half_at(p + 18 + 4 * i));
        *value += half_at(p + 18 + 4 * i);
        return;
    case KERN_Q4_0:
        p = row + (size_t)block * 18;
        *value = (double)half_at(p) * ((i < 16 ? p[2 + i] & 15 : p[2 + i - 16] >> 4) - 8);
        break;
    case KERN_Q4_1:
    case KERN_Q8_M:
        p = row + (size_t)block * (t == KERN_Q8_M ? 36 : 20);
        *value = (double)half_at(p) * (t == KERN_Q8_M ? p[4 + i] : i < 16 ? p[4 + i] & 15 : p[4 + i - 16] >> 4);
        *size = fabs(*value) + fabs((double)half_at(p + 2));
        *value += half_at(p + 2);
        return;
    case KERN_W8: p = row + (size_t)(k / 128) * 130; *value = (double)half_at(p) * (int8_t)p[2 + k % 128]; break;
    case KERN_W4:
        p = row + (size_t)(k / 128) * 66;
        *value = (double)half_at(p) * ((i < 16 ? p[2 + k % 128 / 32 * 16 + i] & 15 : p[2 + k % 128 / 32 * 16 + i - 16] >> 4) - 8);
        break;
    default: fail_msg("no text for type %d", (int)t);
    }
    *size = fabs(*value);
}

mm_weights mm_weights_random(kern_dtype t, uint32_t rows, uint32_t cols, uint64_t *seed)
{
    const kern_dtype_info *f = kern_dtype_get(t);
    mm_weights w = { .t = t, .rows = rows, .cols = cols };
    /* A last group of W8 and W4 may be short. */
    const uint32_t heads = f->block == 128 ? (cols + 127) / 128 : 0;
    uint64_t row_bytes = 0;
    px_err e = {0};

    assert_true(kern_matrix_bytes(t, 1, cols, &row_bytes));
    const size_t n = rows * row_bytes;
    if (kern_panel_bytes(t, rows, cols, &w.bytes, &e)) fail_msg("%s: %s", e.field, e.text);
    w.plain = calloc(n, 1);
    w.panels = calloc(w.bytes, 1);
    w.value = calloc((size_t)rows * cols, sizeof *w.value);
    w.size = calloc((size_t)rows * cols, sizeof *w.size);
    assert_true(w.plain && w.panels && w.value && w.size);
    for (size_t i = 0; i < n; i++) w.plain[i] = (uint8_t)test_rand(seed);
    for (size_t i = 0; f->block == 32 && i < n; i += f->block_bytes) {
        half_random(w.plain + i, seed);
        if (t == KERN_Q4_1 || t == KERN_Q8_M || t == KERN_Q8_H || t == KERN_Q4_HL) half_random(w.plain + i + 2, seed);
    }
    for (size_t i = 0; t == KERN_Q2_HM && i < n; i += 2)
        if (i % row_bytes % 32 >= 16) half_random(w.plain + i, seed);
    for (size_t i = 0; i < (size_t)rows * heads; i++) half_random(w.plain + i / heads * row_bytes + i % heads * f->block_bytes, seed);
    for (uint32_t r = 0; t == KERN_FP8 && r < rows; r++) {
        const float d = 1e-4f * (1 + (float)(test_rand(seed) % 100));
        memcpy(w.plain + r * row_bytes, &d, 4);
    }
    for (size_t i = 0; f->block == 1 && t != KERN_FP8 && i < n; i += f->block_bytes) {
        const float x = 0.05f * test_rand_normal(seed);
        const uint16_t h = kern_f32_to_f16(x);
        if (t == KERN_F16) memcpy(w.plain + i, &h, 2);
        else kern_row_from_f32(t, &x, 1, w.plain + i);
    }
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t k = 0; k < cols; k++)
            element(t, w.plain + r * row_bytes, k, &w.value[(size_t)r * cols + k], &w.size[(size_t)r * cols + k]);
    for (uint32_t r = 0; r < rows; r += 16) {
        const void *src[16];
        const uint32_t k = rows - r < 16 ? rows - r : 16;
        for (uint32_t i = 0; i < k; i++) src[i] = w.plain + (r + i) * row_bytes;
        kern_panel_pack(t, src, k, cols, w.panels + r / 16 * kern_panel_stride(t, cols));
    }
    return w;
}

void mm_weights_drop(mm_weights *w)
{
    free(w->plain), free(w->panels), free(w->value), free(w->size);
    *w = (mm_weights){0};
}

kern_weight mm_weight_on(const mm_bench *b, const mm_weights *w)
{
    return (kern_weight){ .dtype = w->t, .rows = w->rows, .cols = w->cols, .panels = mm_bench_put(b, w->panels, w->bytes) };
}

/* ---- activations ---- */

float *mm_rows_random(uint32_t rows, uint32_t cols, uint64_t *seed)
{
    float *x = calloc((size_t)rows * cols + 1, sizeof *x);

    assert_non_null(x);
    for (uint32_t t = 0; t < rows; t++) {
        const uint32_t kind = test_rand(seed) % 8;
        for (uint32_t k = 0; k < cols; k++)
            x[(size_t)t * cols + k] = kind == 0 ? 0.0f : test_rand_normal(seed) * (kind == 1 ? 3e6f : kind == 2 ? 1e-4f : 1.0f);
        if (kind == 3) x[(size_t)t * cols + test_rand(seed) % cols] = 32768.0f;              /* the largest without a scale */
        if (kind == 4) x[(size_t)t * cols + test_rand(seed) % cols] = -65536.5f;
    }
    return x;
}

void mm_row_kept(kern_act act, const float *x, uint32_t cols, double *out)
{
    double most = 0, scale = 1;

    for (uint32_t k = 0; k < cols; k++) most = fabs((double)x[k]) > most ? fabs((double)x[k]) : most;
    while (most / scale > 32768) scale *= 2;
    for (uint32_t k = 0; k < cols; k++)
        out[k] = act == KERN_ACT_F32 ? x[k] : act == KERN_ACT_BF16 ? kern_bf16_to_f32(kern_f32_to_bf16(x[k]))
                 : kern_f16_to_f32(kern_f32_to_f16((float)(x[k] / scale))) * scale;
}

void mm_call_run(const mm_bench *b, const mm_call *c, float *out[KERN_MAX_MATMULS])
{
    const kern_act act = kern_act_of(c->w[0]->t);
    const uint32_t cols = c->w[0]->cols;
    kern_matmul_args m = { .rows = { c->max, mm_bench_put(b, &c->live, 4) }, .act = act, .cols = cols, .n = c->n, .workspace = b->workspace };
    kern_quant_args q = { .rows = m.rows, .cols = cols, .act = act };
    px_err e = {0};

    q.in = mm_bench_poisoned(b, (size_t)c->max * cols * 4);
    if (c->live && b->ops->upload(b->d, q.in, c->x, (size_t)c->live * cols * 4, &e)) fail_msg("%s", e.text);
    q.flags = mm_bench_poisoned(b, (size_t)c->max * 4);
    q.out = m.in = mm_bench_poisoned(b, kern_act_bytes(KERN_ON_CUDA, act, c->max, cols));
    for (uint32_t i = 0; i < c->n; i++) {
        m.w[i] = mm_weight_on(b, c->w[i]);
        m.out_stride[i] = c->w[i]->rows + c->pad;
        m.out[i] = mm_bench_filled(b, MM_UNWRITTEN & 0xff, ((size_t)(c->max - 1) * m.out_stride[i] + c->w[i]->rows) * 4);
    }
    if (b->ops->quant(b->d, &q, &e) || b->ops->matmul(b->d, &m, &e)) fail_msg("%s: %s", e.field, e.text);
    for (uint32_t i = 0; i < c->n; i++) {
        const size_t n = (size_t)c->max * m.out_stride[i];
        out[i] = malloc(n * 4);
        assert_non_null(out[i]);
        memset(out[i], MM_UNWRITTEN & 0xff, n * 4);
        mm_bench_get(b, out[i], m.out[i], m.out[i].bytes);
        b->ops->free(b->d, &m.w[i].panels);
        b->ops->free(b->d, &m.out[i]);
    }
    kern_buf *all[] = { &m.rows.live, &q.in, &q.flags, &q.out };
    for (size_t i = 0; i < 4; i++) b->ops->free(b->d, all[i]);
}
