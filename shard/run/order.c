#include "shard/run/order.h"

#include <string.h>

/* A logit as an unsigned number that falls as the logit rises.  Subnormals are zeros, as in every comparison of the
 * ops (denormals-are-zero), and the zeros are equal. */
static uint32_t rank_of(float x)
{
    uint32_t u;

    memcpy(&u, &x, 4);
    if ((u & 0x7f800000u) == 0) u = 0;
    return u & 0x80000000u ? u : 0x7fffffffu - u;
}

static bool better(const kern_cand_entry *a, const kern_cand_entry *b)
{
    const uint32_t ra = rank_of(a->logit), rb = rank_of(b->logit);
    return ra != rb ? ra < rb : a->id < b->id;
}

shard_ordered shard_order_lists(const shard_records *r, kern_cand_entry *out)
{
    uint32_t at[KERN_MAX_VIEWS] = {0};
    shard_ordered o = { .entry = out };

    for (;;) {
        uint32_t best = r->world;

        for (uint32_t k = 0; k < r->world; k++) {
            const uint32_t n = shard_records_head(r, k)->n_list;

            if (at[k] == n) {
                if (n < r->n_slice[k]) return o;           /* the next of this slice may be better than all that is left */
                continue;
            }
            if (best == r->world || better(&shard_records_list(r, k)[at[k]], &shard_records_list(r, best)[at[best]]))
                best = k;
        }
        if (best == r->world) break;
        out[o.n++] = shard_records_list(r, best)[at[best]++];
    }
    o.whole = true;
    return o;
}

/* Radix sort, lowest digit first: stable, so that equal logits stay in order of their ids.  Four passes end where they
 * began. */
shard_ordered shard_order_row(kern_cand_entry *entry, kern_cand_entry *scratch, uint32_t n)
{
    uint32_t count[4][256] = {{0}};
    kern_cand_entry *from = entry, *to = scratch;

    for (uint32_t i = 0; i < n; i++) {
        const uint32_t k = rank_of(entry[i].logit);
        for (int d = 0; d < 4; d++) count[d][k >> 8 * d & 255]++;
    }
    for (int d = 0; d < 4; d++) {
        uint32_t at = 0;
        for (int v = 0; v < 256; v++) {
            const uint32_t c = count[d][v];
            count[d][v] = at;
            at += c;
        }
        for (uint32_t i = 0; i < n; i++) to[count[d][rank_of(from[i].logit) >> 8 * d & 255]++] = from[i];
        kern_cand_entry *t = from;
        from = to;
        to = t;
    }
    return (shard_ordered){ entry, n, true };
}

/* One run of equals, by id.  Shell's sort: it needs no memory, and a run as long as the vocabulary (a model may make
 * one) costs no square of it. */
static void sort_ids(shard_top *top, uint32_t n)
{
    uint32_t gap = 1;

    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap; gap /= 3)
        for (uint32_t i = gap; i < n; i++) {
            const shard_top t = top[i];
            uint32_t j = i;
            for (; j >= gap && top[j - gap].id > t.id; j -= gap) top[j] = top[j - gap];
            top[j] = t;
        }
}

void shard_order_ties(shard_top *top, uint32_t n)
{
    for (uint32_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && top[end].logprob == top[i].logprob; end++) { }
        if (end - i > 1) sort_ids(top + i, end - i);
    }
}
