#include "daemon/text/vocab.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/text/bytelevel.h"
#include "proto/base/log.h"

/* Slots for n entries at most half full. */
static size_t slots_for(uint32_t n)
{
    size_t s = 16;
    while (s < 2 * (size_t)n) s *= 2;
    return s;
}

static size_t home(const daemon_vocab *v, daemon_token_class c, const char *bytes, size_t n)
{
    return (size_t)XXH3_64bits_withSeed(bytes, n, (XXH64_hash_t)c) & (v->n_slot - 1);
}

static bool token_is(const daemon_vocab *v, uint32_t id, daemon_token_class c, const char *bytes, size_t n)
{
    const daemon_token *t = &v->token[id];
    return t->class == c && t->bytes == n && !memcmp(v->pool + t->at, bytes, n);
}

px_code daemon_vocab_init(daemon_vocab *v, px_alloc *a, daemon_vocab_kind kind, uint32_t n, size_t pool_bytes, px_err *e)
{
    px_code rc;

    *v = (daemon_vocab){ .a = a, .kind = kind, .n = n, .pool_bytes = pool_bytes, .n_slot = slots_for(n) };
    memset(v->byte_id, 0xff, sizeof v->byte_id);
    if (n == 0 || n > DAEMON_MAX_VOCAB || pool_bytes > UINT32_MAX) {
        rc = px_fail(e, PX_ECORRUPT, "tokens", "%u tokens of %zu bytes; 1 to %u tokens below 4 GiB are possible", n,
                     pool_bytes, DAEMON_MAX_VOCAB);
        goto fail;
    }
    if (!(v->token = px_new(a, daemon_token, n)) || !(v->pool = px_new(a, char, pool_bytes)) ||
        !(v->slot = px_new(a, uint32_t, v->n_slot))) {
        rc = px_fail(e, PX_ENOMEM, "tokens", "%u tokens of %zu bytes", n, pool_bytes);
        goto fail;
    }
    return PX_OK;

fail:
    daemon_vocab_deinit(v);
    return rc;
}

/* A token's text as the vocabulary writes it -> the bytes that stand in a text; out has room for n. */
static bool text_bytes(daemon_vocab_kind kind, const char *s, size_t n, char *out, size_t *bytes)
{
    if (kind == DAEMON_BYTELEVEL) return daemon_bytelevel_decode(s, n, out, bytes);
    *bytes = daemon_spaces_decode(s, n, out);
    return true;
}

/* "<0x41>" -> 0x41, or -1. */
static int byte_of_name(const char *s, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *high, *low;

    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
    if (!s[3] || !s[4] || !(high = strchr(digits, s[3])) || !(low = strchr(digits, s[4]))) return -1;
    return (int)((high - digits) * 16 + (low - digits));
}

/* The token's bytes and class; false: a byte that is not written as one. */
static bool describe(daemon_vocab_kind kind, const char *text, size_t bytes, int type, char *to, size_t *n, daemon_token_class *c)
{
    int byte;

    *c = DAEMON_CLASS_SPECIAL;
    switch (type) {
    case DAEMON_TOKEN_BYTE:
        *c = DAEMON_CLASS_OTHER;
        if ((byte = byte_of_name(text, bytes)) < 0) return false;
        *to = (char)byte;
        *n = 1;
        return true;
    case DAEMON_TOKEN_NORMAL:
        *c = DAEMON_CLASS_TEXT;
        if (text_bytes(kind, text, bytes, to, n)) return true;
        *c = DAEMON_CLASS_OTHER;                     /* unreachable by merges; decodes as written */
        break;
    case DAEMON_TOKEN_USER:
        *c = DAEMON_CLASS_TEXT;
        break;
    case DAEMON_TOKEN_UNUSED:
        *c = DAEMON_CLASS_OTHER;
        if (kind == DAEMON_BYTELEVEL) break;         /* the places that fill up a table: decoded as written */
        return text_bytes(kind, text, bytes, to, n);
    }
    memcpy(to, text, *n = bytes);
    return true;
}

px_code daemon_vocab_add(daemon_vocab *v, const char *text, size_t bytes, int type, px_err *e)
{
    uint32_t id = v->n_added;
    daemon_token *t = &v->token[id];
    daemon_token_class c;
    char field[40], quoted[64];

    snprintf(field, sizeof field, "tokens[%u]", id);
    if (id >= v->n || bytes == 0 || bytes > v->pool_bytes - v->pool_used)
        return px_fail(e, PX_ECORRUPT, field, "a token of %zu bytes", bytes);
    if (type < DAEMON_TOKEN_NORMAL || type > DAEMON_TOKEN_BYTE)
        return px_fail(e, PX_ECORRUPT, field, "token type %d; 1 to %d are known", type, DAEMON_TOKEN_BYTE);

    char *to = v->pool + v->pool_used;
    size_t n = 0;
    if (!describe(v->kind, text, bytes, type, to, &n, &c))
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field,
                                   px_log_quote(text, (long)bytes, quoted, sizeof quoted), "a byte, \"<0x00>\" to \"<0xFF>\"");
    *t = (daemon_token){ .at = (uint32_t)v->pool_used, .bytes = (uint32_t)n, .type = (uint8_t)type,
                         .class = (uint8_t)c };
    v->pool_used += n;
    v->n_added++;
    if (n > v->longest) v->longest = n;

    /* Byte-level: every byte is a token; SentencePiece: bytes have tokens of their own, beside the characters'. */
    bool byte = v->kind == DAEMON_BYTELEVEL ? n == 1 && type == DAEMON_TOKEN_NORMAL && c == DAEMON_CLASS_TEXT
                                            : type == DAEMON_TOKEN_BYTE;
    if (byte && v->byte_id[(uint8_t)*to] == DAEMON_NO_ID) v->byte_id[(uint8_t)*to] = id;
    size_t s = home(v, c, to, n);
    for (; v->slot[s]; s = (s + 1) & (v->n_slot - 1))
        if (token_is(v, v->slot[s] - 1, c, to, n)) return PX_OK;
    v->slot[s] = id + 1;
    return PX_OK;
}

