/* Import from GGUF: what is refused, with the key; a golden file with a few bytes changed each time. */
#include "tests/daemon/text/fixture.h"

#include <string.h>
#include <unistd.h>

#include "shard/store/gguf.h"

/* A copy of the golden file in which `bytes` stand `skip` bytes after the first place of `key`. */
static const char *changed_of(const char *golden, const char *key, size_t skip, const void *bytes, size_t n)
{
    static char path[600];
    char *data, *at;
    size_t size;
    px_err e = {0};

    assert_int_equal(px_read_file(fixture_heap(), test_golden(golden), 1 << 20, &data, &size, &e), PX_OK);
    at = memmem(data, size, key, strlen(key));
    assert_true(at && at + skip + n <= data + size);
    memcpy(at + skip, bytes, n);
    snprintf(path, sizeof path, "%s/changed.gguf", test_tmpdir());
    assert_int_equal(px_write_file(path, data, size, false, &e), PX_OK);
    px_del(fixture_heap(), data, size + 1);
    return path;
}

static const char *changed(const char *key, size_t skip, const void *bytes, size_t n)
{
    return changed_of(SMOLLM, key, skip, bytes, n);
}

static px_code import(const char *path, px_err *e)
{
    shard_gguf *g;
    char *json;
    size_t bytes;

    if (shard_gguf_open(&g, fixture_heap(), path, e)) fail_msg("%s: %s", path, e->text);
    px_code rc = daemon_tokenizer_from_gguf(fixture_heap(), g, &json, &bytes, e);
    if (rc) assert_true(json == NULL && bytes == 0 && e->code == rc);
    else px_del(fixture_heap(), json, bytes + 1);
    shard_gguf_close(g);
    return rc;
}

#define K "tokenizer.ggml."
/* A string value lies 4 (type) + 8 (length) bytes behind its key, a number 4, an array's first element 4 + 4 + 8. */
#define AFTER(key, n) (sizeof key - 1 + (n))

static void refusals_name_the_key(void **state)
{
    static const struct { const char *key; size_t skip; const char *bytes; size_t n; px_code code; const char *field, *found; } bad[] = {
        { K "model", AFTER(K "model", 12), "bert", 4, PX_EUNSUP, K "model", "bert" },
        { K "model", 0, "x", 1, PX_ENOTFOUND, K "model", "" },
        { K "pre", AFTER(K "pre", 12), "qwen99", 6, PX_EUNSUP, K "pre", "qwen99" },
        { K "pre", 0, "x", 1, PX_EUNSUP, K "pre", "no such key" },
        { K "tokens", 0, "x", 1, PX_ECORRUPT, K "tokens", "" },
        { K "token_type", 0, "x", 1, PX_ECORRUPT, K "token_type", "" },
        { K "token_type", AFTER(K "token_type", 16), "\6", 1, PX_EUNSUP, K "token_type[0]", "6" },
        { K "merges", 0, "x", 1, PX_ECORRUPT, K "merges", "" },
        { K "merges", AFTER(K "merges", 16 + 8), "XXXXX", 5, PX_ECORRUPT, "merges[0]", "" },
        { K "eos_token_id", AFTER(K "eos_token_id", 4), "\x00\x10", 2, PX_ECORRUPT, K "eos_token_id", "" },
        { K "bos_token_id", AFTER(K "bos_token_id", 4), "\xfe\xff\xff\xff", 4, PX_ECORRUPT, K "bos_token_id", "" },
        { K "bos_token_id", AFTER(K "bos_token_id", 4), "\xff\xff\xff\xff", 4, PX_OK, "", "" },                /* "none", as some files say it */
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        px_err e = {0};
        px_code rc = import(changed(bad[i].key, bad[i].skip, bad[i].bytes, bad[i].n), &e);
        if (rc != bad[i].code || strcmp(e.field, bad[i].field) || !strstr(e.found, bad[i].found))
            fail_msg("case %zu: %s in %s, found %s: %s", i, px_code_name(rc), e.field, e.found, e.text);
    }
}

