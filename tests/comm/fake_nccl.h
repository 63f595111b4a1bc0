/* fake_nccl.h - what a test tells the libnccl of fake_nccl.c, and what that saw.
 * A fake_world lies in memory that all ranks share (threads, or processes that were forked), zeroed, and is handed over with
 * fake_nccl_use, which the test finds by name as the program finds NCCL's functions. */
#ifndef TESTS_FAKE_NCCL_H
#define TESTS_FAKE_NCCL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_RANKS  4u
#define FAKE_FLOATS 2048u
#define FAKE_OPS    128u
#define FAKE_TURN   ((uintptr_t)1 << 62)       /* "device" memory is the host's with this bit turned: touching it is a fault */

typedef enum fake_call {
    FAKE_NONE, FAKE_ID, FAKE_MEM, FAKE_INIT, FAKE_WINDOW, FAKE_REDUCE, FAKE_DEREGISTER, FAKE_FINALIZE, FAKE_DESTROY, FAKE_CALLS
} fake_call;
typedef enum fake_how {
    FAKE_REFUSES,                              /* the call returns `result` */
    FAKE_LATER,                                /* in progress first, then the state is `result` */
    FAKE_HANGS,                                /* in progress for ever */
    FAKE_STALLS,                               /* FAKE_REDUCE: begun, and the queue never gets through it */
    FAKE_BREAKS,                               /* FAKE_REDUCE: as stalls, and the asynchronous error is `result` */
    FAKE_STAYS                                 /* FAKE_REDUCE: the call does not return while `stays` (but for 80 s at most) */
} fake_how;

typedef struct fake_queue fake_queue;
typedef struct fake_comm {                     /* what an ncclComm_t points to */
    bool     live;
    uint32_t rank, world, seq;
    int      left, then;                       /* polls that it stays in progress (-1: for ever), and the state after them */
    bool     joins;                            /* in progress until all ranks have come */
    _Atomic int  async, inside, aborted;
    void    *window; size_t window_bytes;
    fake_queue *queue;                         /* of its sums: it ends, and an abort comes back, only when the graph there holds none of them */
} fake_comm;

typedef struct fake_world {
    /* by the test */
    int       version, polls;                  /* of ncclGetVersion; polls that every call stays in progress */
    bool      no_window;                       /* the hardware has none: success, and NULL */
    bool      wrong[2]; unsigned delay_us[2];  /* of a sum: plain, symmetric */
    struct { fake_call call; fake_how how; uint32_t rank; int nth, result; } fault;    /* the rank's nth call, from 1 */
    bool      abort_stays;                     /* ncclCommAbort does not return while `stays` (but for 80 s at most) */
    /* by the fake */
    int       calls[FAKE_RANKS][FAKE_CALLS];
    _Atomic int stays;                         /* set by the call, ended by the test */
    _Atomic int max_ctas;
    _Atomic int sums[2];                       /* plain, symmetric */
    _Atomic int live, memory, aborts, windows;
    _Atomic int misuse;                        /* two threads inside, a call after the end, a call before the last was done */
    _Atomic uint32_t came[FAKE_RANKS], joined;
    fake_comm comm[FAKE_RANKS];
    float     slot[FAKE_RANKS][2][FAKE_FLOATS];
} fake_world;

/* A queue, as lazy as one may be: nothing runs before somebody waits. */
typedef struct fake_op {
    int (*run)(fake_comm *c, const float *send, float *recv, size_t n, bool stalls);   /* not 0: the queue is broken */
    fake_comm *comm; const float *send; float *recv; size_t n; bool stalls;
} fake_op;
struct fake_queue {
    fake_op  op[FAKE_OPS], graph[FAKE_OPS];
    unsigned n;
    _Atomic unsigned n_graph;                  /* 0 again: the graph was dropped */
    bool     recording;                        /* what comes goes into the graph */
};

#endif
