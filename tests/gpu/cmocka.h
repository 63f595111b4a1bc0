/* cmocka.h - as much of cmocka as our tests use, for a machine that has none.  Same names, same output of failures.
 * Layer: tests.  A failed assertion leaves the test by longjmp; setjmp.h, stdarg.h, stddef.h, stdint.h come first. */
#ifndef TESTS_GPU_CMOCKA_H
#define TESTS_GPU_CMOCKA_H

#include <stdio.h>
#include <string.h>

typedef void (*CMUnitTestFunction)(void **state);
typedef int (*CMFixtureFunction)(void **state);
struct CMUnitTest { const char *name; CMUnitTestFunction test_func; CMFixtureFunction setup_func, teardown_func; };

#define cmocka_unit_test(f) { #f, f, NULL, NULL }
#define cmocka_unit_test_setup_teardown(f, up, down) { #f, f, up, down }

enum { GPU_TEST_FAILED = 1, GPU_TEST_SKIPPED };
static jmp_buf gpu_test_end;

__attribute__((unused)) static void print_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
__attribute__((unused)) static void print_message(const char *format, ...)
{
    va_list a;
    va_start(a, format);
    vprintf(format, a);
    va_end(a);
    fflush(stdout);
}
#define print_error(...) fprintf(stderr, __VA_ARGS__)

#define fail_msg(...)                                                                             \
    do {                                                                                          \
        fprintf(stderr, "[  ERROR   ] --- ");                                                     \
        fprintf(stderr, __VA_ARGS__);                                                             \
        fprintf(stderr, "\n[   LINE   ] --- %s:%d: error: Failure!\n", __FILE__, __LINE__);        \
        longjmp(gpu_test_end, GPU_TEST_FAILED);                                                   \
    } while (0)
#define fail() fail_msg("fail()")
#define skip() longjmp(gpu_test_end, GPU_TEST_SKIPPED)

#define assert_true(c)  do { if (!(c)) fail_msg("%s", #c); } while (0)
#define assert_false(c) do { if (c) fail_msg("!(%s)", #c); } while (0)
#define assert_null(p)     do { if ((p) != NULL) fail_msg("%s is not NULL", #p); } while (0)
#define assert_non_null(p) do { if ((p) == NULL) fail_msg("%s is NULL", #p); } while (0)
#define GPU_TEST_COMPARE(a, op, b)                                                                \
    do {                                                                                          \
        const unsigned long long a_ = (unsigned long long)(a), b_ = (unsigned long long)(b);      \
        if (!(a_ op b_)) fail_msg("%#llx " #op " %#llx: %s, %s", a_, b_, #a, #b);                 \
    } while (0)
#define assert_int_equal(a, b)     GPU_TEST_COMPARE(a, ==, b)
#define assert_int_not_equal(a, b) GPU_TEST_COMPARE(a, !=, b)
#define assert_in_range(v, lo, hi) do { GPU_TEST_COMPARE(v, >=, lo); GPU_TEST_COMPARE(v, <=, hi); } while (0)
#define assert_ptr_equal(a, b)     do { if ((const void *)(a) != (const void *)(b)) fail_msg("%s is not %s", #a, #b); } while (0)
#define assert_ptr_not_equal(a, b) do { if ((const void *)(a) == (const void *)(b)) fail_msg("%s is %s", #a, #b); } while (0)
#define assert_string_equal(a, b)                                                                 \
    do {                                                                                          \
        const char *a_ = (a), *b_ = (b);                                                          \
        if (strcmp(a_, b_)) fail_msg("\"%s\" != \"%s\"", a_, b_);                                 \
    } while (0)
#define assert_string_not_equal(a, b) do { if (!strcmp(a, b)) fail_msg("\"%s\" twice", (const char *)(a)); } while (0)
#define assert_memory_equal(a, b, n)     do { if (memcmp(a, b, n)) fail_msg("%s differs from %s", #a, #b); } while (0)
#define assert_memory_not_equal(a, b, n) do { if (!memcmp(a, b, n)) fail_msg("%s is as %s", #a, #b); } while (0)

/* 0, or how a step of a test ended. */
__attribute__((unused)) static int gpu_test_step(const struct CMUnitTest *t, CMFixtureFunction fixture, void **state)
{
    int end = setjmp(gpu_test_end);

    if (end) return end;
    if (!fixture) t->test_func(state);
    else if (fixture(state)) return GPU_TEST_FAILED;
    return 0;
}

/* The number of tests that failed. */
__attribute__((unused)) static int gpu_test_run(const struct CMUnitTest *tests, size_t n, CMFixtureFunction up, CMFixtureFunction down)
{
    void *group = NULL;
    int failed = 0;

    printf("[==========] Running %zu test(s).\n", n);
    if (up && up(&group)) return (int)n;
    for (size_t i = 0; i < n; i++) {
        const struct CMUnitTest *t = &tests[i];
        void *state = group;

        printf("[ RUN      ] %s\n", t->name);
        fflush(stdout);
        int end = t->setup_func ? gpu_test_step(t, t->setup_func, &state) : 0;
        if (!end) end = gpu_test_step(t, NULL, &state);
        if (t->teardown_func && gpu_test_step(t, t->teardown_func, &state)) end = GPU_TEST_FAILED;
        failed += end == GPU_TEST_FAILED;
        printf("%s %s\n", !end ? "[       OK ]" : end == GPU_TEST_SKIPPED ? "[  SKIPPED ]" : "[  FAILED  ]", t->name);
    }
    if (down && down(&group)) failed++;
    printf("[==========] %zu test(s) run, %d failed.\n", n, failed);
    fflush(stdout);
    return failed;
}
#define _cmocka_run_group_tests(name, tests, n, up, down) gpu_test_run(tests, n, up, down)      /* cmocka's own, for a count known later */
#define cmocka_run_group_tests(tests, up, down) gpu_test_run(tests, sizeof(tests) / sizeof *(tests), up, down)
#define cmocka_run_group_tests_name(name, tests, up, down) cmocka_run_group_tests(tests, up, down)

#endif
