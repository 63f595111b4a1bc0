#include "daemon/text/normal.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "daemon/text/ranks.h"
#include "proto/base/log.h"

const char *const daemon_prefix_name[DAEMON_N_PREFIXES] = { "never", "first", "always" };
const char *const daemon_vocab_kind_name[2] = { "bpe-bytelevel", "bpe-sentencepiece" };

/* The member of an object, checked for its type. */
static px_code member(const json_t *o, const char *key, json_type type, json_t **out, px_err *e)
{
    static const char *const word[] = { "object", "array", "string", "integer", "real", "true", "false", "null" };

    *out = json_object_get(o, key);
    if (!*out) return px_fail(e, PX_ECORRUPT, key, "the key is missing");
    if (json_typeof(*out) != type)
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, key, word[json_typeof(*out)], word[type]);
    return PX_OK;
}

static px_code flag(const json_t *o, const char *key, bool *out, px_err *e)
{
    const json_t *j = json_object_get(o, key);
    if (!json_is_boolean(j)) return px_fail(e, PX_ECORRUPT, key, "true or false is expected");
    *out = json_is_true(j);
    return PX_OK;
}

static px_code id_of(const json_t *j, const char *field, uint32_t n, uint32_t *out, px_err *e)
{
    char found[32], want[48];

    if (!json_is_integer(j)) return px_fail(e, PX_ECORRUPT, field, "a token id is expected");
    if (json_integer_value(j) < 0 || json_integer_value(j) >= (json_int_t)n) {
        snprintf(found, sizeof found, "%lld", (long long)json_integer_value(j));
        snprintf(want, sizeof want, "0 to %u", n - 1);
        return px_err_set_mismatch(e, PX_ERANGE, __FILE__, __LINE__, field, found, want);
    }
    *out = (uint32_t)json_integer_value(j);
    return PX_OK;
}

static px_code id_or_null(const json_t *o, const char *key, uint32_t n, uint32_t *out, px_err *e)
{
    const json_t *j = json_object_get(o, key);
    *out = DAEMON_NO_TOKEN;
    return json_is_null(j) ? PX_OK : id_of(j, key, n, out, e);
}

static px_code only_known_keys(const json_t *o, const char *const *known, size_t n, px_err *e)
{
    const char *key;
    json_t *v;
    char quoted[64];

    json_object_foreach((json_t *)o, key, v) {
        size_t i = 0;
        while (i < n && strcmp(key, known[i])) i++;
        if (i == n)
            return px_fail(e, PX_ECORRUPT, "tokenizer", "unknown key %s", px_log_quote(key, -1, quoted, sizeof quoted));
    }
    return PX_OK;
}

/* Which of the words a text member is. */
static px_code word_of(const json_t *o, const char *key, const char *const *words, size_t n, px_code code, size_t *out, px_err *e)
{
    px_code rc;
    json_t *j;
    char found[64], want[96];
    size_t at = 0;

    if ((rc = member(o, key, JSON_STRING, &j, e))) return rc;
    for (*out = 0; *out < n; (*out)++)
        if (!strcmp(json_string_value(j), words[*out])) return PX_OK;
    for (size_t i = 0; i < n; i++) at += (size_t)snprintf(want + at, sizeof want - at, "%s%s", i ? " or " : "", words[i]);
    return px_err_set_mismatch(e, code, __FILE__, __LINE__, key, px_log_quote(json_string_value(j), -1, found, sizeof found), want);
}

