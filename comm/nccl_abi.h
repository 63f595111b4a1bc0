/* nccl_abi.h - the part of NCCL's interface that is used, written down again so that building needs no NCCL and no CUDA.
 * Layer: comm, internal.  tests/comm/nccl_abi_test.c holds it against nccl.h where a toolkit has one.
 *
 * The configuration is the shortest that has what is needed: NCCL takes the size and version that stand in it, and gives
 * every member that came later its default. */
#ifndef COMM_NCCL_ABI_H
#define COMM_NCCL_ABI_H

#include <limits.h>
#include <stddef.h>

#define COMM_NCCL_FILE "libnccl.so.2"
#define COMM_NCCL_OLDEST    21800         /* ncclGetVersion: 10000 major + 100 minor + patch */
#define COMM_NCCL_SYMMETRIC 22700         /* window-registered symmetric buffers */

#define COMM_NCCL_ID_BYTES    128
#define COMM_NCCL_MAGIC       0xcafebeefu
#define COMM_NCCL_CONFIG      21700u      /* the version whose configuration this is */
#define COMM_NCCL_UNSET       INT_MIN
#define COMM_NCCL_FLOAT32     7           /* ncclDataType_t */
#define COMM_NCCL_SUM         0           /* ncclRedOp_t */
#define COMM_NCCL_COLL_SYMMETRIC 1        /* flag of a window */
#define COMM_NCCL_WINDOW_ALIGN   4096u

typedef enum comm_nccl_result {           /* ncclResult_t */
    COMM_NCCL_OK, COMM_NCCL_CUDA, COMM_NCCL_SYSTEM, COMM_NCCL_INTERNAL, COMM_NCCL_ARGUMENT, COMM_NCCL_USAGE, COMM_NCCL_REMOTE,
    COMM_NCCL_IN_PROGRESS
} comm_nccl_result;

typedef struct comm_nccl_id { char bytes[COMM_NCCL_ID_BYTES]; } comm_nccl_id;     /* ncclUniqueId, passed by value */

typedef struct comm_nccl_config {         /* ncclConfig_t's first members */
    size_t   size;
    unsigned magic, version;
    int      blocking, cga_cluster, min_ctas, max_ctas;
    const char *net_name;
} comm_nccl_config;

#endif
