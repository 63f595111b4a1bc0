#include "tests/testlib.h"

#include <string.h>

#include "proto/base/tree.h"

#define N 4096

static float rank[9][N];
static const float *view[9];

static int fill(void **state)
{
    uint64_t seed = 3;
    (void)state;
    for (int r = 0; r < 9; r++) {
        view[r] = rank[r];
        /* Scales far apart: another order would give other bits. */
        for (size_t i = 0; i < N; i++) rank[r][i] = test_rand_normal(&seed) * (float)(1 << test_rand(&seed) % 20);
    }
    return 0;
}

static float written(unsigned n, size_t i)
{
    const float a = rank[0][i], b = rank[1][i], c = rank[2][i], d = rank[3][i], e = rank[4][i], f = rank[5][i],
                g = rank[6][i], h = rank[7][i], k = rank[8][i];
    switch (n) {
    case 1: return a;
    case 2: return a + b;
    case 3: return (a + b) + c;
    case 4: return (a + b) + (c + d);
    case 5: return ((a + b) + (c + d)) + e;
    case 6: return ((a + b) + (c + d)) + (e + f);
    case 7: return ((a + b) + (c + d)) + ((e + f) + g);
    case 8: return ((a + b) + (c + d)) + ((e + f) + (g + h));
    default: return (((a + b) + (c + d)) + ((e + f) + (g + h))) + k;
    }
}

static void the_sum_has_the_written_order(void **state)
{
    static float sum[N], expected[N], in_line[N];
    (void)state;
    for (unsigned n = 1; n <= 9; n++) {
        for (size_t i = 0; i < N; i++) {
            sum[i] = px_tree_sum(view, n, i);
            expected[i] = written(n, i);
            in_line[i] = rank[0][i];
            for (unsigned r = 1; r < n; r++) in_line[i] += rank[r][i];
        }
        assert_memory_equal(sum, expected, sizeof sum);
        if (n > 3) assert_true(memcmp(sum, in_line, sizeof sum) != 0);      /* the test can tell orders apart */
    }
}

static void the_split_is_the_largest_power_of_two_below(void **state)
{
    static const unsigned left[] = { 0, 0, 1, 2, 2, 4, 4, 4, 4, 8 };
    (void)state;
    for (unsigned n = 2; n <= 9; n++) assert_int_equal(px_tree_split(n), left[n]);
    assert_int_equal(px_tree_split(1024), 512);
    assert_int_equal(px_tree_split(1025), 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sum_has_the_written_order),
        cmocka_unit_test(the_split_is_the_largest_power_of_two_below),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
