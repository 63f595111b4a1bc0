/* What white space is in a stage's expression, where the library's complaints about it are, and how the known names split. */
#include "tests/daemon/text/fixture.h"

#include <string.h>

#include "daemon/text/pre.h"
#include "daemon/text/split.h"

typedef struct cuts { char s[160]; } cuts;

static px_code put(void *ctx, const char *p, size_t n, px_err *e)
{
    cuts *c = ctx;
    (void)e;
    snprintf(c->s + strlen(c->s), sizeof c->s - strlen(c->s), "%s%.*s", c->s[0] ? "|" : "", (int)n, p);
    return PX_OK;
}

static void white_space_is_unicodes(void **state)
{
#define MVS "\xe1\xa0\x8e"                    /* U+180E: none since Unicode 6.3 */
#define WIDE "\xe3\x80\x80"                   /* U+3000 */
    static const struct { const char *pattern, *text, *cuts; } want[] = {
        { "\\s+", "a" MVS "b c" WIDE "d", "a" MVS "b| |c|" WIDE "|d" },
        { "[\\s]+", "a" MVS "b c" WIDE "d", "a" MVS "b| |c|" WIDE "|d" },
        { "[^\\s]+", "a" MVS "b c", "a" MVS "b| |c" },
        { "[]\\s]", "a]" MVS " b", "a|]|" MVS "| |b" },
        { "[^]\\s]+", "a]" MVS " b", "a|]|" MVS "| |b" },
        { "\\S+", "a" MVS "b c" WIDE "d", "a" MVS "b| |c|" WIDE "|d" },
        { "x\\s(?!\\S)", "x  x y", "x | x y" },
        { "\\\\s+", "a \\ss b", "a |\\ss| b" },
        { "[\\\\s]+", "a\\s b", "a|\\s| b" },
        { "\\Q\\s\\E", "a\\s b", "a|\\s| b" },
        { "[[:digit:]\\s]+", "a1 2b" MVS, "a|1 2|b" MVS },
        { "[\\[\\s]+\\s", "a[ [ b", "a|[ [ |b" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        daemon_split s;
        daemon_walk w;
        cuts c = {0};
        px_err e = {0};
        assert_int_equal(daemon_split_init(&s, fixture_heap()), PX_OK);
        if (daemon_split_add(&s, want[i].pattern, strlen(want[i].pattern), &e)) fail_msg("%s: %s", want[i].pattern, e.text);
        assert_int_equal(daemon_walk_init(&w, &s, fixture_heap(), strlen(want[i].text), put, &c, &e), PX_OK);
        assert_int_equal(daemon_walk_run(&w, want[i].text, strlen(want[i].text), &e), PX_OK);
        if (strcmp(c.s, want[i].cuts)) fail_msg("%s: %s, expected %s", want[i].pattern, c.s, want[i].cuts);
        daemon_walk_deinit(&w);
        daemon_split_deinit(&s);
    }
}

/* As the tokenizers library splits it with the steps of each family's tokenizer.json. */
static void known_names_split_as_their_makers_do(void **state)
{
#define TEXT "HelloWORLDs \xc3\x80\xc3\x89x  I'LL a/\n\n(12345) \xe6\x97\xa5\xe6\x9c\xac" "A, \xf0\x90\x90\x80" "b"
#define PLAIN " \xc3\x80\xc3\x89x| | I|'"
#define ONES "(|1|2|3|4|5|)| \xe6\x97\xa5\xe6\x9c\xac"
#define END "|,| \xf0\x90\x90\x80"
    static const struct { const char *name; bool ignore_merges, add_bos, nfc; const char *cuts; } want[] = {
        { "smollm", false, false, false, "HelloWORLDs|" PLAIN "|LL| a|/|\n|\n|" ONES "A" END "b" },
        { "gpt-2", false, false, false, "HelloWORLDs|" PLAIN "|LL| a|/|\n|\n|(|12345|)| \xe6\x97\xa5\xe6\x9c\xac" "A" END "b" },
        { "llama-bpe", true, true, false, "HelloWORLDs|" PLAIN "LL| a|/\n\n|(|123|45|)| \xe6\x97\xa5\xe6\x9c\xac" "A" END "b" },
        { "qwen2", false, false, true, "HelloWORLDs|" PLAIN "LL| a|/\n\n|" ONES "A" END "b" },
        { "tekken", true, true, false, "Hello|WORLDs|" PLAIN "LL| a|/\n\n|" ONES "|A" END "b" },
        { "deepseek-llm", false, false, false, "HelloWORLDs| \xc3\x80\xc3\x89|x| | I|'|LL| a|/|\n|\n|(|1|2|3|4|5|)| |\xe6\x97\xa5\xe6\x9c\xac|A" END "|b" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const daemon_pre *known = daemon_pre_by_name(want[i].name, strlen(want[i].name));
        daemon_split s;
        daemon_walk w;
        cuts c = {0};
        px_err e = {0};
        assert_non_null(known);
        assert_true(known->ignore_merges == want[i].ignore_merges && known->add_bos == want[i].add_bos && known->nfc == want[i].nfc);
        assert_int_equal(daemon_split_init(&s, fixture_heap()), PX_OK);
        for (size_t k = 0; known->stage[k]; k++)
            assert_int_equal(daemon_split_add(&s, known->stage[k], strlen(known->stage[k]), &e), PX_OK);
        assert_int_equal(daemon_walk_init(&w, &s, fixture_heap(), strlen(TEXT), put, &c, &e), PX_OK);
        assert_int_equal(daemon_walk_run(&w, TEXT, strlen(TEXT), &e), PX_OK);
        if (strcmp(c.s, want[i].cuts)) fail_msg("%s: %s, expected %s", want[i].name, c.s, want[i].cuts);
        daemon_walk_deinit(&w);
        daemon_split_deinit(&s);
    }
}

static void a_complaint_is_about_a_place_in_the_pattern(void **state)
{
    static const struct { const char *pattern, *place; } bad[] = {
        { "(a", " at byte 2 of" }, { "\\s+(a", " at byte 5 of" }, { "\\s\\s)a", " at byte 4 of" }, { "[\\s", " at byte 3 of" },
        { "\\s[b-a]", " at byte 5 of" }, { "\\", " at byte 1 of" }, { "\\Qa)", NULL },
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        daemon_split s;
        px_err e = {0};
        assert_int_equal(daemon_split_init(&s, fixture_heap()), PX_OK);
        assert_int_equal(daemon_split_add(&s, bad[i].pattern, strlen(bad[i].pattern), &e), bad[i].place ? PX_ECORRUPT : PX_OK);
        if (bad[i].place && !strstr(e.text, bad[i].place)) fail_msg("%s: %s", bad[i].pattern, e.text);
        daemon_split_deinit(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_is_unicodes),
        cmocka_unit_test(known_names_split_as_their_makers_do),
        cmocka_unit_test(a_complaint_is_about_a_place_in_the_pattern),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
