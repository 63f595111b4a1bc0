/* utf8_test.c - our decoder against the library that normalises the vocabulary's text: they agree on every window. */
#include "tests/testlib.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "proto/base/utf8.h"

static void same(const unsigned char *s, size_t n)
{
    utf8proc_int32_t want = 0;
    uint32_t got = 0;
    const utf8proc_ssize_t bytes = n ? utf8proc_iterate(s, (utf8proc_ssize_t)n, &want) : 0;
    const size_t used = px_utf8_next((const char *)s, n, &got);

    if ((bytes > 0 ? (size_t)bytes : 0) != used || (used && got != (uint32_t)want))
        fail_msg("%02x %02x %02x %02x of %zu: %zu bytes, U+%04X; the library: %d, U+%04X", s[0], s[1], s[2], s[3], n, used,
                 (unsigned)got, (int)bytes, (unsigned)want);
}

/* All first three bytes, and the fourth where something can change. */
static void every_window_is_read_as_the_library_reads_it(void **state)
{
    static const unsigned char fourth[] = { 0, 0x7F, 0x80, 0xBF, 0xC0, 0xFF };

    (void)state;
    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0; b < 256; b++)
            for (unsigned c = a < 0xE0 ? 0x7F : 0; c < (a < 0xE0 ? 0x82u : 256u); c++)
                for (size_t d = 0; d < sizeof fourth; d++) {
                    const unsigned char s[4] = { (unsigned char)a, (unsigned char)b, (unsigned char)c, fourth[d] };

                    for (size_t n = d ? 4 : 0; n <= 4; n++) same(s, n);
                }
}

static void what_is_cut_reads_nothing_behind(void **state)
{
    uint32_t c;

    (void)state;
    char *two = malloc(2);                             /* ASan sees a third byte being read */
    assert_non_null(two);
    two[0] = (char)0xE2, two[1] = (char)0x82;
    assert_int_equal(px_utf8_next(two, 2, &c), 0);
    assert_int_equal(px_utf8_next(two, 0, &c), 0);
    free(two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_window_is_read_as_the_library_reads_it),
        cmocka_unit_test(what_is_cut_reads_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
