/* contract.h - what coordinator and rank each work out for themselves and must agree on.
 * Layer: daemon.  Pure functions of configuration and manifest. */
#ifndef DAEMON_CONTRACT_H
#define DAEMON_CONTRACT_H

#include "comm/comm.h"
#include "proto/config/config.h"
#include "shard/plan/bytes.h"
#include "shard/store/set.h"

/* Rank, world and job as both sides put them into frames. */
uint32_t     daemon_contract_threads(const proto_config *c, uint32_t world);     /* 0: cores / ranks, at least 1 */
comm_kind    daemon_contract_transport(const proto_config *c, uint32_t world);   /* auto: shm; one rank: local */
kern_path    daemon_contract_cpu(const proto_config *c);
shard_demand daemon_contract_demand(const proto_config *c, uint32_t world);
#define DAEMON_MPI_S 60u                                                         /* for the stage mpi, where coldstart_s names no other time */
/* Positions that a sequence may have: the model's context, or what the KV pool holds if that is less. */
uint32_t     daemon_contract_context(const proto_config *c, const shard_manifest *m);

/* Every fact that must be equal everywhere: wire version, build, MPI library, arithmetic, rope tables, digests of
 * manifest, plan and tokenizer, every `global` key of the configuration.  file says where the fact stands. */
typedef struct daemon_fact { const char *field, *value, *file; } daemon_fact;
#define DAEMON_MAX_FACTS 96
void daemon_contract_facts(const proto_config *c, const char *config_path, const shard_manifest *m, const char *dir,
                           void (*fn)(void *ctx, const daemon_fact *f), void *ctx);

/* What follows from the rank: every number of its plan, and what the header of its shard says (of_shard; the file has
 * been held against the manifest when it was opened). */
void daemon_contract_rank_facts(const shard_manifest *m, const char *dir, uint32_t rank, const shard_rank_bytes *plan,
                                bool of_shard, void (*fn)(void *ctx, const daemon_fact *f), void *ctx);

/* "avx2 fma f16c ...": what the processor has of what kernels use. */
void daemon_contract_cpu_features(char *out, size_t cap);

#endif
