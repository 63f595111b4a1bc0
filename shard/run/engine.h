/* engine.h - the inside of an executor, for the files that make it up: executor.c (open, step, close), compose.c (a step
 * becomes an image), answer.c (candidates become results).
 * Layer: shard/run.  Lies at the start of the host arena. */
#ifndef SHARD_ENGINE_H
#define SHARD_ENGINE_H

#include "shard/run/counter.h"
#include "shard/run/executor.h"
#include "shard/run/forward.h"
#include "shard/run/kv.h"
#include "shard/run/order.h"
#include "shard/run/slots.h"

struct shard_executor {
    shard_counter     a;                   /* over the caller's allocator */
    uint8_t          *host;                /* the host arena: plan.host */
    shard_rank_bytes  plan;
    uint64_t          arenas;              /* host and device arenas, as counted */
    const kern_ops   *ops;
    kern_dev         *dev;
    bool              own_dev;             /* opened here */
    bool              graphs;              /* the forward pass is replayed, a graph a bucket */
    bool              fp8_activations;     /* as the demand says */
    uint64_t          recorded;            /* a bit a graph */
    uint64_t          replayed, ran;       /* bodies of steps: as a graph, and op by op though graphs are kept */
    const shard_manifest *manifest;
    const shard_file *file;
    uint32_t          threads;
    uint32_t          rank, world;
    uint32_t          n_slice[COMM_MAX_WORLD];     /* tokens in each rank's slice of the vocabulary */
    bool              check_samples;

    kern_buf          arena, rope;         /* on the device: plan.activations, plan.rope_tables */
    shard_kv          kv;
    shard_weights     weights;
    shard_forward     f;
    shard_slots       slots;

    kern_buf          step, block_table;   /* on the device: where the two images go */
    uint8_t          *image;               /* the host's image of `step` */
    uint8_t          *mine, *all, *all_row;
    kern_cand_entry  *order[2];
    shard_entry_result *entry;
    shard_row_result *row;
    shard_top        *top;
};
_Static_assert(sizeof(struct shard_executor) <= SHARD_EXECUTOR_BYTES, "the plan counts SHARD_EXECUTOR_BYTES");
_Static_assert(sizeof(shard_entry_result) <= SHARD_RESULT_BYTES && sizeof(shard_row_result) <= SHARD_RESULT_BYTES,
               "the plan counts SHARD_RESULT_BYTES a result");
_Static_assert(sizeof(shard_top) <= sizeof(kern_cand_entry), "the plan counts an entry's bytes a pair");

/* executor.c: how this architecture rotates. */
kern_rope shard_rope_of(const shard_arch *m);

/* compose.c: fill the image from a checked step and upload it.  Leaves the shape for the forward pass. */
px_code shard_compose(shard_executor *x, const shard_step *in, const shard_step_needs *needs,
                      shard_forward_shape *shape, px_err *e);

/* Bytes of a row's record whose list has `longest` entries: a few sizes, so that steps are alike. */
uint32_t shard_record_bytes(const shard_executor *x, uint32_t longest);

/* graph.c: the forward pass, replayed where the device keeps graphs.  A bucket that warm-up did not record runs op by op. */
px_code shard_graph_forward_all(shard_executor *x, const shard_forward_shape *shape, px_err *e);
/* Collective; part of warm-up, when a step's image is uploaded: every bucket op by op, then recorded.  Where no graphs are kept nothing,
 * but with fp8_activations the largest bucket, so that what its products are is known before serving. */
px_code shard_graph_record_all(shard_executor *x, px_err *e);
void    shard_graph_drop(shard_executor *x);

/* answer.c: collective; after the forward pass.  Gathers all ranks' flags and candidates and makes the results; every
 * rank comes to the same. */
px_code shard_answer_all(shard_executor *x, const shard_step *in, const shard_forward_shape *shape, shard_result *out,
                         px_err *e);
/* How the entry's next token is chosen: the same for what is asked of the ops and for what is done with the answer. */
struct shard_choice;
void    shard_answer_choice(const shard_executor *x, const shard_entry *n, struct shard_choice *c);

#endif