static void other_models_are_refused_by_name(void **state)
{
    px_err e = {0};

    (void)state;
    assert_int_equal(import(changed(K "model", AFTER(K "model", 12), "spm2", 4), &e), PX_EUNSUP);
    assert_string_equal(e.expected, "gpt2 or llama");
}

/* What the golden file of llama-bpe is imported as, with its tokenizer.ggml.pre called `name`; the caller deletes it, n + 1 bytes. */
static char *imported_as(const char *name, size_t *n)
{
    static const char key[] = K "pre";
    const uint64_t bytes = strlen(name);
    char path[600], *data, *at, *json;
    uint64_t was;
    size_t size;
    shard_gguf *g;
    px_err e = {0};

    assert_int_equal(px_read_file(fixture_heap(), test_golden(LLAMA3), 1 << 20, &data, &size, &e), PX_OK);
    assert_non_null(at = memmem(data, size, key, sizeof key - 1));
    at += sizeof key - 1 + 4;
    memcpy(&was, at, 8);
    assert_true(was == 9 && bytes <= was && !memcmp(at + 8, "llama-bpe", 9));
    memcpy(at, &bytes, 8);
    memcpy(at + 8, name, bytes);
    memmove(at + 8 + bytes, at + 8 + was, (size_t)(data + size - (at + 8 + was)));
    snprintf(path, sizeof path, "%s/renamed.gguf", test_tmpdir());
    assert_int_equal(px_write_file(path, data, size - (was - bytes), false, &e), PX_OK);
    px_del(fixture_heap(), data, size + 1);
    if (shard_gguf_open(&g, fixture_heap(), path, &e) || daemon_tokenizer_from_gguf(fixture_heap(), g, &json, n, &e))
        fail_msg("%s: %s", name, e.text);
    shard_gguf_close(g);
    return json;
}

static void earlier_names_are_the_same_machinery(void **state)
{
    static const char *const names[] = { "llama3", "llama-v3" };
    size_t n, m;
    char *want = imported_as("llama-bpe", &n);

    (void)state;
    assert_non_null(strstr(want, "\"llama-bpe\""));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *json = imported_as(names[i], &m);
        assert_int_equal(m, n);
        assert_memory_equal(json, want, n);
        px_del(fixture_heap(), json, m + 1);
    }
    px_del(fixture_heap(), want, n + 1);
}

typedef struct image { size_t n; char b[1024]; } image;

static void put(image *x, const void *p, size_t n) { memcpy(x->b + x->n, p, n), x->n += n; }
static void put_u64(image *x, uint64_t v) { put(x, &v, 8); }
static void put_text(image *x, const char *s) { put_u64(x, strlen(s)), put(x, s, strlen(s)); }
static void put_key(image *x, const char *key, uint32_t type) { put_text(x, key), put(x, &type, 4); }
static void put_array(image *x, const char *key, uint32_t item, uint64_t n) { put_key(x, key, 9), put(x, &item, 4), put_u64(x, n); }

/* A GGUF without tensors that ends in an array of texts, whose bytes are for the caller to put. */
static void begin_vocabulary(image *x, const char *last, uint64_t n)
{
    *x = (image){0};
    put(x, "GGUF\3\0\0\0", 8);
    put_u64(x, 0);
    put_u64(x, strcmp(last, K "merges") ? 4 : 5);
    put_key(x, K "model", 8), put_text(x, "gpt2");
    put_key(x, K "pre", 8), put_text(x, "gpt-2");
    put_array(x, K "token_type", 5, 2), put(x, "\1\0\0\0\1\0\0\0", 8);
    if (!strcmp(last, K "merges")) put_array(x, K "tokens", 8, 2), put_text(x, "a"), put_text(x, "b");
    put_array(x, last, 8, n);
}

