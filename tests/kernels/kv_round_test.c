/* What each type of cache keeps of a vector. */
#include "tests/testlib.h"

#include <math.h>
#include <string.h>

#include "kernels/dtype.h"
#include "kernels/kv_round.h"

static float kept(kern_kv_dtype t, float x)
{
    kern_kv_round(t, &x, 1, 1);
    return x;
}

static void numbers_that_a_cache_has_stay(void **state)
{
    static const float list[] = { 0, 1, -1.5f, 0.0625f, 448, -0.001953125f };

    (void)state;
    for (kern_kv_dtype t = 0; t < KERN_N_KV; t++)
        for (size_t i = 0; i < sizeof list / sizeof *list; i++)
            if (kept(t, list[i]) != list[i]) fail_msg("type %d: %g becomes %g", (int)t, (double)list[i], (double)kept(t, list[i]));
}

static void others_go_to_the_nearest_and_ties_to_even(void **state)
{
    (void)state;
    assert_true(kept(KERN_KV_F32, 1.00001f) == 1.00001f);
    assert_true(kept(KERN_KV_BF16, 1.00390625f) == 1.0f && kept(KERN_KV_BF16, 1.01171875f) == 1.015625f && kept(KERN_KV_BF16, 1.004f) == 1.0078125f);
    assert_true(kept(KERN_KV_F16, 1.00048828125f) == 1.0f && kept(KERN_KV_F16, 1e9f) == 65504.0f);
    assert_true(kept(KERN_KV_FP8, 1.0625f) == 1.0f && kept(KERN_KV_FP8, 1.1875f) == 1.25f && kept(KERN_KV_FP8, 1.07f) == 1.125f);
    assert_true(kept(KERN_KV_FP8, -1000) == -448 && kept(KERN_KV_FP8, 0x1p-10f) == 0 && kept(KERN_KV_FP8, 0x1.8p-10f) == 0x1p-9f);
    assert_true(isfinite(kept(KERN_KV_BF16, -0x1.fffffep127f)) && kept(KERN_KV_BF16, -0x1.fffffep127f) == -0x1.fep127f);
}

/* 127 steps to the largest number of the vector, with a stride and without; nothing between its elements is touched. */
static void int8_has_a_scale_a_vector(void **state)
{
    float x[9] = { 254, -1, 1.01f, -2, 127, 42, 200.9f, 42, 0.99f }, tiny[2] = { 0x1p-101f, -0x1p-120f };

    (void)state;
    kern_kv_round(KERN_KV_INT8, x, 5, 2);
    static const float want[9] = { 254, -1, 2, -2, 128, 42, 200, 42, 0 };
    for (int i = 0; i < 9; i++)
        if (x[i] != want[i]) fail_msg("%d: %g, not %g", i, (double)x[i], (double)want[i]);
    kern_kv_round(KERN_KV_INT8, tiny, 2, 1);
    assert_true(tiny[0] == 0 && tiny[1] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(numbers_that_a_cache_has_stay), cmocka_unit_test(others_go_to_the_nearest_and_ties_to_even),
                                        cmocka_unit_test(int8_has_a_scale_a_vector) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
