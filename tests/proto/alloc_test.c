#include "tests/testlib.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ---- every allocator keeps the promises of the interface ---- */

static void keeps_alignment(px_alloc *a, size_t most)
{
    for (size_t align = 1; align <= most; align *= 2) {
        void *p = a->get(a, 100, align);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % align, 0);
        memset(p, 1, 100);
        a->put(a, p, 100);
    }
    assert_null(a->get(a, 8, 0));
    assert_null(a->get(a, 8, 24));
}

static void refuses_what_overflows(px_alloc *a)
{
    assert_null(a->get(a, SIZE_MAX, 8));
    assert_null(a->get(a, SIZE_MAX - 64, 4096));
    assert_null(px_new(a, uint64_t, SIZE_MAX / 4));
    assert_null(px_alloc_grow(a, NULL, 0, SIZE_MAX / 2, 8, 8));
    a->put(a, NULL, 5);
    px_alloc_put(a, NULL, 5, 5);
}

static void zero_bytes_are_unique(px_alloc *a)
{
    char *p = a->get(a, 0, 1), *q = a->get(a, 0, 1);
    assert_non_null(p);
    assert_non_null(q);
    assert_ptr_not_equal(p, q);
    a->put(a, q, 0);
    a->put(a, p, 0);
}

static void heap_keeps_the_interface(void **state)
{
    px_heap h;
    (void)state;
    px_heap_init(&h, "heap");
    keeps_alignment(&h.a, 4096);
    refuses_what_overflows(&h.a);
    zero_bytes_are_unique(&h.a);

    uint32_t *v = px_new(&h.a, uint32_t, 10);
    for (int i = 0; i < 10; i++) assert_int_equal(v[i], 0);
    assert_int_equal(h.count.live, 40);
    v[9] = 7;
    uint32_t *w = px_alloc_grow(&h.a, v, 10, 1000, sizeof *v, _Alignof(uint32_t));
    assert_non_null(w);
    assert_int_equal(w[9], 7);
    for (int i = 10; i < 1000; i++) assert_int_equal(w[i], 0);
    assert_int_equal(h.count.live, 4000);
    assert_int_equal(h.count.peak, 4040);
    w = px_alloc_grow(&h.a, w, 1000, 10, sizeof *v, _Alignof(uint32_t));    /* smaller is legal, too */
    assert_int_equal(w[9], 7);
    px_del(&h.a, w, 10);

    char *s = px_strdup(&h.a, "text");
    assert_string_equal(s, "text");
    px_strdel(&h.a, s);
    px_strdel(&h.a, NULL);
    assert_int_equal(h.count.live, 0);
    px_heap_deinit(&h);
    px_heap_deinit(&h);
}

