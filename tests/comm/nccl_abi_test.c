/* comm/nccl_abi.h and the functions of comm/nccl_lib.h against NCCL's own header.  Nothing of NCCL is linked: functions that
 * call it with the types declared here only have to compile. */
#include "tests/testlib.h"

#include <nccl.h>
#include <string.h>

#include "comm/nccl_lib.h"

#define SAME(ours, theirs) _Static_assert((long)(ours) == (long)(theirs), #ours " is " #theirs)
#define SAME_PLACE(ours, theirs)                                                                                     \
    _Static_assert(offsetof(comm_nccl_config, ours) == offsetof(ncclConfig_t, theirs)                                \
                   && sizeof(((comm_nccl_config *)0)->ours) == sizeof(((ncclConfig_t *)0)->theirs), #theirs)

SAME(COMM_NCCL_OK, ncclSuccess);
SAME(COMM_NCCL_CUDA, ncclUnhandledCudaError);
SAME(COMM_NCCL_SYSTEM, ncclSystemError);
SAME(COMM_NCCL_INTERNAL, ncclInternalError);
SAME(COMM_NCCL_ARGUMENT, ncclInvalidArgument);
SAME(COMM_NCCL_USAGE, ncclInvalidUsage);
SAME(COMM_NCCL_REMOTE, ncclRemoteError);
SAME(COMM_NCCL_IN_PROGRESS, ncclInProgress);
SAME(COMM_NCCL_FLOAT32, ncclFloat32);
SAME(COMM_NCCL_SUM, ncclSum);
SAME(COMM_NCCL_UNSET, NCCL_CONFIG_UNDEF_INT);
SAME(COMM_NCCL_ID_BYTES, NCCL_UNIQUE_ID_BYTES);
SAME(sizeof(comm_nccl_id), sizeof(ncclUniqueId));
SAME(sizeof(ncclResult_t), sizeof(int));
SAME(sizeof(ncclDataType_t), sizeof(int));
SAME(sizeof(ncclRedOp_t), sizeof(int));
SAME(sizeof(ncclComm_t), sizeof(void *));
SAME_PLACE(size, size);
SAME_PLACE(magic, magic);
SAME_PLACE(version, version);
SAME_PLACE(blocking, blocking);
SAME_PLACE(cga_cluster, cgaClusterSize);
SAME_PLACE(min_ctas, minCTAs);
SAME_PLACE(max_ctas, maxCTAs);
SAME_PLACE(net_name, netName);
#ifdef NCCL_WIN_COLL_SYMMETRIC
SAME(COMM_NCCL_COLL_SYMMETRIC, NCCL_WIN_COLL_SYMMETRIC);
#endif
#ifdef NCCL_WIN_REQUIRED_ALIGNMENT
SAME(COMM_NCCL_WINDOW_ALIGN, NCCL_WIN_REQUIRED_ALIGNMENT);
#endif

/* Weak: there is no library. */
#pragma weak ncclGetVersion
#pragma weak ncclGetUniqueId
#pragma weak ncclCommInitRankConfig
#pragma weak ncclCommGetAsyncError
#pragma weak ncclCommFinalize
#pragma weak ncclCommDestroy
#pragma weak ncclCommAbort
#pragma weak ncclAllReduce
#pragma weak ncclGetErrorString
#pragma weak ncclGetLastError
#pragma weak ncclMemAlloc
#pragma weak ncclMemFree

static int init(void **comm, int n, comm_nccl_id id, int rank, comm_nccl_config *config)
{
    ncclUniqueId theirs;

    memcpy(&theirs, &id, sizeof theirs);
    return (int)ncclCommInitRankConfig((ncclComm_t *)comm, n, theirs, rank, (ncclConfig_t *)(void *)config);
}

static int id_of(comm_nccl_id *id) { return (int)ncclGetUniqueId((ncclUniqueId *)(void *)id); }
static int state_of(void *comm, int *state) { return (int)ncclCommGetAsyncError(comm, (ncclResult_t *)(void *)state); }
static int finalize(void *comm) { return (int)ncclCommFinalize(comm); }
static int destroy(void *comm) { return (int)ncclCommDestroy(comm); }
static int abort_it(void *comm) { return (int)ncclCommAbort(comm); }
static int reduce(const void *send, void *recv, size_t n, int type, int op, void *comm, void *stream)
{
    return (int)ncclAllReduce(send, recv, n, (ncclDataType_t)type, (ncclRedOp_t)op, comm, stream);
}
static const char *error_string(int r) { return ncclGetErrorString((ncclResult_t)r); }
static int version_of(int *v) { return (int)ncclGetVersion(v); }
static const char *last_error(void *comm) { return ncclGetLastError(comm); }

#if NCCL_VERSION_CODE >= 21900
static int mem_alloc(void **p, size_t n) { return (int)ncclMemAlloc(p, n); }
static int mem_free(void *p) { return (int)ncclMemFree(p); }
#endif
#if NCCL_VERSION_CODE >= COMM_NCCL_SYMMETRIC
#pragma weak ncclCommWindowRegister
#pragma weak ncclCommWindowDeregister
static int window_register(void *comm, void *p, size_t n, void **w, int flags)
{
    return (int)ncclCommWindowRegister(comm, p, n, (ncclWindow_t *)w, flags);
}
static int window_deregister(void *comm, void *w) { return (int)ncclCommWindowDeregister(comm, w); }
#endif

static const comm_nccl_lib by_their_header = {
    .get_version = version_of, .get_unique_id = id_of, .comm_init_rank_config = init, .comm_get_async_error = state_of,
    .comm_finalize = finalize, .comm_destroy = destroy, .comm_abort = abort_it, .all_reduce = reduce,
    .get_error_string = error_string, .get_last_error = last_error,
#if NCCL_VERSION_CODE >= 21900
    .mem_alloc = mem_alloc, .mem_free = mem_free,
#endif
#if NCCL_VERSION_CODE >= COMM_NCCL_SYMMETRIC
    .window_register = window_register, .window_deregister = window_deregister,
#endif
};

/* A magic number and the first members' sizes are all that NCCL checks of a configuration. */
static void the_configuration_begins_as_theirs(void **state)
{
    const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;

    (void)state;
    assert_int_equal(theirs.magic, COMM_NCCL_MAGIC);
    assert_true(sizeof(comm_nccl_config) <= sizeof theirs);
    assert_true(theirs.version >= COMM_NCCL_CONFIG);
    assert_int_equal(COMM_NCCL_OLDEST, NCCL_VERSION(2, 18, 0));
    assert_int_equal(COMM_NCCL_SYMMETRIC, NCCL_VERSION(2, 27, 0));
    assert_non_null(by_their_header.all_reduce);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(the_configuration_begins_as_theirs) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
