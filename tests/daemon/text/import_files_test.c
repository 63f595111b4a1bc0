/* tokenizer.json and tokenizer.model as hostile input: each refusal by its field, random damage, memory, out of memory. */
#include "tests/daemon/text/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/text/folder.h"
#include "daemon/text/sentencepiece.pb-c.h"

#define JSON(name) "tiny/tokenizers/" name "/tokenizer.json"
#define MODEL "tiny/tokenizers/llama2/tokenizer.model"

typedef px_code from_fn(px_alloc *a, const char *data, size_t n, const daemon_hints *h, char **json, size_t *bytes, px_err *e);

static px_code from_model(px_alloc *a, const char *data, size_t n, const daemon_hints *h, char **json, size_t *bytes, px_err *e)
{
    return daemon_tokenizer_from_model(a, data, n, h, json, bytes, e);
}

static char *read_golden(const char *name, size_t *n)
{
    char *data;
    px_err e = {0};
    if (px_read_file(fixture_heap(), test_golden(name), 64 << 20, &data, n, &e)) fail_msg("%s: %s", name, e.text);
    return data;
}

/* Imports and drops; an error has a code and a field, and leaves nothing. */
static px_code import(from_fn *from, px_alloc *a, const char *data, size_t n, const daemon_hints *h, px_err *e)
{
    char *json;
    size_t bytes;
    px_code rc = from(a, data, n, h, &json, &bytes, e);

    if (rc) assert_true(!json && !bytes && e->code == rc && e->field[0]);
    else px_del(a, json, bytes + 1);
    return rc;
}

/* ---- tokenizer.json ---- */

/* The member at a path of keys and indices ("model/vocab", "added_tokens/0/lstrip") becomes `value`; NULL: it goes. */
static void set_member(json_t *doc, const char *path, const char *value)
{
    char key[64];
    const char *slash = strchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : strlen(path);
    json_t *v = slash || !value ? NULL : json_loads(value, JSON_DECODE_ANY, NULL);

    snprintf(key, sizeof key, "%.*s", (int)n, path);
    if (slash) set_member(json_is_array(doc) ? json_array_get(doc, (size_t)atoi(key)) : json_object_get(doc, key), slash + 1, value);
    else if (!value) assert_int_equal(json_object_del(doc, key), 0);
    else if (json_is_array(doc)) assert_int_equal(json_array_set_new(doc, (size_t)atoi(key), v), 0);
    else assert_int_equal(json_object_set_new(doc, key, v), 0);
}

