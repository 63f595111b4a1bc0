#include "daemon/text/tokenizer.h"

#include <jansson.h>
#include <string.h>

#include "daemon/text/detok.h"
#include "daemon/text/normal.h"
#include "proto/base/io.h"
#include "proto/base/log.h"
#include "shard/store/gguf.h"

#define K "tokenizer.ggml."

/* White space as Unicode has it; the library's \s counts U+180E too, which is none since Unicode 6.3. */
#define WS "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
/* Numerals (Nd, Nl, No), with those of Unicode 15 to 17, which the library (14) may not know and the makers' does. */
#define NUMERAL "[\\p{N}\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11DE0}-\\x{11DE9}" \
                "\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{16FF4}-\\x{16FF6}\\x{1CCF0}-\\x{1CCF9}" \
                "\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}]"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+" \
             "|[" WS "]+(?![^" WS "])|[" WS "]+"
#define LLAMA3 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" \
               "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"

/* What a name of a pre-tokenizer stands for; no other key of the file says it. */
static const struct pre {
    const char *name;
    const char *stage[DAEMON_SPLIT_STAGES];
    bool        ignore_merges, add_bos;
} known_pre[] = {
    { "smollm",    { NUMERAL, GPT2 }, false, false },      /* digits one by one, before everything else */
    { "gpt-2",     { GPT2 },           false, false },
    { "llama-bpe", { LLAMA3 },         true,  true  },
};

/* Control tokens of these names end a generation, whatever the file's eos is. */
static const char *const known_eog[] = { "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                         "<|end|>", "<end_of_turn>", "</s>" };

typedef struct import {
    const shard_gguf *g;
    json_t *doc, *tokens, *merges;
    char   *types;                      /* (n + 1) a digit a token */
    size_t  n;
    px_alloc *a;
} import;

static px_code no_memory(px_err *e)
{
    return px_fail(e, PX_ENOMEM, "tokenizer", "making the tokenizer's normal form");
}

/* A key without which the file has no usable tokenizer, though it names one. */
static px_code need(const import *m, const char *key, px_err *e)
{
    return shard_gguf_has(m->g, key) ? PX_OK : px_fail(e, PX_ECORRUPT, key, "the key is missing");
}

static px_code name_of(const import *m, const char *key, char *quoted, size_t cap, const char **s, size_t *bytes,
                       px_err *e)
{
    px_code rc = shard_gguf_str(m->g, key, s, bytes, e);
    if (rc == PX_OK) px_log_quote(*s, (long)(*bytes < cap ? *bytes : cap), quoted, cap);
    return rc;
}

static px_code find_pre(const import *m, const struct pre **out, px_err *e)
{
    px_code rc;
    const char *s;
    size_t bytes, at = 0;
    char quoted[96], names[128] = "";

    if ((rc = name_of(m, K "model", quoted, sizeof quoted, &s, &bytes, e))) return rc;
    if (bytes != 4 || memcmp(s, "gpt2", 4))
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, K "model", quoted, "gpt2");
    for (size_t i = 0; i < sizeof known_pre / sizeof *known_pre; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", known_pre[i].name);
    if (!shard_gguf_has(m->g, K "pre"))
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, K "pre", "no such key", names);
    if ((rc = name_of(m, K "pre", quoted, sizeof quoted, &s, &bytes, e))) return rc;
    for (size_t i = 0; i < sizeof known_pre / sizeof *known_pre; i++) {
        *out = &known_pre[i];
        if (strlen((*out)->name) == bytes && !memcmp((*out)->name, s, bytes)) return PX_OK;
    }
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, K "pre", quoted, names);
}

/* json_array_append_new of a string; field is the key. */
static px_code append(json_t *array, const char *key, size_t i, const char *s, size_t bytes, px_err *e)
{
    char field[64];

    if (!px_utf8_valid(s, bytes)) {
        snprintf(field, sizeof field, "%s[%zu]", key, i);
        return px_fail(e, PX_ECORRUPT, field, "not UTF-8");
    }
    return json_array_append_new(array, json_stringn_nocheck(s, bytes)) ? no_memory(e) : PX_OK;
}

