/* nccl_exports.h - the functions of libnccl that every stand-in for it has.
 * Layer: tests. */
#ifndef TESTS_COMM_NCCL_EXPORTS_H
#define TESTS_COMM_NCCL_EXPORTS_H

#include "comm/nccl_abi.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int ncclGetVersion(int *version);
EXPORT int ncclGetUniqueId(comm_nccl_id *id);
EXPORT int ncclCommInitRankConfig(void **comm, int n, comm_nccl_id id, int rank, comm_nccl_config *config);
EXPORT int ncclCommGetAsyncError(void *comm, int *state);
EXPORT int ncclCommFinalize(void *comm);
EXPORT int ncclCommDestroy(void *comm);
EXPORT int ncclCommAbort(void *comm);
EXPORT int ncclAllReduce(const void *send, void *recv, size_t n, int type, int op, void *comm, void *stream);
EXPORT const char *ncclGetErrorString(int result);
EXPORT const char *ncclGetLastError(void *comm);

#endif
