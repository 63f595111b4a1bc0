/* capacity.h - what traffic needs of the KV cache: sequences by class, longest context, overflow (memory/formulas 5, 9).
 * Layer: shard/plan.  Pure. */
#ifndef SHARD_CAPACITY_H
#define SHARD_CAPACITY_H

#include "shard/plan/bytes.h"

#define SHARD_MAX_CLASSES 16u

typedef struct shard_class {               /* a class of requests */
    char     name[32];
    uint32_t n;                            /* at the same time */
    uint32_t p95[2], p99[2];               /* tokens of prompt and output at the quantile */
} shard_class;
/* Errors: PX_ERANGE, PX_EINVAL; e->field is "class". */
px_code shard_class_check(const shard_class *c, px_err *e);
/* "chat:48:1500+400:3000+800" = name, concurrency, prompt+output at p95, at p99 (without: the same).  PX_EINVAL, "class". */
px_code shard_class_parse(const char *text, shard_class *c, px_err *e);

typedef struct shard_cache { const char *dtype; uint32_t page, chunk; } shard_cache;

typedef struct shard_class_need { uint64_t seq_p95, seq_p99, fit_p95, fit_p99; } shard_class_need;   /* bytes; sequences */

typedef struct shard_capacity {            /* of one rank */
    uint64_t block_bytes;                  /* a page in all layers */
    uint64_t pool;
    uint64_t need_p95, need_p99;           /* every sequence at its quantile: the bound under which nothing ever waits */
    uint64_t need_expected;                /* half of the output written: what a moment's load is */
    uint64_t need_worst;                   /* every sequence at the model's whole context */
    uint64_t max_context_1;                /* tokens, for one sequence alone */
    double   overflow;                     /* a model: probability that a moment's load is beyond the pool */
    shard_class_need need[SHARD_MAX_CLASSES];
} shard_capacity;

/* Errors: PX_ERANGE (kv.block, kv.dtype, class, kv), PX_ENOTFOUND (kv.dtype). */
px_code shard_capacity_of(const shard_arch *m, const shard_cache *k, uint32_t kv_heads, uint64_t pool,
                          const shard_class *c, size_t n, shard_capacity *out, px_err *e);
/* Longest context that n sequences can have at the same time, whole pages, at most the model's. */
px_code shard_max_context(const shard_arch *m, const shard_cache *k, uint32_t kv_heads, uint64_t pool, uint64_t n,
                          uint64_t *tokens, px_err *e);
/* Mean tokens of a lognormal length that has these two quantiles. */
double  shard_mean_tokens(uint32_t p95, uint32_t p99);

#endif