static px_code read_head(daemon_tokenizer *t, const json_t *doc, px_err *e)
{
    static const char *const keys[] = { "format", "kind", "pre", "ignore_merges", "add_bos", "bos", "eos", "unk", "pad",
                                        "eog", "types", "tokens", "merges", "nfc", "space_prefix", "ranks", "late" };
    px_code rc;
    json_t *j;
    size_t kind, prefix = DAEMON_PREFIX_NEVER;
    char found[64], want[32];

    if ((rc = member(doc, "format", JSON_INTEGER, &j, e))) return rc;
    json_int_t format = json_integer_value(j);
    if (format < 1 || format > DAEMON_NORMAL_FORMAT) {
        snprintf(found, sizeof found, "%lld", (long long)format);
        snprintf(want, sizeof want, "1 to %d", DAEMON_NORMAL_FORMAT);
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, "format", found, want);
    }
    if ((rc = word_of(doc, "kind", daemon_vocab_kind_name, format == 1 ? 1 : 2, PX_EUNSUP, &kind, e)) ||
        (rc = only_known_keys(doc, keys, format == 1 ? 13 : sizeof keys / sizeof *keys, e)))
        return rc;
    if (format > 1 && ((rc = flag(doc, "nfc", &t->nfc, e)) ||
                       (rc = word_of(doc, "space_prefix", daemon_prefix_name, DAEMON_N_PREFIXES, PX_ECORRUPT, &prefix, e))))
        return rc;
    t->vocab.kind = (daemon_vocab_kind)kind;
    t->prefix = (daemon_prefix)prefix;
    return PX_OK;
}

static px_code read_pre(daemon_tokenizer *t, const json_t *doc, px_err *e)
{
    static const char *const keys[] = { "name", "stages" };
    px_code rc;
    json_t *pre, *j, *stages;

    if ((rc = daemon_split_init(&t->pre, t->a)) || (rc = member(doc, "pre", JSON_OBJECT, &pre, e)) ||
        (rc = only_known_keys(pre, keys, 2, e)) || (rc = member(pre, "name", JSON_STRING, &j, e)) ||
        (rc = member(pre, "stages", JSON_ARRAY, &stages, e)))
        return rc;
    for (size_t i = 0; i < json_array_size(stages); i++) {
        j = json_array_get(stages, i);
        if (!json_is_string(j)) return px_fail(e, PX_ECORRUPT, "pre.stages", "stage %zu is not a string", i);
        if ((rc = daemon_split_add(&t->pre, json_string_value(j), json_string_length(j), e))) return rc;
    }
    return PX_OK;
}

/* Every byte must have a token, or there would be text without ids. */
static px_code check_sentencepiece(daemon_tokenizer *t, px_err *e)
{
    const daemon_vocab *v = &t->vocab;
    unsigned n = 0;
    char found[48];

    if (v->kind != DAEMON_SENTENCEPIECE) return PX_OK;
    for (size_t i = 0; i < 256; i++) n += v->byte_id[i] != DAEMON_NO_ID;
    if (n < 256) {
        snprintf(found, sizeof found, "%u bytes", n);
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, "tokens", found, "a token for each of the 256 bytes");
    }
    t->cut_at_spaces = true;
    for (uint32_t id = 0; id < v->n && t->cut_at_spaces; id++) {
        const char *p = v->pool + v->token[id].at;
        if (v->token[id].class != DAEMON_CLASS_TEXT) continue;
        for (uint32_t i = 1; i < v->token[id].bytes; i++)
            if (p[i] == ' ' && p[i - 1] != ' ') t->cut_at_spaces = false;
    }
    return PX_OK;
}

/* The tokens that are looked for among a part's own spaces. */
static px_code read_late(daemon_tokenizer *t, const json_t *doc, px_err *e)
{
    px_code rc;
    const json_t *list = json_object_get(doc, "late");
    uint32_t id;
    char field[40], found[32];

    if (!list) return PX_OK;
    if (!json_is_array(list)) return px_fail(e, PX_ECORRUPT, "late", "a list of token ids is expected");
    if (t->prefix != DAEMON_PREFIX_ALWAYS)
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, "late", daemon_prefix_name[t->prefix], "space_prefix always");
    if (!(t->is_late = px_new(t->a, bool, t->vocab.n))) return px_fail(e, PX_ENOMEM, "late", "%u tokens", t->vocab.n);
    for (size_t i = 0; i < json_array_size(list); i++) {
        snprintf(field, sizeof field, "late[%zu]", i);
        if ((rc = id_of(json_array_get(list, i), field, t->vocab.n, &id, e))) return rc;
        snprintf(found, sizeof found, "type %d", t->vocab.token[id].type);
        if (t->vocab.token[id].type != DAEMON_TOKEN_CONTROL && t->vocab.token[id].type != DAEMON_TOKEN_USER)
            return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field, found, "an added token");
        t->is_late[id] = true;
    }
    if ((rc = daemon_trie_init(&t->early, t->a, &t->vocab, t->is_late, false, "", e))) return rc;
    return daemon_trie_init(&t->late, t->a, &t->vocab, t->is_late, true, " ", e);
}

