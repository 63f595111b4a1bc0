/* block.h - the block that runs: its threads, what they wait for, its shared memory.  Layer: tests/cuda_host. */
#ifndef TESTS_CUDA_HOST_BLOCK_H
#define TESTS_CUDA_HOST_BLOCK_H

#include <phalanx_cuda_host.h>
#include <vector>

#include "cuda_host.h"
#include "fiber.h"

namespace cuh {
struct copy { void *shared; const void *global; bool valid, done; };

struct thread {
    fiber f;
    uint3 index;
    unsigned lane, warp;
    cu_site at;                    /* where it waits */
    const char *waits;             /* NULL: it does not */
    unsigned mask;
    void *args;
    void *order;                   /* what a warp's barrier released before it waited, then what it is to acquire */
    unsigned votes;
    std::vector<copy> copies;      /* in the order of issue */
    std::vector<unsigned> groups;  /* copies in each committed group */
    unsigned uncommitted;
};

struct warp {
    unsigned there, ready, parked, exited;
    bool alike;                    /* all that are parked came with the mask, the name and the place of `first` */
    unsigned first_mask; const char *first_name; cu_site first_at;
};

struct shared_block { const void *key; const char *name; char *p; size_t bytes; };

struct block {
    std::vector<thread> threads;
    warp warps[32];
    unsigned n_warps, ready_warps, live, exited;
    unsigned waiting, n_votes, votes_result;
    vote kind;
    cu_site barrier_at;
    void *order;                   /* of the barrier where threads wait */
    std::vector<shared_block> shared;
    size_t static_bytes, dynamic_bytes, shared_limit;      /* limit: of both together */
    const std::function<void()> *body;
};

extern thread *running;            /* NULL outside kernels */
extern thread_local bool in_kernel;        /* of this operating system thread: another may run one meanwhile */
extern block *current;
extern cuh_config config;

uint64_t draw(void);               /* the schedule's random numbers */
void *order_fresh(void);           /* an address for order_release that no barrier used lately */
void wait_here(const char *what, cu_site at);      /* the running thread stops until somebody calls wake */
void wake(thread *t);
void shared_open(block *b, size_t dynamic_bytes, size_t limit);
void shared_close(block *b);
void shared_reset(void);           /* at a launch's end */
void copies_drop(thread *t);
/* The static shared bytes of the kernel. */
size_t run_grid(const char *name, dim3 grid, dim3 dim, size_t shared_bytes, size_t shared_limit, const std::function<void()> &body);
void shared_check(const char *what, const void *p, size_t bytes, cu_site at);   /* fails outside shared memory */
const size_t WITHOUT_ASKING = 48 << 10;    /* static and dynamic together, of a kernel that never asked for more */
size_t optin_bytes(void);          /* the most shared memory that a block may have */
}
#endif
