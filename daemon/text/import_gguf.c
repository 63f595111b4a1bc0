#include "daemon/text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/draft.h"
#include "daemon/text/pre.h"
#include "proto/base/log.h"
#include "shard/store/gguf.h"

#define K "tokenizer.ggml."

typedef struct import {
    const shard_gguf *g;
    px_alloc    *a;
    daemon_draft d;
} import;

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

/* Which machinery: byte-level BPE and its pre-tokenizer, or SentencePiece. */
static px_code find_kind(const import *m, daemon_vocab_kind *kind, const daemon_pre **pre, px_err *e)
{
    px_code rc;
    const char *s;
    size_t bytes;
    char quoted[96], names[128];

    *pre = NULL;
    if ((rc = name_of(m, K "model", quoted, sizeof quoted, &s, &bytes, e))) return rc;
    *kind = DAEMON_SENTENCEPIECE;
    if (bytes == 5 && !memcmp(s, "llama", 5)) return PX_OK;
    *kind = DAEMON_BYTELEVEL;
    if (bytes != 4 || memcmp(s, "gpt2", 4))
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, K "model", quoted, "gpt2 or llama");
    daemon_pre_names(names, sizeof names);
    if (!shard_gguf_has(m->g, K "pre"))
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, K "pre", "no such key", names);
    if ((rc = name_of(m, K "pre", quoted, sizeof quoted, &s, &bytes, e))) return rc;
    *pre = daemon_pre_by_name(s, bytes);
    return *pre ? PX_OK : px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, K "pre", quoted, names);
}

/* Of a token or a merge, many times what the longest have; of all, so that all fit into a normal form, where a NUL has six. */
#define TEXT_BYTES  ((size_t)64 << 10)
#define TEXTS_BYTES (DAEMON_NORMAL_BYTES / 6)

struct texts { const char *key; size_t bytes; };

static px_code add_bytes(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    struct texts *x = ctx;
    char field[64];

    (void)s;
    x->bytes += bytes;                                 /* no more than the file has */
    if (bytes && bytes <= TEXT_BYTES) return PX_OK;
    snprintf(field, sizeof field, "%s[%zu]", x->key, i);
    return px_fail(e, PX_ECORRUPT, field, "a text of %zu bytes; 1 to %zu are possible", bytes, TEXT_BYTES);
}

/* Before anything is made for them: where the file has a hole, there are any number without a text, or one of any gigabytes. */
static px_code check_texts(const import *m, const char *key, px_err *e)
{
    struct texts x = { .key = key };
    px_code rc = shard_gguf_array_str(m->g, key, add_bytes, &x, e);

    if (rc) return rc;
    if (x.bytes > TEXTS_BYTES) return px_fail(e, PX_ECORRUPT, key, "texts of %zu bytes; at most %zu are possible", x.bytes, TEXTS_BYTES);
    return PX_OK;
}

static px_code add_token(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    return daemon_draft_append(((import *)ctx)->d.tokens, K "tokens", i, s, bytes, e);
}

static px_code add_merge(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    return daemon_draft_append(((import *)ctx)->d.merges, K "merges", i, s, bytes, e);
}

/* An array of one number a token must be there and as long as the tokens. */
static px_code need_all(const import *m, const char *key, px_err *e)
{
    px_code rc;
    size_t n;
    char found[32], want[32];

    if ((rc = need(m, key, e)) || (rc = shard_gguf_array_len(m->g, key, &n, e)) || n == m->d.n) return rc;
    snprintf(found, sizeof found, "%zu", n);
    snprintf(want, sizeof want, "%zu", m->d.n);
    return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, key, found, want);
}

static px_code read_types(import *m, px_err *e)
{
    px_code rc;
    int64_t type, last = m->d.kind == DAEMON_SENTENCEPIECE ? DAEMON_TOKEN_BYTE : DAEMON_TOKEN_UNUSED;
    char field[64], found[32], want[32];

    /* Without types no control token could be told from text. */
    if ((rc = need_all(m, K "token_type", e))) return rc;
    for (size_t i = 0; i < m->d.n; i++) {
        if ((rc = shard_gguf_array_i64(m->g, K "token_type", i, &type, e))) return rc;
        if (type < DAEMON_TOKEN_NORMAL || type > last) {
            snprintf(field, sizeof field, K "token_type[%zu]", i);
            snprintf(found, sizeof found, "%lld", (long long)type);
            snprintf(want, sizeof want, "1 to %lld", (long long)last);
            return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, want);
        }
        m->d.types[i] = (char)('0' + type);
    }
    return PX_OK;
}

static px_code read_scores(import *m, px_err *e)
{
    px_code rc;

    if ((rc = need_all(m, K "scores", e))) return rc;
    if (!(m->d.scores = px_new(m->a, double, m->d.n))) return daemon_draft_no_memory(e);
    for (size_t i = 0; i < m->d.n; i++)
        if ((rc = shard_gguf_array_f64(m->g, K "scores", i, &m->d.scores[i], e))) return rc;
    return PX_OK;
}

