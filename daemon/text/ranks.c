#include "daemon/text/ranks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/text/normal.h"

static bool is_normal(const daemon_vocab *v, uint32_t id)
{
    return id != DAEMON_NO_ID && v->token[id].type == DAEMON_TOKEN_NORMAL;
}

/* The next two tokens that make token `id`, cut behind *at; false: no more. */
static bool next_pair(const daemon_vocab *v, uint32_t id, uint32_t *at, daemon_merge *out)
{
    const char *p = v->pool + v->token[id].at;
    uint32_t n = v->token[id].bytes;

    while (++*at < n) {
        if (((uint8_t)p[*at] & 0xc0) == 0x80) continue;              /* inside a character */
        out->left = daemon_vocab_find(v, DAEMON_CLASS_TEXT, p, *at);
        if (!is_normal(v, out->left)) continue;
        out->right = daemon_vocab_find(v, DAEMON_CLASS_TEXT, p + *at, n - *at);
        if (is_normal(v, out->right)) return true;
    }
    return false;
}

static uint32_t n_pairs(const daemon_vocab *v, uint32_t id)
{
    daemon_merge g;
    uint32_t n = 0;

    for (uint32_t at = 0; next_pair(v, id, &at, &g); ) n++;
    return n;
}

px_code daemon_ranks_merges(daemon_merges *m, px_alloc *a, const daemon_vocab *v, const uint32_t *rank, px_err *e)
{
    px_code rc;
    uint64_t total = 0;
    char field[40];

    for (uint32_t id = 0; id < v->n; id++) {
        if (rank[id] == DAEMON_NO_ID) continue;
        if (v->token[id].bytes > DAEMON_RANK_BYTES) {
            snprintf(field, sizeof field, "tokens[%u]", id);
            return px_fail(e, PX_ERANGE, field, "a token of %u bytes that is merged; at most %d", v->token[id].bytes,
                           DAEMON_RANK_BYTES);
        }
        total += n_pairs(v, id);
    }
    if (total > DAEMON_MAX_MERGES)
        return px_fail(e, PX_ERANGE, "ranks", "%llu pairs; at most %u", (unsigned long long)total, DAEMON_MAX_MERGES);
    if ((rc = daemon_merges_init(m, a, (uint32_t)total, e))) return rc;
    for (uint32_t id = 0; id < v->n; id++) {
        daemon_merge g = { .rank = rank[id], .result = id };
        for (uint32_t at = 0; g.rank != DAEMON_NO_ID && next_pair(v, id, &at, &g); ) daemon_merges_put(m, &g);
    }
    return PX_OK;
}

/* Tokens that two others make: the first of a name alone, for it is the one that is found. */
static bool is_made(const daemon_vocab *v, uint32_t id)
{
    const daemon_token *t = &v->token[id];
    daemon_merge g;
    uint32_t at = 0;

    return t->bytes <= DAEMON_RANK_BYTES && next_pair(v, id, &at, &g) &&
           daemon_vocab_find(v, t->class, v->pool + t->at, t->bytes) == id;
}

struct scored { double score; uint32_t id; };

static int by_score(const void *x, const void *y)
{
    const struct scored *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

px_code daemon_ranks_of_scores(uint32_t *rank, px_alloc *a, const daemon_vocab *v, const double *score, px_err *e)
{
    px_code rc = PX_OK;
    uint32_t n = 0;
    char field[40];
    struct scored *made = px_new(a, struct scored, v->n);

    if (!made) return px_fail(e, PX_ENOMEM, "scores", "%u scores", v->n);
    for (uint32_t id = 0; id < v->n && !rc; id++) {
        uint8_t type = v->token[id].type;
        rank[id] = DAEMON_NO_ID;
        if ((type != DAEMON_TOKEN_NORMAL && type != DAEMON_TOKEN_UNUSED) || !is_made(v, id)) continue;
        if (type == DAEMON_TOKEN_UNUSED) {
            snprintf(field, sizeof field, "tokens[%u]", id);
            rc = px_fail(e, PX_EUNSUP, field, "an unused token that two others make");
        } else if (!isfinite(score[id])) {
            snprintf(field, sizeof field, "scores[%u]", id);
            rc = px_fail(e, PX_ECORRUPT, field, "not a finite number");
        } else {
            made[n++] = (struct scored){ score[id], id };
        }
    }
    qsort(made, n, sizeof *made, by_score);
    for (uint32_t i = 0, r = 0; i < n; i++) {
        if (i && made[i].score != made[i - 1].score) r++;
        rank[made[i].id] = r;
    }
    px_del(a, made, v->n);
    return rc;
}

bool daemon_ranks_of_merges(uint32_t *rank, const daemon_vocab *v, const daemon_merge *merge, size_t n)
{
    uint32_t r = 0, in_group = 0;
    bool same = true;

    for (uint32_t id = 0; id < v->n; id++) rank[id] = DAEMON_NO_ID;
    for (size_t i = 0; i < n && same; i++) {
        uint32_t id = merge[i].result;
        if (i == 0 || merge[i - 1].result != id) {
            if (rank[id] != DAEMON_NO_ID) same = false;       /* it came before, and other tokens in between */
            rank[id] = r++;
            in_group = 0;
        }
        in_group++;
        if (v->token[id].bytes > DAEMON_RANK_BYTES) return false;
        if ((i + 1 == n || merge[i + 1].result != id) && in_group != n_pairs(v, id)) same = false;
    }
    for (uint32_t id = 0; id < v->n && same; id++)
        if (rank[id] == DAEMON_NO_ID && is_normal(v, id) && is_made(v, id)) same = false;
    return same;
}
