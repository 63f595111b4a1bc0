/* topk.c - candidates, the definition, and the selection of the best that all paths share.
 * max, sum of px_exp(x - max) in 16 lanes by index in the slice mod 16; the same of x / T; the lowest id of the largest
 * logit; the lowest id of the largest x / T + gumbel; the list.  Zeros have no sign in max and tmax.  A slice with a
 * non-finite logit has no candidates: it is flagged, and nothing is computed from it. */
#include "kernels/cpu/topk.h"

#include <math.h>
#include <string.h>

/* ---- the n best ---- */
static uint64_t key_of(uint32_t id, float logit)
{
    uint32_t u;

    logit = logit + 0.0f;                    /* -0 ties with 0 */
    memcpy(&u, &logit, sizeof u);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (uint32_t)~id;
}

static float logit_of(uint64_t key)
{
    uint32_t u = (uint32_t)(key >> 32);
    float x;

    u = u & 0x80000000u ? u & 0x7fffffffu : ~u;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void swap(uint64_t *a, uint64_t *b)
{
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

/* Moves the n largest of key[0 .. count) to the front, the smallest of them to n - 1.  0 < n <= count; keys differ. */
static void select_largest(uint64_t *key, uint32_t count, uint32_t n)
{
    uint32_t lo = 0, hi = count - 1, k = n - 1;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2, i = lo, j = hi;
        if (key[mid] > key[lo]) swap(&key[mid], &key[lo]);
        if (key[hi] > key[lo]) swap(&key[hi], &key[lo]);
        if (key[hi] > key[mid]) swap(&key[hi], &key[mid]);
        uint64_t pivot = key[mid];
        while (i <= j) {
            while (key[i] > pivot) i++;
            while (key[j] < pivot) j--;
            if (i > j) break;
            swap(&key[i], &key[j]);
            i++;
            if (!j) break;
            j--;
        }
        if (k <= j) hi = j;
        else if (k >= i) lo = i;
        else return;                         /* between the halves: in place */
    }
}

/* Largest first. */
static void sort_keys(uint64_t *key, uint32_t n)
{
    static const uint32_t gaps[] = { 132, 57, 23, 10, 4, 1 };

    for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++)
        for (uint32_t i = gaps[g]; i < n; i++) {
            uint64_t x = key[i];
            uint32_t j = i;
            for (; j >= gaps[g] && key[j - gaps[g]] < x; j -= gaps[g]) key[j] = key[j - gaps[g]];
            key[j] = x;
        }
}

void kern_best_init(kern_best *b, uint32_t want)
{
    b->want = want;
    b->n = 0;
    b->cap = 4 * want + 64;
    b->floor = -INFINITY;
}

void kern_best_put(kern_best *b, uint32_t id, float logit)
{
    b->key[b->n++] = key_of(id, logit);
    if (b->n < b->cap) return;
    select_largest(b->key, b->n, b->want);
    b->n = b->want;
    b->floor = logit_of(b->key[b->want - 1]);
}

uint32_t kern_best_take(kern_best *b, const float *slice, uint32_t begin, kern_cand_entry *out)
{
    uint32_t n = b->n < b->want ? b->n : b->want;

    if (n && n < b->n) select_largest(b->key, b->n, n);
    sort_keys(b->key, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = ~(uint32_t)b->key[i];
        out[i] = (kern_cand_entry){ id, slice[id - begin] };
    }
    return n;
}

/* ---- the head ---- */
void kern_cand_empty(kern_cand_head *h, bool nonfinite)
{
    *h = (kern_cand_head){ .max = -INFINITY, .tmax = -INFINITY, .best = UINT32_MAX, .best_logit = -INFINITY,
                           .drawn = UINT32_MAX, .drawn_value = -INFINITY, .drawn_logit = -INFINITY,
                           .nonfinite = nonfinite };
}

void kern_cand_target(kern_cand_head *h, const kern_candidates_args *a, const kern_cand_param *p, const float *slice)
{
    if (p->target < a->vocab_begin || p->target - a->vocab_begin >= a->n_valid) return;
    h->target_logit = slice[p->target - a->vocab_begin];
    h->has_target = 1;
}

/* ---- the definition ---- */
static bool is_finite(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    return (u & 0x7f800000u) != 0x7f800000u;
}

/* The largest of x[i] / t, and the sum of px_exp(x[i] / t - max); t = 1 divides exactly. */
static void max_and_sum(const float *x, uint32_t n, float t, float *max, float *sum)
{
    float lane[16] = {0};

    *max = -INFINITY;
    for (uint32_t i = 0; i < n; i++) *max = x[i] / t > *max ? x[i] / t : *max;
    *max = *max + 0.0f;
    for (uint32_t i = 0; i < n; i++) lane[i % 16] = lane[i % 16] + px_exp(x[i] / t - *max);
    for (uint32_t step = 8; step; step /= 2)
        for (uint32_t i = 0; i < step; i++) lane[i] = lane[i] + lane[i + step];
    *sum = lane[0];
}

static void row(const kern_candidates_args *a, const kern_cand_param *p, const float *x, kern_cand_head *h,
                kern_cand_entry *list)
{
    uint32_t n = a->n_valid, begin = a->vocab_begin;
    bool finite = true;

    for (uint32_t i = 0; i < n; i++) finite = finite && is_finite(x[i]);
    kern_cand_empty(h, !finite);
    if (!n || !finite) return;

    max_and_sum(x, n, 1.0f, &h->max, &h->sum);
    for (uint32_t i = n; i-- > 0;)
        if (x[i] == h->max) h->best = begin + i;
    h->best_logit = x[h->best - begin];
    kern_cand_target(h, a, p, x);
    if (p->temperature > 0.0f) {
        max_and_sum(x, n, p->temperature, &h->tmax, &h->tsum);
        kern_draw d = { p->seed, p->position, p->sequence, KERN_PURPOSE_TOKEN };
        if (p->draw) h->drawn = begin;       /* stays when all values are -inf */
        for (uint32_t i = 0; p->draw && i < n; i++) {
            float v = x[i] / p->temperature + kern_gumbel(&d, begin + i);
            if (!(v > h->drawn_value)) continue;
            h->drawn_value = v;
            h->drawn = begin + i;
        }
        if (p->draw) h->drawn_logit = x[h->drawn - begin];
    }
    if (!p->n_list) return;
    kern_best b;
    kern_best_init(&b, p->n_list);
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > b.floor) kern_best_put(&b, begin + i, x[i]);
    h->n_list = kern_best_take(&b, x, begin, list);
}

px_code kern_cpu_candidates_scalar(kern_dev *d, const kern_candidates_args *a, px_err *e)
{
    uint32_t live;
    px_code rc;

    (void)d;
    if ((rc = kern_args_candidates(a, &live, e))) return rc;
    for (uint32_t t = 0; t < live; t++) {
        kern_cand_head *h = (kern_cand_head *)((char *)a->out.h + (size_t)t * a->out_stride);
        row(a, (const kern_cand_param *)a->params.h + t, kern_f32(a->logits) + (size_t)t * a->stride, h,
            (kern_cand_entry *)(h + 1));
    }
    return PX_OK;
}