static px_code read_id(import *m, const char *key, uint64_t *id, px_err *e)
{
    px_code rc;

    *id = DAEMON_NO_ID64;
    if (!shard_gguf_has(m->g, key)) return PX_OK;
    if ((rc = shard_gguf_u64(m->g, key, id, e))) return rc;
    if (*id == UINT32_MAX) *id = DAEMON_NO_ID64;       /* how some files say "none" */
    else if (*id >= m->d.n)
        return px_fail(e, PX_ECORRUPT, key, "id %llu of a vocabulary of %zu", (unsigned long long)*id, m->d.n);
    return PX_OK;
}

/* The ids, and which of them end a generation: eos, end of turn, end of message. */
static px_code read_ids(import *m, px_err *e)
{
    px_code rc;
    daemon_draft *d = &m->d;
    uint64_t eot = UINT64_MAX, eom = UINT64_MAX;

    if ((rc = read_id(m, K "bos_token_id", &d->bos, e)) || (rc = read_id(m, K "eos_token_id", &d->eos, e)) ||
        (rc = read_id(m, K "unknown_token_id", &d->unk, e)) || (rc = read_id(m, K "padding_token_id", &d->pad, e)))
        return rc;
    if (shard_gguf_has(m->g, K "eot_token_id") && (rc = shard_gguf_u64(m->g, K "eot_token_id", &eot, e))) return rc;
    if (shard_gguf_has(m->g, K "eom_token_id") && (rc = shard_gguf_u64(m->g, K "eom_token_id", &eom, e))) return rc;
    if (eot < d->n) d->eog[eot] = true;
    if (eom < d->n) d->eog[eom] = true;
    return PX_OK;
}

static px_code read_flag(const import *m, const char *key, bool *out, px_err *e)
{
    return shard_gguf_has(m->g, key) ? shard_gguf_bool(m->g, key, out, e) : PX_OK;
}

/* What only SentencePiece's files say. */
static px_code read_sentencepiece(import *m, px_err *e)
{
    bool prefix = true, squeeze = false;
    px_code rc;

    if (shard_gguf_has(m->g, K "precompiled_charsmap"))
        return px_fail(e, PX_EUNSUP, K "precompiled_charsmap", "a table of characters to normalise is not served");
    if ((rc = read_flag(m, K "remove_extra_whitespaces", &squeeze, e)) || (rc = read_flag(m, K "add_space_prefix", &prefix, e)))
        return rc;
    if (squeeze) return px_fail(e, PX_EUNSUP, K "remove_extra_whitespaces", "true is not served: spaces are kept as they are");
    m->d.prefix = prefix ? DAEMON_PREFIX_ALWAYS : DAEMON_PREFIX_NEVER;
    return read_scores(m, e);
}

static px_code build(import *m, px_err *e)
{
    px_code rc;
    const daemon_pre *pre;
    daemon_vocab_kind kind;
    size_t n;

    if ((rc = find_kind(m, &kind, &pre, e))) return rc;
    if ((rc = need(m, K "tokens", e)) || (rc = check_texts(m, K "tokens", e)) || (rc = shard_gguf_array_len(m->g, K "tokens", &n, e)) ||
        (rc = daemon_draft_init(&m->d, m->a, kind, n, K "tokens", e)))
        return rc;
    if (pre) {
        for (size_t i = 0; pre->stage[i]; i++) m->d.stage[i] = pre->stage[i];
        m->d.pre_name = pre->name;
        m->d.ignore_merges = pre->ignore_merges;
        m->d.nfc = pre->nfc;
    }
    m->d.add_bos = pre ? pre->add_bos : true;
    if ((rc = read_flag(m, K "add_bos_token", &m->d.add_bos, e)) || (rc = read_types(m, e)) ||
        (rc = shard_gguf_array_str(m->g, K "tokens", add_token, m, e)))
        return rc;
    if (!pre) rc = read_sentencepiece(m, e);
    else if (!(rc = need(m, K "merges", e)) && !(rc = check_texts(m, K "merges", e)))
        rc = shard_gguf_array_str(m->g, K "merges", add_merge, m, e);
    return rc ? rc : read_ids(m, e);
}

px_code daemon_tokenizer_from_gguf(px_alloc *a, const struct shard_gguf *g, char **json, size_t *bytes, px_err *e)
{
    px_code rc;
    import m = { .g = g, .a = a };

    *json = NULL;
    *bytes = 0;
    if (!shard_gguf_has(g, K "model")) return px_fail(e, PX_ENOTFOUND, K "model", "the file has no tokenizer");
    if (!(rc = build(&m, e))) rc = daemon_draft_finish(&m.d, json, bytes, e);
    daemon_draft_deinit(&m.d);
    return rc;
}
