#include "daemon/text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/bpe.h"
#include "daemon/text/bytelevel.h"
#include "daemon/text/nfc.h"
#include "daemon/text/normal.h"

/* One call of the encoder. */
typedef struct encoding {
    const daemon_tokenizer *t;
    daemon_bpe   bpe;
    daemon_walk  walk;
    daemon_nfc   nfc;
    daemon_bytes part;              /* scratch: a part as the merges see it */
    size_t       max_ids;           /* SIZE_MAX: no bound */
    bool         parse_special;
    daemon_ids  *out;
} encoding;

static px_code too_many(const encoding *c, size_t at_least, px_err *e)
{
    char found[48], want[48];
    snprintf(found, sizeof found, "at least %zu tokens", at_least);
    snprintf(want, sizeof want, "at most %zu", c->max_ids);
    return px_err_set_mismatch(e, PX_ERANGE, __FILE__, __LINE__, "text", found, want);
}

/* Refuse before the work is done: n bytes give at least n / longest tokens, if every byte has one; a third of it where
 * three bytes may become one (U+2581 a space, letters composed). */
static px_code fits(const encoding *c, const char *p, size_t n, bool raw, px_err *e)
{
    const daemon_tokenizer *t = c->t;
    size_t kept = 0, least, most = t->vocab.longest * (raw && (t->nfc || t->vocab.kind == DAEMON_SENTENCEPIECE) ? 3 : 1);

    if (n / most + c->out->n <= c->max_ids) return PX_OK;
    for (size_t i = 0; i < n; i++) kept += t->vocab.byte_id[(uint8_t)p[i]] != DAEMON_NO_ID;
    least = kept / most + c->out->n;
    return least <= c->max_ids ? PX_OK : too_many(c, least, e);
}

static px_code push(encoding *c, uint32_t id, px_err *e)
{
    if (c->out->n >= c->max_ids) return too_many(c, c->out->n + 1, e);
    return daemon_ids_push(c->out, &id, 1, e);
}

static px_code encode_piece(void *ctx, const char *p, size_t n, px_err *e)
{
    encoding *c = ctx;
    const daemon_tokenizer *t = c->t;
    px_code rc;

    if (t->ignore_merges) {
        uint32_t id = daemon_vocab_find(&t->vocab, DAEMON_CLASS_TEXT, p, n);
        if (id != DAEMON_NO_ID && t->vocab.token[id].type == DAEMON_TOKEN_NORMAL) return push(c, id, e);
    }
    if ((rc = fits(c, p, n, false, e)) || (rc = daemon_bpe_piece(&c->bpe, &t->vocab, &t->merges, p, n, c->out, e)))
        return rc;
    return c->out->n <= c->max_ids ? PX_OK : too_many(c, c->out->n, e);
}

/* SentencePiece knows no words; but where no token goes on with a space behind other text, nothing is merged across that
 * place, and pieces between such places give the same ids from smaller heaps. */
static px_code encode_words(encoding *c, const char *p, size_t n, px_err *e)
{
    px_code rc;

    for (size_t i = 0, end; i < n; i = end) {
        end = n;
        if (c->t->cut_at_spaces)
            for (end = i + 1; end < n && !(p[end] == ' ' && p[end - 1] != ' '); ) end++;
        if ((rc = encode_piece(c, p + i, end - i, e))) return rc;
    }
    return PX_OK;
}

/* A part with its spaces, in which some added tokens stand; what follows them has no space of its own. */
static px_code encode_late(encoding *c, const char *p, size_t n, px_err *e)
{
    px_code rc;
    size_t at = 0, begin, bytes;
    uint32_t id;

    while (daemon_trie_find(&c->t->late, p, n, at, c->parse_special, &id, &begin, &bytes)) {
        if ((rc = encode_words(c, p + at, begin - at, e)) || (rc = push(c, id, e))) return rc;
        at = begin + bytes;
    }
    return encode_words(c, p + at, n - at, e);
}

/* Text between added tokens, on its way to the merges. */
static px_code encode_part(encoding *c, const char *p, size_t n, bool first, px_err *e)
{
    const daemon_tokenizer *t = c->t;
    px_code rc;

    if (n == 0) return PX_OK;
    c->part.n = 0;
    if (t->vocab.kind == DAEMON_SENTENCEPIECE) {
        bool space = t->prefix == DAEMON_PREFIX_ALWAYS || (t->prefix == DAEMON_PREFIX_FIRST && first);
        if ((rc = daemon_bytes_put(&c->part, " ", space, e)) || (rc = daemon_bytes_put(&c->part, p, n, e))) return rc;
        n = space + daemon_spaces_decode(p, n, c->part.p + space);
        return t->is_late ? encode_late(c, c->part.p, n, e) : encode_words(c, c->part.p, n, e);
    }
    if (t->nfc && !daemon_nfc_is_plain(p, n)) {
        if ((rc = daemon_nfc_put(&c->nfc, p, n, &c->part, e))) return rc;
        p = c->part.p;
        n = c->part.n;
    }
    return daemon_walk_run(&c->walk, p, n, e);
}

px_code daemon_tokenizer_encode(const daemon_tokenizer *t, const char *text, size_t bytes,
                                const daemon_encode_args *args, daemon_ids *out, px_err *e)
{
    px_code rc;
    size_t before = out->n, at = 0, begin, n, valid = daemon_utf8_prefix(text, bytes);
    uint32_t id;
    char found[48];
    encoding c = { .t = t, .max_ids = args->max_ids ? args->max_ids : SIZE_MAX, .parse_special = args->parse_special, .out = out };

    if (valid < bytes) {
        snprintf(found, sizeof found, "an invalid byte at offset %zu", valid);
        return px_err_set_mismatch(e, PX_EINVAL, __FILE__, __LINE__, "text", found, "UTF-8");
    }
    if (bytes == 0) text = "";                 /* NULL is legal then, arithmetic on it is not */
    daemon_bpe_init(&c.bpe, out->a);
    daemon_nfc_init(&c.nfc, out->a);
    daemon_bytes_init(&c.part, out->a);
    if ((rc = daemon_walk_init(&c.walk, &t->pre, out->a, bytes, encode_piece, &c, e))) goto done;
    if (args->add_special && t->add_bos && (rc = push(&c, t->bos, e))) goto done;
    if ((rc = fits(&c, text, bytes, true, e))) goto done;
    while (daemon_trie_find(t->is_late ? &t->early : &t->added, text, bytes, at, args->parse_special, &id, &begin, &n)) {
        if ((rc = encode_part(&c, text + at, begin - at, !at && !args->continues, e)) || (rc = push(&c, id, e))) goto done;
        at = begin + n;
    }
    rc = encode_part(&c, text + at, bytes - at, !at && !args->continues, e);

done:
    daemon_walk_deinit(&c.walk);
    daemon_bytes_deinit(&c.part);
    daemon_nfc_deinit(&c.nfc);
    daemon_bpe_deinit(&c.bpe);
    if (rc) out->n = before;
    return rc;
}
