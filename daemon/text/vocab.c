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

px_code daemon_vocab_init(daemon_vocab *v, px_alloc *a, uint32_t n, size_t pool_bytes, px_err *e)
{
    px_code rc;

    *v = (daemon_vocab){ .a = a, .n = n, .pool_bytes = pool_bytes, .n_slot = slots_for(n) };
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

px_code daemon_vocab_add(daemon_vocab *v, const char *text, size_t bytes, int type, px_err *e)
{
    uint32_t id = v->n_added;
    daemon_token *t = &v->token[id];
    char field[40];

    snprintf(field, sizeof field, "tokens[%u]", id);
    if (id >= v->n || bytes == 0 || bytes > v->pool_bytes - v->pool_used)
        return px_fail(e, PX_ECORRUPT, field, "a token of %zu bytes", bytes);
    if (type < DAEMON_TOKEN_NORMAL || type > DAEMON_TOKEN_UNUSED)
        return px_fail(e, PX_ECORRUPT, field, "token type %d; 1 to %d are known", type, DAEMON_TOKEN_UNUSED);

    char *to = v->pool + v->pool_used;
    size_t n = 0;
    daemon_token_class c = type == DAEMON_TOKEN_UNUSED ? DAEMON_CLASS_OTHER
                         : type == DAEMON_TOKEN_NORMAL || type == DAEMON_TOKEN_USER ? DAEMON_CLASS_TEXT
                         : DAEMON_CLASS_SPECIAL;
    if (type != DAEMON_TOKEN_NORMAL || !daemon_bytelevel_decode(text, bytes, to, &n)) {
        if (type == DAEMON_TOKEN_NORMAL) c = DAEMON_CLASS_OTHER;   /* unreachable by merges; decodes as written */
        memcpy(to, text, n = bytes);
    }
    *t = (daemon_token){ .at = (uint32_t)v->pool_used, .bytes = (uint32_t)n, .type = (uint8_t)type,
                         .class = (uint8_t)c };
    v->pool_used += n;
    v->n_added++;
    if (n > v->longest) v->longest = n;

    if (n == 1 && type == DAEMON_TOKEN_NORMAL && c == DAEMON_CLASS_TEXT && v->byte_id[(uint8_t)*to] == DAEMON_NO_ID)
        v->byte_id[(uint8_t)*to] = id;
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

static size_t pair_home(const daemon_merges *m, uint32_t left, uint32_t right)
{
    uint64_t x = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;    /* Fibonacci hashing: the high bits mix best */
    return (size_t)(x >> 32) & (m->n_slot - 1);
}

px_code daemon_merges_init(daemon_merges *m, px_alloc *a, uint32_t n, px_err *e)
{
    px_code rc;

    *m = (daemon_merges){ .a = a, .n = n, .n_slot = slots_for(n) };
    if (n > 2 * DAEMON_MAX_VOCAB) {
        rc = px_fail(e, PX_ECORRUPT, "merges", "%u merges; at most %u are possible", n, 2 * DAEMON_MAX_VOCAB);
        goto fail;
    }
    if (!(m->merge = px_new(a, daemon_merge, n)) || !(m->slot = px_new(a, struct daemon_merge_slot, m->n_slot))) {
        rc = px_fail(e, PX_ENOMEM, "merges", "%u merges", n);
        goto fail;
    }
    for (size_t s = 0; s < m->n_slot; s++) m->slot[s].rank = DAEMON_NO_ID;
    return PX_OK;

fail:
    daemon_merges_deinit(m);
    return rc;
}

/* Ids of "left right" and of what they make; false if one of the three is not a token that text can reach. */
static bool resolve(const daemon_vocab *v, const char *text, size_t bytes, char *both, daemon_merge *out)
{
    const char *space = memchr(text, ' ', bytes);
    size_t left, right;

    if (!space || memchr(space + 1, ' ', (size_t)(text + bytes - space - 1))) return false;
    if (!daemon_bytelevel_decode(text, (size_t)(space - text), both, &left) || left == 0) return false;
    if (!daemon_bytelevel_decode(space + 1, (size_t)(text + bytes - space - 1), both + left, &right) || right == 0)
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
    daemon_merge *g = &m->merge[m->n_added];

    snprintf(field, sizeof field, "merges[%u]", m->n_added);
    if (m->n_added >= m->n) return px_fail(e, PX_ECORRUPT, field, "more merges than announced");
    if (bytes > sizeof small && !(both = px_new(m->a, char, bytes)))
        return px_fail(e, PX_ENOMEM, field, "a merge of %zu bytes", bytes);
    bool known = resolve(v, text, bytes, both, g);
    if (both != small) px_del(m->a, both, bytes);
    if (!known)
        return px_fail(e, PX_ECORRUPT, field, "%s is not two tokens that make a third",
                       px_log_quote(text, (long)bytes, quoted, sizeof quoted));

    uint32_t rank = m->n_added++;
    size_t s = pair_home(m, g->left, g->right);
    for (; m->slot[s].rank != DAEMON_NO_ID; s = (s + 1) & (m->n_slot - 1))
        if (m->slot[s].left == g->left && m->slot[s].right == g->right) return PX_OK;
    m->slot[s] = (struct daemon_merge_slot){ g->left, g->right, rank };
    return PX_OK;
}

uint32_t daemon_merges_rank(const daemon_merges *m, uint32_t left, uint32_t right)
{
    for (size_t s = pair_home(m, left, right); m->slot[s].rank != DAEMON_NO_ID; s = (s + 1) & (m->n_slot - 1))
        if (m->slot[s].left == left && m->slot[s].right == right) return m->slot[s].rank;
    return DAEMON_NO_ID;
}

void daemon_merges_deinit(daemon_merges *m)
{
    if (m->slot) px_del(m->a, m->slot, m->n_slot);
    if (m->merge) px_del(m->a, m->merge, m->n);
    *m = (daemon_merges){0};
}
