/* norm_test.c - add_norm and swiglu: every path equal to the definition, and the definition near a double one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/rows.h"

typedef struct norm_case { uint32_t max, live, cols, n_views; bool first, norm; } norm_case;

static double tree(const double *v, uint32_t n)      /* any order is near enough here */
{
    double s = 0;
    for (uint32_t i = 0; i < n; i++) s += v[i];
    return s;
}

static void check_double(const norm_case *c, const kern_add_norm_args *a, kern_buf before)
{
    for (uint32_t t = 0; t < c->live; t++) {
        double ss = 0;
        for (uint32_t i = 0; i < c->cols; i++) {
            size_t at = (size_t)t * c->cols + i;
            double v[KERN_MAX_VIEWS], x;
            for (uint32_t k = 0; k < c->n_views; k++) v[k] = ((float *)a->view[k].h)[at];
            x = c->n_views ? tree(v, c->n_views) : 0;
            if (!c->first || !c->n_views) x += ((float *)before.h)[at];
            assert_true(fabs(((float *)a->residual.h)[at] - x) < 1e-5 * (1 + fabs(x)) * (1 + c->n_views / 8.0));
            ss += x * x;
        }
        for (uint32_t i = 0; c->norm && i < c->cols; i++) {
            size_t at = (size_t)t * c->cols + i;
            double y = ((float *)a->residual.h)[at] / sqrt(ss / c->cols + a->eps) * ((float *)a->weight.h)[i];
            assert_true(fabs(((float *)a->out.h)[at] - y) < 1e-5 * (1 + fabs(y)));
        }
    }
}

/* What an op left for a matmul against its path's quant of the fp32 rows that it left without. */
static void act_is_quants(const row_run *run, const kern_act_rows *got, const kern_rows *rows, uint32_t cols, kern_buf in)
{
    kern_dev d = { .threads = run->threads };
    const kern_quant_args q = { .rows = *rows, .cols = cols, .act = got->act, .in = in, .out = row_buf(got->out.bytes),
                                .flags = row_buf(got->flags.bytes) };
    kern_buf out = q.out, flags = q.flags;
    px_err e = {0};

    assert_int_equal(run->path->quant(&d, &q, &e), PX_OK);
    row_equal(got->out, q.out, "act", run->path->name);
    row_equal(got->flags, q.flags, "flags", run->path->name);
    row_drop(&out);
    row_drop(&flags);
}

static kern_act_rows act_rows(kern_act act, uint32_t rows, uint32_t cols)
{
    return (kern_act_rows){ act, row_buf(kern_act_bytes(KERN_ON_CPU, act, rows, cols)), row_buf(rows * 4) };
}

static void run_norm(const norm_case *c, uint64_t *seed)
{
    kern_dev one = { .threads = 1 };
    size_t n = (size_t)c->max * c->cols * 4;
    kern_add_norm_args a = { .rows = row_count(c->max, c->live), .cols = c->cols, .eps = 1e-5f, .n_views = c->n_views,
                             .first = c->first };
    px_err e = {0};

    for (uint32_t i = 0; i < c->n_views; i++) row_fill(a.view[i] = row_buf(n), seed, 1.0f);
    kern_buf before = row_buf(n), untouched = row_buf(n), weight = row_buf(c->cols * 4);
    row_fill(before, seed, 2.0f);
    row_fill(untouched, seed, 1.0f);
    row_fill(weight, seed, 1.0f);
    if (c->norm) a.weight = weight;
    a.residual = row_copy(before);
    a.out = row_copy(untouched);
    assert_int_equal(row_paths[0].add_norm(&one, &a, &e), PX_OK);
    check_double(c, &a, before);
    size_t live = (size_t)c->live * c->cols * 4;
    assert_memory_equal((char *)a.out.h + (c->norm ? live : 0), (char *)untouched.h + (c->norm ? live : 0),
                        n - (c->norm ? live : 0));
    assert_memory_equal((char *)a.residual.h + live, (char *)before.h + live, n - live);

    for (uint32_t r = 0; r < ROW_RUNS; r++) {
        row_run run;
        kern_add_norm_args b = a;
        if (!row_run_get(r, &run)) continue;
        kern_dev d = { .threads = run.threads };
        b.residual = row_copy(before);
        b.out = row_copy(untouched);
        assert_int_equal(run.path->add_norm(&d, &b, &e), PX_OK);
        row_equal(b.residual, a.residual, "residual", run.path->name);
        row_equal(b.out, a.out, "out", run.path->name);
        if (c->norm) {
            memcpy(b.residual.h, before.h, n);
            b.act = act_rows((kern_act)(test_rand(seed) % KERN_N_ACTS), c->max, c->cols);
            assert_int_equal(run.path->add_norm(&d, &b, &e), PX_OK);
            row_equal(b.residual, a.residual, "residual", run.path->name);
            act_is_quants(&run, &b.act, &b.rows, c->cols, a.out);
            row_drop(&b.act.out);
            row_drop(&b.act.flags);
        }
        row_drop(&b.residual);
        row_drop(&b.out);
    }
    for (uint32_t i = 0; i < c->n_views; i++) row_drop(&a.view[i]);
    row_drop(&a.rows.live);
    row_drop(&a.residual);
    row_drop(&a.out);
    row_drop(&before);
    row_drop(&untouched);
    row_drop(&weight);
}

