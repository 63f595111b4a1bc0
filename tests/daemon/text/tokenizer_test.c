#include "tests/daemon/text/fixture.h"

#include <string.h>

/* The golden cases of a tokenizer: ids, and the text that they give back. */
struct golden { const daemon_tokenizer *t; const char *special_key; };

static void decode(const daemon_tokenizer *t, const daemon_ids *ids, daemon_bytes *out)
{
    px_err e = {0};
    daemon_detok d;
    bool hit;
    size_t which;

    assert_int_equal(daemon_detok_init(&d, fixture_heap(), t, false, NULL, NULL, 0, false, &e), PX_OK);
    for (size_t i = 0; i < ids->n; i++)
        assert_int_equal(daemon_detok_push(&d, ids->id[i], out, &hit, &which, &e), PX_OK);
    assert_int_equal(daemon_detok_finish(&d, out, &e), PX_OK);
    daemon_detok_deinit(&d);
}

static void golden_line(void *ctx, const json_t *line)
{
    const struct golden *g = ctx;
    const json_t *text = json_object_get(line, "text"), *decoded = json_object_get(line, "decoded");
    daemon_encode_args args = { .parse_special = json_is_true(json_object_get(line, g->special_key)),
                                .add_special = json_is_true(json_object_get(line, "add_special")) };
    px_err e = {0};
    daemon_ids ids;
    daemon_bytes back;

    daemon_ids_init(&ids, fixture_heap());
    daemon_bytes_init(&back, fixture_heap());
    assert_int_equal(daemon_tokenizer_encode(g->t, json_string_value(text), json_string_length(text), &args, &ids, &e), PX_OK);
    fixture_assert_ids(&ids, json_object_get(line, "ids"), json_string_value(text));
    decode(g->t, &ids, &back);
    if (back.n != json_string_length(decoded) || memcmp(back.p ? back.p : "", json_string_value(decoded), back.n))
        fail_msg("other text than: %s", json_string_value(decoded));
    daemon_bytes_deinit(&back);
    daemon_ids_deinit(&ids);
}

static void golden_cases(const char *gguf, const char *cases, const char *special_key, size_t at_least)
{
    daemon_tokenizer *t = fixture_open(gguf);
    struct golden g = { t, special_key };

    assert_true(fixture_each_line(cases, golden_line, &g) >= at_least);
    daemon_tokenizer_close(t);
}

static void smollm_gives_the_golden_ids(void **state)
{
    (void)state;
    golden_cases(test_golden(SMOLLM), test_golden("tiny/tokenizers/smollm/cases.jsonl"), "parse_special", 700);
}

static void llama3_gives_the_golden_ids(void **state)
{
    (void)state;
    golden_cases(test_golden(LLAMA3), test_golden("tiny/tokenizers/llama3/cases.jsonl"), "parse_special", 700);
}

static void the_real_model_gives_the_golden_ids(void **state)
{
    const char *model = test_shared(REAL_MODEL), *cases = test_shared("golden/tokenize.jsonl");

    (void)state;
    if (!model || !cases) skip();
    golden_cases(model, cases, "special", 300);
}

