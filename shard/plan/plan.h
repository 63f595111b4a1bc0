/* plan.h - a model on a deployment: every byte of every rank, the worst rank, the verdict.
 * Layer: shard/plan.  Pure (what is measured is handed in).  A plan borrows the model and the types it is made of. */
#ifndef SHARD_PLAN_H
#define SHARD_PLAN_H

#include "shard/plan/act.h"
#include "shard/plan/capacity.h"
#include "shard/plan/device.h"
#include "shard/plan/host.h"
#include "shard/plan/others.h"

typedef enum shard_backend { SHARD_ON_CPU, SHARD_ON_CUDA } shard_backend;

typedef struct shard_deploy {
    uint32_t ranks, hosts;                 /* ranks are dealt to hosts in order, evenly */
    shard_backend     backend;
    shard_ffn_split   ffn;
    shard_vocab_split vocab;
    uint64_t memory;                       /* free bytes: of a device for each rank (CUDA), of each host (CPU); 0: not known */
    bool     memory_measured;
    const char *kv_dtype;                  /* as shard_kv_vector_bytes knows them */
    uint32_t kv_tokens, page;              /* the pool in tokens ... */
    uint64_t pool;                         /* ... or, if not 0, in bytes of every rank */
    uint32_t max_sequences, token_budget, threads;
    bool     fp8_activations;              /* of CUDA: products of many rows with FP8 weights (shard_check_fp8_activations) */
    int      transport;                    /* of ranks on CPU, as in comm/comm.h */
    uint32_t channels;                     /* of NCCL */
    uint32_t headroom_percent;             /* of the free memory ... */
    uint64_t headroom_least;               /* ... and at least so much */
    shard_rates rate;
    shard_class cls[SHARD_MAX_CLASSES];
    size_t      n_classes;
} shard_deploy;
void shard_deploy_init(shard_deploy *d);   /* one rank on CPU, the configuration's defaults */

/* What a set stores for given types, or an error if the backend cannot multiply with them: shard/store knows. */
typedef px_code shard_store_types(shard_types *stored, px_alloc *a, const shard_arch *m, const shard_types *file, px_err *e);

typedef struct shard_plan_model {
    const shard_arch  *m;
    const shard_types *source;             /* as the checkpoint holds them; NULL: `file` */
    const shard_types *file;               /* as the format says */
    const shard_types *stored;             /* as a set would store them; NULL: it cannot, and only the formulas speak */
    const char        *format;             /* how the format is called */
    shard_store_types *store;              /* for other formats that are tried */
} shard_plan_model;

/* A rank's stack. */
typedef enum shard_line {
    SHARD_LINE_WEIGHTS, SHARD_LINE_KV, SHARD_LINE_ACT, SHARD_LINE_SCRATCH, SHARD_LINE_SAMPLING, SHARD_LINE_COMM,
    SHARD_LINE_CONTEXT, SHARD_LINE_GRAPHS, SHARD_LINE_HEADROOM, SHARD_N_LINES
} shard_line;
const char *shard_line_key(shard_line l);      /* "weights" */
const char *shard_line_label(shard_line l);

typedef struct shard_plan_rank {
    shard_weight_bytes weights;            /* as the format says: golden.json's bytes and arena */
    shard_weight_bytes stored;             /* as the set holds them; .mapped: bytes of its file in memory */
    shard_act          act;                /* the formula's */
    shard_capacity     capacity;
    shard_rank_bytes   carved;             /* what a rank on CPU carves, where plan.carved */
    uint64_t line[SHARD_N_LINES];
    uint64_t low, high;                    /* bounds of need: only what is not ours is uncertain */
    uint64_t need;                         /* all lines but headroom */
    uint64_t free;                         /* of this rank; 0: not known */
    uint64_t kv_blocks_fit;                /* blocks that the free memory would hold */
    bool     fits;
} shard_plan_rank;

typedef struct shard_plan {
    px_alloc *a;
    shard_plan_model model;
    shard_deploy d;
    shard_split  split;
    shard_plan_rank *rank;                 /* (d.ranks) owned */
    bool     carved;                       /* lines are what a rank carves, to the byte */
    px_err   why_not;                      /* else why the CPU does not serve it */
    uint64_t source_bytes;                 /* the whole model in the format */
    uint64_t stored_bytes, mapped_bytes;   /* the set: sums over ranks; 0: there can be none */
    uint64_t kv_blocks;                    /* group-wide: the smallest rank's */
    uint64_t kv_tokens_fit;                /* the largest pool that fits; 0 if memory is not known */
    uint64_t max_context_1, max_context_all;   /* of one sequence, of max_sequences at the same time: on every rank */
    uint32_t worst;                        /* rank with the least left, or the largest need */
    uint32_t ranks_per_host;
    shard_host_need host[SHARD_N_LOADS];   /* the first host, which has the most ranks */
    shard_load load;                       /* the way it is loaded here */
    uint64_t host_low, host_need, host_high, host_headroom;    /* CPU: all ranks of the host that needs most */
    bool     known;                        /* memory was given or measured: the verdict counts */
    bool     memory_fits, p95_fits, p99_fits, fits;
} shard_plan;

/* Whether ranks on it keep a cache of this type; the others are planned by the formulas alone. */
bool shard_kv_kept(shard_backend backend, const char *kv_dtype);

/* Errors: those of the split (field ranks), of classes, of the KV dtype, of shard_rank_bytes_of for the deployment's numbers,
 * PX_ENOMEM. */
px_code shard_plan_make(shard_plan *p, px_alloc *a, const shard_plan_model *model, const shard_deploy *d, px_err *e);
void    shard_plan_deinit(shard_plan *p);
uint32_t shard_plan_world_max(void);
/* What fp8_activations adds to the workspace of rank r's device. */
uint64_t shard_fp8_rows_bytes(const shard_plan *p, uint32_t r);

#endif
