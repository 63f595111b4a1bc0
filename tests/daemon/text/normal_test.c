/* The normal form as hostile input: each refusal with its code and key, and documents with random damage. */
#include "tests/daemon/text/fixture.h"

#include <string.h>

static px_code open_text(const char *json, size_t n, px_alloc *a, px_err *e)
{
    daemon_tokenizer *t;
    px_code rc = daemon_tokenizer_open(&t, a, json, n, e);
    if (rc) assert_true(t == NULL && e->code == rc);
    daemon_tokenizer_close(t);
    return rc;
}

/* The golden document with one member replaced by `value` (JSON; NULL: removed). */
static char *edited(const char *json, size_t n, const char *key, const char *value)
{
    json_t *doc = json_loadb(json, n, 0, NULL);
    assert_non_null(doc);
    if (value) {
        json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(v);
        json_object_set_new(doc, key, v);
    } else {
        assert_int_equal(json_object_del(doc, key), 0);
    }
    char *out = json_dumps(doc, 0);
    json_decref(doc);
    assert_non_null(out);
    return out;
}

static void every_mistake_has_its_key(void **state)
{
    static const struct { const char *key, *value; px_code code; const char *field; } bad[] = {
        { "format", NULL, PX_ECORRUPT, "format" },
        { "format", "\"1\"", PX_ECORRUPT, "format" },
        { "format", "3", PX_EUNSUP, "format" },
        { "format", "0", PX_EUNSUP, "format" },
        { "kind", "\"spm\"", PX_EUNSUP, "kind" },
        { "kind", "7", PX_ECORRUPT, "kind" },
        { "extra", "1", PX_ECORRUPT, "tokenizer" },
        { "pre", "[]", PX_ECORRUPT, "pre" },
        { "pre", "{\"name\":\"x\"}", PX_ECORRUPT, "stages" },
        { "pre", "{\"name\":\"x\",\"stages\":[1]}", PX_ECORRUPT, "pre.stages" },
        { "pre", "{\"name\":\"x\",\"stages\":[],\"more\":1}", PX_ECORRUPT, "tokenizer" },
        { "pre", "{\"name\":\"x\",\"stages\":[\"a\",\"(b\"]}", PX_ECORRUPT, "pre.stages[1]" },
        { "pre", "{\"name\":\"x\",\"stages\":[\"\\\\C\"]}", PX_ECORRUPT, "pre.stages[0]" },
        { "pre", "{\"name\":\"x\",\"stages\":[\"(?=a\\\\K)\"]}", PX_ECORRUPT, "pre.stages[0]" },
        { "pre", "{\"name\":\"x\",\"stages\":[\"\"]}", PX_ERANGE, "pre.stages[0]" },
        { "pre", "{\"name\":\"x\",\"stages\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]}", PX_ERANGE, "pre.stages[8]" },
        { "ignore_merges", "0", PX_ECORRUPT, "ignore_merges" },
        { "add_bos", NULL, PX_ECORRUPT, "add_bos" },
        { "bos", "-1", PX_ERANGE, "bos" },
        { "eos", "1000", PX_ERANGE, "eos" },
        { "unk", "18446744073", PX_ERANGE, "unk" },
        { "pad", "1.5", PX_ECORRUPT, "pad" },
        { "pad", NULL, PX_ECORRUPT, "pad" },
        { "eog", "[0,1000]", PX_ERANGE, "eog[1]" },
        { "eog", "{}", PX_ECORRUPT, "eog" },
        { "late", "[]", PX_ECORRUPT, "late" },                      /* this one puts no space in front */
        { "late", "1", PX_ECORRUPT, "late" },
        { "types", "\"333\"", PX_ECORRUPT, "types" },
        { "tokens", "[]", PX_ECORRUPT, "types" },
        { "tokens", "\"a\"", PX_ECORRUPT, "tokens" },
        { "merges", "[\"q\"]", PX_ECORRUPT, "merges[0]" },
        { "merges", "[\"i n\",\"q \"]", PX_ECORRUPT, "merges[1]" },
        { "merges", "[\" q\"]", PX_ECORRUPT, "merges[0]" },
        { "merges", "[\"a b c\"]", PX_ECORRUPT, "merges[0]" },
        { "merges", "[\"z zzq\"]", PX_ECORRUPT, "merges[0]" },
        { "merges", "[\"\\u4e16 a\"]", PX_ECORRUPT, "merges[0]" },        /* not of the byte alphabet */
        { "merges", "[5]", PX_ECORRUPT, "merges[0]" },
        { "merges", "[\"<| im_end|>\"]", PX_ECORRUPT, "merges[0]" },
    };
    size_t n;
    char *json = fixture_json(test_golden(SMOLLM), &n);

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        px_err e = {0};
        char *doc = edited(json, n, bad[i].key, bad[i].value);
        px_code rc = open_text(doc, strlen(doc), fixture_heap(), &e);
        if (rc != bad[i].code || strcmp(e.field, bad[i].field))
            fail_msg("%s = %s: %s in %s: %s", bad[i].key, bad[i].value ? bad[i].value : "none", px_code_name(rc), e.field, e.text);
        free(doc);
    }
    px_del(fixture_heap(), json, n + 1);
}

