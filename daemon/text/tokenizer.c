#include "daemon/text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/bpe.h"
#include "daemon/text/bytelevel.h"
#include "daemon/text/normal.h"

void daemon_ids_init(daemon_ids *v, px_alloc *a)
{
    *v = (daemon_ids){ .a = a };
}

px_code daemon_ids_push(daemon_ids *v, const uint32_t *id, size_t n, px_err *e)
{
    size_t need;

    if (n == 0) return PX_OK;
    if (px_add(v->n, n, &need) || need > SIZE_MAX / 2 / sizeof *v->id)
        return px_fail(e, PX_ENOMEM, "token_ids", "%zu ids and %zu more", v->n, n);
    if (need > v->cap) {
        size_t cap = v->cap < 32 ? 64 : 2 * v->cap;
        if (cap < need) cap = need;
        void *grown = px_alloc_grow(v->a, v->id, v->cap, cap, sizeof *v->id, _Alignof(uint32_t));
        if (!grown) return px_fail(e, PX_ENOMEM, "token_ids", "%zu ids", cap);
        v->id = grown;
        v->cap = cap;
    }
    memcpy(v->id + v->n, id, n * sizeof *id);
    v->n = need;
    return PX_OK;
}

void daemon_ids_deinit(daemon_ids *v)
{
    if (v->id) px_del(v->a, v->id, v->cap);
    *v = (daemon_ids){ .a = v->a };
}

px_code daemon_tokenizer_open(daemon_tokenizer **t, px_alloc *a, const char *json, size_t bytes, px_err *e)
{
    px_code rc;

    if (!(*t = px_new(a, daemon_tokenizer, 1))) return px_fail(e, PX_ENOMEM, "tokenizer", "opening the tokenizer");
    if ((rc = daemon_normal_read(*t, a, json, bytes, e))) goto fail;
    return PX_OK;

fail:
    (*t)->a = a;
    daemon_tokenizer_close(*t);
    *t = NULL;
    return rc;
}

void daemon_tokenizer_close(daemon_tokenizer *t)
{
    if (!t) return;
    px_alloc *a = t->a;
    daemon_normal_deinit(t);
    px_del(a, t, 1);
}

/* One call of the encoder. */
typedef struct encoding {
    const daemon_tokenizer *t;
    daemon_bpe  bpe;
    daemon_walk walk;
    size_t      max_ids;            /* SIZE_MAX: no bound */
    daemon_ids *out;
} encoding;

static px_code too_many(const encoding *c, size_t at_least, px_err *e)
{
    char found[48], want[48];
    snprintf(found, sizeof found, "at least %zu tokens", at_least);
    snprintf(want, sizeof want, "at most %zu", c->max_ids);
    return px_err_set_mismatch(e, PX_ERANGE, __FILE__, __LINE__, "text", found, want);
}

/* Refuse before the work is done: n bytes give at least n / longest tokens, if every byte has one. */
static px_code fits(const encoding *c, const char *p, size_t n, px_err *e)
{
    size_t kept = 0, least;

    if (n / c->t->vocab.longest + c->out->n <= c->max_ids) return PX_OK;
    for (size_t i = 0; i < n; i++) kept += c->t->vocab.byte_id[(uint8_t)p[i]] != DAEMON_NO_ID;
    least = kept / c->t->vocab.longest + c->out->n;
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
    if ((rc = fits(c, p, n, e)) || (rc = daemon_bpe_piece(&c->bpe, &t->vocab, &t->merges, p, n, c->out, e))) return rc;
    return c->out->n <= c->max_ids ? PX_OK : too_many(c, c->out->n, e);
}

px_code daemon_tokenizer_encode(const daemon_tokenizer *t, const char *text, size_t bytes,
                                const daemon_encode_args *args, daemon_ids *out, px_err *e)
{
    px_code rc;
    size_t before = out->n, at = 0, begin, n, valid = daemon_utf8_prefix(text, bytes);
    uint32_t id;
    char found[48];
    encoding c = { .t = t, .max_ids = args->max_ids ? args->max_ids : SIZE_MAX, .out = out };

    if (valid < bytes) {
        snprintf(found, sizeof found, "an invalid byte at offset %zu", valid);
        return px_err_set_mismatch(e, PX_EINVAL, __FILE__, __LINE__, "text", found, "UTF-8");
    }
    if (bytes == 0) text = "";                 /* NULL is legal then, arithmetic on it is not */
    daemon_bpe_init(&c.bpe, out->a);
    if ((rc = daemon_walk_init(&c.walk, &t->pre, out->a, bytes, encode_piece, &c, e))) goto done;
    if (args->add_special && t->add_bos && (rc = push(&c, t->bos, e))) goto done;
    if ((rc = fits(&c, text, bytes, e))) goto done;
    while (daemon_trie_find(&t->added, text, bytes, at, args->parse_special, &id, &begin, &n)) {
        if ((rc = daemon_walk_run(&c.walk, text + at, begin - at, e)) || (rc = push(&c, id, e))) goto done;
        at = begin + n;
    }
    rc = daemon_walk_run(&c.walk, text + at, bytes - at, e);

done:
    daemon_walk_deinit(&c.walk);
    daemon_bpe_deinit(&c.bpe);
    if (rc) out->n = before;
    return rc;
}

uint32_t daemon_tokenizer_n_vocab(const daemon_tokenizer *t)
{
    return t->vocab.n;
}

uint32_t daemon_tokenizer_bos(const daemon_tokenizer *t)
{
    return t->bos;
}

bool daemon_tokenizer_is_eog(const daemon_tokenizer *t, uint32_t id)
{
    return id < t->vocab.n && t->eog[id];
}

bool daemon_tokenizer_is_special(const daemon_tokenizer *t, uint32_t id)
{
    return id < t->vocab.n && t->vocab.token[id].class == DAEMON_CLASS_SPECIAL;
}

uint32_t daemon_tokenizer_find(const daemon_tokenizer *t, const char *token, size_t bytes)
{
    uint32_t id = DAEMON_NO_TOKEN;

    for (int c = 0; c < DAEMON_N_CLASSES && id == DAEMON_NO_TOKEN; c++)
        id = daemon_vocab_find(&t->vocab, (daemon_token_class)c, token, bytes);
    return id;
}

const char *daemon_tokenizer_bytes(const daemon_tokenizer *t, uint32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id >= t->vocab.n) return NULL;
    *bytes = t->vocab.token[id].bytes;
    return t->vocab.pool + t->vocab.token[id].at;
}
