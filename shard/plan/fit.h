/* fit.h - what would fit: the smallest single changes, and the table over ranks, formats and cache types.
 * Layer: shard/plan. */
#ifndef SHARD_FIT_H
#define SHARD_FIT_H

#include "shard/plan/plan.h"

/* Weight formats and cache types that are tried, from the widest; NULL-terminated. */
extern const char *const shard_fit_formats[];
extern const char *const shard_fit_kv_dtypes[];

typedef enum shard_lever {
    SHARD_LEVER_RANKS,         /* more devices; on CPU more hosts with as many ranks each */
    SHARD_LEVER_FORMAT,        /* the widest narrower weights */
    SHARD_LEVER_KV_DTYPE,      /* the widest narrower cache */
    SHARD_LEVER_CONTEXT,       /* kv.tokens */
    SHARD_LEVER_CONCURRENCY,   /* max_sequences, and every class in proportion */
    SHARD_N_LEVERS
} shard_lever;
const char *shard_lever_name(shard_lever l);

typedef struct shard_change {
    bool        found;         /* this change alone makes it fit */
    bool        tried;         /* false: there is nothing to change that way */
    uint32_t    number;        /* ranks, kv.tokens, max_sequences */
    const char *word;          /* format, dtype */
    uint32_t    hosts;
    uint64_t    need, free;    /* of the worst rank (CPU: of a host) with headroom */
    uint64_t    kv_tokens, max_context_1;
} shard_change;

/* One change for each lever.  Of a plan that fits, or whose memory is not known: what each lever's next step would be
 * (found false).  Errors: PX_ENOMEM. */
px_code shard_fit_changes(const shard_plan *p, shard_change out[SHARD_N_LEVERS], px_err *e);

typedef struct shard_sweep_row {
    uint32_t    ranks;
    const char *format, *kv_dtype;
    double      bits;                      /* a parameter */
    uint64_t    weights;                   /* of the worst rank: arena, on CPU mapped where it can be */
    uint64_t    rest;                      /* of the worst rank without weights and pool, with headroom */
    uint64_t    kv_tokens;                 /* the largest pool */
    uint64_t    max_context;               /* of one sequence */
    uint64_t    max_sequences;             /* of `tokens` each */
    bool        fits, pareto;
} shard_sweep_row;

typedef struct shard_sweep {
    px_alloc        *a;
    shard_sweep_row *row;                  /* (n of cap) owned */
    size_t           n, cap;
    uint64_t         tokens;               /* length that max_sequences counts */
} shard_sweep;

/* NULL lists: 1-8 and 16 ranks, every format, every cache type.  Combinations that cannot be cut are left out.
 * Errors: PX_ENOMEM, and what the deployment's own numbers do wrong. */
px_code shard_sweep_make(shard_sweep *s, px_alloc *a, const shard_plan_model *model, const shard_deploy *d,
                         const uint32_t *ranks /* 0-terminated */, const char *const *formats, const char *const *kv,
                         px_err *e);
void    shard_sweep_deinit(shard_sweep *s);

#endif
