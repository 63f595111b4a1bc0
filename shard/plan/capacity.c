#include "shard/plan/capacity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define Z95 1.6448536269514722
#define Z99 2.3263478740408408
#define STEPS 24                           /* equal slices of probability of a length */

px_code shard_class_check(const shard_class *c, px_err *e)
{
    if (!c->name[0]) return px_fail(e, PX_EINVAL, "class", "a class without a name");
    if (!c->n || c->n > 1u << 20) return px_fail(e, PX_ERANGE, "class", "%s: %u at the same time is not in 1..%u", c->name, c->n, 1u << 20);
    for (int i = 0; i < 2; i++) {
        if (c->p99[i] > 1u << 28) return px_fail(e, PX_ERANGE, "class", "%s: %u tokens are more than %u", c->name, c->p99[i], 1u << 28);
        if (c->p99[i] < c->p95[i])
            return px_fail(e, PX_ERANGE, "class", "%s: p99 of %u tokens is below p95 of %u", c->name, c->p99[i], c->p95[i]);
    }
    if (!c->p95[0] && !c->p95[1]) return px_fail(e, PX_ERANGE, "class", "%s: a sequence of no tokens", c->name);
    return PX_OK;
}

px_code shard_class_parse(const char *text, shard_class *c, px_err *e)
{
    unsigned n, v[4];
    int end95 = -1, end99 = -1;

    *c = (shard_class){ 0 };
    sscanf(text, "%31[^:]:%9u:%9u+%9u%n:%9u+%9u%n", c->name, &n, &v[0], &v[1], &end95, &v[2], &v[3], &end99);
    if (end95 < 0 || (end99 < 0 && text[end95]) || (end99 >= 0 && text[end99]) || strchr(text, '-'))
        return px_fail(e, PX_EINVAL, "class", "\"%.60s\" is not NAME:CONCURRENCY:PROMPT+OUTPUT at p95[:PROMPT+OUTPUT at p99]", text);
    c->n = n;
    for (int i = 0; i < 2; i++) {
        c->p95[i] = v[i];
        c->p99[i] = end99 >= 0 ? v[2 + i] : v[i];
    }
    return shard_class_check(c, e);
}

/* ---- lengths as lognormals through p95 and p99 ---- */

static void lognormal(uint32_t p95, uint32_t p99, double *mu, double *sigma)
{
    *sigma = p95 && p99 > p95 ? log((double)p99 / p95) / (Z99 - Z95) : 0;
    *mu = p95 ? log((double)p95) - Z95 * *sigma : 0;
}

double shard_mean_tokens(uint32_t p95, uint32_t p99)
{
    double mu, sigma;
    lognormal(p95, p99, &mu, &sigma);
    return p95 ? exp(mu + sigma * sigma / 2) : 0;
}

/* The z below which a share p of a normal lies, by halving: erfc is all that is needed. */
static double normal_quantile(double p)
{
    double lo = -8, hi = 8;
    for (int i = 0; i < 48; i++) {
        double mid = (lo + hi) / 2;
        if (erfc(-mid / sqrt(2)) / 2 < p) lo = mid; else hi = mid;
    }
    return (lo + hi) / 2;
}

/* Tokens in the middle of every slice. */
static void slices(uint32_t p95, uint32_t p99, const double *z, double *tokens)
{
    double mu, sigma;
    lognormal(p95, p99, &mu, &sigma);
    for (int i = 0; i < STEPS; i++) tokens[i] = p95 ? exp(mu + sigma * z[i]) : 0;
}

/* Mean and variance of the bytes that one sequence of a class holds, half of its output written on average. */
static px_code class_load(const shard_arch *m, const shard_cache *k, uint32_t kv_heads, const shard_class *c, const double *z,
                          double *mean, double *variance, px_err *e)
{
    double prompt[STEPS], output[STEPS], sum = 0, squares = 0;
    px_code rc;

    slices(c->p95[0], c->p99[0], z, prompt);
    slices(c->p95[1], c->p99[1], z, output);
    for (int i = 0; i < STEPS; i++)
        for (int j = 0; j < STEPS; j++) {
            /* how far its output is: another slice for every pair, each slice as often as any other */
            double n = prompt[i] + output[j] * (((i + j) % STEPS) + 0.5) / STEPS;
            uint64_t bytes;
            if (n > (double)m->n_ctx) n = (double)m->n_ctx;
            if ((rc = shard_kv_sequence_bytes(m, k->dtype, kv_heads, (uint64_t)ceil(n), k->page, k->chunk, &bytes, e))) return rc;
            sum += (double)bytes;
            squares += (double)bytes * (double)bytes;
        }
    *mean = sum / (STEPS * STEPS);
    *variance = squares / (STEPS * STEPS) - *mean * *mean;
    if (*variance < 0) *variance = 0;
    return PX_OK;
}