/* Where a file has a hole there are zeros: any number of texts of no bytes, or one of any gigabytes.  No copy of them is made. */
static void a_hole_is_no_vocabulary(void **state)
{
    image x;
    char path[600];
    px_debug d;
    px_err e = {0};
    shard_gguf *g;
    char *json;
    size_t n;

    (void)state;
    for (int i = 0; i < 5; i++) {
        begin_vocabulary(&x, i == 2 || i == 4 ? K "tokens" : K "merges", i == 0 ? 1 << 24 : i == 4 ? 1 << 22 : i == 3 ? 684 : i == 1 ? 1 : 2);
        if (i == 3) put_text(&x, "a b");
        if (i && i < 4) put_u64(&x, (64u << 10) + (i < 3));
        snprintf(path, sizeof path, "%s/hole.gguf", test_tmpdir());
        px_err_clear(&e);
        assert_int_equal(px_write_file(path, x.b, x.n, false, &e), PX_OK);
        assert_int_equal(truncate(path, 320 << 20), 0);
        if (i == 3) {                                  /* many behind each other, together too many bytes */
            FILE *f = fopen(path, "r+b");
            uint64_t n_bytes = 64 << 10;
            assert_non_null(f);
            for (long k = 1; k < 683; k++)
                assert_true(!fseek(f, (long)x.n + k * (65536 + 8) - 8, SEEK_SET) && fwrite(&n_bytes, 8, 1, f) == 1);
            assert_int_equal(fclose(f), 0);
        }
        assert_int_equal(shard_gguf_open(&g, fixture_heap(), path, &e), PX_OK);
        px_debug_init(&d, "hole", -1);
        assert_int_equal(daemon_tokenizer_from_gguf(&d.a, g, &json, &n, &e), PX_ECORRUPT);
        assert_true(d.count.peak < 65536);
        assert_int_equal(px_debug_deinit(&d), 0);
        assert_string_equal(e.field, i == 3 ? K "merges" : i == 2 || i == 4 ? K "tokens[0]" : K "merges[0]");
        assert_non_null(strstr(e.text, i == 0 || i == 4 ? "a text of 0 bytes; 1 to 65536"
                                       : i < 3 ? "a text of 65537 bytes; 1 to 65536" : "; at most 44739242"));
        shard_gguf_close(g);
    }
}

