#include "daemon/text/trie.h"

#include <stdio.h>
#include <string.h>

static struct daemon_trie_edge *edge_of(const daemon_trie *t, uint32_t node, uint8_t byte)
{
    uint64_t key = (uint64_t)node << 8 | byte;
    size_t s = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & (t->n_edge - 1);

    while (t->edge[s].to && t->edge[s].key != key) s = (s + 1) & (t->n_edge - 1);
    return &t->edge[s];
}

static bool is_added(const daemon_vocab *v, const bool *only, bool which, uint32_t id)
{
    const daemon_token *k = &v->token[id];

    return (k->type == DAEMON_TOKEN_CONTROL || k->type == DAEMON_TOKEN_USER) && (!only || only[id] == which);
}

static void add(daemon_trie *t, const daemon_vocab *v, uint32_t id, const char *before)
{
    const daemon_token *k = &v->token[id];
    uint32_t at = 0, front = (uint32_t)strlen(before);

    for (uint32_t i = 0; i < front + k->bytes; i++) {
        uint8_t byte = (uint8_t)(i < front ? before[i] : v->pool[k->at + i - front]);
        struct daemon_trie_edge *g = edge_of(t, at, byte);
        if (!g->to) {
            *g = (struct daemon_trie_edge){ .key = (uint64_t)at << 8 | byte, .to = t->n_node };
            t->node[t->n_node++] = (daemon_trie_node){ DAEMON_NO_ID, DAEMON_NO_ID };
        }
        at = g->to;
    }
    uint32_t *end = k->type == DAEMON_TOKEN_CONTROL ? &t->node[at].control_id : &t->node[at].id;
    if (*end == DAEMON_NO_ID) *end = id;               /* equal names: the first one, as daemon_vocab_find says */
}

px_code daemon_trie_init(daemon_trie *t, px_alloc *a, const daemon_vocab *v, const bool *only, bool which, const char *before, px_err *e)
{
    px_code rc;
    size_t total = 1, front = strlen(before);
    char field[40];

    *t = (daemon_trie){ .a = a };
    for (uint32_t i = 0; i < v->n; i++) {
        if (!is_added(v, only, which, i)) continue;
        if (v->token[i].bytes + front > DAEMON_TRIE_DEPTH) {
            snprintf(field, sizeof field, "tokens[%u]", i);
            rc = px_fail(e, PX_ERANGE, field, "an added token of %u bytes; at most %u", v->token[i].bytes,
                         DAEMON_TRIE_DEPTH);
            goto fail;
        }
        total += v->token[i].bytes + front;            /* at most 2^22 * 256 */
    }
    t->cap_node = (uint32_t)total;
    for (t->n_edge = 16; t->n_edge < 2 * total; ) t->n_edge *= 2;
    if (!(t->node = px_new(a, daemon_trie_node, total)) || !(t->edge = px_new(a, struct daemon_trie_edge, t->n_edge))) {
        rc = px_fail(e, PX_ENOMEM, "tokens", "%zu bytes of added tokens", total);
        goto fail;
    }
    t->node[t->n_node++] = (daemon_trie_node){ DAEMON_NO_ID, DAEMON_NO_ID };
    for (uint32_t i = 0; i < v->n; i++)
        if (is_added(v, only, which, i)) add(t, v, i, before);
    return PX_OK;

fail:
    daemon_trie_deinit(t);
    return rc;
}

bool daemon_trie_find(const daemon_trie *t, const char *s, size_t n, size_t from, bool control, uint32_t *id,
                      size_t *at, size_t *bytes)
{
    for (size_t i = from; i < n; i++) {
        uint32_t node = 0;
        *bytes = 0;
        for (size_t j = i; j < n && (node = edge_of(t, node, (uint8_t)s[j])->to); j++) {
            const daemon_trie_node *d = &t->node[node];
            uint32_t here = control && d->control_id != DAEMON_NO_ID ? d->control_id : d->id;
            if (here == DAEMON_NO_ID) continue;
            *id = here;
            *at = i;
            *bytes = j + 1 - i;
        }
        if (*bytes) return true;
    }
    return false;
}

void daemon_trie_deinit(daemon_trie *t)
{
    if (t->edge) px_del(t->a, t->edge, t->n_edge);
    if (t->node) px_del(t->a, t->node, t->cap_node);
    *t = (daemon_trie){0};
}