/* Tail of a sum of many independent lengths: the lognormal with its mean and variance (Fenton and Wilkinson). */
static double tail(double mean, double variance, double pool)
{
    double s2, mu;

    if (mean <= 0) return 0;
    if (pool <= 0) return 1;
    if (variance <= mean * mean * 1e-12) return mean > pool ? 1 : 0;
    s2 = log(1 + variance / (mean * mean));
    mu = log(mean) - s2 / 2;
    return erfc((log(pool) - mu) / sqrt(2 * s2)) / 2;
}

/* ---- the hard bounds ---- */

static uint64_t tokens_of(const uint32_t q[2]) { return (uint64_t)q[0] + q[1]; }

px_code shard_max_context(const shard_arch *m, const shard_cache *k, uint32_t kv_heads, uint64_t pool, uint64_t n,
                          uint64_t *tokens, px_err *e)
{
    uint64_t lo = 0, hi, bytes, all;
    px_code rc;

    *tokens = 0;
    if (!k->page) return px_fail(e, PX_ERANGE, "kv.block", "a page of 0 tokens");
    if (!n) return px_fail(e, PX_ERANGE, "max_sequences", "no sequences");
    hi = (m->n_ctx + (uint64_t)k->page - 1) / k->page;
    while (lo < hi) {                      /* pages that fit: never fewer bytes for more of them */
        uint64_t mid = lo + (hi - lo + 1) / 2;
        if ((rc = shard_kv_sequence_bytes(m, k->dtype, kv_heads, mid * k->page, k->page, k->chunk, &bytes, e))) return rc;
        if (!__builtin_mul_overflow(bytes, n, &all) && all <= pool) lo = mid; else hi = mid - 1;
    }
    *tokens = lo * k->page < m->n_ctx ? lo * k->page : m->n_ctx;
    return PX_OK;
}

static bool add_times(uint64_t *sum, uint64_t each, uint64_t n)
{
    return __builtin_mul_overflow(each, n, &each) || __builtin_add_overflow(*sum, each, sum);
}

px_code shard_capacity_of(const shard_arch *m, const shard_cache *k, uint32_t kv_heads, uint64_t pool,
                          const shard_class *c, size_t n, shard_capacity *out, px_err *e)
{
    double z[STEPS], mean = 0, variance = 0;
    uint64_t whole;
    px_code rc;

    *out = (shard_capacity){ .pool = pool };
    if (n > SHARD_MAX_CLASSES) return px_fail(e, PX_ERANGE, "class", "%zu classes; at most %u", n, SHARD_MAX_CLASSES);
    if ((rc = shard_kv_token_bytes(m, k->dtype, kv_heads, &out->block_bytes, e))) return rc;
    if (__builtin_mul_overflow(out->block_bytes, (uint64_t)k->page, &out->block_bytes))
        return px_fail(e, PX_ERANGE, "kv.block", "the bytes of a block are beyond 64 bits");
    if ((rc = shard_max_context(m, k, kv_heads, pool, 1, &out->max_context_1, e)) ||
        (rc = shard_kv_sequence_bytes(m, k->dtype, kv_heads, m->n_ctx, k->page, k->chunk, &whole, e)))
        return rc;
    for (int i = 0; n && i < STEPS; i++) z[i] = normal_quantile((i + 0.5) / STEPS);
    for (size_t i = 0; i < n; i++) {
        shard_class_need *w = &out->need[i];
        double one, var;
        uint64_t now;
        if ((rc = shard_class_check(&c[i], e)) ||
            (rc = shard_kv_sequence_bytes(m, k->dtype, kv_heads, tokens_of(c[i].p95), k->page, k->chunk, &w->seq_p95, e)) ||
            (rc = shard_kv_sequence_bytes(m, k->dtype, kv_heads, tokens_of(c[i].p99), k->page, k->chunk, &w->seq_p99, e)) ||
            (rc = shard_kv_sequence_bytes(m, k->dtype, kv_heads, (uint64_t)c[i].p95[0] + c[i].p95[1] / 2, k->page, k->chunk,
                                          &now, e)) ||
            (rc = class_load(m, k, kv_heads, &c[i], z, &one, &var, e)))
            return rc;
        w->fit_p95 = w->seq_p95 ? pool / w->seq_p95 : 0;
        w->fit_p99 = w->seq_p99 ? pool / w->seq_p99 : 0;
        if (add_times(&out->need_p95, w->seq_p95, c[i].n) || add_times(&out->need_p99, w->seq_p99, c[i].n) ||
            add_times(&out->need_expected, now, c[i].n) || add_times(&out->need_worst, whole, c[i].n))
            return px_fail(e, PX_ERANGE, "class", "the bytes of all sequences are beyond 64 bits");
        mean += one * c[i].n;
        variance += var * c[i].n;
    }
    out->overflow = n ? tail(mean, variance, (double)pool) : 0;
    return PX_OK;
}