static void every_refusal_of_a_json_has_its_field(void **state)
{
    static const struct { const char *file, *path, *value; px_code code; const char *field, *found; } bad[] = {
        { JSON("smollm"), "model", NULL, PX_ECORRUPT, "model", "nothing" },
        { JSON("smollm"), "model/type", "\"Unigram\"", PX_EUNSUP, "model.type", "Unigram" },
        { JSON("smollm"), "model/type", "3", PX_EUNSUP, "model.type", "no text" },
        { JSON("smollm"), "model/dropout", "0.1", PX_EUNSUP, "model.dropout", "" },
        { JSON("smollm"), "model/end_of_word_suffix", "\"</w>\"", PX_EUNSUP, "model.end_of_word_suffix", "" },
        { JSON("smollm"), "model/byte_fallback", "true", PX_EUNSUP, "model.byte_fallback", "true" },
        { JSON("smollm"), "model/vocab", "[]", PX_ECORRUPT, "model.vocab", "array" },
        { JSON("smollm"), "model/vocab/!", "5000", PX_ECORRUPT, "model.vocab.!", "id 5000" },
        { JSON("smollm"), "model/vocab/!", "-1", PX_ECORRUPT, "model.vocab.!", "id -1" },
        { JSON("smollm"), "model/vocab/!", "9", PX_ECORRUPT, "model.vocab.", "id 9" },
        { JSON("smollm"), "model/vocab/!", "\"4\"", PX_ECORRUPT, "model.vocab.!", "" },
        { JSON("smollm"), "model/vocab/!", NULL, PX_ECORRUPT, "model.vocab.", "id 999" },        /* a gap: one token less */
        { JSON("smollm"), "model/merges", NULL, PX_ECORRUPT, "model.merges", "nothing" },
        { JSON("smollm"), "model/merges/3", "[\"a\"]", PX_ECORRUPT, "model.merges[3]", "" },
        { JSON("smollm"), "model/merges/3", "[\"a\",1]", PX_ECORRUPT, "model.merges[3]", "" },
        { JSON("smollm"), "model/merges/3", "[\"q\",\"zzq\"]", PX_ECORRUPT, "merges[3]", "" },
        { JSON("smollm"), "added_tokens", "{}", PX_ECORRUPT, "added_tokens", "" },
        { JSON("smollm"), "added_tokens/1/lstrip", "true", PX_EUNSUP, "added_tokens[1].lstrip", "true" },
        { JSON("smollm"), "added_tokens/1/content", "7", PX_ECORRUPT, "added_tokens[1].content", "integer" },
        { JSON("smollm"), "added_tokens/1/id", "2", PX_ECORRUPT, "added_tokens[1]", "" },
        { JSON("smollm"), "normalizer", "{\"type\":\"Lowercase\"}", PX_EUNSUP, "normalizer.type", "Lowercase" },
        { JSON("smollm"), "normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Strip\"}]}", PX_EUNSUP,
          "normalizer.normalizers[1].type", "Strip" },
        { JSON("smollm"), "normalizer", "[]", PX_ECORRUPT, "normalizer", "" },
        { JSON("smollm"), "pre_tokenizer/pretokenizers/0", "{\"type\":\"BertPreTokenizer\"}", PX_EUNSUP,
          "pre_tokenizer.pretokenizers[0].type", "BertPreTokenizer" },
        { JSON("smollm"), "pre_tokenizer/pretokenizers", "1", PX_ECORRUPT, "pre_tokenizer.pretokenizers", "" },
        { JSON("smollm"), "pre_tokenizer/pretokenizers/1/add_prefix_space", "true", PX_EUNSUP,
          "pre_tokenizer.pretokenizers[1].add_prefix_space", "true" },
        { JSON("llama3"), "pre_tokenizer/pretokenizers/0/behavior", "\"Removed\"", PX_EUNSUP, "pre_tokenizer.pretokenizers[0].behavior",
          "Removed" },
        { JSON("llama3"), "pre_tokenizer/pretokenizers/0/invert", "true", PX_EUNSUP, "pre_tokenizer.pretokenizers[0].invert", "true" },
        { JSON("llama3"), "pre_tokenizer/pretokenizers/0/pattern", "{\"String\":\" \"}", PX_EUNSUP,
          "pre_tokenizer.pretokenizers[0].pattern", "String" },
        { JSON("llama3"), "pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\h+|a\"", PX_EUNSUP,
          "pre_tokenizer.pretokenizers[0].pattern.Regex", "\\h" },
        { JSON("llama3"), "pre_tokenizer/pretokenizers/0/pattern/Regex", "\"(a\"", PX_ECORRUPT, "pre.stages[0]", "" },
        { JSON("llama3"), "post_processor", "{\"type\":\"BertProcessing\"}", PX_EUNSUP, "post_processor.type", "BertProcessing" },
        { JSON("llama3"), "post_processor/processors/1/single", "[{\"Sequence\":{}},{\"SpecialToken\":{\"id\":\"x\"}}]", PX_EUNSUP,
          "post_processor.processors[1].single", "" },
        { JSON("llama3"), "post_processor/processors/1/single/0/SpecialToken/id", "\"<none>\"", PX_ECORRUPT, "post_processor.single", "" },
        { JSON("llama3"), "decoder/type", "\"WordPiece\"", PX_EUNSUP, "decoder.type", "WordPiece" },
        { JSON("llama2"), "model/byte_fallback", "false", PX_EUNSUP, "model.byte_fallback", "false" },
        { JSON("llama2"), "model/ignore_merges", "true", PX_EUNSUP, "model.ignore_merges", "true" },
        { JSON("llama2"), "normalizer/normalizers/0/prepend", "\"_\"", PX_EUNSUP, "normalizer.normalizers[0].prepend", "_" },
        { JSON("llama2"), "normalizer/normalizers/1/content", "\"_\"", PX_EUNSUP, "normalizer.normalizers[1].content", "_" },
        { JSON("llama2"), "normalizer/normalizers/1/pattern", "{\"Regex\":\" \"}", PX_EUNSUP, "normalizer.normalizers[1].pattern", "Regex" },
        { "tiny/tokenizers/llama2/tokenizer.v5.json", "pre_tokenizer/split", "true", PX_EUNSUP, "pre_tokenizer.split", "true" },
        { "tiny/tokenizers/llama2/tokenizer.v5.json", "pre_tokenizer/prepend_scheme", "\"often\"", PX_EUNSUP, "pre_tokenizer.prepend_scheme",
          "often" },
        { "tiny/tokenizers/llama2/tokenizer.v5.json", "pre_tokenizer/replacement", "\"_\"", PX_EUNSUP, "pre_tokenizer.replacement", "_" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t n;
        char *data = read_golden(bad[i].file, &n);
        json_t *doc = json_loadb(data, n, 0, NULL);
        px_err e = {0};
        set_member(doc, bad[i].path, bad[i].value);
        char *text = json_dumps(doc, 0);
        px_code rc = import(daemon_tokenizer_from_json, fixture_heap(), text, strlen(text), NULL, &e);
        if (rc != bad[i].code || strncmp(e.field, bad[i].field, strlen(bad[i].field)) || !strstr(e.found[0] ? e.found : e.text, bad[i].found))
            fail_msg("%s = %s: %s in %s, found %s: %s", bad[i].path, bad[i].value ? bad[i].value : "gone", px_code_name(rc), e.field, e.found,
                     e.text);
        free(text);
        json_decref(doc);
        px_del(fixture_heap(), data, n + 1);
    }
}

/* Merges that ranks cannot say are kept as they are: the pair's own rank decides, not the token's. */
static void merges_in_another_order_are_kept(void **state)
{
    size_t n, bytes;
    char *data = read_golden(JSON("llama2"), &n), *json;
    json_t *doc = json_loadb(data, n, 0, NULL), *merges = json_object_get(json_object_get(doc, "model"), "merges");
    px_err e = {0};

    (void)state;
    json_array_append(merges, json_array_get(merges, 0));       /* it comes twice: in two places */
    char *text = json_dumps(doc, 0);
    assert_int_equal(daemon_tokenizer_from_json(fixture_heap(), text, strlen(text), NULL, &json, &bytes, &e), PX_OK);
    json_t *form = json_loadb(json, bytes, 0, NULL);
    assert_true(json_is_null(json_object_get(form, "ranks")));
    assert_int_equal(json_array_size(json_object_get(form, "merges")), json_array_size(merges));
    json_decref(form);
    px_del(fixture_heap(), json, bytes + 1);
    free(text);
    json_decref(doc);
    px_del(fixture_heap(), data, n + 1);
}

/* The JSON library's own memory, which no allocator of ours sees. */
static size_t json_live, json_peak;

static void *count_malloc(size_t n)
{
    size_t *p = malloc(n + 16);
    if (!p) return NULL;
    *p = n;
    if ((json_live += n) > json_peak) json_peak = json_live;
    return p + 2;
}

static void count_free(void *p)
{
    size_t *at = p;
    if (!p) return;
    json_live -= at[-2];
    free(at - 2);
}

/* Merges are most of a file, and small texts many times their bytes when they are read: there is one copy of them at a time. */
static void held_once(bool pairs)
{
    enum { N = 100000 };
    size_t n, bytes, once;
    char *data = read_golden(JSON("smollm"), &n), *text, *out;
    json_t *doc = json_loadb(data, n, 0, NULL), *merges, *pair, *more;
    px_err e = {0};

    px_del(fixture_heap(), data, n + 1);
    merges = json_object_get(json_object_get(doc, "model"), "merges");
    pair = json_array_get(merges, 0);
    assert_int_equal(json_array_size(pair), 2);
    more = pairs ? json_incref(pair) : json_sprintf("%s %s", json_string_value(json_array_get(pair, 0)), json_string_value(json_array_get(pair, 1)));
    for (int i = 0; i < N; i++) json_array_append(merges, more);
    json_decref(more);
    text = json_dumps(doc, JSON_COMPACT);
    json_decref(doc);

    json_live = json_peak = 0;
    json_set_alloc_funcs(count_malloc, count_free);
    doc = json_loads(text, 0, NULL);
    once = json_peak;
    json_decref(doc);
    json_peak = json_live;
    px_code rc = daemon_tokenizer_from_json(fixture_heap(), text, strlen(text), NULL, &out, &bytes, &e);
    json_set_alloc_funcs(malloc, free);
    if (rc) fail_msg("%s: %s", e.field, e.text);
    assert_int_equal(json_live, 0);
    assert_true(once > 40 * N);
    if (json_peak > once * 3 / 2) fail_msg("%zu bytes for a document of %zu", json_peak, once);
    px_del(fixture_heap(), out, bytes + 1);
    free(text);
}

static void merges_are_held_once(void **state)
{
    (void)state;
    held_once(false);
    held_once(true);
}

/* tokenizer_config.json decides about BOS and EOS; what it names must be there. */
static void hints_decide(void **state)
{
    size_t n;
    char *data = read_golden(JSON("smollm"), &n);
    static const struct { const char *config; px_code code; const char *field; uint32_t bos; bool add; uint32_t eog; } want[] = {
        { "{}", PX_OK, "", DAEMON_NO_TOKEN, false, 2 },
        { "{\"model_max_length\":1000000000000000019884624838656,\"bos_token\":\"<|im_start|>\"}", PX_OK, "", 1, false, 2 },
        { "{\"bos_token\":\"<|im_start|>\",\"add_bos_token\":true}", PX_OK, "", 1, true, 2 },
        { "{\"bos_token\":{\"content\":\"<|im_start|>\"},\"eos_token\":\"<repo_name>\"}", PX_OK, "", 1, false, 3 },
        { "{\"eos_token\":\"<|none|>\"}", PX_ECORRUPT, "tokenizer_config.json: eos_token", 0, false, 0 },
        { "{\"added_tokens_decoder\":{\"0\":{\"content\":\"x\"},\"1000\":{\"content\":\"<|mine|>\"}}}", PX_EUNSUP,
          "tokenizer_config.json: added_tokens_decoder", 0, false, 0 },
        { "{\"added_tokens_decoder\":{\"999\":{\"content\":\"x\"},\"7\":7},\"bos_token\":\"<|im_start|>\"}", PX_OK, "", 1, false, 2 },
        { "{\"added_tokens_decoder\":null}", PX_OK, "", DAEMON_NO_TOKEN, false, 2 },
        { "{\"added_tokens_decoder\":[]}", PX_ECORRUPT, "tokenizer_config.json: added_tokens_decoder", 0, false, 0 },
        { "{\"added_tokens_decoder\":{\"1e3\":{}}}", PX_ECORRUPT, "tokenizer_config.json: added_tokens_decoder", 0, false, 0 },
        { "{\"added_tokens_decoder\":{\"-1\":{}}}", PX_ECORRUPT, "tokenizer_config.json: added_tokens_decoder", 0, false, 0 },
        { "{\"added_tokens_decoder\":{\"\":{}}}", PX_ECORRUPT, "tokenizer_config.json: added_tokens_decoder", 0, false, 0 },
        { "{\"pad_token\":\"<|none|>\",\"bos_token\":\"<|im_start|>\"}", PX_OK, "", 1, false, 2 },
        { "{\"pad_token\":[]}", PX_ECORRUPT, "tokenizer_config.json: pad_token", 0, false, 0 },
        { "[]", PX_ECORRUPT, "tokenizer_config.json", 0, false, 0 },
        { "{", PX_ECORRUPT, "tokenizer_config.json", 0, false, 0 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        daemon_hints h = { .config = want[i].config, .config_bytes = strlen(want[i].config) };
        px_err e = {0};
        char *json;
        size_t bytes;
        daemon_tokenizer *t;
        daemon_ids ids;
        daemon_encode_args args = { .add_special = true };
        px_code rc = daemon_tokenizer_from_json(fixture_heap(), data, n, &h, &json, &bytes, &e);
        assert_int_equal(rc, want[i].code);
        assert_string_equal(e.field, want[i].field);
        if (rc) continue;
        assert_int_equal(daemon_tokenizer_open(&t, fixture_heap(), json, bytes, &e), PX_OK);
        assert_int_equal(daemon_tokenizer_bos(t), want[i].bos);
        assert_true(daemon_tokenizer_is_eog(t, want[i].eog));
        daemon_ids_init(&ids, fixture_heap());
        assert_int_equal(daemon_tokenizer_encode(t, "", 0, &args, &ids, &e), PX_OK);
        assert_int_equal(ids.n, want[i].add);
        daemon_ids_deinit(&ids);
        daemon_tokenizer_close(t);
        px_del(fixture_heap(), json, bytes + 1);
    }
    px_del(fixture_heap(), data, n + 1);
}

/* Where the space is put in front: of a text, of every part between control tokens, or nowhere; decoding takes it away again. */
static void spaces_are_put_in_front_as_the_file_says(void **state)
{
    static const struct { const char *scheme, *pieces, *continued, *decoded; } want[] = {
        { "\"always\"", " a|<s>| b", " a|<s>| b", "a b" }, { "\"first\"", " a|<s>|b", "a|<s>|b", "ab" }, { "\"never\"", "a|<s>|b", "a|<s>|b", "ab" },
    };
    size_t n, bytes, which;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char *data = read_golden("tiny/tokenizers/llama2/tokenizer.v5.json", &n), *json;
        json_t *doc = json_loadb(data, n, 0, NULL);
        px_err e = {0};
        daemon_tokenizer *t;
        set_member(doc, "pre_tokenizer/prepend_scheme", want[i].scheme);
        char *text = json_dumps(doc, 0);
        assert_int_equal(daemon_tokenizer_from_json(fixture_heap(), text, strlen(text), NULL, &json, &bytes, &e), PX_OK);
        assert_int_equal(daemon_tokenizer_open(&t, fixture_heap(), json, bytes, &e), PX_OK);
        for (int continues = 0; continues < 2; continues++) {
            daemon_encode_args args = { .parse_special = true, .continues = continues };
            char got[64] = "";
            bool hit;
            daemon_ids ids;
            daemon_detok d;
            daemon_bytes out;
            daemon_ids_init(&ids, fixture_heap());
            daemon_bytes_init(&out, fixture_heap());
            assert_int_equal(daemon_tokenizer_encode(t, "a<s>b", 5, &args, &ids, &e), PX_OK);
            assert_int_equal(daemon_detok_init(&d, fixture_heap(), t, true, NULL, NULL, 0, false, &e), PX_OK);
            d.begins = !continues;
            for (size_t k = 0; k < ids.n; k++) {
                size_t m;
                const char *p = daemon_tokenizer_bytes(t, ids.id[k], &m);
                snprintf(got + strlen(got), sizeof got - strlen(got), "%s%.*s", k ? "|" : "", (int)m, p);
                assert_int_equal(daemon_detok_push(&d, ids.id[k], &out, &hit, &which, &e), PX_OK);
            }
            assert_int_equal(daemon_detok_finish(&d, &out, &e), PX_OK);
            assert_string_equal(got, continues ? want[i].continued : want[i].pieces);
            if (!continues) assert_true(out.n == strlen(want[i].decoded) && !memcmp(out.p, want[i].decoded, out.n));
            else assert_int_equal(out.n, strlen(got) - 5);           /* all of it: "|<s>|" is not text */
            daemon_detok_deinit(&d);
            daemon_bytes_deinit(&out);
            daemon_ids_deinit(&ids);
        }
        daemon_tokenizer_close(t);
        px_del(fixture_heap(), json, bytes + 1);
        free(text);
        json_decref(doc);
        px_del(fixture_heap(), data, n + 1);
    }
}

/* ---- tokenizer.model ---- */

static Daemon__Spm__Model *unpack(void)
{
    size_t n;
    char *data = read_golden(MODEL, &n);
    Daemon__Spm__Model *m = daemon__spm__model__unpack(NULL, n, (uint8_t *)data);
    px_del(fixture_heap(), data, n + 1);
    assert_non_null(m);
    return m;
}

static void drop_trainer(Daemon__Spm__Model *m) { daemon__spm__trainer__free_unpacked(m->trainer_spec, NULL), m->trainer_spec = NULL; }
static void unigram(Daemon__Spm__Model *m) { m->trainer_spec->model_type = 1; }
static void no_fallback(Daemon__Spm__Model *m) { m->trainer_spec->byte_fallback = false; }
static void suffix(Daemon__Spm__Model *m) { m->trainer_spec->has_treat_whitespace_as_suffix = m->trainer_spec->treat_whitespace_as_suffix = true; }
static void charsmap(Daemon__Spm__Model *m)
{
    m->normalizer_spec->has_precompiled_charsmap = true;
    m->normalizer_spec->precompiled_charsmap = (ProtobufCBinaryData){ 3, calloc(1, 3) };
}
static void squeeze(Daemon__Spm__Model *m) { m->normalizer_spec->remove_extra_whitespaces = true; }
static void bos_beyond(Daemon__Spm__Model *m) { m->trainer_spec->has_bos_id = true, m->trainer_spec->bos_id = 1000; }
static void type_seven(Daemon__Spm__Model *m) { m->pieces[5]->has_type = true, m->pieces[5]->type = 7; }
static void not_a_byte(Daemon__Spm__Model *m) { m->pieces[300]->has_type = true, m->pieces[300]->type = 6; }
static void one_byte_less(Daemon__Spm__Model *m) { m->pieces[5]->type = 1; }
static void not_utf8(Daemon__Spm__Model *m) { m->pieces[300]->piece.data[0] = 0xff; }
static void not_finite(Daemon__Spm__Model *m) { m->pieces[300]->has_score = true, m->pieces[300]->score = 1.0f / 0.0f; }
static void unused_made(Daemon__Spm__Model *m) { m->pieces[300]->has_type = true, m->pieces[300]->type = 5; }
static void unused_behind_a_space(Daemon__Spm__Model *m) { m->pieces[264]->has_type = true, m->pieces[264]->type = 5; }   /* "\u2581t" */
static void empty_piece(Daemon__Spm__Model *m) { m->pieces[300]->piece.len = 0; }

static void every_refusal_of_a_model_has_its_field(void **state)
{
    static const struct { void (*change)(Daemon__Spm__Model *m); px_code code; const char *field; } bad[] = {
        { drop_trainer, PX_EUNSUP, "trainer_spec" },
        { unigram, PX_EUNSUP, "trainer_spec.model_type" },
        { no_fallback, PX_EUNSUP, "trainer_spec.byte_fallback" },
        { suffix, PX_EUNSUP, "trainer_spec.treat_whitespace_as_suffix" },
        { charsmap, PX_EUNSUP, "normalizer_spec.precompiled_charsmap" },
        { squeeze, PX_EUNSUP, "normalizer_spec.remove_extra_whitespaces" },
        { bos_beyond, PX_ECORRUPT, "trainer_spec.bos_id" },
        { type_seven, PX_EUNSUP, "pieces[5].type" },
        { not_a_byte, PX_ECORRUPT, "tokens[300]" },
        { one_byte_less, PX_EUNSUP, "tokens" },
        { not_utf8, PX_ECORRUPT, "pieces[300]" },
        { not_finite, PX_ECORRUPT, "scores[300]" },
        { unused_made, PX_EUNSUP, "tokens[300]" },
        { unused_behind_a_space, PX_EUNSUP, "tokens[264]" },
        { empty_piece, PX_ECORRUPT, "pieces[300]" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Daemon__Spm__Model *m = unpack();
        px_err e = {0};
        bad[i].change(m);
        size_t n = daemon__spm__model__get_packed_size(m);
        uint8_t *data = malloc(n);
        daemon__spm__model__pack(m, data);
        px_code rc = import(from_model, fixture_heap(), (char *)data, n, NULL, &e);
        if (rc != bad[i].code || strcmp(e.field, bad[i].field)) fail_msg("case %zu: %s in %s: %s %s", i, px_code_name(rc), e.field, e.text, e.found);
        free(data);
        daemon__spm__model__free_unpacked(m, NULL);
    }
}

/* ---- both ---- */

static const struct { const char *name; from_fn *from; size_t most; } file[] = {
    { JSON("qwen2"), daemon_tokenizer_from_json, 64 }, { JSON("llama2"), daemon_tokenizer_from_json, 64 }, { MODEL, from_model, 64 },
};

static void damaged_files_never_crash(void **state)
{
    uint64_t seed = 5;

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        size_t n, opened = 0;
        char *data = read_golden(file[k].name, &n), *copy = px_new(fixture_heap(), char, n);
        for (int round = 0; round < 400; round++) {
            px_debug d;
            px_err e = {0};
            size_t len = n;
            memcpy(copy, data, n);
            for (int i = 0; i < 1 + round % 3; i++) {
                uint64_t r = test_rand(&seed);
                size_t at = (size_t)(r >> 8) % n;
                if (r % 4 == 0) copy[at] = (char)(r >> 40);
                else if (r % 4 == 1) copy[at] = "0123456789\"[]{},:- \\"[(r >> 40) % 19];
                else if (r % 4 == 2) copy[at] ^= (char)(1 << (r >> 40) % 8);
                else if (round % 8 == 0) len = at;
            }
            px_debug_init(&d, "test", -1);
            opened += import(file[k].from, &d.a, copy, len, NULL, &e) == PX_OK;
            assert_true(d.count.peak < file[k].most * n + (256 << 10));
            assert_int_equal(px_debug_deinit(&d), 0);
        }
        assert_true(opened < 400);
        px_del(fixture_heap(), copy, n);
        px_del(fixture_heap(), data, n + 1);
    }
}

/* Messages of nothing: a byte of the file is not worth more memory than the bound. */
static void empty_messages_take_bounded_memory(void **state)
{
    enum { N = 1 << 20 };
    char *data = px_new(fixture_heap(), char, N);

    (void)state;
    for (int tag = 0x0a; tag <= 0x1a; tag += 8) {               /* pieces, trainer, normalizer: empty, again and again */
        px_debug d;
        px_err e = {0};
        for (size_t i = 0; i < N; i += 2) data[i] = (char)tag, data[i + 1] = 0;
        px_debug_init(&d, "test", -1);
        assert_int_not_equal(import(from_model, &d.a, data, N, NULL, &e), PX_OK);
        assert_true(d.count.peak < (size_t)64 * N);
        assert_int_equal(px_debug_deinit(&d), 0);
    }
    px_del(fixture_heap(), data, N);
}

/* Tokens with ranks are tried at every place, so their length is bounded: else a megabyte in one token would take hours. */
static void long_tokens_end(void **state)
{
    size_t n, bytes, len = 1 << 20;
    char *data = read_golden(JSON("llama2"), &n), *json, *token = px_new(fixture_heap(), char, len + 2);
    json_t *doc = json_loadb(data, n, 0, NULL), *model = json_object_get(doc, "model"), *merges = json_object_get(model, "merges");
    px_err e = {0};

    (void)state;
    memset(token, 'a', len + 1);
    json_object_set_new(json_object_get(model, "vocab"), token, json_integer(1000));
    token[len] = 0;
    json_object_set_new(json_object_get(model, "vocab"), token, json_integer(1001));
    json_array_append_new(merges, json_pack("[s,s]", token, "a"));
    char *text = json_dumps(doc, 0);
    assert_int_equal(daemon_tokenizer_from_json(fixture_heap(), text, strlen(text), NULL, &json, &bytes, &e), PX_OK);
    px_del(fixture_heap(), json, bytes + 1);
    free(text);
    json_decref(doc);
    px_del(fixture_heap(), token, len + 2);
    px_del(fixture_heap(), data, n + 1);
}

static size_t sweep_k, sweep_n;
static char *sweep_data;

static px_code import_and_drop(px_alloc *a, px_err *e)
{
    return import(file[sweep_k].from, a, sweep_data, sweep_n, NULL, e);
}

static void imports_survive_every_oom(void **state)
{
    (void)state;
    for (sweep_k = 0; sweep_k < 3; sweep_k++) {
        sweep_data = read_golden(file[sweep_k].name, &sweep_n);
        test_oom_sweep(import_and_drop);
        px_del(fixture_heap(), sweep_data, sweep_n + 1);
    }
}

/* ---- folders ---- */

static void put_file(const char *dir, const char *name, const char *text)
{
    char path[600];
    px_err e = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(px_write_file(path, text, strlen(text), false, &e), PX_OK);
}

/* Beside a tokenizer.model: its thousand tokens are not all that the model knows. */
static void added_tokens_are_not_left_out(void **state)
{
    static const struct { const char *added; px_code code; const char *found; } want[] = {
        { "{\"<pad>\":999}", PX_OK, "" }, { "{\"<pad>\":999,\"<|im_end|>\":1000}", PX_EUNSUP, "<|im_end|>, id 1000" },
        { "{\"<x>\":1e300}", PX_EUNSUP, "<x>, id 1e+300" }, { "[]", PX_ECORRUPT, "" },
        { "{\"<pad>\":999,\"<x>\":null}", PX_ECORRUPT, "<x>, id null" }, { "{\"<x>\":\"7\"}", PX_ECORRUPT, "<x>, id \"\\\"7\\\"\"" },
        { "{\"y\":-1}", PX_ECORRUPT, "y, id -1" }, { "{\"y\":1.5}", PX_ECORRUPT, "y, id 1.5" }, { "{\"y\":[[1],{\"a\":2}]}", PX_ECORRUPT, "y, id" },
        { "{\"y\":\"some forty letters are more than the message has room for\"}", PX_ECORRUPT, "y, id \"a long value\"" },
    };
    char dir[500], path[600], *json;
    size_t n, bytes;
    char *data = read_golden(MODEL, &n);
    px_err e = {0};

    (void)state;
    snprintf(dir, sizeof dir, "%s/added", test_tmpdir());
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(path, sizeof path, "%s/tokenizer.model", dir);
    assert_int_equal(px_write_file(path, data, n, false, &e), PX_OK);
    px_del(fixture_heap(), data, n + 1);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        put_file(dir, "added_tokens.json", want[i].added);
        px_err_clear(&e);
        assert_int_equal(daemon_tokenizer_from_folder(fixture_heap(), dir, NULL, NULL, 0, &json, &bytes, &e), want[i].code);
        if (want[i].code) assert_string_equal(e.field, "added_tokens.json");
        if (want[i].code == PX_ECORRUPT && *want[i].found) assert_string_equal(e.expected, "a whole number as the id");
        if (!want[i].code) px_del(fixture_heap(), json, bytes + 1);
        assert_non_null(strstr(e.found, want[i].found));
    }
}

