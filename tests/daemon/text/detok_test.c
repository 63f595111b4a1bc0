#include "tests/daemon/text/fixture.h"

#include <string.h>

static daemon_tokenizer *smollm, *llama3;

static int open_both(void **state)
{
    (void)state;
    smollm = fixture_open(test_golden(SMOLLM));
    llama3 = fixture_open(test_golden(LLAMA3));
    return 0;
}

static int close_both(void **state)
{
    (void)state;
    daemon_tokenizer_close(smollm);
    daemon_tokenizer_close(llama3);
    return 0;
}

static void assert_text(const daemon_bytes *b, const char *want, size_t n)
{
    if (b->n != n || memcmp(b->p ? b->p : "", want, n)) fail_msg("\"%.*s\", not \"%s\"", (int)b->n, b->p ? b->p : "", want);
}

static void stream_line(void *ctx, const json_t *line)
{
    const json_t *ids = json_object_get(line, "ids"), *pieces = json_object_get(line, "pieces"),
                 *rest = json_object_get(line, "rest");
    px_err e = {0};
    daemon_detok d;
    daemon_bytes out;
    bool hit;
    size_t which;

    assert_int_equal(daemon_detok_init(&d, fixture_heap(), ctx, true, NULL, NULL, 0, false, &e), PX_OK);
    daemon_bytes_init(&out, fixture_heap());
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *piece = json_array_get(pieces, i);
        out.n = 0;
        assert_int_equal(daemon_detok_push(&d, (uint32_t)json_integer_value(json_array_get(ids, i)), &out, &hit, &which, &e),
                         PX_OK);
        assert_false(hit);
        assert_text(&out, json_string_value(piece), json_string_length(piece));
    }
    out.n = 0;
    assert_int_equal(daemon_detok_finish(&d, &out, &e), PX_OK);
    assert_text(&out, json_string_value(rest), json_string_length(rest));
    daemon_bytes_deinit(&out);
    daemon_detok_deinit(&d);
}

static void golden_streams_come_piece_by_piece(void **state)
{
    (void)state;
    assert_int_equal(fixture_each_line(test_golden("tiny/tokenizers/smollm/stream.jsonl"), stream_line, smollm), 40);
    assert_int_equal(fixture_each_line(test_golden("tiny/tokenizers/llama3/stream.jsonl"), stream_line, llama3), 40);
}

/* Push text byte by byte: every byte is a token of this vocabulary. */
static px_code push_text(daemon_detok *d, const char *text, size_t n, daemon_bytes *out, bool *hit, size_t *which, px_err *e)
{
    px_code rc = PX_OK;
    *hit = false;
    for (size_t i = 0; i < n && !*hit && rc == PX_OK; i++)
        rc = daemon_detok_push(d, daemon_tokenizer_find(smollm, text + i, 1), out, hit, which, e);
    return rc;
}

struct stop_case {
    const char *text, *stop[4];
    int         which;              /* -1: none */
    bool        include;
    const char *want;               /* released before finish */
    const char *rest;               /* by finish */
};