/* What a vocabulary holds besides its merges. */
static void special_tokens_are_known(void **state)
{
    daemon_tokenizer *t = fixture_open(test_golden(SMOLLM)), *l = fixture_open(test_golden(LLAMA3));
    size_t n;

    (void)state;
    assert_int_equal(daemon_tokenizer_n_vocab(t), 1000);
    assert_int_equal(daemon_tokenizer_bos(t), 1);
    assert_int_equal(daemon_tokenizer_bos(l), 995);
    assert_true(daemon_tokenizer_is_eog(t, 0) && daemon_tokenizer_is_eog(t, 2) && !daemon_tokenizer_is_eog(t, 1));
    assert_true(daemon_tokenizer_is_eog(l, 996) && daemon_tokenizer_is_eog(l, 999) && !daemon_tokenizer_is_eog(l, 995));
    assert_false(daemon_tokenizer_is_eog(t, 1000));
    assert_true(daemon_tokenizer_is_special(t, 3) && !daemon_tokenizer_is_special(t, 4));
    assert_false(daemon_tokenizer_is_special(t, UINT32_MAX));
    assert_int_equal(daemon_tokenizer_find(t, "<|im_end|>", 10), 2);
    assert_int_equal(daemon_tokenizer_find(t, "<|im_end|", 9), DAEMON_NO_TOKEN);
    assert_int_equal(daemon_tokenizer_find(t, "", 0), DAEMON_NO_TOKEN);
    assert_memory_equal(daemon_tokenizer_bytes(t, 2, &n), "<|im_end|>", 10);
    assert_int_equal(n, 10);
    uint32_t space = daemon_tokenizer_find(t, " ", 1);           /* written U+0120 in the file */
    assert_int_not_equal(space, DAEMON_NO_TOKEN);
    assert_memory_equal(daemon_tokenizer_bytes(t, space, &n), " ", 1);
    assert_int_equal(n, 1);
    assert_null(daemon_tokenizer_bytes(t, 1000, &n));
    assert_int_equal(n, 0);
    daemon_tokenizer_close(l);
    daemon_tokenizer_close(t);
}

static px_code encode(const daemon_tokenizer *t, const char *text, size_t n, const daemon_encode_args *args, daemon_ids *ids,
                      px_err *e)
{
    px_err_clear(e);
    return daemon_tokenizer_encode(t, text, n, args, ids, e);
}

static void invalid_utf8_is_refused_with_its_offset(void **state)
{
    static const struct { const char *text; size_t n, offset; } bad[] = {
        { "\xff", 1, 0 }, { "abc\x80", 4, 3 }, { "a\xc3", 2, 1 }, { "\xed\xa0\x80", 3, 0 }, { "ok\xf4\x90\x80\x80", 6, 2 },
        { "\xe6\x97\xa5\xe6\x9c", 5, 3 }, { "x\xc0\xaf", 3, 1 },
    };
    daemon_tokenizer *t = fixture_open(test_golden(SMOLLM));
    daemon_encode_args args = { .parse_special = true };
    px_err e = {0};
    daemon_ids ids;
    uint32_t kept = 7;

    (void)state;
    daemon_ids_init(&ids, fixture_heap());
    assert_int_equal(daemon_ids_push(&ids, &kept, 1, &e), PX_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char want[64];
        snprintf(want, sizeof want, "offset %zu", bad[i].offset);
        assert_int_equal(encode(t, bad[i].text, bad[i].n, &args, &ids, &e), PX_EINVAL);
        assert_string_equal(e.field, "text");
        if (!strstr(e.found, want)) fail_msg("case %zu: %s", i, e.found);
        assert_int_equal(ids.n, 1);
    }
    daemon_ids_deinit(&ids);
    daemon_tokenizer_close(t);
}

static void a_bound_on_ids_is_kept(void **state)
{
    static char big[1 << 20];
    daemon_tokenizer *t = fixture_open(test_golden(LLAMA3));
    daemon_encode_args args = { .add_special = true, .parse_special = true };
    px_err e = {0};
    daemon_ids ids;

    (void)state;
    daemon_ids_init(&ids, fixture_heap());
    assert_int_equal(encode(t, "1 2<|eot_id|>", 13, &args, &ids, &e), PX_OK);
    size_t n = ids.n;
    assert_true(n >= 4);
    for (size_t bound = 1; bound < n; bound++) {           /* each place that adds an id */
        ids.n = 0;
        args.max_ids = bound;
        assert_int_equal(encode(t, "1 2<|eot_id|>", 13, &args, &ids, &e), PX_ERANGE);
        assert_string_equal(e.field, "text");
        assert_int_equal(ids.n, 0);
    }
    args.max_ids = n;
    assert_int_equal(encode(t, "1 2<|eot_id|>", 13, &args, &ids, &e), PX_OK);
    assert_int_equal(encode(t, "", 0, &args, &ids, &e), PX_ERANGE);     /* what was there counts; BOS is one more */
    assert_int_equal(ids.n, n);

    /* Early: a word of a MiB is not merged only to be refused, so no memory is asked for. */
    px_debug d;
    daemon_ids none;
    px_debug_init(&d, "test", -1);
    daemon_ids_init(&none, &d.a);
    memset(big, 'a', sizeof big);
    args = (daemon_encode_args){ .max_ids = 100 };
    assert_int_equal(encode(t, big, sizeof big, &args, &none, &e), PX_ERANGE);
    assert_true(d.count.peak < sizeof big);
    daemon_ids_deinit(&none);
    assert_int_equal(px_debug_deinit(&d), 0);
    daemon_ids_deinit(&ids);
    daemon_tokenizer_close(t);
}

