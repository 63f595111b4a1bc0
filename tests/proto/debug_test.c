#include "tests/testlib.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void only(const px_debug *d, px_fault kind, size_t n)
{
    for (int i = 0; i < PX_N_FAULTS; i++) assert_int_equal(d->n_faults[i], i == (int)kind ? n : 0);
}

static void clean_use_has_no_fault(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "clean", -1);
    for (size_t align = 1; align <= 4096; align *= 2) {
        uint8_t *p = d.a.get(&d.a, 333, align);
        assert_int_equal((uintptr_t)p % align, 0);
        memset(p, 0, 333);
        assert_int_equal(px_debug_check(&d), 0);
        d.a.put(&d.a, p, 333);
    }
    void *z = d.a.get(&d.a, 0, 1);
    assert_non_null(z);
    d.a.put(&d.a, z, 0);
    assert_null(d.a.get(&d.a, SIZE_MAX, 1));
    assert_null(d.a.get(&d.a, 1, 3));
    assert_int_equal(d.count.live, 0);
    assert_int_equal(px_debug_deinit(&d), 0);
    assert_int_equal(px_debug_deinit(&d), 0);
    assert_string_equal(d.first, "");
}

static void fresh_memory_is_not_zero(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "fresh", -1);
    uint8_t *p = d.a.get(&d.a, 10, 1);
    for (int i = 0; i < 10; i++) assert_int_equal(p[i], 0xA5);
    d.a.put(&d.a, p, 10);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void a_leak_is_told_with_its_stack(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "leaky", -1);
    (void)d.a.get(&d.a, 77, 8);
    assert_int_equal(px_debug_check(&d), 0);            /* not a fault while it may still be put */
    assert_int_equal(px_debug_deinit(&d), 1);
    only(&d, PX_FAULT_LEAK, 1);
    assert_non_null(strstr(d.first, "leak in leaky"));
    assert_non_null(strstr(d.first, "77 bytes, get 0, allocated at"));
    assert_non_null(strstr(d.first, "debug_test("));    /* a frame of this program */
    assert_int_equal(px_debug_deinit(&d), 1);
}

static void a_double_free_is_told(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "twice", -1);
    void *p = d.a.get(&d.a, 20, 8);
    d.a.put(&d.a, p, 20);
    d.a.put(&d.a, p, 20);
    assert_int_equal(px_debug_check(&d), 1);
    only(&d, PX_FAULT_DOUBLE_FREE, 1);
    assert_non_null(strstr(d.first, "double free"));
    assert_int_equal(px_debug_deinit(&d), 1);
}

static void a_wrong_size_is_told_and_released(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "size", -1);
    d.a.put(&d.a, d.a.get(&d.a, 20, 8), 21);
    assert_int_equal(px_debug_deinit(&d), 1);           /* and no leak */
    only(&d, PX_FAULT_WRONG_SIZE, 1);
    assert_non_null(strstr(d.first, "put with 21 bytes; 20 bytes"));
}

static void a_wrong_allocator_is_told(void **state)
{
    px_debug d, other;
    char garbage[64] = {0};
    void *wild = (void *)(uintptr_t)0x10;               /* must not be followed */
    (void)state;
    px_debug_init(&d, "mine", -1);
    px_debug_init(&other, "theirs", -1);
    void *p = other.a.get(&other.a, 20, 8), *in = d.a.get(&d.a, 100, 8);
    d.a.put(&d.a, p, 20);
    only(&d, PX_FAULT_WRONG_ALLOC, 1);
    assert_non_null(strstr(d.first, "put of a block of theirs"));
    d.a.put(&d.a, garbage + 8, 20);
    d.a.put(&d.a, wild, 20);
    d.a.put(&d.a, (char *)in + 8, 20);                  /* inside a block */
    only(&d, PX_FAULT_WRONG_ALLOC, 4);
    d.a.put(&d.a, in, 100);
    other.a.put(&other.a, p, 20);                       /* the owner's block is unharmed */
    assert_int_equal(px_debug_deinit(&other), 0);
    assert_int_equal(px_debug_deinit(&d), 4);
}