static void stop_strings_cut_the_text(void **state)
{
    static const struct stop_case cases[] = {
        { "hello END world", { "END" }, 0, false, "hello ", "" },
        { "hello END world", { "END" }, 0, true, "hello END", "" },
        { "hello EN", { "END" }, -1, false, "hello ", "EN" },
        { "hello ENX", { "END" }, -1, false, "hello ENX", "" },
        { "aaab", { "aab" }, 0, false, "a", "" },                        /* falls back to a shorter beginning */
        { "abab", { "ababc" }, -1, false, "", "abab" },
        { "ababab", { "ababc" }, -1, false, "ab", "abab" },
        { "xyz", { "yz", "xyz", "z" }, 1, false, "", "" },               /* end together: the longest */
        { "xyz", { "xyz", "y" }, 1, false, "x", "" },                    /* y ends first */
        { "abcd", { "abcd", "bc", "bc" }, 1, true, "abc", "" },          /* equal ones: the first */
        { "\xe6\x97\xa5\xe6\x9c\xac!", { "\xe6\x9c\xac" }, 0, false, "\xe6\x97\xa5", "" },
        { "\xe6\x97\xa5\xe6\x9c\xad", { "\xe6\x9c\xac" }, -1, false, "\xe6\x97\xa5\xe6\x9c\xad", "" },
        { "a\xe6\x9c", { "a\xef\xbf\xbd!" }, -1, false, "", "a\xef\xbf\xbd" },
        { "a\xe6\x9c", { "a\xef\xbf\xbd" }, -1, false, "", "a\xef\xbf\xbd" },     /* made by the end: the text is not cut */
        { "a\xe6\x9cz", { "a\xef\xbf\xbdz" }, 0, false, "", "" },        /* a U+FFFD that the decoder made counts */
        { "q", { "q" }, 0, false, "", "" },
        { "\n\n", { "\n\n", "\n\n\n" }, 0, false, "", "" },
        { "\xf0\x9f\x98", { "x" }, -1, false, "", "\xef\xbf\xbd" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct stop_case *c = &cases[i];
        size_t bytes[4], n = 0, which = 99;
        px_err e = {0};
        daemon_detok d;
        daemon_bytes out;
        bool hit;
        while (n < 4 && c->stop[n]) { bytes[n] = strlen(c->stop[n]); n++; }
        daemon_bytes_init(&out, fixture_heap());
        assert_int_equal(daemon_detok_init(&d, fixture_heap(), smollm, true, c->stop, bytes, n, c->include, &e), PX_OK);
        assert_int_equal(push_text(&d, c->text, strlen(c->text), &out, &hit, &which, &e), PX_OK);
        if (hit != (c->which >= 0) || (hit && which != (size_t)c->which)) fail_msg("case %zu: hit %d, which %zu", i, hit, which);
        assert_text(&out, c->want, strlen(c->want));
        if (hit) {                                   /* nothing more comes */
            assert_int_equal(daemon_detok_push(&d, daemon_tokenizer_find(smollm, "a", 1), &out, &hit, &which, &e), PX_OK);
            assert_true(hit && which == (size_t)c->which);
        }
        out.n = 0;
        assert_int_equal(daemon_detok_finish(&d, &out, &e), PX_OK);
        assert_text(&out, c->rest, strlen(c->rest));
        daemon_bytes_deinit(&out);
        daemon_detok_deinit(&d);
    }
}

/* The plain way: decode all, look at every end. */
static size_t naive_stop(const char *text, size_t n, const char *const *stop, const size_t *bytes, size_t n_stop, size_t *which)
{
    for (size_t end = 1; end <= n; end++) {
        size_t best = 0;
        for (size_t i = 0; i < n_stop; i++)
            if (bytes[i] <= end && bytes[i] > best && !memcmp(text + end - bytes[i], stop[i], bytes[i])) best = bytes[*which = i];
        if (best) return end - best;
    }
    return n;
}

static void stops_agree_with_the_plain_way(void **state)
{
    uint64_t seed = 5;
    size_t hits = 0;

    (void)state;
    for (int round = 0; round < 4000; round++) {
        char text[60], stop_text[3][8];
        const char *stop[3];
        size_t bytes[3], n_stop = 1 + test_rand(&seed) % 3, n = test_rand(&seed) % sizeof text, which = 0, want_which = 0;
        px_err e = {0};
        daemon_detok d;
        daemon_bytes out;
        bool hit;
        for (size_t i = 0; i < n; i++) text[i] = "ab"[test_rand(&seed) % 2];
        for (size_t i = 0; i < n_stop; i++) {
            bytes[i] = 1 + test_rand(&seed) % sizeof stop_text[0];
            for (size_t k = 0; k < bytes[i]; k++) stop_text[i][k] = "ab"[test_rand(&seed) % 2];
            stop[i] = stop_text[i];
        }
        size_t want = naive_stop(text, n, stop, bytes, n_stop, &want_which);
        daemon_bytes_init(&out, fixture_heap());
        assert_int_equal(daemon_detok_init(&d, fixture_heap(), smollm, true, stop, bytes, n_stop, false, &e), PX_OK);
        assert_int_equal(push_text(&d, text, n, &out, &hit, &which, &e), PX_OK);
        assert_int_equal(daemon_detok_finish(&d, &out, &e), PX_OK);
        assert_int_equal(out.n, want);
        assert_memory_equal(out.p ? out.p : "", text, want);
        if (hit) assert_int_equal(which, want_which);
        hits += hit;
        daemon_bytes_deinit(&out);
        daemon_detok_deinit(&d);
    }
    assert_true(hits > 1000 && hits < 4000);
}

static void a_token_may_hold_a_whole_stop_string(void **state)
{
    const char *stop = "tu";
    size_t bytes = 2, which;
    uint32_t whole = daemon_tokenizer_find(smollm, " return", 7);
    px_err e = {0};
    daemon_detok d;
    daemon_bytes out;
    bool hit;

    (void)state;
    assert_int_not_equal(whole, DAEMON_NO_TOKEN);
    daemon_bytes_init(&out, fixture_heap());
    assert_int_equal(daemon_detok_init(&d, fixture_heap(), smollm, true, &stop, &bytes, 1, false, &e), PX_OK);
    assert_int_equal(daemon_detok_push(&d, whole, &out, &hit, &which, &e), PX_OK);
    assert_true(hit);
    assert_text(&out, " re", 3);
    daemon_bytes_deinit(&out);
    daemon_detok_deinit(&d);
}

/* What ends while the caller does not want to stop is text; what only began then still counts. */
static void a_deaf_stream_does_not_stop(void **state)
{
    static const struct { const char *deaf, *then, *stop, *want; bool hit; } cases[] = {
        { "aENDb", "END", "END", "aENDb", true },
        { "aEN", "Db", "END", "a", true },
        { "END", "x", "END", "ENDx", false },
        { "aba", "ba", "aba", "ab", true },          /* the end of one is the beginning of the next */
        { "aaaa", "b", "aa", "aaaab", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes = strlen(cases[i].stop), which;
        px_err e = {0};
        daemon_detok d;
        daemon_bytes out;
        bool hit;

        daemon_bytes_init(&out, fixture_heap());
        assert_int_equal(daemon_detok_init(&d, fixture_heap(), smollm, true, &cases[i].stop, &bytes, 1, false, &e), PX_OK);
        d.deaf = true;
        assert_int_equal(push_text(&d, cases[i].deaf, strlen(cases[i].deaf), &out, &hit, &which, &e), PX_OK);
        assert_false(hit);
        d.deaf = false;
        assert_int_equal(push_text(&d, cases[i].then, strlen(cases[i].then), &out, &hit, &which, &e), PX_OK);
        assert_int_equal(hit, cases[i].hit);
        assert_int_equal(daemon_detok_finish(&d, &out, &e), PX_OK);
        assert_text(&out, cases[i].want, strlen(cases[i].want));
        daemon_bytes_deinit(&out);
        daemon_detok_deinit(&d);
    }
}

static void special_tokens_are_skipped_or_named(void **state)
{
    (void)state;
    for (int skip_them = 0; skip_them < 2; skip_them++) {
        px_err e = {0};
        daemon_detok d;
        daemon_bytes out;
        bool hit;
        size_t which;
        daemon_bytes_init(&out, fixture_heap());
        assert_int_equal(daemon_detok_init(&d, fixture_heap(), smollm, skip_them, NULL, NULL, 0, false, &e), PX_OK);
        assert_int_equal(daemon_detok_push(&d, 1, &out, &hit, &which, &e), PX_OK);
        assert_int_equal(daemon_detok_push(&d, daemon_tokenizer_find(smollm, "a", 1), &out, &hit, &which, &e), PX_OK);
        assert_text(&out, skip_them ? "a" : "<|im_start|>a", skip_them ? 1 : 13);
        assert_int_equal(daemon_detok_push(&d, 1000, &out, &hit, &which, &e), PX_ERANGE);
        assert_string_equal(e.field, "token_ids");
        daemon_bytes_deinit(&out);
        daemon_detok_deinit(&d);
    }
}

static void bad_stop_strings_are_refused(void **state)
{
    const char *stop[] = { "ok", "" }, *invalid[] = { "a\xff" };
    size_t bytes[] = { 2, 0 }, two = 2;
    px_err e = {0};
    px_debug a;
    daemon_detok d;

    (void)state;
    px_debug_init(&a, "test", -1);
    assert_int_equal(daemon_detok_init(&d, &a.a, smollm, true, stop, bytes, 2, false, &e), PX_EINVAL);
    assert_string_equal(e.field, "stop_strings[1]");
    px_err_clear(&e);
    assert_int_equal(daemon_detok_init(&d, &a.a, smollm, true, invalid, &two, 1, false, &e), PX_EINVAL);
    assert_string_equal(e.field, "stop_strings[0]");
    daemon_detok_deinit(&d);                          /* idempotent, also after a failure */
    assert_int_equal(px_debug_deinit(&a), 0);
}

/* A stop string of 64 KiB of a letter, and a text of it: no work but the linear one, nothing released too early. */
static void long_stop_strings_hold_long_text(void **state)
{
    enum { LONG = 1 << 16 };
    char *stop = px_new(fixture_heap(), char, LONG);
    const char *list = stop;
    size_t bytes = LONG, which;
    uint32_t a = daemon_tokenizer_find(smollm, "a", 1);
    px_err e = {0};
    daemon_detok d;
    daemon_bytes out;
    bool hit;

    (void)state;
    memset(stop, 'a', LONG);
    stop[LONG - 1] = 'b';
    daemon_bytes_init(&out, fixture_heap());
    assert_int_equal(daemon_detok_init(&d, fixture_heap(), smollm, true, &list, &bytes, 1, false, &e), PX_OK);
    for (size_t i = 0; i < 20 * LONG; i++) {
        assert_int_equal(daemon_detok_push(&d, a, &out, &hit, &which, &e), PX_OK);
        if (hit || out.n != (i < LONG - 1 ? 0 : i + 1 - (LONG - 1))) fail_msg("%zu bytes after %zu", out.n, i + 1);
    }
    assert_int_equal(daemon_detok_finish(&d, &out, &e), PX_OK);
    assert_int_equal(out.n, 20 * LONG);
    daemon_bytes_deinit(&out);
    daemon_detok_deinit(&d);
    px_del(fixture_heap(), stop, LONG);
}

static px_code stream_and_drop(px_alloc *a, px_err *e)
{
    static const char text[] = "a text of more bytes than the first room for them, so that the buffers grow once or twice, with "
                               "the beginning of a stop string at its end, after some 170 bytes: \xe6\x97\xa5 STO";
    const char *stop[] = { "STOP", "never" };
    size_t bytes[] = { 4, 5 }, which;
    daemon_detok d;
    daemon_bytes out;
    bool hit;
    px_code rc;

    daemon_bytes_init(&out, a);
    rc = daemon_detok_init(&d, a, smollm, true, stop, bytes, 2, false, e);
    if (rc == PX_OK) rc = push_text(&d, text, sizeof text - 1, &out, &hit, &which, e);
    if (rc == PX_OK) rc = daemon_detok_finish(&d, &out, e);
    if (rc == PX_OK) assert_text(&out, text, sizeof text - 1);
    daemon_detok_deinit(&d);
    daemon_bytes_deinit(&out);
    return rc;
}

static void streaming_survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(stream_and_drop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_streams_come_piece_by_piece),
        cmocka_unit_test(stop_strings_cut_the_text),
        cmocka_unit_test(stops_agree_with_the_plain_way),
        cmocka_unit_test(a_token_may_hold_a_whole_stop_string),
        cmocka_unit_test(a_deaf_stream_does_not_stop),
        cmocka_unit_test(special_tokens_are_skipped_or_named),
        cmocka_unit_test(bad_stop_strings_are_refused),
        cmocka_unit_test(long_stop_strings_hold_long_text),
        cmocka_unit_test(streaming_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