/* Any text comes back from its ids, whether control tokens are parsed or not; also pieces of golden vocabularies. */
static void text_comes_back(void **state)
{
    const char *name[] = { SMOLLM, LLAMA3 };
    static const char *const bits[] = { "<|im_end|>", "<|im_start|", "<|eot_id|>", "'s", "don't", "  ", "\n\n", "word" };
    px_err e = {0};
    char text[700];

    (void)state;
    for (int k = 0; k < 2; k++) {
        daemon_tokenizer *t = fixture_open(test_golden(name[k]));
        uint64_t seed = 3 + (uint64_t)k;
        for (int round = 0; round < 3000; round++) {
            daemon_encode_args args = { .parse_special = round % 2 };
            daemon_ids ids;
            daemon_bytes back;
            size_t n = fixture_random_text(&seed, text, test_rand(&seed) % 600 + 4);
            const char *bit = bits[test_rand(&seed) % 8];
            memcpy(text + n, bit, strlen(bit));
            n += strlen(bit);
            daemon_ids_init(&ids, fixture_heap());
            daemon_bytes_init(&back, fixture_heap());
            assert_int_equal(encode(t, text, n, &args, &ids, &e), PX_OK);
            if (!args.parse_special)
                for (size_t i = 0; i < ids.n; i++) assert_false(daemon_tokenizer_is_special(t, ids.id[i]));
            decode(t, &ids, &back);
            assert_int_equal(back.n, n);
            assert_memory_equal(back.p, text, n);
            daemon_bytes_deinit(&back);
            daemon_ids_deinit(&ids);
        }
        daemon_tokenizer_close(t);
    }
}

static daemon_tokenizer *shared_tokenizer;

static px_code encode_and_drop(px_alloc *a, px_err *e)
{
    static const char text[] = "<|im_start|>The 12 quick brown foxes\n\n  don't jump over this rather long line of text, "
                               "which has more ids than the first room for them, nor this: \xe6\x97\xa5\xe6\x9c\xac";
    daemon_encode_args args = { .parse_special = true, .add_special = true };
    daemon_ids ids;
    px_code rc;

    daemon_ids_init(&ids, a);
    rc = daemon_tokenizer_encode(shared_tokenizer, text, sizeof text - 1, &args, &ids, e);
    if (rc) assert_int_equal(ids.n, 0);
    daemon_ids_deinit(&ids);
    return rc;
}

static void encoding_survives_every_oom(void **state)
{
    (void)state;
    shared_tokenizer = fixture_open(test_golden(SMOLLM));
    test_oom_sweep(encode_and_drop);
    daemon_tokenizer_close(shared_tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm_gives_the_golden_ids),
        cmocka_unit_test(llama3_gives_the_golden_ids),
        cmocka_unit_test(the_real_model_gives_the_golden_ids),
        cmocka_unit_test(special_tokens_are_known),
        cmocka_unit_test(invalid_utf8_is_refused_with_its_offset),
        cmocka_unit_test(a_bound_on_ids_is_kept),
        cmocka_unit_test(text_comes_back),
        cmocka_unit_test(encoding_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
