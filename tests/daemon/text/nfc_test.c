/* NFC against utf8proc's own, which sorts marks another way; and marks without end. */
#include "tests/daemon/text/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "daemon/text/nfc.h"

static void put(daemon_nfc *s, const char *p, size_t n, daemon_bytes *out)
{
    px_err e = {0};
    out->n = 0;
    assert_int_equal(daemon_nfc_put(s, p, n, out, &e), PX_OK);
}

/* Characters that matter: letters with marks, marks of many classes, Hangul, singletons, exclusions. */
static size_t random_marks(uint64_t *seed, char *buf, size_t cap)
{
    static const utf8proc_int32_t some[] = { 'a', 'e', 'o', ' ', 0xc5, 0x212b, 0x1e9b, 0x323, 0x301, 0x307, 0x327, 0x345, 0x344, 0x340, 0x5b0,
        0x5bc, 0x64b, 0x651, 0xf71, 0xf72, 0x1100, 0x1161, 0x11a8, 0xac00, 0xac01, 0x958, 0x2adc, 0x1d15e, 0x3099, 0x304b, 0xfb1d, 0x387, 0x10ffff };
    size_t n = 0;

    while (n + 4 <= cap) {
        uint64_t r = test_rand(seed);
        utf8proc_int32_t c = r % 4 ? some[(r >> 8) % (sizeof some / sizeof *some)] : (utf8proc_int32_t)((r >> 8) % 0xd800);
        if (c == 0) c = 'x';                               /* utf8proc's function ends there */
        n += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)buf + n);
    }
    return n;
}

static void it_is_utf8procs_form(void **state)
{
    daemon_nfc s;
    daemon_bytes out;
    uint64_t seed = 9;
    char text[400];
    size_t changed = 0;

    (void)state;
    daemon_nfc_init(&s, fixture_heap());
    daemon_bytes_init(&out, fixture_heap());
    for (int round = 0; round < 20000; round++) {
        size_t n = random_marks(&seed, text, test_rand(&seed) % 300 + 8);
        utf8proc_uint8_t *want = NULL;
        utf8proc_ssize_t bytes = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &want, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        assert_true(bytes >= 0);
        put(&s, text, n, &out);
        if (out.n != (size_t)bytes || memcmp(out.p, want, out.n)) fail_msg("round %d: %.*s", round, (int)n, text);
        changed += out.n != n || memcmp(out.p, text, n);
        if (daemon_nfc_is_plain(text, n)) assert_memory_equal(out.p, text, n);
        free(want);
    }
    assert_true(changed > 10000);
    daemon_bytes_deinit(&out);
    daemon_nfc_deinit(&s);
}

/* 8 MB of marks in falling classes: sorted by insertion this would be 10^12 moves. */
static void marks_without_end_end(void **state)
{
    enum { PAIRS = 2 << 20 };
    char *text = px_new(fixture_heap(), char, 4 * PAIRS + 1);
    daemon_nfc s;
    daemon_bytes out;
    px_heap h;

    (void)state;
    px_heap_init(&h, "test");
    daemon_nfc_init(&s, &h.a);
    daemon_bytes_init(&out, &h.a);
    text[0] = 'q';
    for (size_t i = 0; i < PAIRS; i++) memcpy(text + 1 + 4 * i, "\xcc\x81\xcc\xa3", 4);        /* U+0301 (230), U+0323 (220) */
    put(&s, text, 4 * PAIRS + 1, &out);
    assert_int_equal(out.n, 4 * PAIRS + 1);
    for (size_t i = 0; i < PAIRS; i++) assert_true(out.p[2 + 2 * i] == '\xa3' && out.p[2 + 2 * PAIRS + 2 * i] == '\x81');
    assert_true(h.count.peak < (size_t)50 * 4 * PAIRS);
    daemon_bytes_deinit(&out);
    daemon_nfc_deinit(&s);
    px_heap_deinit(&h);
    px_del(fixture_heap(), text, 4 * PAIRS + 1);
}

static px_code compose_and_drop(px_alloc *a, px_err *e)
{
    daemon_nfc s;
    daemon_bytes out;
    char text[900];

    daemon_nfc_init(&s, a);
    daemon_bytes_init(&out, a);
    for (size_t i = 0; i < sizeof text; i += 3) memcpy(text + i, i % 2 ? "a\xcc\x81" : "b c", 3);
    px_code rc = daemon_nfc_put(&s, text, sizeof text, &out, e);
    daemon_bytes_deinit(&out);
    daemon_nfc_deinit(&s);
    return rc;
}

static void composing_survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(compose_and_drop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_utf8procs_form),
        cmocka_unit_test(marks_without_end_end),
        cmocka_unit_test(composing_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
