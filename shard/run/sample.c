#include "shard/run/sample.h"

#include <math.h>

/* ---- a row, merged ---- */

/* (max, sum) of two parts: the later part is merged into the earlier. */
static void merge_sum(float *max, float *sum, bool first, float m, float s)
{
    if (first) {
        *max = m;
        *sum = s;
        return;
    }
    const float top = m > *max ? m : *max;
    const float earlier = *sum * px_exp(*max - top), later = s * px_exp(m - top);
    *sum = earlier + later;
    *max = top;
}

shard_row shard_row_merge(const shard_records *r)
{
    shard_row w = { .max = -INFINITY, .best = SHARD_NO_ID, .drawn = SHARD_NO_ID };
    float sum = 0, tmax = -INFINITY, drawn = -INFINITY;
    bool first = true;

    for (uint32_t k = 0; k < r->world; k++) {
        const kern_cand_head *h = shard_records_head(r, k);

        if (r->n_slice[k] == 0) continue;
        if (h->nonfinite) w.nonfinite = true;
        merge_sum(&w.max, &sum, first, h->max, h->sum);
        merge_sum(&tmax, &w.tsum, first, h->tmax, h->tsum);
        first = false;
        if (h->has_target) {
            w.has_target = true;
            w.target_logit = h->target_logit;
        }
        /* Ranks hold ascending ids, so an equal value of a later rank never wins. */
        if (w.best == SHARD_NO_ID || h->best_logit > w.best_logit) {
            w.best = h->best;
            w.best_logit = h->best_logit;
        }
        if (h->drawn != SHARD_NO_ID && (w.drawn == SHARD_NO_ID || h->drawn_value > drawn)) {
            w.drawn = h->drawn;
            w.drawn_logit = h->drawn_logit;
            drawn = h->drawn_value;
        }
    }
    w.log_sum = px_log(sum);
    return w;
}

float shard_row_logprob(const shard_row *w, float logit) { return (logit - w->max) - w->log_sum; }

/* ---- the choice ---- */

static bool banned(const shard_choice *c, uint32_t id)
{
    for (uint32_t i = 0; i < c->n_ban; i++)
        if (c->ban[i] == id) return true;
    return false;
}

static bool greedy(const shard_choice *c) { return c->sampling->temperature == 0; }

static bool limited(const shard_choice *c)
{
    return c->sampling->top_k != 0 || c->sampling->top_p < 1 || c->sampling->min_p > 0;
}

uint32_t shard_choice_list(const shard_choice *c)
{
    const uint32_t k = c->sampling->top_k, most = KERN_MAX_CANDIDATES;

    if (greedy(c)) return c->n_ban ? c->n_ban + 1 : 0;
    if (!limited(c)) return 0;
    return k && k < most - c->n_ban ? k + c->n_ban : most;      /* top-k alone says how far anyone can look */
}

bool shard_choice_draws(const shard_choice *c) { return !greedy(c) && !limited(c); }

/* The next entry from *at that is not banned; false at the end of what is known. */
static bool next(const shard_choice *c, const shard_ordered *o, uint32_t *at, const kern_cand_entry **entry)
{
    while (*at < o->n && banned(c, o->entry[*at].id)) ++*at;
    if (*at == o->n) return false;
    *entry = &o->entry[(*at)++];
    return true;
}

/* How many of the best (not banned) are left by min-p, top-k and top-p, each on what the one before left.  What is left
 * is always a run from the best on; the question is only whether its end is known.  false: it is not. */
static bool survivors(const shard_choice *c, const shard_row *w, const shard_ordered *o, uint32_t *n_left)
{
    const shard_sampling *p = c->sampling;
    const kern_cand_entry *t;
    uint32_t at = 0, n = 0;
    bool cut = false;                      /* min-p or top-k ended the run before the vocabulary does */
    double total = 0, mass = 0;
    float best = 0;

    while (next(c, o, &at, &t)) {
        const float y = t->logit / p->temperature;

        if (n == 0) best = y;
        const float weight = px_exp(y - best);
        if (p->min_p > 0 && weight < p->min_p) { cut = true; break; }
        total += (double)weight;
        n++;
        if (n == p->top_k) { cut = true; break; }
    }
    if (n == 0) return false;              /* nothing but banned ids so far */
    *n_left = n;
    if (p->top_p >= 1) return cut || o->whole;
    if (!cut) {
        /* top-p of everything.  The slices' own sum, the same with a list and with the whole row; with banned ids it
         * would be a difference of near numbers, so then the whole row is added up instead. */
        if (c->n_ban == 0 && p->top_k == 0 && p->min_p == 0) total = (double)w->tsum;
        else if (!o->whole) return false;
    }
    at = n = 0;
    while (n < *n_left && next(c, o, &at, &t)) {
        mass += (double)px_exp(t->logit / p->temperature - best);
        n++;
        if (mass >= (double)p->top_p * total) { *n_left = n; return true; }
    }
    return cut || o->whole;                /* rounding kept the mass below: everything stays */
}

/* The largest logit / T + noise of the n best that are not banned. */
static kern_cand_entry draw(const shard_choice *c, const shard_ordered *o, uint32_t n)
{
    const kern_draw d = { .seed = c->sampling->seed, .position = c->position, .sequence = c->sampling->sequence,
                          .purpose = KERN_PURPOSE_TOKEN };
    kern_cand_entry won = { SHARD_NO_ID, 0 };
    const kern_cand_entry *t;
    uint32_t at = 0;
    float most = 0;

    for (uint32_t i = 0; i < n && next(c, o, &at, &t); i++) {
        const float v = t->logit / c->sampling->temperature + kern_gumbel(&d, t->id);
        if (won.id == SHARD_NO_ID || v > most || (v == most && t->id < won.id)) {
            won = *t;
            most = v;
        }
    }
    return won;
}

bool shard_choose(const shard_choice *c, const shard_row *w, const shard_ordered *o, kern_cand_entry *token)
{
    const kern_cand_entry *t;
    uint32_t n = o->n, at = 0;

    if (greedy(c)) {
        *token = (kern_cand_entry){ w->best, w->best_logit };
        if (!banned(c, w->best)) return true;
        if (!next(c, o, &at, &t)) return false;
        *token = *t;
        return true;
    }
    if (!limited(c)) {
        *token = (kern_cand_entry){ w->drawn, w->drawn_logit };
        if (!banned(c, w->drawn)) return true;
        if (!o->whole) return false;       /* who was second is not known */
    } else if (!survivors(c, w, o, &n)) {
        return false;
    }
    *token = draw(c, o, n);
    return true;
}