static void norms_equal_the_definition(void **state)
{
    static const norm_case fixed[] = {
        { 2, 2, 576, 1, true, true },   { 1, 1, 576, 3, false, true },   { 2, 1, 2048, 2, false, true },
        { 4, 4, 16, 4, true, true },    { 3, 2, 1, 5, false, true },     { 5, 5, 15, 6, false, true },
        { 6, 0, 64, 1, false, true },   { 3, 3, 100, 0, false, true },   { 3, 3, 100, 0, true, true },
        { 3, 2, 100, 2, false, false }, { 40, 40, 1000, 64, true, true }, { 64, 60, 2049, 7, false, true },
        { 300, 300, 576, 2, false, true },
    };
    uint64_t seed = 1;
    (void)state;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) run_norm(&fixed[i], &seed);
    for (int i = 0; i < 60; i++) {
        norm_case c = { .max = 1 + (uint32_t)(test_rand(&seed) % 40), .cols = 1 + (uint32_t)(test_rand(&seed) % 700),
                        .n_views = (uint32_t)(test_rand(&seed) % 9), .first = test_rand(&seed) & 1,
                        .norm = test_rand(&seed) % 8 != 0 };
        c.live = (uint32_t)(test_rand(&seed) % (c.max + 1));
        run_norm(&c, &seed);
    }
}

/* Three ranks: (r0 + r1) + r2, and the residual last; each order but this gives another bit here. */
static void views_are_added_as_a_tree(void **state)
{
    kern_dev one = { .threads = 1 };
    kern_add_norm_args a = { .rows = row_count(1, 1), .cols = 20, .n_views = 3, .eps = 1e-6f };
    px_err e = {0};
    (void)state;
    for (int v = 0; v < 3; v++) a.view[v] = row_buf(80);
    a.residual = row_buf(80);
    for (uint32_t p = 0; p < 3; p++) {
        if (!row_paths[p].runs()) continue;
        for (int i = 0; i < 20; i++) {
            ((float *)a.view[0].h)[i] = 1e8f;
            ((float *)a.view[1].h)[i] = -1e8f;
            ((float *)a.view[2].h)[i] = 1.0f;
            ((float *)a.residual.h)[i] = 1e-8f;
        }
        assert_int_equal(row_paths[p].add_norm(&one, &a, &e), PX_OK);
        for (int i = 0; i < 20; i++) assert_true(((float *)a.residual.h)[i] == 1.0f);
    }
    for (int v = 0; v < 3; v++) row_drop(&a.view[v]);
    row_drop(&a.residual);
    row_drop(&a.rows.live);
}