/* A small vocabulary whose every part the test decides: tokens a b c, and what it is given. */
static px_code open_small(const char *tokens, const char *types, const char *merges, daemon_tokenizer **t, px_err *e)
{
    char doc[2048];
    int n = snprintf(doc, sizeof doc,
                     "{\"format\":1,\"kind\":\"bpe-bytelevel\",\"pre\":{\"name\":\"test\",\"stages\":[\"\\\\w+\"]},"
                     "\"ignore_merges\":false,\"add_bos\":false,\"bos\":null,\"eos\":null,\"unk\":null,\"pad\":null,\"eog\":[],"
                     "\"types\":\"%s\",\"tokens\":[%s],\"merges\":[%s]}", types, tokens, merges);
    assert_true(n > 0 && (size_t)n < sizeof doc);
    return daemon_tokenizer_open(t, fixture_heap(), doc, (size_t)n, e);
}

static void expect_ids(const daemon_tokenizer *t, const char *text, bool special, const char *want)
{
    px_err e = {0};
    daemon_ids ids;
    daemon_encode_args args = { .parse_special = special };
    char got[256] = "";
    size_t at = 0;

    daemon_ids_init(&ids, fixture_heap());
    assert_int_equal(daemon_tokenizer_encode(t, text, strlen(text), &args, &ids, &e), PX_OK);
    for (size_t i = 0; i < ids.n; i++) at += (size_t)snprintf(got + at, sizeof got - at, "%s%u", i ? " " : "", ids.id[i]);
    assert_string_equal(got, want);
    daemon_ids_deinit(&ids);
}

static void a_merge_cannot_make_a_control_token(void **state)
{
    px_err e = {0};
    daemon_tokenizer *t;

    (void)state;
    assert_int_equal(open_small("\"a\",\"b\",\"ab\"", "113", "\"a b\"", &t, &e), PX_ECORRUPT);
    assert_string_equal(e.field, "merges[0]");
}

static void added_tokens_are_found_longest_first(void **state)
{
    px_err e = {0};
    daemon_tokenizer *t;

    (void)state;
    /*                      0      1      2      3        4         5        6 (normal, same text as 4) */
    assert_int_equal(open_small("\"a\",\"b\",\"c\",\"<x>\",\"<x>y\",\"<u>\",\"<\",\">\",\"x\",\"y\",\"u\"", "11133411111", "", &t, &e),
                     PX_OK);
    expect_ids(t, "a<x>b", true, "0 3 1");
    expect_ids(t, "<x>y<x>", true, "4 3");
    expect_ids(t, "<x>y", false, "6 8 7 9");
    expect_ids(t, "<u><x", false, "5 6 8");           /* user-defined: always */
    expect_ids(t, "<x<x>", true, "6 8 3");
    expect_ids(t, "dada", true, "0 0");                /* a byte without a token is left out */
    daemon_tokenizer_close(t);

    char tokens[400] = "\"a\",\"", *end = tokens + strlen(tokens);
    memset(end, 'x', 257);
    strcpy(end + 257, "\"");
    assert_int_equal(open_small(tokens, "13", "", &t, &e), PX_ERANGE);
    assert_string_equal(e.field, "tokens[1]");
}

static void bytes_without_a_token_leave_neighbours_that_merge(void **state)
{
    px_err e = {0};
    daemon_tokenizer *t;

    (void)state;
    assert_int_equal(open_small("\"a\",\"b\",\"ab\"", "111", "\"a b\"", &t, &e), PX_OK);
    expect_ids(t, "axb", false, "2");
    daemon_tokenizer_close(t);
}

static void duplicates_keep_the_first(void **state)
{
    px_err e = {0};
    daemon_tokenizer *t;

    (void)state;
    assert_int_equal(open_small("\"a\",\"b\",\"c\",\"ab\",\"bc\",\"ab\",\"<s>\",\"<s>\"", "11111133",
                                "\"b c\",\"a b\",\"b c\"", &t, &e), PX_OK);
    expect_ids(t, "abc", false, "0 4");
    expect_ids(t, "ab<s>", true, "3 6");
    assert_int_equal(daemon_tokenizer_find(t, "ab", 2), 3);
    assert_int_equal(daemon_tokenizer_find(t, "<s>", 3), 6);
    daemon_tokenizer_close(t);
}