static px_code read_tokens(daemon_tokenizer *t, const json_t *doc, px_err *e)
{
    px_code rc;
    json_t *tokens, *types;
    size_t total = 0, n;
    char field[40], found[32], want[32];

    if ((rc = member(doc, "tokens", JSON_ARRAY, &tokens, e)) || (rc = member(doc, "types", JSON_STRING, &types, e)))
        return rc;
    n = json_array_size(tokens);
    if (n > DAEMON_MAX_VOCAB)
        return px_fail(e, PX_ECORRUPT, "tokens", "%zu tokens; at most %u are possible", n, DAEMON_MAX_VOCAB);
    if (json_string_length(types) != n) {
        snprintf(found, sizeof found, "%zu", json_string_length(types));
        snprintf(want, sizeof want, "%zu", n);
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, "types", found, want);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_array_get(tokens, i);
        snprintf(field, sizeof field, "tokens[%zu]", i);
        if (!json_is_string(s)) return px_fail(e, PX_ECORRUPT, field, "not a string");
        total += json_string_length(s);                 /* bounded by the document */
    }
    if ((rc = daemon_vocab_init(&t->vocab, t->a, t->vocab.kind, (uint32_t)n, total, e))) return rc;
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_array_get(tokens, i);
        int type = json_string_value(types)[i] - '0';
        rc = daemon_vocab_add(&t->vocab, json_string_value(s), json_string_length(s), type, e);
        if (rc) return rc;
    }
    if ((rc = check_sentencepiece(t, e)) || (rc = read_late(t, doc, e))) return rc;
    return daemon_trie_init(&t->added, t->a, &t->vocab, NULL, false, "", e);
}

static px_code read_ranks(daemon_tokenizer *t, const json_t *ranks, px_err *e)
{
    px_code rc;
    uint32_t n = t->vocab.n, *rank;
    char field[40];

    if (json_array_size(ranks) != n)
        return px_fail(e, PX_ECORRUPT, "ranks", "%zu ranks of %u tokens", json_array_size(ranks), n);
    if (!(rank = px_new(t->a, uint32_t, n))) return px_fail(e, PX_ENOMEM, "ranks", "%u ranks", n);
    for (uint32_t i = 0; i < n; i++) {
        const json_t *j = json_array_get(ranks, i);
        json_int_t r = json_integer_value(j);
        if (json_is_integer(j) && r >= -1 && r < (json_int_t)n) {
            rank[i] = r < 0 ? DAEMON_NO_ID : (uint32_t)r;
            continue;
        }
        snprintf(field, sizeof field, "ranks[%u]", i);
        rc = px_fail(e, PX_ECORRUPT, field, "a rank is expected: -1 to %u", n - 1);
        goto done;
    }
    rc = daemon_ranks_merges(&t->merges, t->a, &t->vocab, rank, e);

done:
    px_del(t->a, rank, n);
    return rc;
}