static px_code add_token(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    return append(((import *)ctx)->tokens, K "tokens", i, s, bytes, e);
}

static px_code add_merge(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    return append(((import *)ctx)->merges, K "merges", i, s, bytes, e);
}

static px_code read_types(import *m, px_err *e)
{
    px_code rc;
    size_t n;
    char field[64], found[32], want[32];

    /* Without types no control token could be told from text. */
    if ((rc = need(m, K "token_type", e)) || (rc = shard_gguf_array_len(m->g, K "token_type", &n, e))) return rc;
    if (n != m->n) {
        snprintf(found, sizeof found, "%zu", n);
        snprintf(want, sizeof want, "%zu", m->n);
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, K "token_type", found, want);
    }
    if (!(m->types = px_new(m->a, char, n + 1))) return no_memory(e);
    for (size_t i = 0; i < n; i++) {
        int64_t type;
        if ((rc = shard_gguf_array_i64(m->g, K "token_type", i, &type, e))) return rc;
        if (type < DAEMON_TOKEN_NORMAL || type > DAEMON_TOKEN_UNUSED) {
            snprintf(field, sizeof field, K "token_type[%zu]", i);
            snprintf(found, sizeof found, "%lld", (long long)type);
            return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, "1 to 5");
        }
        m->types[i] = (char)('0' + type);
    }
    return PX_OK;
}

/* An id of the file as JSON; null if the key is absent.  Whether it is in range is checked when the form is opened. */
static px_code set_id(import *m, const char *name, const char *key, uint64_t *id, px_err *e)
{
    px_code rc;

    *id = UINT64_MAX;
    if (!shard_gguf_has(m->g, key))
        return json_object_set_new(m->doc, name, json_null()) ? no_memory(e) : PX_OK;
    if ((rc = shard_gguf_u64(m->g, key, id, e))) return rc;
    if (*id >= m->n)
        return px_fail(e, PX_ECORRUPT, key, "id %llu of a vocabulary of %zu", (unsigned long long)*id, m->n);
    return json_object_set_new(m->doc, name, json_integer((json_int_t)*id)) ? no_memory(e) : PX_OK;
}

static void mark(bool *eog, const import *m, uint64_t id)
{
    if (id < m->n) eog[id] = true;
}

/* The ids, and which of them end a generation: eos, end of turn, end of message, and control tokens known by name. */
static px_code read_ids(import *m, px_err *e)
{
    px_code rc;
    uint64_t eos, eot = UINT64_MAX, eom = UINT64_MAX, id;
    json_t *list;
    bool *eog = px_new(m->a, bool, m->n);

    if (!eog) return no_memory(e);
    if ((rc = set_id(m, "bos", K "bos_token_id", &id, e)) || (rc = set_id(m, "eos", K "eos_token_id", &eos, e)) ||
        (rc = set_id(m, "unk", K "unknown_token_id", &id, e)) || (rc = set_id(m, "pad", K "padding_token_id", &id, e)))
        goto done;
    if (shard_gguf_has(m->g, K "eot_token_id") && (rc = shard_gguf_u64(m->g, K "eot_token_id", &eot, e))) goto done;
    if (shard_gguf_has(m->g, K "eom_token_id") && (rc = shard_gguf_u64(m->g, K "eom_token_id", &eom, e))) goto done;
    mark(eog, m, eos);
    mark(eog, m, eot);
    mark(eog, m, eom);
    for (size_t i = 0; i < m->n; i++)
        for (size_t k = 0; k < sizeof known_eog / sizeof *known_eog && m->types[i] == '0' + DAEMON_TOKEN_CONTROL; k++)
            if (!strcmp(json_string_value(json_array_get(m->tokens, i)), known_eog[k])) mark(eog, m, i);
    if (!(list = json_array()) || json_object_set_new(m->doc, "eog", list)) rc = no_memory(e);
    for (size_t i = 0; i < m->n && rc == PX_OK; i++)
        if (eog[i] && json_array_append_new(list, json_integer((json_int_t)i))) rc = no_memory(e);

done:
    px_del(m->a, eog, m->n);
    return rc;
}

