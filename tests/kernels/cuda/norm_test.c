/* norm_test.c - add_norm and swiglu on CUDA.  The residual and swiglu have the bits of the CPU's definition; a normed row is within
 * 4e-6 of it, because squares are added in another order, and has the same bits wherever it stands. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/cuda/row_bench.h"

static const float NORM_BOUND = 4e-6f;

typedef struct norm_case { uint32_t max, live, cols, n_views; bool first, norm; } norm_case;

static void run_norm(const row_bench *b, const norm_case *c, uint64_t *seed)
{
    const size_t n = (size_t)c->max * c->cols, live = (size_t)c->live * c->cols;
    row_live rows = row_live_get(b, c->max, c->live);
    row_pair view[KERN_MAX_VIEWS], residual = row_pair_normal(b, n, 2.0f, seed), weight = row_pair_normal(b, c->cols, 1.0f, seed);
    row_pair out = row_pair_get(b, n * 4);
    kern_add_norm_args cpu = { .rows = rows.host, .cols = c->cols, .eps = 1e-5f, .n_views = c->n_views, .residual = residual.host,
                               .first = c->first, .out = out.host };
    kern_add_norm_args cuda = cpu;
    px_err e = {0};

    if (c->norm) cpu.weight = weight.host, cuda.weight = weight.dev;
    cuda.rows = rows.dev, cuda.residual = residual.dev, cuda.out = out.dev;
    for (uint32_t i = 0; i < c->n_views; i++) {
        view[i] = row_pair_normal(b, n, 1.0f, seed);
        if (c->live > 2) {                                   /* a row that is not finite: nobody else's business */
            ((float *)view[i].host.h)[c->cols + i % c->cols] = i % 2 ? INFINITY : NAN;
            row_pair_upload(b, &view[i]);
        }
        cpu.view[i] = view[i].host;
        cuda.view[i] = view[i].dev;
    }
    if (b->cpu->add_norm(b->cpu_d, &cpu, &e) || b->ops->add_norm(b->d, &cuda, &e)) fail_msg("%s: %s", e.field, e.text);
    row_pair_same(b, &residual, "residual");
    float *got = row_pair_download(b, &out), *want = out.host.h;
    for (size_t i = 0; i < n; i++)
        if (!c->norm || i >= live || isnan(want[i])) row_same_float(got[i], want[i], "out", i);
        else if (!(fabsf(got[i] - want[i]) <= NORM_BOUND * fabsf(want[i]))) fail_msg("out: number %zu is %.9g, not %.9g", i, (double)got[i], (double)want[i]);
    free(got);
    for (uint32_t i = 0; i < c->n_views; i++) row_pair_put(b, &view[i]);
    row_pair *all[] = { &residual, &weight, &out, &rows.count };
    for (size_t i = 0; i < 4; i++) row_pair_put(b, all[i]);
}

static void norms_are_near_the_definition(void **state)
{
    static const uint32_t views[] = { 1, 2, 4, 8, 3, 5, 6, 7, 0, 13, 64, 33 };
    static const norm_case fixed[] = {
        { 3, 2, 1, 5, false, true },    { 2, 2, 8192, 1, false, true }, { 2, 2, 8300, 3, true, true }, { 3, 3, 4099, 2, false, true },
        { 3, 3, 100, 0, false, true },  { 3, 3, 100, 0, true, true },   { 3, 2, 100, 2, false, false }, { 6, 0, 64, 1, false, true },
        { 4, 4, 20, 64, true, true },
    };
    row_bench b = row_bench_open();
    uint64_t seed = 51;
    (void)state;
    for (uint32_t i = 0; i < 40; i++) {
        norm_case c = { .max = 1 + (uint32_t)(test_rand(&seed) % 6), .cols = 1 + (uint32_t)(test_rand(&seed) % 400), .n_views = views[i % 12],
                        .first = test_rand(&seed) & 1, .norm = test_rand(&seed) % 8 != 0 };
        if (i % 2) c.cols = (c.cols + 3) / 4 * 4;
        c.live = (uint32_t)(test_rand(&seed) % (c.max + 1));
        if (i < sizeof fixed / sizeof *fixed) c = fixed[i];
        run_norm(&b, &c, &seed);
        cuda_ops_next_schedule();
    }
    row_bench_close(&b);
}

