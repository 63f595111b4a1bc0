/* advice.h - the usual mistakes, each with its number; what every lever would save.
 * Layer: shard/plan. */
#ifndef SHARD_ADVICE_H
#define SHARD_ADVICE_H

#include "shard/plan/fit.h"

typedef struct shard_advice {
    const char *key;           /* "weights_alone" ...: stable */
    uint64_t    bytes;         /* the number of the line, where it is one of bytes */
    char        text[320];
} shard_advice;
#define SHARD_MAX_ADVICE 16u

/* How many; changes: of shard_fit_changes. */
size_t shard_advise(const shard_plan *p, const shard_change changes[SHARD_N_LEVERS], shard_advice out[SHARD_MAX_ADVICE]);

/* "12.3 GiB", three digits; returns buf. */
char *shard_human(uint64_t bytes, char buf[24]);
/* 12,345,678; returns buf. */
char *shard_grouped(uint64_t n, char buf[32]);

#endif
