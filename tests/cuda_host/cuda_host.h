/* cuda_host.h - what a test sets before it calls launchers in a host build: schedule, device, errors to be injected.
 * Layer: tests.  The CUDA runtime's own functions are in runtime.cpp and stream.cpp under their own names.
 * Threading: any thread may call; launches of a process run one after the other. */
#ifndef TESTS_CUDA_HOST_H
#define TESTS_CUDA_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Who runs when several threads of a block could: the lowest, the highest, anybody, or a random warp until it waits and
 * in it a random lane until it waits, which is what finds missing barriers.  Blocks are ordered likewise. */
typedef enum cuh_order { CUH_IN_ORDER, CUH_REVERSE, CUH_RANDOM, CUH_RUN_AHEAD } cuh_order;
/* When the bytes of a cp.async move: each hides one kind of bug. */
typedef enum cuh_copies { CUH_COPY_AT_WAIT, CUH_COPY_AT_ISSUE, CUH_COPY_COIN } cuh_copies;

typedef struct cuh_config {
    cuh_order  order;
    cuh_copies copies;
    uint64_t   seed;
    int        sm;                 /* 80 or 90: the limits on shared memory */
    size_t     memory_bytes;       /* what cudaMemGetInfo calls total */
    size_t     context_bytes;      /* of it the driver's own */
    int        devices;            /* 0: cudaErrorNoDevice */
    int        driver;             /* version; 0: no driver, cudaErrorInsufficientDriver */
    bool       lazy;               /* streams run only when something waits for them */
} cuh_config;

cuh_config cuh_defaults(void);     /* in order, copies at the wait, sm 80, 1 GiB, one device, streams that run at once */
void cuh_configure(const cuh_config *c);
cuh_config cuh_current(void);

/* The schedules that a test goes through: in order, reverse, random, 10 times run-ahead; fewer under ThreadSanitizer. */
unsigned cuh_n_schedules(void);
void cuh_schedule(unsigned i);     /* sets order, copies and seed of the current configuration */

/* The nth call from now (1: the next) of the runtime's function `call` answers `error`; sticky: it and every later call
 * of any function.  cuh_inject_nothing also forgets a sticky error. */
void cuh_inject(const char *call, unsigned nth, int error, bool sticky);
void cuh_inject_nothing(void);
/* Called at the start of each of the runtime's functions, before errors are injected; NULL: none. */
void cuh_each_call(void (*fn)(const char *call));
/* From now on no work of a stream is finished: who waits for it waits until this ends. */
void cuh_stall(bool on);

unsigned long cuh_calls(const char *call);     /* how often it was called; "launch": kernels that ran */
size_t cuh_live_bytes(void);                   /* device memory not freed */
void cuh_defined(const void *p, size_t bytes); /* to MSan: code that it cannot see has written there */

#ifdef __cplusplus
}
#endif
#endif