static void an_overflow_is_told_on_both_sides(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "zones", -1);
    volatile uint8_t *p = d.a.get(&d.a, 10, 1);
    p[10] = 0;                                          /* the red zone is the allocator's own memory */
    assert_int_equal(px_debug_check(&d), 1);
    assert_non_null(strstr(d.first, "a write 0 bytes after the end; 10 bytes"));
    assert_int_equal(px_debug_check(&d), 1);            /* counted once */
    p[-1] = 0;
    d.a.put(&d.a, (void *)p, 10);                       /* put looks, too */
    only(&d, PX_FAULT_OVERFLOW, 2);
    p[10 + 63] = 1;                                     /* the last byte of the zone, after the put */
    assert_int_equal(px_debug_deinit(&d), 3);
    only(&d, PX_FAULT_OVERFLOW, 3);
}

static void a_write_after_free_is_told(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "freed", -1);
    volatile uint8_t *p = d.a.get(&d.a, 100, 16);
    d.a.put(&d.a, (void *)p, 100);
    assert_int_equal(px_debug_check(&d), 0);
    p[42] = 1;                                          /* quarantine keeps it mapped */
    assert_int_equal(px_debug_check(&d), 1);
    only(&d, PX_FAULT_USE_AFTER_FREE, 1);
    assert_non_null(strstr(d.first, "a write at offset 42 of a freed block"));
    assert_int_equal(px_debug_deinit(&d), 1);
}

static void the_quarantine_is_bounded_and_checked_when_left(void **state)
{
    px_debug d;
    const size_t big = (size_t)30 << 20;
    (void)state;
    px_debug_init(&d, "full", -1);
    volatile uint8_t *first = d.a.get(&d.a, big, 16);
    d.a.put(&d.a, (void *)first, big);
    first[5] = 1;
    for (int i = 0; i < 3; i++) d.a.put(&d.a, d.a.get(&d.a, big, 16), big);
    only(&d, PX_FAULT_USE_AFTER_FREE, 1);               /* found when the first block left */
    size_t n = 0;
    void *huge = d.a.get(&d.a, big * 3, 16);            /* larger than the quarantine itself */
    d.a.put(&d.a, huge, big * 3);
    n = px_debug_deinit(&d);
    assert_int_equal(n, 1);
}

static void the_nth_get_fails(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "nth", 2);
    void *p[4];
    for (int i = 0; i < 4; i++) p[i] = d.a.get(&d.a, 8, 8);
    for (int i = 0; i < 4; i++) assert_true((p[i] == NULL) == (i == 2));
    assert_int_equal(d.n_gets, 4);
    for (int i = 0; i < 4; i++) d.a.put(&d.a, p[i], 8);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void it_aborts_only_when_asked(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        px_debug d;
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        px_debug_init(&d, "abort", -1);
        d.abort_on_fault = true;
        d.a.put(&d.a, &d, 1);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void many_blocks_keep_their_books(void **state)
{
    enum { N = 3000 };
    static void *p[N];
    px_debug d;
    uint64_t seed = 5;
    (void)state;
    px_debug_init(&d, "many", -1);
    for (int i = 0; i < N; i++) p[i] = d.a.get(&d.a, (size_t)i % 200, 8);
    for (int i = N - 1; i > 0; i--) {
        int k = (int)(test_rand(&seed) % (uint64_t)(i + 1));
        void *swap = p[i];
        p[i] = p[k];
        p[k] = swap;
    }
    size_t wrong = 0;
    for (int i = 0; i < N; i++) d.a.put(&d.a, p[i], 1000);      /* every size is wrong */
    for (int i = 0; i < N; i++) d.a.put(&d.a, p[i], 1000);      /* every put is a second one */
    wrong = px_debug_deinit(&d);
    assert_int_equal(wrong, 2 * N);
    assert_int_equal(d.n_faults[PX_FAULT_WRONG_SIZE], N);
    assert_int_equal(d.n_faults[PX_FAULT_DOUBLE_FREE], N);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean_use_has_no_fault),
        cmocka_unit_test(fresh_memory_is_not_zero),
        cmocka_unit_test(a_leak_is_told_with_its_stack),
        cmocka_unit_test(a_double_free_is_told),
        cmocka_unit_test(a_wrong_size_is_told_and_released),
        cmocka_unit_test(a_wrong_allocator_is_told),
        cmocka_unit_test(an_overflow_is_told_on_both_sides),
        cmocka_unit_test(a_write_after_free_is_told),
        cmocka_unit_test(the_quarantine_is_bounded_and_checked_when_left),
        cmocka_unit_test(the_nth_get_fails),
        cmocka_unit_test(it_aborts_only_when_asked),
        cmocka_unit_test(many_blocks_keep_their_books),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
