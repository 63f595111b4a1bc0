/* nccl_lib.h - libnccl, opened by name: nothing of it is needed where no communicator is opened.
 * Layer: comm, internal.  A plain value; the library stays in the process once it was opened whole (it has threads and
 * statics of its own). */
#ifndef COMM_NCCL_LIB_H
#define COMM_NCCL_LIB_H

#include "comm/nccl_abi.h"
#include "proto/base/err.h"

/* Results are comm_nccl_result as int; a communicator, a window and a stream are void pointers. */
typedef struct comm_nccl_lib {
    void *handle;
    int   version;
    int (*get_version)(int *version);
    int (*get_unique_id)(comm_nccl_id *id);
    int (*comm_init_rank_config)(void **comm, int n_ranks, comm_nccl_id id, int rank, comm_nccl_config *config);
    int (*comm_get_async_error)(void *comm, int *state);
    int (*comm_finalize)(void *comm);
    int (*comm_destroy)(void *comm);
    int (*comm_abort)(void *comm);
    int (*all_reduce)(const void *send, void *recv, size_t count, int type, int op, void *comm, void *stream);
    const char *(*get_error_string)(int result);
    const char *(*get_last_error)(void *comm);
    /* all four or none: */
    int (*mem_alloc)(void **p, size_t bytes);
    int (*mem_free)(void *p);
    int (*window_register)(void *comm, void *p, size_t bytes, void **window, int flags);
    int (*window_deregister)(void *comm, void *window);
} comm_nccl_lib;

/* PX_EUNSUP, field "nccl": found is what dlopen said, the missing function, or the version that is too old. */
px_code comm_nccl_lib_open(comm_nccl_lib *lib, px_err *e);
/* Can buffers be registered in windows? */
bool    comm_nccl_lib_symmetric(const comm_nccl_lib *lib);
void    comm_nccl_version_text(int version, char *out, size_t cap);      /* 22809: "2.28.9" */

#endif