static px_code read_merges(daemon_tokenizer *t, const json_t *doc, px_err *e)
{
    px_code rc;
    json_t *merges;
    const json_t *ranks = json_object_get(doc, "ranks");
    char field[40];

    if ((rc = member(doc, "merges", JSON_ARRAY, &merges, e))) return rc;
    if (json_array_size(merges) > UINT32_MAX)
        return px_fail(e, PX_ECORRUPT, "merges", "%zu merges", json_array_size(merges));
    if (ranks && !json_is_null(ranks)) {
        if (!json_is_array(ranks)) return px_fail(e, PX_ECORRUPT, "ranks", "an array or null is expected");
        if (json_array_size(merges)) return px_fail(e, PX_ECORRUPT, "ranks", "ranks and merges exclude each other");
        return read_ranks(t, ranks, e);
    }
    if ((rc = daemon_merges_init(&t->merges, t->a, (uint32_t)json_array_size(merges), e))) return rc;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *s = json_array_get(merges, i);
        snprintf(field, sizeof field, "merges[%zu]", i);
        if (!json_is_string(s)) return px_fail(e, PX_ECORRUPT, field, "not a string");
        if ((rc = daemon_merges_add(&t->merges, &t->vocab, json_string_value(s), json_string_length(s), e))) return rc;
    }
    return PX_OK;
}

static px_code read_ids(daemon_tokenizer *t, const json_t *doc, px_err *e)
{
    px_code rc;
    json_t *eog;
    uint32_t n = t->vocab.n, id;
    char field[40];

    if ((rc = id_or_null(doc, "bos", n, &t->bos, e)) || (rc = id_or_null(doc, "eos", n, &t->eos, e)) ||
        (rc = id_or_null(doc, "unk", n, &t->unk, e)) || (rc = id_or_null(doc, "pad", n, &t->pad, e)) ||
        (rc = flag(doc, "ignore_merges", &t->ignore_merges, e)) || (rc = flag(doc, "add_bos", &t->add_bos, e)) ||
        (rc = member(doc, "eog", JSON_ARRAY, &eog, e)))
        return rc;
    if (t->add_bos && t->bos == DAEMON_NO_TOKEN)
        return px_fail(e, PX_ECORRUPT, "add_bos", "begin-of-text is to be added, but the vocabulary has none");
    if (!(t->eog = px_new(t->a, bool, n))) return px_fail(e, PX_ENOMEM, "eog", "%u tokens", n);
    for (size_t i = 0; i < json_array_size(eog); i++) {
        snprintf(field, sizeof field, "eog[%zu]", i);
        if ((rc = id_of(json_array_get(eog, i), field, n, &id, e))) return rc;
        t->eog[id] = true;
    }
    return PX_OK;
}

px_code daemon_normal_read(daemon_tokenizer *t, px_alloc *a, const char *json, size_t bytes, px_err *e)
{
    px_code rc;
    json_t *doc = NULL;
    json_error_t why;
    char quoted[200];

    *t = (daemon_tokenizer){ .a = a };
    if (bytes > DAEMON_NORMAL_BYTES)
        return px_fail(e, PX_ERANGE, "tokenizer", "a document of %zu bytes; at most %zu", bytes, DAEMON_NORMAL_BYTES);
    doc = json_loadb(json, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!doc && json_error_code(&why) == json_error_out_of_memory) {
        rc = px_fail(e, PX_ENOMEM, "tokenizer", "reading %zu bytes of JSON", bytes);
        goto done;
    }
    if (!json_is_object(doc)) {
        rc = px_fail(e, PX_ECORRUPT, "tokenizer", "not a JSON object: %s (line %d, column %d)",
                     px_log_quote(doc ? "another value" : why.text, -1, quoted, sizeof quoted), doc ? 1 : why.line,
                     doc ? 1 : why.column);
        goto done;
    }
    if ((rc = read_head(t, doc, e)) || (rc = read_pre(t, doc, e)) || (rc = read_tokens(t, doc, e)) ||
        (rc = read_merges(t, doc, e)))
        goto done;
    rc = read_ids(t, doc, e);

done:
    json_decref(doc);
    return rc;
}

void daemon_normal_deinit(daemon_tokenizer *t)
{
    if (t->eog) px_del(t->a, t->eog, t->vocab.n);
    daemon_split_deinit(&t->pre);
    daemon_trie_deinit(&t->added);
    daemon_trie_deinit(&t->early);
    daemon_trie_deinit(&t->late);
    if (t->is_late) px_del(t->a, t->is_late, t->vocab.n);
    daemon_merges_deinit(&t->merges);
    daemon_vocab_deinit(&t->vocab);
    *t = (daemon_tokenizer){0};
}
