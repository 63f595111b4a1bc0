#include "daemon/text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/detok.h"
#include "daemon/text/hints.h"
#include "daemon/text/pipeline.h"
#include "daemon/text/pre.h"
#include "proto/base/log.h"

typedef struct import {
    px_alloc       *a;
    const json_t   *doc, *model, *vocab, *added;
    daemon_pipeline p;
    const char    **text;                   /* (d.n) owned; by id, borrowed from the document */
    daemon_draft    d;
} import;

static px_code expect(const json_t *o, const char *where, const char *key, json_type type, const json_t **out, px_err *e)
{
    static const char *const word[] = { "object", "array", "string", "integer", "real", "true", "false", "null" };
    char field[64];

    *out = json_object_get(o, key);
    if (*out && json_typeof(*out) == type) return PX_OK;
    snprintf(field, sizeof field, "%s%s%s", where, *where ? "." : "", key);
    return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field, *out ? word[json_typeof(*out)] : "nothing", word[type]);
}

/* An option of the model that must be off. */
static px_code off(const json_t *model, const char *key, px_err *e)
{
    const json_t *v = json_object_get(model, key);
    char field[64];

    if (!v || json_is_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
        (json_is_string(v) && !*json_string_value(v)))
        return PX_OK;
    snprintf(field, sizeof field, "model.%s", key);
    return px_fail(e, PX_EUNSUP, field, "is not served; null is expected");
}

static px_code read_model(import *m, px_err *e)
{
    px_code rc;
    const json_t *type;
    char found[64];

    if ((rc = expect(m->doc, "", "model", JSON_OBJECT, &m->model, e))) return rc;
    type = json_object_get(m->model, "type");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE")))
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, "model.type",
                                   json_is_string(type) ? px_log_quote(json_string_value(type), -1, found, sizeof found) : "no text",
                                   "BPE");
    if ((rc = expect(m->model, "model", "vocab", JSON_OBJECT, &m->vocab, e)) ||
        (rc = off(m->model, "dropout", e)) || (rc = off(m->model, "continuing_subword_prefix", e)) ||
        (rc = off(m->model, "end_of_word_suffix", e)))
        return rc;
    m->added = json_object_get(m->doc, "added_tokens");
    if (m->added && !json_is_null(m->added) && !json_is_array(m->added))
        return px_fail(e, PX_ECORRUPT, "added_tokens", "a list is expected");
    return PX_OK;
}

/* One token to its id: every id once, from 0 on without a gap. */
static px_code place(import *m, const char *field, const char *text, const json_t *id, uint8_t type, px_err *e)
{
    json_int_t i = json_integer_value(id);
    char found[64], want[64];

    if (!json_is_integer(id)) return px_fail(e, PX_ECORRUPT, field, "its id is no integer");
    if (i < 0 || i >= (json_int_t)m->d.n) {
        snprintf(found, sizeof found, "id %lld", (long long)i);
        snprintf(want, sizeof want, "0 to %zu: %zu tokens without gaps", m->d.n - 1, m->d.n);
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field, found, want);
    }
    if (m->text[i] && strcmp(m->text[i], text)) {
        snprintf(found, sizeof found, "id %lld", (long long)i);
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field, found, "an id that no other token has");
    }
    m->text[i] = text;
    m->d.types[i] = (char)('0' + type);
    return PX_OK;
}

/* The types of the model's own tokens; added ones say theirs. */
static uint8_t type_of(const import *m, const char *text)
{
    const char *unk = json_string_value(json_object_get(m->model, "unk_token"));
    size_t n = strlen(text);

    if (unk && !strcmp(unk, text)) return DAEMON_TOKEN_UNKNOWN;
    if (m->p.kind == DAEMON_SENTENCEPIECE && n == 6 && !memcmp(text, "<0x", 3) && text[5] == '>') return DAEMON_TOKEN_BYTE;
    return DAEMON_TOKEN_NORMAL;
}