/* One row, alone and among others, at each place, of buffers that are aligned in another way: one result. */
static void a_row_has_the_same_bits_wherever_it_stands(void **state)
{
    static const uint32_t all_cols[] = { 576, 131 };
    row_bench b = row_bench_open();
    uint64_t seed = 52;
    (void)state;
    for (uint32_t k = 0; k < 2; k++) {
        const uint32_t cols = all_cols[k], max = 5;
        row_pair weight = row_pair_normal(&b, cols, 1.0f, &seed), row = row_pair_normal(&b, cols, 1.0f, &seed);
        float *first = NULL;
        px_err e = {0};

        for (uint32_t at = 0; at < max; at++) {
            const uint32_t rows = at + 1 + at % 2, shift = at % 3;                 /* floats before the matrix */
            row_live n = row_live_get(&b, rows, rows);
            row_pair residual = row_pair_normal(&b, shift + (size_t)rows * cols, 1.0f, &seed), out = row_pair_get(&b, residual.host.bytes);
            row_pair view = row_pair_get(&b, residual.host.bytes);
            memset(view.host.h, 0, view.host.bytes);
            memcpy((float *)residual.host.h + shift + (size_t)at * cols, row.host.h, cols * 4);
            row_pair_upload(&b, &view);
            row_pair_upload(&b, &residual);
            kern_add_norm_args a = { .rows = n.dev, .cols = cols, .eps = 1e-6f, .n_views = 1, .weight = weight.dev };
            a.view[0] = kern_buf_at(view.dev, 4 * shift, view.dev.bytes - 4 * shift);
            a.residual = kern_buf_at(residual.dev, 4 * shift, view.dev.bytes - 4 * shift);
            a.out = kern_buf_at(out.dev, 4 * shift, view.dev.bytes - 4 * shift);
            if (b.ops->add_norm(b.d, &a, &e)) fail_msg("%s: %s", e.field, e.text);
            float *got = row_pair_download(&b, &out);
            if (!first) {
                assert_non_null(first = malloc(cols * 4));
                memcpy(first, got + shift + (size_t)at * cols, cols * 4);
            }
            for (uint32_t i = 0; i < cols; i++)
                assert_memory_equal(&got[shift + (size_t)at * cols + i], &first[i], 4);
            free(got);
            row_pair *all[] = { &residual, &out, &view, &n.count };
            for (size_t i = 0; i < 4; i++) row_pair_put(&b, all[i]);
            cuda_ops_next_schedule();
        }
        free(first);
        row_pair_put(&b, &weight);
        row_pair_put(&b, &row);
    }
    row_bench_close(&b);
}
/* ---- what is left for a matmul ---- */

typedef struct act_case { uint32_t max, live, cols; } act_case;
typedef struct act_bench { const row_bench *b; row_live n; row_pair out; kern_act_rows act; row_pair rows, flags; } act_bench;

static act_bench act_bench_get(const row_bench *b, const act_case *c, kern_act act)
{
    act_bench t = { .b = b, .n = row_live_get(b, c->max, c->live), .out = row_pair_get(b, (size_t)c->max * c->cols * 4),
                    .rows = row_pair_get(b, kern_act_bytes(KERN_ON_CUDA, act, c->max, c->cols)), .flags = row_pair_get(b, c->max * 4) };
    memset(t.flags.host.h, 0, t.flags.host.bytes);
    t.act = (kern_act_rows){ act, t.rows.dev, t.flags.dev };
    return t;
}

/* From all bits set, rows and flags as `op` leaves them, then as it and quant do: the same bytes, also where nothing is written. */
static void act_is_quants(act_bench *t, px_code (*op)(act_bench *, kern_act_rows), uint32_t cols)
{
    px_err e = {0};
    void *rows[2], *flags[2];

    for (int i = 0; i < 2; i++) {
        const kern_quant_args q = { .rows = t->n.dev, .cols = cols, .act = t->act.act, .in = t->out.dev, .out = t->act.out, .flags = t->act.flags };
        row_pair_upload(t->b, &t->rows);
        row_pair_upload(t->b, &t->flags);
        assert_int_equal(op(t, i ? (kern_act_rows){ 0 } : t->act), PX_OK);
        if (i && t->b->ops->quant(t->b->d, &q, &e)) fail_msg("%s: %s", e.field, e.text);
        rows[i] = row_pair_download(t->b, &t->rows);
        flags[i] = row_pair_download(t->b, &t->flags);
    }
    for (size_t i = 0; i < t->rows.dev.bytes; i++)
        if (((uint8_t *)rows[0])[i] != ((uint8_t *)rows[1])[i])
            fail_msg("format %d, %u columns: byte %zu is %02x, not %02x", (int)t->act.act, cols, i, ((uint8_t *)rows[0])[i], ((uint8_t *)rows[1])[i]);
    assert_memory_equal(flags[0], flags[1], t->flags.dev.bytes);
    for (int i = 0; i < 2; i++) free(rows[i]), free(flags[i]);
    row_pair *all[] = { &t->n.count, &t->out, &t->rows, &t->flags };
    for (size_t i = 0; i < 4; i++) row_pair_put(t->b, all[i]);
}

static struct { kern_add_norm_args norm; kern_swiglu_args swiglu; } acts_op;

