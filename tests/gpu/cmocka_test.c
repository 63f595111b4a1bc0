/* cmocka_test.c - does the stand-in for cmocka see what fails?  A test whose tests fail passes when as many are counted as
 * should; its own verdict does not go through the stand-in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#ifndef TESTS_GPU_CMOCKA_H
#error "the stand-in is not what was included"
#endif

static int torn_down;

static void int_equal(void **s) { (void)s; assert_int_equal(1, 2); }
static void int_not_equal(void **s) { (void)s; assert_int_not_equal(3, 3); }
static void in_range(void **s) { (void)s; assert_in_range(4, 1, 3); }
static void is_true(void **s) { (void)s; assert_true(0); }
static void is_false(void **s) { (void)s; assert_false(1); }
static void null(void **s) { (void)s; assert_null(s); }
static void non_null(void **s) { (void)s; assert_non_null(NULL); }
static void ptr_equal(void **s) { (void)s; assert_ptr_equal(s, NULL); }
static void string_equal(void **s) { (void)s; assert_string_equal("a", "b"); }
static void string_not_equal(void **s) { (void)s; assert_string_not_equal("a", "a"); }
static void memory_equal(void **s) { (void)s; assert_memory_equal("ab", "ac", 2); }
static void memory_not_equal(void **s) { (void)s; assert_memory_not_equal("ab", "ab", 2); }
static void message(void **s) { (void)s; fail_msg("%d", 1); }
static int no(void **s) { (void)s; return 1; }
static int yes(void **s) { (void)s; torn_down++; return 0; }

static void fine(void **s)
{
    (void)s;
    assert_int_equal(-1, -1);
    assert_in_range(3, 3, 3);
    assert_string_equal("a", "a");
    assert_memory_equal("ab", "ac", 1);
}
static void skipped(void **s) { (void)s; skip(); }

int main(void)
{
    const struct CMUnitTest bad[] = {
        cmocka_unit_test(int_equal), cmocka_unit_test(int_not_equal), cmocka_unit_test(in_range), cmocka_unit_test(is_true),
        cmocka_unit_test(is_false), cmocka_unit_test(null), cmocka_unit_test(non_null), cmocka_unit_test(ptr_equal),
        cmocka_unit_test(string_equal), cmocka_unit_test(string_not_equal), cmocka_unit_test(memory_equal),
        cmocka_unit_test(memory_not_equal), cmocka_unit_test(message),
        cmocka_unit_test_setup_teardown(fine, no, yes), cmocka_unit_test_setup_teardown(fine, yes, no),
    };
    const struct CMUnitTest good[] = { cmocka_unit_test(fine), cmocka_unit_test(skipped) };
    const int n = (int)(sizeof bad / sizeof *bad);

    return cmocka_run_group_tests(bad, NULL, NULL) != n || cmocka_run_group_tests(good, NULL, NULL) != 0 ||
           cmocka_run_group_tests(good, NULL, no) != 1 || torn_down != 2;
}
