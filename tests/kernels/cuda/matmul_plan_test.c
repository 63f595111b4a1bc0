/* matmul_plan_test.c - how products are cut: whatever a plan asks for, a product that the plan allows fits into. */
#include "kernels/cuda/matmul.h"
#include "tests/testlib.h"

static uint32_t pick(uint64_t *seed, uint32_t n) { return (uint32_t)(test_rand(seed) % n); }

/* Sizes of every magnitude up to `most`. */
static uint32_t any_size(uint64_t *seed, uint32_t most) { return 1 + pick(seed, 1 + ((most - 1) >> pick(seed, 12))); }

static cu_mm product(uint32_t blocks, const uint32_t *outputs, uint32_t n)
{
    cu_mm m = { .blocks = blocks };

    for (uint32_t i = 0; i < KERN_MAX_MATMULS; i++) m.w[i].group0 = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) m.w[i].rows = outputs[i], m.w[i].n_panels = (outputs[i] + 15) / 16;
    return m;
}

static void partial_sums_fit_into_the_workspace(void **state)
{
    static const uint32_t sms[] = { 1, 4, 108, 132, 256, 1000 }, chunks[] = { 1, 2, 4 };
    uint64_t seed = 1;
    uint32_t cut = 0;

    (void)state;
    for (int round = 0; round < 200000; round++) {
        const kern_shape s = { .rows = any_size(&seed, 4096), .max_cols = 32 * any_size(&seed, 1024), .max_out = any_size(&seed, 40000) };
        const uint32_t out[3] = { any_size(&seed, s.max_out), s.max_out, 1 + pick(&seed, s.max_out) }, n = 1 + pick(&seed, 3);
        const bool deterministic = pick(&seed, 2);
        const uint32_t rows = s.rows < CU_MM_MANY_ROWS || deterministic ? s.rows : CU_MM_MANY_ROWS, at_once = rows < CU_MM_MANY_ROWS ? rows : CU_MM_MANY_ROWS;
        cu_mm m = product(s.max_cols / 32, out, n);
        for (uint32_t i = 0; i < n; i++)
            if (out[i] > s.max_out) m.w[i].n_panels = (s.max_out + 15) / 16;
        const uint32_t tile = cu_mm_cut(&m, rows, chunks[pick(&seed, 3)], sms[pick(&seed, 6)], deterministic);
        assert_true(tile == 8 || tile == 16 || tile == 32 || tile == 64);
        assert_int_equal(m.wm * m.wk, CU_MM_WARPS);
        assert_true(m.splits >= 1 && m.splits <= 16);
        cut += m.splits > 1;
        if (cu_mm_partial_bytes(&m, at_once) > kern_cuda_matmul_workspace_bytes(&s))
            fail_msg("%u rows, %u columns, %u outputs, %u weights: %zu of %zu bytes", s.rows, s.max_cols, s.max_out, n, cu_mm_partial_bytes(&m, at_once),
                     kern_cuda_matmul_workspace_bytes(&s));
    }
    assert_true(cut > 1000);
}

static void unpacked_tiles_fit_into_the_workspace(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (int round = 0; round < 200000; round++) {
        const kern_shape s = { .rows = 65 + pick(&seed, 1000), .max_cols = any_size(&seed, 200000), .max_out = any_size(&seed, 200000) };
        const uint32_t cols = 1 + pick(&seed, s.max_cols), out = 1 + pick(&seed, s.max_out), blocks = (cols + 31) / 32, panels = (out + 15) / 16;
        const uint32_t step = cu_mm_unpack_panels(panels, blocks);
        const size_t tile = (size_t)step * 16 * blocks * 64;
        assert_true(step >= 1 && step <= panels && tile <= CU_MM_UNPACK_BYTES);
        assert_true(CU_MM_ALIGN + CU_MM_BLAS_BYTES + tile <= kern_cuda_matmul_workspace_bytes(&s));
    }
}

static bool same_order(const cu_mm *a, const cu_mm *b) { return a->wm == b->wm && a->wk == b->wk && a->splits == b->splits; }

/* Law 5 on a GPU: nothing that orders a sum knows the number of rows; without it, the cut follows the rows. */
static void deterministic_cuts_do_not_know_the_rows(void **state)
{
    uint64_t seed = 3;
    uint32_t differ = 0;

    (void)state;
    for (int round = 0; round < 5000; round++) {
        const uint32_t out[3] = { any_size(&seed, 20000), any_size(&seed, 2000), any_size(&seed, 2000) }, blocks = any_size(&seed, 900), n = 1 + pick(&seed, 3);
        cu_mm one = product(blocks, out, n), many = product(blocks, out, n);
        cu_mm_cut(&one, 1, 2, 132, true);
        cu_mm_cut(&many, 1 + pick(&seed, 3000), 2, 132, true);
        assert_true(same_order(&one, &many));
        cu_mm_cut(&one, 1, 2, 132, false);
        cu_mm_cut(&many, 64, 2, 132, false);
        differ += !same_order(&one, &many);
    }
    assert_int_equal(differ, 5000);
}

/* Decode of an 8B model on 132 multiprocessors: a block for nearly every one, and none of its sums leaves its block. */
static void an_8b_model_fills_the_device_at_one_row(void **state)
{
    static const struct { uint32_t out[3], n, cols; } shapes[] = { { { 4096, 1024, 1024 }, 3, 4096 }, { { 4096 }, 1, 4096 }, { { 14336, 14336 }, 2, 4096 },
                                                                   { { 4096 }, 1, 14336 }, { { 128256 }, 1, 4096 } };
    (void)state;
    for (int i = 0; i < 5; i++) {
        cu_mm m = product(shapes[i].cols / 32, shapes[i].out, shapes[i].n);
        assert_int_equal(cu_mm_cut(&m, 1, 1, 132, false), 8);
        assert_true(m.splits == 1 && m.n_groups >= 128);
    }
    cu_mm narrow = product(8192 / 32, (const uint32_t[]){ 1024, 128, 128 }, 3);      /* 70B, one of 8 ranks */
    cu_mm_cut(&narrow, 1, 1, 132, false);
    assert_true(narrow.n_groups * narrow.splits >= 132);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(partial_sums_fit_into_the_workspace), cmocka_unit_test(unpacked_tiles_fit_into_the_workspace),
        cmocka_unit_test(deterministic_cuts_do_not_know_the_rows), cmocka_unit_test(an_8b_model_fills_the_device_at_one_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