uint32_t daemon_vocab_find(const daemon_vocab *v, daemon_token_class c, const char *bytes, size_t n)
{
    for (size_t s = home(v, c, bytes, n); v->slot[s]; s = (s + 1) & (v->n_slot - 1))
        if (token_is(v, v->slot[s] - 1, c, bytes, n)) return v->slot[s] - 1;
    return DAEMON_NO_ID;
}

void daemon_vocab_deinit(daemon_vocab *v)
{
    if (v->slot) px_del(v->a, v->slot, v->n_slot);
    if (v->pool) px_del(v->a, v->pool, v->pool_bytes);
    if (v->token) px_del(v->a, v->token, v->n);
    *v = (daemon_vocab){0};
}

px_code daemon_merges_init(daemon_merges *m, px_alloc *a, uint32_t n, px_err *e)
{
    *m = (daemon_merges){ .a = a, .n = n, .n_slot = slots_for(n) };
    if (n > DAEMON_MAX_MERGES) {
        *m = (daemon_merges){0};
        return px_fail(e, PX_ECORRUPT, "merges", "%u merges; at most %u are possible", n, DAEMON_MAX_MERGES);
    }
    if (!(m->slot = px_new(a, daemon_merge, m->n_slot))) {
        *m = (daemon_merges){0};
        return px_fail(e, PX_ENOMEM, "merges", "%u merges", n);
    }
    for (size_t s = 0; s < m->n_slot; s++) m->slot[s].rank = DAEMON_NO_ID;
    return PX_OK;
}

bool daemon_merge_resolve(const daemon_vocab *v, const char *text, size_t bytes, char *both, daemon_merge *out)
{
    const char *space = memchr(text, ' ', bytes);
    size_t left, right;

    if (!space || memchr(space + 1, ' ', (size_t)(text + bytes - space - 1))) return false;
    if (!text_bytes(v->kind, text, (size_t)(space - text), both, &left) || left == 0) return false;
    if (!text_bytes(v->kind, space + 1, (size_t)(text + bytes - space - 1), both + left, &right) || right == 0)
        return false;
    out->left = daemon_vocab_find(v, DAEMON_CLASS_TEXT, both, left);
    out->right = daemon_vocab_find(v, DAEMON_CLASS_TEXT, both + left, right);
    out->result = daemon_vocab_find(v, DAEMON_CLASS_TEXT, both, left + right);
    return out->left != DAEMON_NO_ID && out->right != DAEMON_NO_ID && out->result != DAEMON_NO_ID;
}

px_code daemon_merges_add(daemon_merges *m, const daemon_vocab *v, const char *text, size_t bytes, px_err *e)
{
    char field[40], small[256], quoted[120];
    char *both = small;
    daemon_merge g = { .rank = m->n_added };

    snprintf(field, sizeof field, "merges[%u]", m->n_added);
    if (m->n_added >= m->n) return px_fail(e, PX_ECORRUPT, field, "more merges than announced");
    if (bytes > sizeof small && !(both = px_new(m->a, char, bytes)))
        return px_fail(e, PX_ENOMEM, field, "a merge of %zu bytes", bytes);
    bool known = daemon_merge_resolve(v, text, bytes, both, &g);
    if (both != small) px_del(m->a, both, bytes);
    if (!known)
        return px_fail(e, PX_ECORRUPT, field, "%s is not two tokens that make a third",
                       px_log_quote(text, (long)bytes, quoted, sizeof quoted));
    daemon_merges_put(m, &g);
    return PX_OK;
}

/* Where the pair is, or where it would go. */
static daemon_merge *place(const daemon_merges *m, uint32_t left, uint32_t right)
{
    uint64_t x = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;    /* Fibonacci hashing: the high bits mix best */
    size_t s = (size_t)(x >> 32) & (m->n_slot - 1);

    while (m->slot[s].rank != DAEMON_NO_ID && (m->slot[s].left != left || m->slot[s].right != right)) s = (s + 1) & (m->n_slot - 1);
    return &m->slot[s];
}

void daemon_merges_put(daemon_merges *m, const daemon_merge *x)
{
    daemon_merge *to = place(m, x->left, x->right);

    m->n_added++;
    if (to->rank == DAEMON_NO_ID) *to = *x;
}

const daemon_merge *daemon_merges_find(const daemon_merges *m, uint32_t left, uint32_t right)
{
    const daemon_merge *x = place(m, left, right);
    return x->rank == DAEMON_NO_ID ? NULL : x;
}

void daemon_merges_deinit(daemon_merges *m)
{
    if (m->slot) px_del(m->a, m->slot, m->n_slot);
    *m = (daemon_merges){0};
}