static px_code norm_op(act_bench *t, kern_act_rows act)
{
    kern_add_norm_args a = acts_op.norm;
    px_err e = {0};

    a.rows = t->n.dev, a.out = t->out.dev, a.act = act;
    return t->b->ops->add_norm(t->b->d, &a, &e);
}

static px_code swiglu_op(act_bench *t, kern_act_rows act)
{
    kern_swiglu_args a = acts_op.swiglu;
    px_err e = {0};

    a.rows = t->n.dev, a.out = t->out.dev, a.act = act;
    return t->b->ops->swiglu(t->b->d, &a, &e);
}

static void rows_for_a_matmul_are_as_quant_leaves_them(void **state)
{
    static const act_case cases[] = {
        { 3, 2, 64 }, { 5, 4, 4097 }, { 2, 2, 8320 }, { 1, 1, 16500 }, { 4, 4, 31 }, { 2, 0, 96 }, { 6, 6, 130 }, { 3, 3, 576 }, { 2, 1, 1 },
    };
    row_bench b = row_bench_open();
    uint64_t seed = 57;
    (void)state;
    const uint32_t begin = EFFORT_TSAN ? 4 * KERN_N_ACTS + KERN_ACT_Q12 : 0;
    const uint32_t end = EFFORT_TSAN ? begin + 1 : KERN_N_ACTS * sizeof cases / sizeof *cases;
    for (uint32_t i = begin; i < end; i++) {
        const act_case *c = &cases[i / KERN_N_ACTS];
        const size_t n = (size_t)c->max * c->cols;
        row_pair x = row_pair_normal(&b, n, i % 3 ? 1.0f : 3e4f, &seed), y = row_pair_normal(&b, n, 2.0f, &seed);
        row_pair residual = row_pair_normal(&b, n, 1.0f, &seed), weight = row_pair_normal(&b, c->cols, i % 3 ? 1.0f : 5e4f, &seed);

        if (c->live > 3) {
            ((float *)x.host.h)[c->cols + 2 % c->cols] = INFINITY;
            ((float *)x.host.h)[3 * c->cols - 1] = NAN;
        }
        /* A first row whose scale its last column decides. */
        ((float *)x.host.h)[c->cols - 1] = ((float *)weight.host.h)[c->cols - 1] = 1e6f;
        ((float *)y.host.h)[c->cols - 1] = 1.0f;
        row_pair *changed[] = { &x, &weight, &y };
        for (size_t k = 0; k < 3; k++) row_pair_upload(&b, changed[k]);
        /* No view: the residual stays, so that the op can run twice. */
        acts_op.norm = (kern_add_norm_args){ .cols = c->cols, .eps = 1e-5f, .residual = i % 2 ? x.dev : residual.dev, .weight = weight.dev };
        if (i % 2 == 0) acts_op.norm.n_views = 1, acts_op.norm.view[0] = x.dev, acts_op.norm.first = true;
        acts_op.swiglu = (kern_swiglu_args){ .cols = c->cols, .stride = c->cols, .gate = y.dev, .up = x.dev };
        act_bench t = act_bench_get(&b, c, (kern_act)(i % KERN_N_ACTS));
        act_is_quants(&t, norm_op, c->cols);
        t = act_bench_get(&b, c, (kern_act)(i % KERN_N_ACTS));
        act_is_quants(&t, swiglu_op, c->cols);
        row_pair *all[] = { &x, &y, &residual, &weight };
        for (size_t k = 0; k < 4; k++) row_pair_put(&b, all[k]);
        cuda_ops_next_schedule();
    }
    row_bench_close(&b);
}

static void swiglus_have_the_bits_of_the_definition(void **state)
{
    static const float edges[] = { 0.0f, -0.0f, 87.0f, -87.0f, -87.5f, 88.0f, -88.0f, -89.0f, 1000.0f, -1000.0f, NAN, INFINITY, -INFINITY, 1e-38f };
    row_bench b = row_bench_open();
    uint64_t seed = 53;
    (void)state;
    for (uint32_t k = 0; k < 16; k++) {
        const uint32_t max = 1 + (uint32_t)(test_rand(&seed) % 4), live = max - (k % 3 == 1);
        const uint32_t cols = k < 2 ? 1026 + k : 1 + (uint32_t)(test_rand(&seed) % 300);
        const uint32_t stride = k % 2 ? cols + (uint32_t)(test_rand(&seed) % 9) : (cols + 3) / 4 * 4;
        row_live n = row_live_get(&b, max, live);
        row_pair gate = row_pair_normal(&b, (size_t)(max - 1) * stride + cols, k % 3 ? 4.0f : 60.0f, &seed);
        row_pair up = row_pair_normal(&b, (size_t)(max - 1) * stride + cols, 1.0f, &seed), out = row_pair_get(&b, gate.host.bytes);
        const bool in_place = k % 4 == 3;
        px_err e = {0};

        for (uint32_t i = 0; i < 14 && i < cols; i++) ((float *)gate.host.h)[i] = edges[i];
        row_pair_upload(&b, &gate);
        row_pair *to = in_place ? &gate : &out;
        kern_swiglu_args cpu = { .rows = n.host, .cols = cols, .gate = gate.host, .up = up.host, .out = to->host, .stride = stride };
        kern_swiglu_args cuda = { .rows = n.dev, .cols = cols, .gate = gate.dev, .up = up.dev, .out = to->dev, .stride = stride };
        if (b.cpu->swiglu(b.cpu_d, &cpu, &e) || b.ops->swiglu(b.d, &cuda, &e)) fail_msg("%s: %s", e.field, e.text);
        row_pair_same(&b, to, "swiglu");
        row_pair *all[] = { &gate, &up, &out, &n.count };
        for (size_t i = 0; i < 4; i++) row_pair_put(&b, all[i]);
        cuda_ops_next_schedule();
    }
    row_bench_close(&b);
}

