/* The tree of added tokens: it grows with what they do not share, and each is found as before. */
#include <stdio.h>
#include <string.h>

#include "daemon/text/trie.h"
#include "tests/testlib.h"

enum { MANY = 3000 };

/* Every third is user-defined, the others are control tokens; all begin alike for 200 bytes. */
static size_t name_of(uint32_t i, char out[256]) { return (size_t)snprintf(out, 256, "<|%0198u-%04u|>", 0u, i); }

static px_code open_many(px_alloc *a, uint32_t n, daemon_vocab *v, px_err *e)
{
    char name[256];
    px_code rc = daemon_vocab_init(v, a, DAEMON_BYTELEVEL, n, n * sizeof name, e);

    for (uint32_t i = 0; i < n && !rc; i++)
        rc = daemon_vocab_add(v, name, name_of(i, name), i % 3 ? DAEMON_TOKEN_CONTROL : DAEMON_TOKEN_USER, e);
    return rc;
}

static void each_is_found_in_little_room(void **state)
{
    px_heap heap;
    daemon_vocab v = {0};
    daemon_trie t = {0};
    char text[300] = "a ";
    uint32_t id = 0;
    size_t at = 0, bytes = 0;
    px_err e = {0};

    (void)state;
    px_heap_init(&heap, "test");
    assert_int_equal(open_many(&heap.a, MANY, &v, &e), PX_OK);
    assert_int_equal(daemon_trie_init(&t, &heap.a, &v, NULL, false, "", &e), PX_OK);
    for (uint32_t i = 0; i < MANY; i++) {
        const size_t n = name_of(i, text + 2);
        assert_int_equal(daemon_trie_find(&t, text, 2 + n, 0, true, &id, &at, &bytes), true);
        assert_true(id == i && at == 2 && bytes == n);
        assert_int_equal(daemon_trie_find(&t, text, 2 + n, 0, false, &id, &at, &bytes), i % 3 == 0);
        assert_false(daemon_trie_find(&t, text, 1 + n, 0, true, &id, &at, &bytes));       /* its end is missing */
    }
    name_of(MANY, text + 2);
    assert_false(daemon_trie_find(&t, text, strlen(text), 0, true, &id, &at, &bytes));
    /* 200 bytes once, then three digits that few share, the last and "|>" */
    assert_in_range(t.n_node, 3 * MANY, 3 * MANY + 200 + 400);
    assert_true(t.cap_node <= 2 * t.n_node && t.n_edge <= 4 * t.n_node);
    daemon_trie_deinit(&t);
    daemon_vocab_deinit(&v);
    assert_int_equal(heap.count.live, 0);
    px_heap_deinit(&heap);
}

static void without_added_tokens_nothing_is_found(void **state)
{
    px_heap heap;
    daemon_vocab v = {0};
    daemon_trie t = {0};
    uint32_t id = 0;
    size_t at = 0, bytes = 0;
    px_err e = {0};

    (void)state;
    px_heap_init(&heap, "test");
    assert_int_equal(daemon_vocab_init(&v, &heap.a, DAEMON_BYTELEVEL, 1, 1, &e), PX_OK);
    assert_int_equal(daemon_vocab_add(&v, "a", 1, DAEMON_TOKEN_NORMAL, &e), PX_OK);
    assert_int_equal(daemon_trie_init(&t, &heap.a, &v, NULL, false, "", &e), PX_OK);
    assert_false(daemon_trie_find(&t, "aaa", 3, 0, true, &id, &at, &bytes));
    daemon_trie_deinit(&t);
    daemon_vocab_deinit(&v);
    assert_int_equal(heap.count.live, 0);
    px_heap_deinit(&heap);
}

static void one_that_is_too_long_is_named(void **state)
{
    px_heap heap;
    daemon_vocab v = {0};
    daemon_trie t = {0};
    char name[DAEMON_TRIE_DEPTH];
    px_err e = {0};

    (void)state;
    px_heap_init(&heap, "test");
    memset(name, 'x', sizeof name);
    assert_int_equal(daemon_vocab_init(&v, &heap.a, DAEMON_BYTELEVEL, 2, 1 + sizeof name, &e), PX_OK);
    assert_int_equal(daemon_vocab_add(&v, "a", 1, DAEMON_TOKEN_CONTROL, &e), PX_OK);
    assert_int_equal(daemon_vocab_add(&v, name, sizeof name, DAEMON_TOKEN_CONTROL, &e), PX_OK);
    assert_int_equal(daemon_trie_init(&t, &heap.a, &v, NULL, false, "", &e), PX_OK);
    daemon_trie_deinit(&t);
    assert_int_equal(daemon_trie_init(&t, &heap.a, &v, NULL, false, " ", &e), PX_ERANGE);      /* with what stands in front */
    assert_string_equal(e.field, "tokens[1]");
    daemon_vocab_deinit(&v);
    assert_int_equal(heap.count.live, 0);
    px_heap_deinit(&heap);
}

static px_code open_and_close(px_alloc *a, px_err *e)
{
    daemon_vocab v = {0};
    daemon_trie t = {0};
    px_code rc = open_many(a, 40, &v, e);

    if (!rc) rc = daemon_trie_init(&t, a, &v, NULL, false, " ", e);
    daemon_trie_deinit(&t);
    daemon_vocab_deinit(&v);
    return rc;
}

static void every_oom_is_survived(void **state)
{
    (void)state;
    test_oom_sweep(open_and_close);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_found_in_little_room),
        cmocka_unit_test(without_added_tokens_nothing_is_found),
        cmocka_unit_test(one_that_is_too_long_is_named),
        cmocka_unit_test(every_oom_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
