#include "daemon/text/detok.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/bytelevel.h"
#include "daemon/text/normal.h"

void daemon_bytes_init(daemon_bytes *b, px_alloc *a)
{
    *b = (daemon_bytes){ .a = a };
}

px_code daemon_bytes_put(daemon_bytes *b, const char *p, size_t n, px_err *e)
{
    size_t need;

    if (n == 0) return PX_OK;
    if (px_add(b->n, n, &need) || need > SIZE_MAX / 2)
        return px_fail(e, PX_ENOMEM, "text", "%zu bytes and %zu more", b->n, n);
    if (need > b->cap) {
        size_t cap = b->cap < 64 ? 128 : 2 * b->cap;
        if (cap < need) cap = need;
        char *grown = px_alloc_grow(b->a, b->p, b->cap, cap, 1, 1);
        if (!grown) return px_fail(e, PX_ENOMEM, "text", "%zu bytes", cap);
        b->p = grown;
        b->cap = cap;
    }
    memcpy(b->p + b->n, p, n);
    b->n = need;
    return PX_OK;
}

void daemon_bytes_deinit(daemon_bytes *b)
{
    if (b->p) px_del(b->a, b->p, b->cap);
    *b = (daemon_bytes){ .a = b->a };
}

static px_code stop_init(daemon_stop *s, px_alloc *a, const char *text, size_t bytes, size_t index, px_err *e)
{
    char field[40];

    snprintf(field, sizeof field, "stop_strings[%zu]", index);
    if (bytes == 0) return px_fail(e, PX_EINVAL, field, "an empty stop string");
    if (bytes > (1u << 30)) return px_fail(e, PX_ERANGE, field, "a stop string of %zu bytes", bytes);
    if (daemon_utf8_prefix(text, bytes) < bytes)
        return px_fail(e, PX_EINVAL, field, "invalid UTF-8 at offset %zu", daemon_utf8_prefix(text, bytes));
    s->bytes = (uint32_t)bytes;
    if (!(s->text = px_new(a, char, bytes)) || !(s->border = px_new(a, uint32_t, bytes)))
        return px_fail(e, PX_ENOMEM, field, "%zu bytes", bytes);
    memcpy(s->text, text, bytes);
    for (uint32_t i = 1, k = 0; i < s->bytes; i++) {
        while (k && text[i] != text[k]) k = s->border[k - 1];
        if (text[i] == text[k]) k++;
        s->border[i] = k;
    }
    return PX_OK;
}

px_code daemon_detok_init(daemon_detok *d, px_alloc *a, const daemon_tokenizer *t, bool skip_special,
                          const char *const *stop, const size_t *stop_bytes, size_t n_stop, bool include_stop,
                          px_err *e)
{
    px_code rc;

    *d = (daemon_detok){ .t = t, .a = a, .skip_special = skip_special || t->vocab.kind == DAEMON_SENTENCEPIECE,
                         .include_stop = include_stop, .begins = true };
    daemon_bytes_init(&d->hold, a);
    if (n_stop && !(d->stop = px_new(a, daemon_stop, n_stop))) {
        rc = px_fail(e, PX_ENOMEM, "stop_strings", "%zu stop strings", n_stop);
        goto fail;
    }
    d->n_stop = n_stop;
    for (size_t i = 0; i < n_stop; i++)
        if ((rc = stop_init(&d->stop[i], a, stop[i], stop_bytes[i], i, e))) goto fail;
    return PX_OK;

fail:
    daemon_detok_deinit(d);
    return rc;
}

void daemon_detok_deinit(daemon_detok *d)
{
    for (size_t i = 0; i < d->n_stop; i++) {
        if (d->stop[i].border) px_del(d->a, d->stop[i].border, d->stop[i].bytes);
        if (d->stop[i].text) px_del(d->a, d->stop[i].text, d->stop[i].bytes);
    }
    if (d->stop) px_del(d->a, d->stop, d->n_stop);
    daemon_bytes_deinit(&d->hold);
    *d = (daemon_detok){0};
}

/* One more byte of the text, for every stop string; true if one or more end here: d->which is then the longest. */
static bool stop_step(daemon_detok *d, char c)
{
    bool hit = false;

    for (size_t i = 0; i < d->n_stop; i++) {
        daemon_stop *s = &d->stop[i];
        while (s->matched && s->text[s->matched] != c) s->matched = s->border[s->matched - 1];
        if (s->text[s->matched] == c) s->matched++;
        if (s->matched < s->bytes) continue;
        if (d->deaf) {
            s->matched = s->border[s->bytes - 1];
            continue;
        }
        if (!hit || s->bytes > d->stop[d->which].bytes) d->which = i;
        hit = true;
    }
    return hit;
}