/* A pattern that would take for ever gives up with an error, compiled or interpreted. */
static void bad_patterns_end(void **state)
{
    static const char *const stages[] = { "[\"(?:a|aa|aaa)+(?:a|b)*$(?<=b)\"]", "[\"(*NO_JIT)(?:a|aa|aaa)+(?:a|b)*$(?<=b)\"]" };
    size_t n;
    char *json = fixture_json(test_golden(SMOLLM), &n), pre[300], text[3000];

    (void)state;
    memset(text, 'a', sizeof text);
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        px_err e = {0};
        daemon_tokenizer *t;
        daemon_ids ids;
        daemon_encode_args args = {0};
        snprintf(pre, sizeof pre, "{\"name\":\"x\",\"stages\":%s}", stages[i]);
        char *doc = edited(json, n, "pre", pre);
        daemon_ids_init(&ids, fixture_heap());
        assert_int_equal(daemon_tokenizer_open(&t, fixture_heap(), doc, strlen(doc), &e), PX_OK);
        assert_int_equal(daemon_tokenizer_encode(t, text, sizeof text, &args, &ids, &e), PX_ERANGE);
        assert_string_equal(e.field, "text");
        daemon_ids_deinit(&ids);
        daemon_tokenizer_close(t);
        free(doc);
    }
    px_del(fixture_heap(), json, n + 1);
}

static void damaged_documents_never_crash(void **state)
{
    size_t n, opened = 0;
    char *json = fixture_json(test_golden(SMOLLM), &n), *copy = px_new(fixture_heap(), char, n);
    uint64_t seed = 11;

    (void)state;
    for (int round = 0; round < 1500; round++) {
        px_debug d;
        px_err e = {0};
        size_t len = n;
        memcpy(copy, json, n);
        for (int k = 0; k < 1 + round % 3; k++) {
            uint64_t r = test_rand(&seed);
            size_t at = round % 4 == 0 ? (size_t)(r >> 8) % 600 : (size_t)(r >> 8) % n;    /* often in the head */
            switch (r % 4) {
            case 0: copy[at] = (char)(r >> 40); break;
            case 1: copy[at] = "0123456789\"[]{},:- \\"[(r >> 40) % 19]; break;
            case 2: copy[at] ^= (char)(1 << (r >> 40) % 8); break;
            default: len = at; break;
            }
        }
        px_debug_init(&d, "test", -1);
        px_code rc = open_text(copy, len, &d.a, &e);
        assert_true(rc == PX_OK || e.field[0]);
        opened += rc == PX_OK;
        assert_int_equal(px_debug_deinit(&d), 0);
    }
    assert_true(opened < 1500);
    px_del(fixture_heap(), copy, n);
    px_del(fixture_heap(), json, n + 1);
}

static char *sweep_json;
static size_t sweep_bytes;

static px_code open_and_drop(px_alloc *a, px_err *e)
{
    return open_text(sweep_json, sweep_bytes, a, e);
}

static void opening_survives_every_oom(void **state)
{
    (void)state;
    sweep_json = fixture_json(test_golden(LLAMA3), &sweep_bytes);
    test_oom_sweep(open_and_drop);
    px_del(fixture_heap(), sweep_json, sweep_bytes + 1);
}

/* An error after the last allocation: everything is taken back. */
static void a_late_error_frees_all(void **state)
{
    size_t n;
    char *json = fixture_json(test_golden(SMOLLM), &n), *doc = edited(json, n, "eog", "[0,-3]");
    px_debug d;
    px_err e = {0};

    (void)state;
    px_debug_init(&d, "test", -1);
    assert_int_equal(open_text(doc, strlen(doc), &d.a, &e), PX_ERANGE);
    assert_string_equal(e.field, "eog[1]");
    assert_string_equal(e.found, "-3");
    assert_int_equal(px_debug_deinit(&d), 0);
    free(doc);
    px_del(fixture_heap(), json, n + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mistake_has_its_key),
        cmocka_unit_test(a_merge_cannot_make_a_control_token),
        cmocka_unit_test(added_tokens_are_found_longest_first),
        cmocka_unit_test(bytes_without_a_token_leave_neighbours_that_merge),
        cmocka_unit_test(duplicates_keep_the_first),
        cmocka_unit_test(bad_patterns_end),
        cmocka_unit_test(damaged_documents_never_crash),
        cmocka_unit_test(opening_survives_every_oom),
        cmocka_unit_test(a_late_error_frees_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
