/* What anybody takes from malloc is counted while the guard is armed, and only then. */
#include "tests/testlib.h"

#include <stdlib.h>

#include "daemon/rank/mallochook.h"
#include "proto/base/guard.h"

/* Behind a pointer that the compiler cannot see through: a pair of malloc and free may be left out otherwise. */
static void *(*volatile take)(size_t n) = malloc;
static void *(*volatile take_zero)(size_t n, size_t each) = calloc;
static void *(*volatile take_more)(void *p, size_t n) = realloc;
static int (*volatile take_aligned)(void **out, size_t align, size_t n) = posix_memalign;

static void counts_while_armed(void **state)
{
    px_err e = {0};
    void *p[4] = { NULL };
    (void)state;

    assert_true(daemon_malloc_hook());
    free(take(10));
    assert_int_equal(px_guard_mallocs(), 0);
    px_guard_arm();
    p[0] = take(100);
    p[1] = take_zero(4, 25);
    p[2] = take_more(NULL, 50);
    assert_int_equal(take_aligned(&p[3], 64, 100), 0);
    assert_int_equal(px_guard_disarm(&e), PX_OK);             /* counted, not refused */
    assert_true(px_guard_mallocs() >= 4);
    assert_int_equal((uintptr_t)p[3] % 64, 0);
    size_t n = px_guard_mallocs();
    for (int i = 0; i < 4; i++) free(p[i]);
    free(take(10));
    assert_int_equal(px_guard_mallocs(), n);
    px_guard_exempt(true);
    px_guard_arm();
    free(take(10));
    assert_int_equal(px_guard_disarm(&e), PX_OK);
    px_guard_exempt(false);
    assert_int_equal(px_guard_mallocs(), n);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(counts_while_armed) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