static px_code read_vocab(import *m, px_err *e)
{
    px_code rc;
    const char *text;
    json_t *id;
    char quoted[48], field[96];

    json_object_foreach((json_t *)m->vocab, text, id) {
        snprintf(field, sizeof field, "model.vocab.%s", px_log_quote(text, -1, quoted, sizeof quoted));
        if ((rc = place(m, field, text, id, type_of(m, text), e))) return rc;
    }
    return PX_OK;
}

/* A token that is looked for when the text is normalized, and is itself: what the normalizer puts in front of both is a space. */
static px_code put_late(import *m, const json_t *id, px_err *e)
{
    if (!m->d.late && !(m->d.late = json_array())) return daemon_draft_no_memory(e);
    return json_array_append_new(m->d.late, json_integer(json_integer_value(id))) ? daemon_draft_no_memory(e) : PX_OK;
}

/* What else makes an added token match other text than its own is not served. */
static px_code read_added(import *m, px_err *e)
{
    static const char *const flags[] = { "single_word", "lstrip", "rstrip" };
    px_code rc;
    const json_t *content, *id;
    char where[40], field[64];

    for (size_t i = 0; i < json_array_size(m->added); i++) {
        const json_t *o = json_array_get(m->added, i);
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        if ((rc = expect(o, where, "content", JSON_STRING, &content, e)) || (rc = expect(o, where, "id", JSON_INTEGER, &id, e)))
            return rc;
        for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
            if (!json_is_true(json_object_get(o, flags[k]))) continue;
            snprintf(field, sizeof field, "%s.%s", where, flags[k]);
            return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, "true", "false");
        }
        const char *text = json_string_value(content);
        const json_t *known = json_object_get(m->vocab, text);
        bool special = json_is_true(json_object_get(o, "special"));
        if (known && !json_equal(known, id)) return px_fail(e, PX_ECORRUPT, where, "model.vocab has this token with another id");
        uint8_t type = !special ? DAEMON_TOKEN_USER : type_of(m, text) == DAEMON_TOKEN_UNKNOWN ||
                       (m->p.kind == DAEMON_SENTENCEPIECE && !strcmp(text, "<unk>")) ? DAEMON_TOKEN_UNKNOWN : DAEMON_TOKEN_CONTROL;
        if ((rc = place(m, where, text, id, type, e))) return rc;
        if (type == DAEMON_TOKEN_UNKNOWN) m->d.unk = (uint64_t)json_integer_value(id);
        else if (m->p.normalizes_spaces && json_is_true(json_object_get(o, "normalized")) && (rc = put_late(m, id, e))) return rc;
    }
    return PX_OK;
}

static px_code put_tokens(import *m, px_err *e)
{
    px_code rc;
    char field[40];

    for (size_t i = 0; i < m->d.n; i++) {
        snprintf(field, sizeof field, "id %zu", i);
        if (!m->text[i]) return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, "model.vocab", "no token of an id", field);
        if ((rc = daemon_draft_append(m->d.tokens, "model.vocab", i, m->text[i], strlen(m->text[i]), e))) return rc;
    }
    return PX_OK;
}

/* "a b", or ["a", "b"]: the first form cannot say a token with a space. */
static px_code put_merge(import *m, size_t i, const json_t *x, daemon_bytes *both, px_err *e)
{
    px_code rc;
    const json_t *left = json_array_get(x, 0), *right = json_array_get(x, 1);
    char field[40];

    if (json_is_string(x) && json_string_length(x))             /* as it is wanted: the same text, not a copy */
        return json_array_append(m->d.merges, (json_t *)x) ? daemon_draft_no_memory(e) : PX_OK;
    both->n = 0;
    if (json_array_size(x) == 2 && json_is_string(left) && json_is_string(right)) {
        if ((rc = daemon_bytes_put(both, json_string_value(left), json_string_length(left), e)) || (rc = daemon_bytes_put(both, " ", 1, e)) ||
            (rc = daemon_bytes_put(both, json_string_value(right), json_string_length(right), e)))
            return rc;
    } else if (!json_is_string(x)) {
        snprintf(field, sizeof field, "model.merges[%zu]", i);
        return px_fail(e, PX_ECORRUPT, field, "neither \"a b\" nor [\"a\", \"b\"]");
    }
    return daemon_draft_append(m->d.merges, "model.merges", i, both->n ? both->p : "", both->n, e);
}