static px_code build(import *m, px_err *e)
{
    px_code rc;
    const struct pre *pre = NULL;
    json_t *stages, *p;
    bool add_bos;

    if ((rc = find_pre(m, &pre, e))) return rc;
    if ((rc = need(m, K "tokens", e)) || (rc = shard_gguf_array_len(m->g, K "tokens", &m->n, e))) return rc;
    if (m->n == 0 || m->n > DAEMON_MAX_VOCAB)
        return px_fail(e, PX_ECORRUPT, K "tokens", "%zu tokens; 1 to %u are possible", m->n, DAEMON_MAX_VOCAB);
    add_bos = pre->add_bos;
    if (shard_gguf_has(m->g, K "add_bos_token") && (rc = shard_gguf_bool(m->g, K "add_bos_token", &add_bos, e)))
        return rc;

    if (!(stages = json_array())) return no_memory(e);
    for (size_t i = 0; i < DAEMON_SPLIT_STAGES && pre->stage[i]; i++) {
        if (!json_array_append_new(stages, json_string(pre->stage[i]))) continue;
        json_decref(stages);
        return no_memory(e);
    }
    if (!(p = json_pack("{s:s, s:o}", "name", pre->name, "stages", stages))) return no_memory(e);   /* takes stages */
    if (!(m->doc = json_pack("{s:i, s:s, s:o, s:b, s:b}", "format", DAEMON_NORMAL_FORMAT, "kind", DAEMON_NORMAL_KIND,
                             "pre", p, "ignore_merges", pre->ignore_merges, "add_bos", add_bos)))
        return no_memory(e);
    if (!(m->tokens = json_array()) || !(m->merges = json_array())) return no_memory(e);
    if ((rc = read_types(m, e)) || (rc = shard_gguf_array_str(m->g, K "tokens", add_token, m, e)) ||
        (rc = need(m, K "merges", e)) || (rc = shard_gguf_array_str(m->g, K "merges", add_merge, m, e)) ||
        (rc = read_ids(m, e)))
        return rc;
    if (json_object_set_new(m->doc, "types", json_string(m->types)) || json_object_set(m->doc, "tokens", m->tokens) ||
        json_object_set(m->doc, "merges", m->merges))
        return no_memory(e);
    return PX_OK;
}

static int put_chunk(const char *p, size_t n, void *out)
{
    return daemon_bytes_put(out, p, n, NULL) ? -1 : 0;
}

px_code daemon_tokenizer_from_gguf(px_alloc *a, const struct shard_gguf *g, char **json, size_t *bytes, px_err *e)
{
    px_code rc;
    import m = { .g = g, .a = a };
    daemon_bytes text;
    daemon_tokenizer *t = NULL;

    *json = NULL;
    *bytes = 0;
    daemon_bytes_init(&text, a);
    if (!shard_gguf_has(g, K "model")) {
        rc = px_fail(e, PX_ENOTFOUND, K "model", "the file has no tokenizer");
        goto done;
    }
    if ((rc = build(&m, e))) goto done;
    if (json_dump_callback(m.doc, put_chunk, &text, JSON_COMPACT | JSON_PRESERVE_ORDER)) {
        rc = no_memory(e);
        goto done;
    }
    if ((rc = daemon_tokenizer_open(&t, a, text.p, text.n, e))) goto done;
    if (!(*json = px_new(a, char, text.n + 1))) {
        rc = no_memory(e);
        goto done;
    }
    memcpy(*json, text.p, text.n);
    *bytes = text.n;

done:
    daemon_tokenizer_close(t);
    daemon_bytes_deinit(&text);
    if (m.types) px_del(a, m.types, m.n + 1);
    json_decref(m.merges);
    json_decref(m.tokens);
    json_decref(m.doc);
    return rc;
}
