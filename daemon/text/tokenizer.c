#include "daemon/text/tokenizer.h"

#include <string.h>

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