static void swiglus_equal_the_definition(void **state)
{
    uint64_t seed = 2;
    (void)state;
    for (int n = 0; n < 60; n++) {
        kern_dev one = { .threads = 1 };
        uint32_t max = n == 0 ? 300 : 1 + (uint32_t)(test_rand(&seed) % 40), live = (uint32_t)(test_rand(&seed) % (max + 1));
        uint32_t cols = n == 0 ? 1536 : 1 + (uint32_t)(test_rand(&seed) % 500), stride = cols + (n % 2 ? (uint32_t)(test_rand(&seed) % 20) : 0);
        if (n == 0) live = max;
        size_t bytes = (size_t)max * stride * 4;
        kern_swiglu_args a = { .rows = row_count(max, live), .cols = cols, .stride = stride, .gate = row_buf(bytes),
                               .up = row_buf(bytes) };
        kern_buf untouched = row_buf(bytes);
        px_err e = {0};
        row_fill(a.gate, &seed, n % 3 ? 4.0f : 60.0f);
        row_fill(a.up, &seed, 1.0f);
        row_fill(untouched, &seed, 1.0f);
        a.out = row_copy(untouched);
        assert_int_equal(row_paths[0].swiglu(&one, &a, &e), PX_OK);
        for (uint32_t t = 0; t < max; t++)
            for (uint32_t i = 0; i < stride; i++) {
                size_t at = (size_t)t * stride + i;
                double g = ((float *)a.gate.h)[at], y = g / (1 + exp(-g)) * ((float *)a.up.h)[at];
                if (t < live && i < cols) assert_true(fabs(((float *)a.out.h)[at] - y) < 1e-6 * (1 + fabs(y)));
                else assert_true(((float *)a.out.h)[at] == ((float *)untouched.h)[at]);
            }
        for (uint32_t r = 0; r < ROW_RUNS; r++) {
            row_run run;
            kern_swiglu_args b = a;
            if (!row_run_get(r, &run)) continue;
            kern_dev d = { .threads = run.threads };
            b.out = row_copy(untouched);
            assert_int_equal(run.path->swiglu(&d, &b, &e), PX_OK);
            row_equal(b.out, a.out, "out", run.path->name);
            if (stride == cols) {
                b.act = act_rows((kern_act)(test_rand(&seed) % KERN_N_ACTS), max, cols);
                assert_int_equal(run.path->swiglu(&d, &b, &e), PX_OK);
                act_is_quants(&run, &b.act, &b.rows, cols, a.out);
                row_drop(&b.act.out);
                row_drop(&b.act.flags);
            }
            row_drop(&b.out);
        }
        row_drop(&a.rows.live);
        row_drop(&a.gate);
        row_drop(&a.up);
        row_drop(&a.out);
        row_drop(&untouched);
    }
}

static void small_buffers_are_named(void **state)
{
    kern_dev one = { .threads = 1 };
    (void)state;
    for (uint32_t p = 0; p < 3; p++) {
        kern_buf big = row_buf(2 * 32 * 4), small = kern_buf_at(big, 0, 2 * 32 * 4 - 4);
        kern_add_norm_args a = { .rows = row_count(2, 2), .cols = 32, .n_views = 1, .view = { small }, .residual = big,
                                 .weight = big, .out = big };
        kern_swiglu_args s = { .rows = a.rows, .cols = 32, .stride = 32, .gate = big, .up = small, .out = big };
        px_err e = {0};
        if (!row_paths[p].runs()) continue;
        assert_int_equal(row_paths[p].add_norm(&one, &a, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "view");
        px_err_clear(&e);
        a.view[0] = big;
        a.out = small;
        assert_int_equal(row_paths[p].add_norm(&one, &a, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "out");
        px_err_clear(&e);
        a.n_views = KERN_MAX_VIEWS + 1;
        assert_int_equal(row_paths[p].add_norm(&one, &a, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "n_views");
        px_err_clear(&e);
        assert_int_equal(row_paths[p].swiglu(&one, &s, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "up");
        px_err_clear(&e);
        s.cols = 33;
        assert_int_equal(row_paths[p].swiglu(&one, &s, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "stride");
        px_err_clear(&e);
        s.cols = 31;
        s.up = big;
        s.act = (kern_act_rows){ KERN_ACT_F32, big, big };
        assert_int_equal(row_paths[p].swiglu(&one, &s, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "act");
        px_err_clear(&e);
        a.n_views = 1;
        a.out = big;
        a.act = (kern_act_rows){ KERN_ACT_F32, small, big };
        assert_int_equal(row_paths[p].add_norm(&one, &a, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "quant.out");
        px_err_clear(&e);
        a.weight.h = NULL;
        assert_int_equal(row_paths[p].add_norm(&one, &a, &e), PX_EINTERNAL);
        assert_string_equal(e.field, "act");
        row_drop(&big);
        row_drop(&a.rows.live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_equal_the_definition), cmocka_unit_test(views_are_added_as_a_tree),
        cmocka_unit_test(swiglus_equal_the_definition), cmocka_unit_test(small_buffers_are_named),
    };
    kern_ftz_set();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