/* Whole characters (or U+FFFD) of the text. */
static px_code text_put(daemon_detok *d, const char *p, size_t n, px_err *e)
{
    px_code rc;

    for (size_t i = 0; i < n && !d->stopped; i++) {
        if ((rc = daemon_bytes_put(&d->hold, p + i, 1, e))) return rc;
        d->stopped = stop_step(d, p[i]);
    }
    return PX_OK;
}

/* Bytes of the sequence that begins with `lead`; 0: nothing begins with it. */
static uint32_t sequence_bytes(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

/* May c follow the n bytes of s?  The second byte decides about overlong forms, surrogates and the end of Unicode. */
static bool may_follow(const uint8_t *s, uint32_t n, uint8_t c)
{
    if (n == 1) {
        if (s[0] == 0xe0) return c >= 0xa0 && c <= 0xbf;
        if (s[0] == 0xed) return c >= 0x80 && c <= 0x9f;
        if (s[0] == 0xf0) return c >= 0x90 && c <= 0xbf;
        if (s[0] == 0xf4) return c >= 0x80 && c <= 0x8f;
    }
    return c >= 0x80 && c <= 0xbf;
}

/* The unfinished sequence will not become a character. */
static px_code give_up_tail(daemon_detok *d, px_err *e)
{
    px_code rc = PX_OK;
    uint32_t n = d->n_tail && d->t->vocab.kind == DAEMON_BYTELEVEL ? 1 : d->n_tail;

    d->n_tail = 0;
    for (uint32_t i = 0; i < n && !rc; i++) rc = text_put(d, "\xef\xbf\xbd", 3, e);
    return rc;
}

static px_code byte_put(daemon_detok *d, uint8_t c, px_err *e)
{
    px_code rc;

    if (d->n_tail && !may_follow(d->tail, d->n_tail, c) && (rc = give_up_tail(d, e))) return rc;     /* c begins anew */
    d->tail[d->n_tail++] = c;
    if (d->n_tail == 1 && sequence_bytes(c) == 0) return give_up_tail(d, e);
    if (d->n_tail < sequence_bytes(d->tail[0])) return PX_OK;
    uint32_t n = d->n_tail;
    d->n_tail = 0;
    return text_put(d, (const char *)d->tail, n, e);
}

/* Hand over all but what may begin a stop string (all, if `all`). */
static px_code release(daemon_detok *d, daemon_bytes *out, bool all, px_err *e)
{
    px_code rc;
    size_t end = d->hold.n, kept = 0;

    if (d->stopped) {
        if (!d->include_stop) end -= d->stop[d->which].bytes;
    } else if (!all) {
        for (size_t i = 0; i < d->n_stop; i++)
            if (d->stop[i].matched > kept) kept = d->stop[i].matched;
        end -= kept;
    }
    if (end == d->released) return PX_OK;           /* nothing, perhaps no buffer either */
    if ((rc = daemon_bytes_put(out, d->hold.p + d->released, end - d->released, e))) return rc;
    d->released = end;
    if (d->released == d->hold.n) {
        d->hold.n = d->released = 0;
    } else if (d->released > d->hold.n / 2) {       /* move each byte a bounded number of times */
        memmove(d->hold.p, d->hold.p + d->released, d->hold.n - d->released);
        d->hold.n -= d->released;
        d->released = 0;
    }
    return PX_OK;
}

px_code daemon_detok_push(daemon_detok *d, uint32_t id, daemon_bytes *out, bool *hit, size_t *which, px_err *e)
{
    px_code rc;
    size_t n;
    const char *p = daemon_tokenizer_bytes(d->t, id, &n);
    bool already = d->stopped;

    *hit = false;
    *which = 0;
    if (!p)
        return px_fail(e, PX_ERANGE, "token_ids", "id %u of a vocabulary of %u", id, daemon_tokenizer_n_vocab(d->t));
    if (d->skip_special && daemon_tokenizer_is_special(d->t, id)) n = 0;
    if (n && d->begins) {
        d->begins = false;
        if (d->t->prefix != DAEMON_PREFIX_NEVER && d->t->vocab.token[id].class == DAEMON_CLASS_TEXT && *p == ' ') p++, n--;
    }
    for (size_t i = 0; i < n && !d->stopped; i++)
        if ((rc = byte_put(d, (uint8_t)p[i], e))) return rc;
    if (!already && (rc = release(d, out, false, e))) return rc;
    *hit = d->stopped;
    *which = d->which;
    return PX_OK;
}

px_code daemon_detok_finish(daemon_detok *d, daemon_bytes *out, px_err *e)
{
    px_code rc;

    if (d->stopped) return PX_OK;
    d->deaf = true;                                  /* no token ends here, so nobody would be told of a stop string */
    if ((rc = give_up_tail(d, e))) return rc;
    return release(d, out, true, e);
}
