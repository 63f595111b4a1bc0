/* report.h - a plan as a table, as sums to check with a pocket calculator, as JSON, as a picture.
 * Layer: shard/plan.  The JSON's schema: shard/plan/README.md. */
#ifndef SHARD_REPORT_H
#define SHARD_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "shard/plan/advice.h"
#include "shard/plan/finetune.h"

/* Everything but JSON goes to a stream; errors of writing are the stream's own (ferror).  PX_ENOMEM. */
px_code shard_report_table(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS], FILE *out, px_err *e);
void    shard_report_explain(const shard_plan *p, FILE *out);           /* of the worst rank */
void    shard_report_svg(const shard_plan *p, FILE *out);

/* cuts: weights of every format, 1-8 and 16 ranks, both vocabularies and both deals, too. */
px_code shard_report_json(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS], bool cuts, json_t **out, px_err *e);

/* Without memory: weights of the worst rank, formats by ranks; else the rows that nothing beats. */
/* Weights alone, formats by ranks; in bytes, or in GiB for a table that fits a page. */
px_code shard_report_sweep_weights(const shard_sweep *s, bool gib, FILE *out, px_err *e);
px_code shard_report_sweep(const shard_sweep *s, const shard_deploy *d, FILE *out, px_err *e);
px_code shard_report_sweep_json(const shard_sweep *s, json_t **out, px_err *e);

/* The whole model in the usual formats, and caches of 1, 4 and 8 sequences. */
px_code shard_report_sizes(px_alloc *a, const shard_arch *m, const char *kv_dtype, uint32_t page, uint32_t chunk, FILE *out,
                           px_err *e);

/* Every optimizer for one worksheet. */
px_code shard_report_finetune(px_alloc *a, const shard_arch *m, const shard_finetune *f, uint64_t base_bytes,
                              const char *format, FILE *out, px_err *e);
px_code shard_report_finetune_json(const shard_arch *m, const shard_finetune *f, uint64_t base_bytes, json_t **out, px_err *e);

/* golden.json's name of a class of tensors: "attn_q", "attn_q_bias"; returns buf. */
const char *shard_class_name(shard_role r, char buf[64]);

#endif
