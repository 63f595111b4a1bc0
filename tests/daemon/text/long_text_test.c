/* Megabytes of one thing: it ends (the test's time limit says so), in bounded memory, with and without the regex compiler. */
#include "tests/daemon/text/fixture.h"

#include <string.h>

#ifdef __SANITIZE_ADDRESS__
enum { BYTES = 1 << 20, MAX_PER_BYTE = 100 };
#else
enum { BYTES = 4 << 20, MAX_PER_BYTE = 100 };
#endif

/* The first N_RUNS are the ones that a matcher may go back over. */
static const char *const unit[] = { "a", " ", "\n", " \n", "7", "ab", "'", "<|im_start", "\xe6\x97\xa5", "\xcc\x81", " 1",
                                    "<|im_end|>" };
enum { N_RUNS = 5, N_UNITS = sizeof unit / sizeof *unit };

/* Every byte comes back, in its order.  first: a SentencePiece tokenizer puts a space in front. */
static void encode_long(const daemon_tokenizer *t, const char *text, size_t n, bool first)
{
    px_heap h;
    px_err e = {0};
    daemon_ids ids;
    daemon_encode_args args = { .parse_special = true };
    size_t at = 0, bytes;

    px_heap_init(&h, "test");
    daemon_ids_init(&ids, &h.a);
    if (daemon_tokenizer_encode(t, text, n, &args, &ids, &e)) fail_msg("%.12s: %s", text, e.text);
    assert_true(h.count.peak < (size_t)MAX_PER_BYTE * BYTES);
    for (size_t i = 0; i < ids.n; i++) {
        const char *p = daemon_tokenizer_bytes(t, ids.id[i], &bytes);
        if (i == 0 && first) {
            assert_int_equal(*p, ' ');
            p++, bytes--;
        }
        assert_true(at + bytes <= n && !memcmp(p, text + at, bytes));
        at += bytes;
    }
    assert_int_equal(at, n);
    daemon_ids_deinit(&ids);
    px_heap_deinit(&h);
}

static void encode_units(const daemon_tokenizer *t, size_t n_units, bool first)
{
    char *text = px_new(fixture_heap(), char, BYTES);

    assert_non_null(text);
    for (size_t k = 0; k < n_units; k++) {
        size_t each = strlen(unit[k]), n = BYTES / each * each;
        for (size_t i = 0; i < n; i++) text[i] = unit[k][i % each];
        encode_long(t, text, n, first);
    }
    px_del(fixture_heap(), text, BYTES);
}

static void long_texts_end_for_smollm(void **state)
{
    daemon_tokenizer *t = fixture_open(test_golden(SMOLLM));
    (void)state;
    encode_units(t, N_UNITS, false);
    daemon_tokenizer_close(t);
}

static void long_texts_end_for_llama3(void **state)
{
    daemon_tokenizer *t = fixture_open(test_golden(LLAMA3));
    (void)state;
    encode_units(t, N_RUNS, false);
    daemon_tokenizer_close(t);
}

/* One piece of all: SentencePiece knows no words. */
static void long_texts_end_for_llama2(void **state)
{
    daemon_tokenizer *t = fixture_open(test_golden(LLAMA2));
    (void)state;
    encode_units(t, N_UNITS, true);
    daemon_tokenizer_close(t);
}

/* Composed before it is split; these units are what they are in NFC, so that every byte comes back. */
static void long_texts_end_for_qwen2(void **state)
{
    daemon_tokenizer *t = fixture_open(test_golden(QWEN2));
    (void)state;
    encode_units(t, N_UNITS, false);
    daemon_tokenizer_close(t);
}

/* Where no executable memory is to be had the interpreter matches: same bounds. */
static void long_texts_end_without_jit(void **state)
{
    static const char *const name[] = { SMOLLM, LLAMA3 };
    char pattern[2000];

    (void)state;
    for (int k = 0; k < 2; k++) {
        px_err e = {0};
        size_t n;
        char *json = fixture_json(test_golden(name[k]), &n);
        json_t *doc = json_loadb(json, n, 0, NULL), *stages = json_object_get(json_object_get(doc, "pre"), "stages");
        for (size_t i = 0; i < json_array_size(stages); i++) {
            snprintf(pattern, sizeof pattern, "(*NO_JIT)%s", json_string_value(json_array_get(stages, i)));
            json_array_set_new(stages, i, json_string(pattern));
        }
        char *text = json_dumps(doc, 0);
        daemon_tokenizer *t;
        assert_int_equal(daemon_tokenizer_open(&t, fixture_heap(), text, strlen(text), &e), PX_OK);
        encode_units(t, N_RUNS, false);
        daemon_tokenizer_close(t);
        free(text);
        json_decref(doc);
        px_del(fixture_heap(), json, n + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_texts_end_for_smollm),
        cmocka_unit_test(long_texts_end_for_llama3),
        cmocka_unit_test(long_texts_end_for_llama2),
        cmocka_unit_test(long_texts_end_for_qwen2),
        cmocka_unit_test(long_texts_end_without_jit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
