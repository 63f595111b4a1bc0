/* Arrays added in tree order are px_tree_sum of every element, bit for bit, at every rank count. */
#include "comm/sum.h"
#include "proto/base/tree.h"
#include "tests/testlib.h"

#include <stdlib.h>
#include <string.h>

static void arrays_and_elements_agree(void **state)
{
    static const size_t lens[] = { 1, 7, 16, 1023, 1024, 1025, 5000 };
    enum { MOST = 5008 };
    uint64_t seed = 3;
    float *base = malloc(64 * MOST * sizeof *base), *out = malloc(MOST * sizeof *out), *by_one = malloc(MOST * sizeof *out);
    const float *view[64];
    bool order_matters = false;
    (void)state;
    for (size_t i = 0; i < 64 * MOST; i++) base[i] = test_rand_normal(&seed) * (float)(1u << (test_rand(&seed) % 20));
    for (unsigned n = 1; n <= 64; n++)
        for (size_t k = 0; k < sizeof lens / sizeof *lens; k++) {
            size_t len = lens[k];
            for (unsigned r = 0; r < n; r++) view[r] = base + r * MOST;
            memset(out, 0xff, MOST * sizeof *out);
            comm_sum_tree(out, base, MOST, n, len);
            for (size_t i = 0; i < len; i++) {
                float chain = view[0][i];
                by_one[i] = px_tree_sum(view, n, i);
                for (unsigned r = 1; r < n; r++) chain += view[r][i];
                if (memcmp(&chain, &by_one[i], sizeof chain)) order_matters = true;
            }
            assert_memory_equal(out, by_one, len * sizeof *out);
            for (size_t i = len; i < MOST; i++) {
                uint32_t bits;
                memcpy(&bits, &out[i], sizeof bits);
                assert_int_equal(bits, UINT32_MAX);       /* nothing is written past the end */
            }
        }
    assert_true(order_matters);                           /* else these numbers could not tell a wrong order */
    free(base);
    free(out);
    free(by_one);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(arrays_and_elements_agree) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
