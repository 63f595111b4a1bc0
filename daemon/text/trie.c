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

/* Twice as many nodes, and their edges at most half full.  Added tokens begin alike: room for all their bytes would
 * be many times what is needed. */
static px_code grow(daemon_trie *t, px_err *e)
{
    daemon_trie more = { .a = t->a, .cap_node = t->cap_node ? 2 * t->cap_node : 8, .n_node = t->n_node };

    more.n_edge = 2 * (size_t)more.cap_node;
    if (!(more.node = px_new(t->a, daemon_trie_node, more.cap_node)) ||
        !(more.edge = px_new(t->a, struct daemon_trie_edge, more.n_edge))) {
        daemon_trie_deinit(&more);
        return px_fail(e, PX_ENOMEM, "tokens", "added tokens of %u bytes that differ", t->n_node);
    }
    if (t->n_node) memcpy(more.node, t->node, t->n_node * sizeof *t->node);
    for (size_t i = 0; i < t->n_edge; i++)
        if (t->edge[i].to) *edge_of(&more, (uint32_t)(t->edge[i].key >> 8), (uint8_t)t->edge[i].key) = t->edge[i];
    daemon_trie_deinit(t);
    *t = more;
    return PX_OK;
}

static px_code add(daemon_trie *t, const daemon_vocab *v, uint32_t id, const char *before, px_err *e)
{
    const daemon_token *k = &v->token[id];
    uint32_t at = 0, front = (uint32_t)strlen(before);
    px_code rc;

    for (uint32_t i = 0; i < front + k->bytes; i++) {
        uint8_t byte = (uint8_t)(i < front ? before[i] : v->pool[k->at + i - front]);
        if (t->n_node == t->cap_node && (rc = grow(t, e))) return rc;
        struct daemon_trie_edge *g = edge_of(t, at, byte);
        if (!g->to) {
            *g = (struct daemon_trie_edge){ .key = (uint64_t)at << 8 | byte, .to = t->n_node };
            t->node[t->n_node++] = (daemon_trie_node){ DAEMON_NO_ID, DAEMON_NO_ID };
        }
        at = g->to;
    }
    uint32_t *end = k->type == DAEMON_TOKEN_CONTROL ? &t->node[at].control_id : &t->node[at].id;
    if (*end == DAEMON_NO_ID) *end = id;               /* equal names: the first one, as daemon_vocab_find says */
    return PX_OK;
}

px_code daemon_trie_init(daemon_trie *t, px_alloc *a, const daemon_vocab *v, const bool *only, bool which, const char *before, px_err *e)
{
    px_code rc;
    size_t front = strlen(before);
    char field[40];

    *t = (daemon_trie){ .a = a };
    if ((rc = grow(t, e))) goto fail;
    t->node[t->n_node++] = (daemon_trie_node){ DAEMON_NO_ID, DAEMON_NO_ID };
    for (uint32_t i = 0; i < v->n; i++) {                  /* at most 2^22 of 256 bytes: nodes have 32 bits */
        if (!is_added(v, only, which, i)) continue;
        if (v->token[i].bytes + front > DAEMON_TRIE_DEPTH) {
            snprintf(field, sizeof field, "tokens[%u]", i);
            rc = px_fail(e, PX_ERANGE, field, "an added token of %u bytes; at most %u", v->token[i].bytes,
                         DAEMON_TRIE_DEPTH);
            goto fail;
        }
        if ((rc = add(t, v, i, before, e))) goto fail;
    }
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