static void growing_fails_without_touching_the_old(void **state)
{
    px_debug d;
    (void)state;
    px_debug_init(&d, "grow", 1);
    char *p = px_strdup(&d.a, "abc");
    assert_null(px_alloc_grow(&d.a, p, 4, 100, 1, 1));
    assert_string_equal(p, "abc");
    px_strdel(&d.a, p);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void arena_bumps_resets_and_retains(void **state)
{
    px_debug d;
    px_arena r;
    (void)state;
    px_debug_init(&d, "under", -1);
    px_arena_init(&r, &d.a, "arena", 8192, 20000, 0);
    keeps_alignment(&r.a, 4096);
    zero_bytes_are_unique(&r.a);
    px_arena_reset(&r);
    assert_int_equal(r.used, 0);
    assert_int_equal(r.count.live, 0);

    /* The last block comes back, an older one does not. */
    char *p = r.a.get(&r.a, 100, 1), *q = r.a.get(&r.a, 100, 1);
    r.a.put(&r.a, p, 100);
    assert_int_equal(r.used, 200);
    r.a.put(&r.a, q, 100);
    assert_int_equal(r.used, 100);
    assert_ptr_equal(r.a.get(&r.a, 100, 1), q);

    /* Many chunks, some blocks larger than a chunk; nothing overlaps. */
    enum { N = 200 };
    uint8_t *block[N];
    size_t bytes[N];
    uint64_t seed = 1;
    for (int round = 0; round < 5; round++) {
        px_arena_reset(&r);
        assert_in_range(r.held, 0, 20000);
        for (int i = 0; i < N; i++) {
            bytes[i] = 1 + test_rand(&seed) % (i % 20 == 0 ? 30000 : 900);
            size_t align = (size_t)1 << test_rand(&seed) % 8;
            block[i] = r.a.get(&r.a, bytes[i], align);
            assert_non_null(block[i]);
            assert_int_equal((uintptr_t)block[i] % align, 0);
            memset(block[i], i, bytes[i]);
        }
        for (int i = 0; i < N; i++)
            for (size_t k = 0; k < bytes[i]; k++) assert_int_equal(block[i][k], (uint8_t)i);
        assert_int_equal(px_debug_check(&d), 0);
    }
    int64_t gets = d.n_gets;
    px_arena_reset(&r);
    for (int i = 0; i < 100; i++) assert_non_null(r.a.get(&r.a, 60, 4));
    assert_true(d.n_gets - gets <= 1);              /* kept chunks served it */

    refuses_what_overflows(&r.a);
    px_arena_deinit(&r);
    assert_int_equal(r.held, 0);
    px_arena_deinit(&r);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void arena_ends_at_its_cap(void **state)
{
    px_heap h;
    px_arena r;
    size_t n = 0;
    (void)state;
    px_heap_init(&h, "under");
    px_arena_init(&r, &h.a, "arena", 4096, 0, 10000);
    while (r.a.get(&r.a, 100, 1)) n += 100;
    assert_in_range(n, 9000, 10000);                /* the last chunk is as small as needed */
    assert_in_range(r.held, 1, 10000);
    assert_null(r.a.get(&r.a, 20000, 1));
    px_arena_reset(&r);
    assert_int_equal(h.count.live, 0);              /* retain 0 */
    assert_non_null(r.a.get(&r.a, 9000, 1));
    px_arena_deinit(&r);
    px_heap_deinit(&h);
}

static void fixed_bumps_in_its_buffer(void **state)
{
    static _Alignas(4096) uint8_t buf[3 * 4096];
    px_fixed f;
    (void)state;
    px_fixed_init(&f, "fixed", buf + 1, sizeof buf - 1);        /* an odd base */
    keeps_alignment(&f.a, 4096);
    refuses_what_overflows(&f.a);
    zero_bytes_are_unique(&f.a);
    px_fixed_reset(&f);
    assert_non_null(f.a.get(&f.a, sizeof buf - 1, 1));
    assert_null(f.a.get(&f.a, 1, 1));
    assert_int_equal(f.count.live, sizeof buf - 1);
    px_fixed_deinit(&f);
    assert_null(f.a.get(&f.a, 1, 1));
    px_fixed_deinit(&f);
}

static void pool_gives_objects_of_one_size(void **state)
{
    static const size_t sizes[] = { 1, 8, 24, 48, 4096, 12288 };
    px_debug d;
    px_err e = {0};
    (void)state;
    px_debug_init(&d, "under", -1);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t each = sizes[k], align = each & -each;
        px_pool p;
        void *obj[5];
        if (align > 4096) align = 4096;
        assert_int_equal(px_pool_init(&p, &d.a, "pool", each, 5, &e), PX_OK);
        assert_null(p.a.get(&p.a, each + 1, 1));
        assert_null(p.a.get(&p.a, each, 8192));
        for (int i = 0; i < 5; i++) {
            obj[i] = p.a.get(&p.a, each, align);
            assert_non_null(obj[i]);
            assert_int_equal((uintptr_t)obj[i] % align, 0);
            memset(obj[i], i, each);
        }
        assert_null(p.a.get(&p.a, each, 1));
        assert_int_equal(p.count.live, 5 * each);
        for (int i = 0; i < 5; i++) assert_int_equal(((uint8_t *)obj[i])[each - 1], i);
        p.a.put(&p.a, obj[3], each);
        p.a.put(&p.a, NULL, each);
        assert_ptr_equal(p.a.get(&p.a, each, 1), obj[3]);
        px_pool_deinit(&p);
        px_pool_deinit(&p);
    }
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void pool_names_its_subsystem_in_errors(void **state)
{
    px_heap h;
    px_debug none;
    px_pool p;
    px_err e = {0};
    (void)state;
    px_heap_init(&h, "under");
    px_debug_init(&none, "none", 0);
    assert_int_equal(px_pool_init(&p, &h.a, "kv", 0, 5, &e), PX_EINVAL);
    assert_string_equal(e.field, "kv");
    px_err_clear(&e);
    assert_int_equal(px_pool_init(&p, &h.a, "kv", SIZE_MAX / 2, 5, &e), PX_ERANGE);
    assert_string_equal(e.field, "kv");
    px_err_clear(&e);
    assert_int_equal(px_pool_init(&p, &none.a, "kv", 64, 5, &e), PX_ENOMEM);
    assert_string_equal(e.field, "kv");
    assert_null(p.a.get(&p.a, 64, 1));
    px_pool_deinit(&p);
    assert_int_equal(px_debug_deinit(&none), 0);
    px_heap_deinit(&h);
}

static void mmap_gives_zeroed_pages(void **state)
{
    px_mmap m;
    (void)state;
    for (int populate = 0; populate < 2; populate++) {
        px_mmap_init(&m, "mmap", populate);
        keeps_alignment(&m.a, 4096);
        refuses_what_overflows(&m.a);
        uint8_t *p = m.a.get(&m.a, 10000, 64);
        assert_non_null(p);
        for (size_t i = 0; i < 10000; i++) assert_int_equal(p[i], 0);
        assert_int_equal(m.count.live, 10000);
        m.a.put(&m.a, p, 10000);
        assert_int_equal(m.count.live, 0);
        px_mmap_deinit(&m);
        px_mmap_deinit(&m);
    }
}

/* ---- counts ---- */

typedef struct seen { const char *name; size_t n, live, peak; } seen;

static void add(void *ctx, const char *subsystem, size_t live, size_t peak)
{
    seen *s = ctx;
    if (strcmp(subsystem, s->name)) return;
    s->n++;
    s->live += live;
    s->peak += peak;
}

static void counts_of_one_name_are_all_listed(void **state)
{
    px_heap a, b;
    seen s = { .name = "twice" };
    (void)state;
    px_heap_init(&a, "twice");
    px_heap_init(&b, "twice");
    px_heap_init(&b, "twice");                      /* again, without deinit: still one on the list */
    px_count_register(&a.count, "twice");           /* idempotent */
    void *p = a.a.get(&a.a, 100, 1), *q = b.a.get(&b.a, 10, 1);
    b.a.put(&b.a, q, 10);
    px_count_each(add, &s);
    assert_int_equal(s.n, 2);
    assert_int_equal(s.live, 100);
    assert_int_equal(s.peak, 110);
    a.a.put(&a.a, p, 100);
    px_heap_deinit(&a);
    px_heap_deinit(&b);
    s = (seen){ .name = "twice" };
    px_count_each(add, &s);
    assert_int_equal(s.n, 0);
}

static void *hammer(void *ctx)
{
    px_alloc *a = ctx;
    for (int i = 0; i < 3000; i++) {
        void *p = a->get(a, (size_t)(i % 50), 8);
        px_heap own;
        px_heap_init(&own, "own");
        px_heap_deinit(&own);
        a->put(a, p, (size_t)(i % 50));
    }
    return NULL;
}

static void heap_and_debug_serve_many_threads(void **state)
{
    px_heap h;
    px_debug d;
    (void)state;
    px_heap_init(&h, "threads");
    px_debug_init(&d, "threads", -1);
    px_alloc *each[] = { &h.a, &d.a };
    for (int k = 0; k < 2; k++) {
        pthread_t t[4];
        for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, hammer, each[k]), 0);
        for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    }
    assert_int_equal(h.count.live, 0);
    assert_int_equal(h.count.gets, 12000);
    assert_int_equal(d.count.live, 0);
    assert_int_equal(d.n_gets, 12000);
    px_heap_deinit(&h);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static px_code build_and_drop(px_alloc *a, px_err *e)
{
    px_pool p = {0};
    px_arena r;
    px_code rc = PX_OK;
    px_arena_init(&r, a, "arena", 1000, 0, 0);
    if ((rc = px_pool_init(&p, a, "pool", 40, 10, e))) goto fail;
    for (int i = 0; i < 50; i++)
        if (!px_new(&r.a, char, 100)) { rc = px_fail(e, PX_ENOMEM, "arena", "block %d", i); goto fail; }
fail:
    px_pool_deinit(&p);
    px_arena_deinit(&r);
    return rc;
}

static void pool_and_arena_survive_every_oom(void **state) { (void)state; test_oom_sweep(build_and_drop); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heap_keeps_the_interface),
        cmocka_unit_test(growing_fails_without_touching_the_old),
        cmocka_unit_test(arena_bumps_resets_and_retains),
        cmocka_unit_test(arena_ends_at_its_cap),
        cmocka_unit_test(fixed_bumps_in_its_buffer),
        cmocka_unit_test(pool_gives_objects_of_one_size),
        cmocka_unit_test(pool_names_its_subsystem_in_errors),
        cmocka_unit_test(mmap_gives_zeroed_pages),
        cmocka_unit_test(counts_of_one_name_are_all_listed),
        cmocka_unit_test(heap_and_debug_serve_many_threads),
        cmocka_unit_test(pool_and_arena_survive_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