static void folders_are_read(void **state)
{
    const char *dir = test_tmpdir();
    char *text;
    size_t n;
    px_err e = {0};

    (void)state;
    assert_int_equal(daemon_tokenizer_from_folder(fixture_heap(), dir, NULL, NULL, 0, &text, &n, &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "tokenizer.json");
    px_err_clear(&e);
    assert_int_equal(daemon_template_from_folder(fixture_heap(), dir, &text, &n, &e), PX_ENOTFOUND);
    put_file(dir, "tokenizer.json", "{}");
    px_err_clear(&e);
    assert_int_equal(daemon_tokenizer_from_folder(fixture_heap(), dir, NULL, NULL, 0, &text, &n, &e), PX_ECORRUPT);
    assert_non_null(strstr(e.file, "/tokenizer.json"));
    static const struct { const char *config; px_code code; const char *text; } want[] = {
        { "{}", PX_ENOTFOUND, NULL }, { "{\"chat_template\":null}", PX_ENOTFOUND, NULL }, { "{\"chat_template\":7}", PX_ECORRUPT, NULL },
        { "[", PX_ECORRUPT, NULL }, { "{\"chat_template\":\"abc\"}", PX_OK, "abc" },
        { "{\"model_max_length\":1000000000000000019884624838656,\"chat_template\":\"abc\"}", PX_OK, "abc" },
        { "{\"chat_template\":[{\"name\":\"x\",\"template\":\"1\"},{\"name\":\"default\",\"template\":\"2\"}]}", PX_OK, "2" },
        { "{\"chat_template\":[{\"name\":\"x\",\"template\":\"1\"}]}", PX_ENOTFOUND, NULL },
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        put_file(dir, "tokenizer_config.json", want[i].config);
        px_err_clear(&e);
        assert_int_equal(daemon_template_from_folder(fixture_heap(), dir, &text, &n, &e), want[i].code);
        if (want[i].code) continue;
        assert_string_equal(text, want[i].text);
        px_del(fixture_heap(), text, n + 1);
    }
    put_file(dir, "chat_template.jinja", "first");
    assert_int_equal(daemon_template_from_folder(fixture_heap(), dir, &text, &n, &e), PX_OK);
    assert_string_equal(text, "first");
    px_del(fixture_heap(), text, n + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_refusal_of_a_json_has_its_field),
        cmocka_unit_test(merges_in_another_order_are_kept),
        cmocka_unit_test(merges_are_held_once),
        cmocka_unit_test(hints_decide),
        cmocka_unit_test(spaces_are_put_in_front_as_the_file_says),
        cmocka_unit_test(every_refusal_of_a_model_has_its_field),
        cmocka_unit_test(damaged_files_never_crash),
        cmocka_unit_test(empty_messages_take_bounded_memory),
        cmocka_unit_test(long_tokens_end),
        cmocka_unit_test(imports_survive_every_oom),
        cmocka_unit_test(added_tokens_are_not_left_out),
        cmocka_unit_test(folders_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