static void sentencepieces_refusals_name_the_key(void **state)
{
    static const struct { const char *key; size_t skip; const char *bytes; size_t n; px_code code; const char *field, *found; } bad[] = {
        { K "scores", 0, "x", 1, PX_ECORRUPT, K "scores", "" },
        { K "scores", AFTER(K "scores", 4), "\5", 1, PX_OK, "", "" },                         /* whole numbers are scores, too */
        { K "scores", AFTER(K "scores", 16 + 4 * 300), "\0\0\xc0\x7f", 4, PX_ECORRUPT, "scores[300]", "" },
        { K "token_type", AFTER(K "token_type", 16), "\7", 1, PX_EUNSUP, K "token_type[0]", "7" },
        { K "token_type", AFTER(K "token_type", 16 + 4 * 300), "\6", 1, PX_ECORRUPT, "tokens[300]", "" },     /* a word is no byte */
        { K "token_type", AFTER(K "token_type", 16 + 4 * 100), "\1", 1, PX_EUNSUP, "tokens", "255 bytes" },
        { K "add_bos_token", 0, "x", 1, PX_OK, "", "" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        px_err e = {0};
        px_code rc = import(changed_of(LLAMA2, bad[i].key, bad[i].skip, bad[i].bytes, bad[i].n), &e);
        if (rc != bad[i].code || strcmp(e.field, bad[i].field) || !strstr(e.found, bad[i].found))
            fail_msg("case %zu: %s in %s, found %s: %s", i, px_code_name(rc), e.field, e.found, e.text);
    }
}

/* The file decides about BOS when it says so, the pre-tokenizer's name when it does not. */
static void the_file_decides_about_bos(void **state)
{
    px_err e = {0};
    daemon_encode_args args = { .add_special = true };
    daemon_tokenizer *plain = fixture_open(test_golden(SMOLLM)),
                     *asked = fixture_open(changed(K "add_bos_token", AFTER(K "add_bos_token", 4), "\1", 1)),
                     *named = fixture_open(test_golden(LLAMA3));
    const struct { const daemon_tokenizer *t; size_t n; uint32_t id; } want[] = { { plain, 0, 0 }, { asked, 1, 1 }, { named, 1, 995 } };

    (void)state;
    for (int i = 0; i < 3; i++) {
        daemon_ids ids;
        daemon_ids_init(&ids, fixture_heap());
        assert_int_equal(daemon_tokenizer_encode(want[i].t, "", 0, &args, &ids, &e), PX_OK);
        assert_int_equal(ids.n, want[i].n);
        if (ids.n) assert_int_equal(ids.id[0], want[i].id);
        daemon_ids_deinit(&ids);
    }
    daemon_tokenizer_close(named);
    daemon_tokenizer_close(asked);
    daemon_tokenizer_close(plain);
}

/* "gpt-2" is the same expression without the digits' stage; one letter less in the file. */
static void gpt2_keeps_digits_together(void **state)
{
    char *data, *at;
    size_t size, n;
    px_err e = {0};

    (void)state;
    assert_int_equal(px_read_file(fixture_heap(), test_golden(SMOLLM), 1 << 20, &data, &size, &e), PX_OK);
    at = memmem(data, size, K "pre", sizeof K "pre" - 1);
    assert_non_null(at);
    at += AFTER(K "pre", 4);
    assert_memory_equal(at, "\6\0\0\0\0\0\0\0smollm", 14);
    memcpy(at, "\5\0\0\0\0\0\0\0gpt-2", 13);
    memmove(at + 13, at + 14, (size_t)(data + size - (at + 14)));
    char path[600];
    snprintf(path, sizeof path, "%s/gpt2.gguf", test_tmpdir());
    assert_int_equal(px_write_file(path, data, size - 1, false, &e), PX_OK);
    px_del(fixture_heap(), data, size + 1);

    daemon_tokenizer *t = fixture_open(path), *split = fixture_open(test_golden(SMOLLM));
    const struct { const daemon_tokenizer *t; size_t n; } want[] = { { t, 1 }, { split, 2 } };
    for (int i = 0; i < 2; i++) {
        daemon_ids ids;
        daemon_encode_args args = {0};
        daemon_ids_init(&ids, fixture_heap());
        assert_int_equal(daemon_tokenizer_encode(want[i].t, "42", 2, &args, &ids, &e), PX_OK);
        assert_int_equal(ids.n, want[i].n);
        if (i == 0) assert_memory_equal(daemon_tokenizer_bytes(t, ids.id[0], &n), "42", 2);
        daemon_ids_deinit(&ids);
    }
    daemon_tokenizer_close(split);
    daemon_tokenizer_close(t);
}

/* The same file gives the same bytes: they are digested and compared between hosts. */
static void the_normal_form_is_deterministic(void **state)
{
    size_t n, m;
    char *one = fixture_json(test_golden(SMOLLM), &n), *two = fixture_json(test_golden(SMOLLM), &m);

    (void)state;
    assert_int_equal(n, m);
    assert_memory_equal(one, two, n + 1);
    assert_int_equal(one[n], 0);
    px_del(fixture_heap(), one, n + 1);
    px_del(fixture_heap(), two, m + 1);
}

static px_code import_and_drop(px_alloc *a, px_err *e)
{
    shard_gguf *g;
    char *json;
    size_t bytes;

    assert_int_equal(shard_gguf_open(&g, fixture_heap(), test_golden(SMOLLM), NULL), PX_OK);
    px_code rc = daemon_tokenizer_from_gguf(a, g, &json, &bytes, e);
    if (rc == PX_OK) px_del(a, json, bytes + 1);
    else assert_null(json);
    shard_gguf_close(g);
    return rc;
}

static void import_survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(import_and_drop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals_name_the_key),
        cmocka_unit_test(other_models_are_refused_by_name),
        cmocka_unit_test(earlier_names_are_the_same_machinery),
        cmocka_unit_test(a_hole_is_no_vocabulary),
        cmocka_unit_test(sentencepieces_refusals_name_the_key),
        cmocka_unit_test(the_file_decides_about_bos),
        cmocka_unit_test(gpt2_keeps_digits_together),
        cmocka_unit_test(the_normal_form_is_deterministic),
        cmocka_unit_test(import_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