static void wrong_arguments_are_named(void **state)
{
    row_bench b = row_bench_open();
    row_live n = row_live_get(&b, 2, 2);
    row_pair x = row_pair_get(&b, 2 * 32 * 4), w = row_pair_get(&b, 32 * 4), acts = row_pair_get(&b, 2 * 128);
    const kern_add_norm_args add_norm = { .rows = n.dev, .cols = 32, .n_views = 2, .view = { x.dev, x.dev }, .residual = x.dev, .weight = w.dev,
                                          .out = x.dev };
    const kern_swiglu_args swiglu = { .rows = n.dev, .cols = 31, .gate = x.dev, .up = x.dev, .out = x.dev, .stride = 32 };

    (void)state;
#define REFUSED(op, code, name, change) CUDA_REFUSED(b, op, op, code, name, change)
    REFUSED(add_norm, PX_EINTERNAL, "add_norm.n_views", a.n_views = KERN_MAX_VIEWS + 1);
    REFUSED(add_norm, PX_EINTERNAL, "add_norm.view", a.view[1].bytes -= 4);
    REFUSED(add_norm, PX_EINTERNAL, "add_norm.residual", a.residual.bytes -= 4);
    REFUSED(add_norm, PX_EINTERNAL, "add_norm.weight", a.weight.bytes -= 4);
    REFUSED(add_norm, PX_EINTERNAL, "add_norm.out", a.out.bytes -= 4);
    REFUSED(add_norm, PX_EINTERNAL, "add_norm.rows", a.rows.live.bytes = 3);
    REFUSED(add_norm, PX_EUNSUP, "add_norm.cols", a.cols = UINT32_MAX);
    const kern_act_rows act = { KERN_ACT_Q12, kern_buf_at(acts.dev, 0, acts.dev.bytes - 64), w.dev };
    REFUSED(add_norm, PX_EINTERNAL, "act", a.act = act; a.act.act = KERN_N_ACTS);
    REFUSED(add_norm, PX_EINTERNAL, "act", a.act = act; a.weight.h = NULL);
    REFUSED(add_norm, PX_EINTERNAL, "act.out", a.act = act);
    REFUSED(add_norm, PX_EINTERNAL, "act.flags", a.act = act; a.act.out = acts.dev; a.act.flags.bytes = 4);
    REFUSED(swiglu, PX_EINTERNAL, "act", a.act = act);
    REFUSED(swiglu, PX_EINTERNAL, "act.out", a.act = act; a.cols = 32);
    REFUSED(swiglu, PX_EINTERNAL, "swiglu.stride", a.cols = 33);
    REFUSED(swiglu, PX_EINTERNAL, "swiglu.gate", a.gate.bytes -= 8);
    REFUSED(swiglu, PX_EINTERNAL, "swiglu.up", a.up.bytes -= 8);
    REFUSED(swiglu, PX_EINTERNAL, "swiglu.out", a.out.bytes -= 8);
    REFUSED(swiglu, PX_EINTERNAL, "swiglu.rows", a.rows.live.h = NULL);
    row_pair *all[] = { &x, &w, &acts, &n.count };
    for (size_t i = 0; i < 4; i++) row_pair_put(&b, all[i]);
    row_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_are_near_the_definition),
        cmocka_unit_test(a_row_has_the_same_bits_wherever_it_stands),
        cmocka_unit_test(rows_for_a_matmul_are_as_quant_leaves_them),
        cmocka_unit_test(swiglus_have_the_bits_of_the_definition),
        cmocka_unit_test(wrong_arguments_are_named),
    };
    kern_ftz_set();                                          /* as in a rank; the CPU insists */
    return cuda_ops_main(tests, sizeof tests / sizeof *tests, NULL);
}
