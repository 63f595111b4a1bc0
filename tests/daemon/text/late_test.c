/* Added tokens that are "normalized": in files whose normalizer makes the spaces they are looked for among these.
 * The ids are those of the tokenizers library. */
#include "tests/daemon/text/fixture.h"

#include <stdlib.h>
#include <string.h>

/* The golden tokenizer, its added tokens normalized, with two more that are not special. */
static char *made(const char *file, size_t *bytes)
{
    char *data, *json;
    size_t n;
    px_err e = {0};
    json_t *doc, *added, *o;

    assert_int_equal(px_read_file(fixture_heap(), test_golden(file), 64 << 20, &data, &n, &e), PX_OK);
    assert_non_null(doc = json_loadb(data, n, 0, NULL));
    px_del(fixture_heap(), data, n + 1);
    added = json_object_get(doc, "added_tokens");
    json_array_foreach(added, n, o) json_object_set_new(o, "normalized", json_true());
    json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b}", "id", 1000, "content", "<tool>", "special", 0, "normalized", 1));
    json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b}", "id", 1001, "content", "<tool>x", "special", 0, "normalized", 0));
    char *text = json_dumps(doc, 0);
    json_decref(doc);
    if (daemon_tokenizer_from_json(fixture_heap(), text, strlen(text), NULL, &json, bytes, &e)) fail_msg("%s: %s", e.field, e.text);
    free(text);
    return json;
}

static void expect(const daemon_tokenizer *t, const char *text, bool special, const char *want)
{
    daemon_encode_args args = { .parse_special = special };
    daemon_ids ids;
    px_err e = {0};
    char got[128] = "";

    daemon_ids_init(&ids, fixture_heap());
    assert_int_equal(daemon_tokenizer_encode(t, text, strlen(text), &args, &ids, &e), PX_OK);
    for (size_t i = 0; i < ids.n; i++) snprintf(got + strlen(got), sizeof got - strlen(got), "%s%u", i ? " " : "", ids.id[i]);
    assert_string_equal(got, want);
    daemon_ids_deinit(&ids);
}

static void they_are_found_behind_a_space(void **state)
{
    static const struct { const char *text; bool special; const char *ids; } want[] = {
        { "hi<s>x", true, "653 556 726 656 710 685" },
        { "hi<s>x", false, "653 556 726 656 710 685" },
        { "hi <s> x", true, "653 556 1 653 685" },
        { "hi <s> x", false, "653 556 653 726 656 710 653 685" },
        { "<s>x", true, "1 685" },
        { "<s>x", false, "653 726 656 710 685" },
        { "  <s>", true, "259 1" },
        { "<s><s>", true, "1 726 656 710" },
        { "\xe2\x96\x81<s>", true, "653 1" },
        { "hi <tool> x", false, "653 556 1000 653 685" },
        { "hi<tool>", false, "653 556 726 655 661 444 710" },
        { "<tool><tool>x <tool> y", true, "1000 1001 653 1000 653 679" },
        { "<tool><tool>x <tool> y", false, "1000 1001 653 1000 653 679" },
    };
    size_t n;
    char *json = made("tiny/tokenizers/llama2/tokenizer.json", &n);
    daemon_tokenizer *t;
    px_err e = {0};

    (void)state;
    assert_int_equal(daemon_tokenizer_open(&t, fixture_heap(), json, n, &e), PX_OK);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) expect(t, want[i].text, want[i].special, want[i].ids);
    daemon_tokenizer_close(t);
    px_del(fixture_heap(), json, n + 1);
}

/* Without a normalizer the word changes nothing. */
static void only_the_normalizers_spaces_count(void **state)
{
    size_t n;
    char *json = made("tiny/tokenizers/llama2/tokenizer.v5.json", &n);
    daemon_tokenizer *t;
    px_err e = {0};

    (void)state;
    assert_int_equal(daemon_tokenizer_open(&t, fixture_heap(), json, n, &e), PX_OK);
    expect(t, "hi<s>x", true, "653 556 1 653 685");
    expect(t, "hi<tool>", true, "653 556 1000");
    daemon_tokenizer_close(t);
    px_del(fixture_heap(), json, n + 1);
}

static void every_mistake_has_its_key(void **state)
{
    static const struct { const char *key, *value; px_code code; const char *field; } bad[] = {
        { "late", "7", PX_ECORRUPT, "late" },
        { "late", "[1, 1002]", PX_ERANGE, "late[1]" },
        { "late", "[1, \"2\"]", PX_ECORRUPT, "late[1]" },
        { "late", "[700]", PX_ECORRUPT, "late[0]" },
        { "space_prefix", "\"first\"", PX_ECORRUPT, "late" },
    };
    size_t n;
    char *json = made("tiny/tokenizers/llama2/tokenizer.json", &n);

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *doc = json_loadb(json, n, 0, NULL);
        daemon_tokenizer *t;
        px_err e = {0};
        json_object_set_new(doc, bad[i].key, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        char *text = json_dumps(doc, 0);
        assert_int_equal(daemon_tokenizer_open(&t, fixture_heap(), text, strlen(text), &e), bad[i].code);
        assert_string_equal(e.field, bad[i].field);
        free(text);
        json_decref(doc);
    }
    px_del(fixture_heap(), json, n + 1);
}

static char *sweep_json;
static size_t sweep_bytes;

static px_code open_and_drop(px_alloc *a, px_err *e)
{
    daemon_tokenizer *t;
    px_code rc = daemon_tokenizer_open(&t, a, sweep_json, sweep_bytes, e);

    daemon_tokenizer_close(t);
    return rc;
}

static void opening_survives_every_oom(void **state)
{
    (void)state;
    sweep_json = made("tiny/tokenizers/llama2/tokenizer.json", &sweep_bytes);
    test_oom_sweep(open_and_drop);
    px_del(fixture_heap(), sweep_json, sweep_bytes + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_are_found_behind_a_space),
        cmocka_unit_test(only_the_normalizers_spaces_count),
        cmocka_unit_test(every_mistake_has_its_key),
        cmocka_unit_test(opening_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