/* The document is many times the file: what the draft has copies of goes before more is made.  The pipeline's expressions stay. */
static void drop_tokens(import *m)
{
    json_object_del((json_t *)m->model, "vocab");
    json_array_clear((json_t *)m->added);
    m->vocab = m->added = NULL;
}

static px_code read_merges(import *m, px_err *e)
{
    px_code rc;
    const json_t *list;
    daemon_bytes both;

    if ((rc = expect(m->model, "model", "merges", JSON_ARRAY, &list, e))) return rc;
    if (json_array_size(list) > DAEMON_MAX_MERGES)
        return px_fail(e, PX_ECORRUPT, "model.merges", "%zu merges; at most %u are possible", json_array_size(list), DAEMON_MAX_MERGES);
    daemon_bytes_init(&both, m->a);
    for (size_t i = 0; i < json_array_size(list) && !rc; i++) rc = put_merge(m, i, json_array_get(list, i), &both, e);
    daemon_bytes_deinit(&both);
    return rc;
}

static px_code build(import *m, px_err *e)
{
    px_code rc;
    size_t n, i;
    json_t *o;

    if ((rc = read_model(m, e)) || (rc = daemon_pipeline_read(&m->p, m->doc, e))) return rc;
    n = json_object_size(m->vocab);
    json_array_foreach((json_t *)m->added, i, o) {
        const char *text = json_string_value(json_object_get(o, "content"));
        n += text && !json_object_get(m->vocab, text);
    }
    if ((rc = daemon_draft_init(&m->d, m->a, m->p.kind, n, "model.vocab", e))) return rc;
    if (!(m->text = px_new(m->a, const char *, n))) return daemon_draft_no_memory(e);
    m->d.prefix = m->p.prefix;
    m->d.nfc = m->p.nfc;
    m->d.ignore_merges = json_is_true(json_object_get(m->model, "ignore_merges"));
    memcpy(m->d.stage, m->p.stage, sizeof m->d.stage);
    if (m->p.kind == DAEMON_BYTELEVEL) m->d.pre_name = daemon_pre_name(m->d.stage);
    if ((rc = read_vocab(m, e)) || (rc = read_added(m, e)) || (rc = put_tokens(m, e))) return rc;
    drop_tokens(m);
    if ((rc = read_merges(m, e))) return rc;
    json_object_clear((json_t *)m->model);
    return PX_OK;
}

px_code daemon_tokenizer_from_json(px_alloc *a, const char *text, size_t n, const daemon_hints *hints, char **json,
                                   size_t *bytes, px_err *e)
{
    px_code rc;
    import m = { .a = a };
    json_error_t why;
    char quoted[160];
    json_t *doc = NULL;

    *json = NULL;
    *bytes = 0;
    if (n > DAEMON_NORMAL_BYTES) return px_fail(e, PX_ERANGE, "tokenizer", "%zu bytes; at most %zu", n, DAEMON_NORMAL_BYTES);
    doc = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(doc)) {
        bool memory = !doc && json_error_code(&why) == json_error_out_of_memory;
        rc = memory ? px_fail(e, PX_ENOMEM, "tokenizer", "reading %zu bytes of JSON", n)
                    : px_fail(e, PX_ECORRUPT, "tokenizer", "not a JSON object: %s (line %d, column %d)",
                              px_log_quote(doc ? "another value" : why.text, -1, quoted, sizeof quoted), doc ? 1 : why.line,
                              doc ? 1 : why.column);
        goto done;
    }
    m.doc = doc;
    if (!(rc = build(&m, e)) && !(rc = daemon_hints_apply(hints, &m.d, m.p.bos, e)))
        rc = daemon_draft_finish(&m.d, json, bytes, e);

done:
    if (m.text) px_del(a, m.text, m.d.n);
    daemon_draft_deinit(&m.d);
    json_decref(doc);
    return rc;
}
