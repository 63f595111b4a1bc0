/* nccl_world.h - ranks with a device of host memory each, on the fake NCCL: as threads of one process, or forked.
 * Linked with --wrap=dlopen,--wrap=dlsym: libnccl.so.2 is the fake, or absent, or lacks a function. */
#ifndef TESTS_NCCL_WORLD_H
#define TESTS_NCCL_WORLD_H

#include "comm/device.h"
#include "tests/comm/fake_nccl.h"
#include "tests/testlib.h"

#define PARTIAL_FLOATS 1500u
#define PARTIAL (PARTIAL_FLOATS * sizeof(float))
/* A busy machine may not run a thread for seconds: only a wait that has no end by itself may have SOON_US. */
#define WAIT_US (60 * (px_time_us)1000000)             /* where nothing may take so long */
#define SOON_US (1000 * (px_time_us)1000)              /* where something will */

typedef struct test_rank {
    uint32_t    rank, world;
    px_alloc   *a;
    fake_queue  queue;
    size_t      held;                                  /* bytes that the device gave out */
    comm_device device;
    comm_device_args args;
    comm       *host, *c;
    px_code     rc;                                    /* of opening, then of whatever the test did */
    px_err      e;
    bool        host_is_small;                         /* its host transport has no room for a sum */
    bool        lacks_nccl;                            /* this rank's host has no libnccl */
    int         version;                               /* of this rank's; 0: the world's */
} test_rank;

extern fake_world *test_nccl;                          /* shared with forked children; test_nccl_fresh clears it */
extern const char *test_nccl_lacks;                    /* the library has no such function */
extern bool        test_nccl_absent;
extern _Atomic int test_nccl_opened;                   /* dlopens of libnccl.so.2 */

void test_nccl_fresh(void);                            /* version 2.28.9, no faults */
/* Every rank a thread: host comm (WAIT_US), args, then comm_open_nccl_all (timeout_us, unless its args have one) into c and rc,
 * then fn (also where that failed), then both are closed.  Asserts in the end that nothing is left of communicators, windows
 * and memory, and that NCCL was used as its rules want. */
void test_nccl_ranks(test_rank *r, uint32_t n, px_time_us timeout_us, void (*fn)(test_rank *r));
/* One rank alone or one of a forked world: as above, in this thread.  group or shm_fd as in comm_args. */
void test_nccl_rank(test_rank *r, const comm_args *host, void (*fn)(test_rank *r));
/* Every rank a process: fn as above; status: of waitpid, the exit code is rc. */
void test_nccl_processes(uint32_t n, void (*fn)(test_rank *r), int *status);
void test_nccl_nothing_left(void);
/* From now on: the longest wait of a call for NCCL and for the device, and of a call of the host transport. */
void test_nccl_limits(test_rank *r, px_time_us call_us, px_time_us host_us);

void *test_over(const void *p);                        /* device address <-> host address */
/* Fills partial `which` with numbers of (rank, round), sums the first n, waits, compares.  PX_ECORRUPT: another sum. */
px_code test_nccl_round(test_rank *r, unsigned which, unsigned round, size_t n);

#endif
