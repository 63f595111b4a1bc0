/* Every golden tokenizer from every file that it comes in: the ids and the text of all cases, and the pieces of all streams. */
#include "tests/daemon/text/fixture.h"

#include <string.h>

static const struct source { const char *folder, *file; } source[] = {
    { "smollm", "vocab.gguf" }, { "smollm", "tokenizer.json" },
    { "llama3", "vocab.gguf" }, { "llama3", "tokenizer.json" },
    { "qwen2", "vocab.gguf" },  { "qwen2", "tokenizer.json" },
    { "llama2", "model.gguf" }, { "llama2", "tokenizer.json" }, { "llama2", "tokenizer.v5.json" }, { "llama2", "tokenizer.model" },
};

enum { N_SOURCES = sizeof source / sizeof *source };

struct golden { const struct source *s; const daemon_tokenizer *t; };

static const char *path_of(const struct source *s, const char *file)
{
    char name[128];
    snprintf(name, sizeof name, "tiny/tokenizers/%s/%s", s->folder, file);
    return test_golden(name);
}

static void decode(const struct golden *g, const daemon_ids *ids, daemon_bytes *out)
{
    px_err e = {0};
    daemon_detok d;
    bool hit;
    size_t which;

    assert_int_equal(daemon_detok_init(&d, fixture_heap(), g->t, false, NULL, NULL, 0, false, &e), PX_OK);
    for (size_t i = 0; i < ids->n; i++) assert_int_equal(daemon_detok_push(&d, ids->id[i], out, &hit, &which, &e), PX_OK);
    assert_int_equal(daemon_detok_finish(&d, out, &e), PX_OK);
    daemon_detok_deinit(&d);
}

static void expect_text(const daemon_bytes *got, const json_t *want)
{
    if (got->n != json_string_length(want) || (got->n && memcmp(got->p, json_string_value(want), got->n)))
        fail_msg("\"%.*s\" is not \"%s\"", (int)got->n, got->n ? got->p : "", json_string_value(want));
}

static void one_case(void *ctx, const json_t *line)
{
    const struct golden *g = ctx;
    const json_t *text = json_object_get(line, "text");
    daemon_encode_args args = { .parse_special = json_is_true(json_object_get(line, "parse_special")),
                                .add_special = json_is_true(json_object_get(line, "add_special")) };
    px_err e = {0};
    daemon_ids ids;
    daemon_bytes back;

    daemon_ids_init(&ids, fixture_heap());
    daemon_bytes_init(&back, fixture_heap());
    assert_int_equal(daemon_tokenizer_encode(g->t, json_string_value(text), json_string_length(text), &args, &ids, &e), PX_OK);
    fixture_assert_ids(&ids, json_object_get(line, "ids"), json_string_value(text));
    decode(g, &ids, &back);
    expect_text(&back, json_object_get(line, "decoded"));
    daemon_bytes_deinit(&back);
    daemon_ids_deinit(&ids);
}

static void one_stream(void *ctx, const json_t *line)
{
    const struct golden *g = ctx;
    const json_t *ids = json_object_get(line, "ids"), *pieces = json_object_get(line, "pieces");
    px_err e = {0};
    daemon_detok d;
    daemon_bytes out;
    bool hit;
    size_t which;

    daemon_bytes_init(&out, fixture_heap());
    assert_int_equal(daemon_detok_init(&d, fixture_heap(), g->t, false, NULL, NULL, 0, false, &e), PX_OK);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        out.n = 0;
        assert_int_equal(daemon_detok_push(&d, (uint32_t)json_integer_value(json_array_get(ids, i)), &out, &hit, &which, &e), PX_OK);
        expect_text(&out, json_array_get(pieces, i));
    }
    out.n = 0;
    assert_int_equal(daemon_detok_finish(&d, &out, &e), PX_OK);
    expect_text(&out, json_object_get(line, "rest"));
    daemon_detok_deinit(&d);
    daemon_bytes_deinit(&out);
}

static void all_cases_and_streams(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SOURCES; i++) {
        print_message("%s/%s\n", source[i].folder, source[i].file);
        daemon_tokenizer *t = fixture_open(path_of(&source[i], source[i].file));
        struct golden g = { &source[i], t };
        assert_true(fixture_each_line(path_of(&source[i], "cases.jsonl"), one_case, &g) >= 760);
        assert_int_equal(fixture_each_line(path_of(&source[i], "stream.jsonl"), one_stream, &g), 40);
        daemon_tokenizer_close(t);
    }
}

/* One model, one normal form: the same bytes from all its files, whose order of members and way of writing differ. */
static void sources_agree(void **state)
{
    size_t n, m;

    (void)state;
    for (size_t i = 1; i < N_SOURCES; i++) {
        if (strcmp(source[i].folder, source[i - 1].folder)) continue;
        char *one = fixture_json(path_of(&source[i - 1], source[i - 1].file), &n),
             *two = fixture_json(path_of(&source[i], source[i].file), &m);
        json_t *x = json_loadb(one, n, 0, NULL), *y = json_loadb(two, m, 0, NULL);
        /* A GGUF names ids that a tokenizer.json leaves to other files of its folder. */
        static const char *const elsewhere[] = { "bos", "eos", "eog", "unk", "pad", "add_bos" };
        for (size_t k = 0; k < sizeof elsewhere / sizeof *elsewhere && strcmp(source[i].folder, "llama2"); k++) {
            json_object_del(x, elsewhere[k]);
            json_object_del(y, elsewhere[k]);
        }
        const char *key;
        json_t *value;
        json_object_foreach(x, key, value)
            if (!json_equal(value, json_object_get(y, key)))
                fail_msg("%s: %s differs between %s and %s", source[i].folder, key, source[i - 1].file, source[i].file);
        assert_int_equal(json_object_size(x), json_object_size(y));
        json_decref(x);
        json_decref(y);
        px_del(fixture_heap(), one, n + 1);
        px_del(fixture_heap(), two, m + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_cases_and_streams),
        cmocka_unit_test(sources_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
