/* Law 2's guard: which allocators bite, which do not, and on which threads. */
#include "tests/testlib.h"

#include <pthread.h>
#include <string.h>

#include "proto/base/guard.h"

static void bites(px_alloc *a, size_t bytes, const char *subsystem)
{
    px_err e = {0};
    void *p;

    px_guard_arm();
    p = a->get(a, bytes, 8);
    assert_non_null(p);
    assert_int_equal(px_guard_disarm(&e), PX_EINTERNAL);
    assert_string_equal(e.field, "guard");
    assert_non_null(strstr(e.text, subsystem));
    a->put(a, p, bytes);
    px_err_clear(&e);
    px_guard_arm();                                          /* armed again it has forgotten */
    assert_int_equal(px_guard_disarm(&e), PX_OK);
    assert_int_equal(e.code, PX_OK);
}

static void system_memory_is_refused(void **state)
{
    px_heap heap;
    px_mmap pages;
    px_debug books;
    (void)state;

    px_heap_init(&heap, "a heap");
    px_mmap_init(&pages, "some pages", false);
    px_debug_init(&books, "the books", -1);
    bites(&heap.a, 10, "a heap");
    bites(&pages.a, 5000, "some pages");
    bites(&books.a, 3, "the books");
    assert_int_equal(px_debug_deinit(&books), 0);
    px_mmap_deinit(&pages);
    px_heap_deinit(&heap);
}

static void an_arena_bites_when_it_grows(void **state)
{
    px_heap heap;
    px_arena arena;
    px_err e = {0};
    (void)state;

    px_heap_init(&heap, "under");
    px_arena_init(&arena, &heap.a, "arena", 4096, 8192, 0);
    assert_non_null(arena.a.get(&arena.a, 100, 8));
    px_guard_arm();
    assert_non_null(arena.a.get(&arena.a, 100, 8));           /* within the chunk */
    assert_int_equal(px_guard_disarm(&e), PX_OK);
    px_guard_arm();
    assert_non_null(arena.a.get(&arena.a, 4096, 8));          /* a new one */
    assert_int_equal(px_guard_disarm(&e), PX_EINTERNAL);
    px_arena_deinit(&arena);
    px_heap_deinit(&heap);
}

static void fixed_memory_is_not(void **state)
{
    static uint8_t room[256];
    px_heap heap;
    px_fixed fixed;
    px_pool pool;
    px_err e = {0};
    (void)state;

    px_heap_init(&heap, "under");
    px_fixed_init(&fixed, "fixed", room, sizeof room);
    assert_int_equal(px_pool_init(&pool, &heap.a, "pool", 32, 4, &e), PX_OK);
    px_guard_arm();
    assert_non_null(fixed.a.get(&fixed.a, 100, 8));
    void *p = pool.a.get(&pool.a, 32, 8);
    assert_non_null(p);
    assert_int_equal(px_guard_disarm(&e), PX_OK);
    pool.a.put(&pool.a, p, 32);
    px_pool_deinit(&pool);
    px_fixed_deinit(&fixed);
    px_heap_deinit(&heap);
}

static void *allocate(void *arg)
{
    px_heap heap;

    px_guard_exempt(arg != NULL);
    px_heap_init(&heap, "beside");
    void *p = heap.a.get(&heap.a, 10, 8);
    heap.a.put(&heap.a, p, 10);
    px_heap_deinit(&heap);
    return NULL;
}

/* A kernel's thread is guarded; one that says that it works beside the steps is not. */
static void other_threads(void **state)
{
    px_err e = {0};
    pthread_t t;
    int exempt = 1;
    (void)state;

    px_guard_arm();
    assert_int_equal(pthread_create(&t, NULL, allocate, NULL), 0);
    pthread_join(t, NULL);
    assert_int_equal(px_guard_disarm(&e), PX_EINTERNAL);
    px_err_clear(&e);
    px_guard_arm();
    assert_int_equal(pthread_create(&t, NULL, allocate, &exempt), 0);
    pthread_join(t, NULL);
    assert_int_equal(px_guard_disarm(&e), PX_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(system_memory_is_refused), cmocka_unit_test(an_arena_bites_when_it_grows),
        cmocka_unit_test(fixed_memory_is_not), cmocka_unit_test(other_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
