/* device.h - sums between ranks whose partial buffers lie in a device's memory, behind the table of comm.h.
 * Layer: comm (knows no kernels: a device is what comm_device says).  Threading: as comm.h.
 *
 * Two transports:
 *   staged  the partial sum goes to pinned host memory, over a host transport, and its sum (tree order: the bits of the
 *           CPU) back to the device.  For several ranks on one GPU, for hosts without NCCL, and for `reduce: ordered`.
 *   nccl    ncclAllReduce on the device's queue: no host waits, and a graph may capture it.  Its order is NCCL's own.
 * Both answer with one view.  Small host messages (candidates, barriers) go over the host comm that they are opened on.
 * A world of one copies nothing: the view is the partial buffer itself, and a graph may capture it. */
#ifndef COMM_DEVICE_H
#define COMM_DEVICE_H

#include "comm/comm.h"

/* The device's side, filled by whoever opened the backend.  Addresses are the device's. */
typedef struct comm_device {
    void  *ctx;
    void  *queue;                 /* native stream (cudaStream_t) */
    px_code (*get)(void *ctx, size_t bytes, void **out, px_err *e);    /* zeroed device memory, 256-byte aligned */
    void    (*put)(void *ctx, void *p, size_t bytes);
    px_code (*to_host)(void *ctx, void *dst, const void *src, size_t bytes, px_err *e);    /* in order; dst is there on return */
    px_code (*to_device)(void *ctx, void *dst, const void *src, size_t bytes, px_err *e);  /* in order; src is free on return */
    /* One graph, of comm_measure_all alone; all three or none (then what the host takes to start a sum is measured, too). */
    px_code (*record)(void *ctx, px_err *e);
    px_code (*end)(void *ctx, px_err *e);
    px_code (*replay)(void *ctx, px_err *e);
    /* This rank's error, before the others are waited for, who may sit in NCCL until their time is up; NULL: nobody asks. */
    void    (*failed)(void *ctx, const px_err *e);
} comm_device;

typedef struct comm_device_args {
    const comm_device *device;    /* borrowed for the comm's life */
    comm  *host;                  /* open on the same ranks; borrowed.  staged needs the same partial_bytes there, too */
    size_t partial_bytes;         /* largest message of reduce_views_all */
    px_time_us timeout_us;        /* of NCCL's initialisation and of a step that does not end; 0: 60 s */
    uint32_t channels;            /* NCCL: at most so many CTAs, 0: NCCL's choice */
    bool   alone;                 /* NCCL: a communicator in a world of one, too, out of place: tests on one GPU */
} comm_device_args;

/* Device memory that they take: two partial buffers, and the sum (worlds over one).  NCCL rounds its own up, to 2 MiB. */
size_t comm_device_bytes(uint32_t world, size_t partial_bytes);

/* What `reduce` in the configuration says. */
typedef enum comm_reduce {
    COMM_REDUCE_AUTO,             /* nccl */
    COMM_REDUCE_NCCL,             /* an order of NCCL's own */
    COMM_REDUCE_ORDERED           /* staged: the bits of the tree */
} comm_reduce;
/* The one transport that a world, its device and `reduce` ask for; collective unless it is staged.  A world of one is
 * staged: it opens no library. */
px_code comm_open_device_all(comm **c, px_alloc *a, const comm_device_args *args, comm_reduce how, px_err *e);

/* What comm_open_staged takes from `a`: exactly. */
size_t comm_staged_private_bytes(uint32_t world, size_t partial_bytes);

/* Not collective.  Errors: PX_ENOMEM, PX_EINVAL, what the device says. */
px_code comm_open_staged(comm **c, px_alloc *a, const comm_device_args *args, px_err *e);
/* Collective (id over `host`, ncclCommInitRankConfig non-blocking with a deadline).  A rank that cannot go on says so to all,
 * who then have PX_EPEER.  Errors, field "nccl", each naming NCCL's function and its words: PX_EUNSUP (libnccl cannot be
 * opened, lacks a function, or is too old; found says what dlopen said), PX_EMISMATCH (another version than rank 0's),
 * PX_ETIMEOUT, PX_EPEER, PX_EDEVICE, PX_EIO, PX_EINTERNAL (by NCCL's result).
 * NCCL ends a communicator only after the last graph that holds one of its sums: drop the graphs before comm_close. */
px_code comm_open_nccl_all(comm **c, px_alloc *a, const comm_device_args *args, px_err *e);
/* "2.28.9", or "" where libnccl cannot be opened; opens nothing else. */
void    comm_nccl_version(char *out, size_t cap);

/* The transport of what is small: a host comm's own name. */
const char *comm_host_name(const comm *c);
/* May reduce_views_all stand between the backend's record and end? */
bool    comm_captures(const comm *c);
/* Any thread.  NCCL: poll for asynchronous errors, as a watch does; once the communicator has ended, why: the error of the call
 * that ended it, which may not have returned yet, or PX_EPEER after comm_abort.  Others: PX_OK. */
px_code comm_poll(comm *c, px_err *e);
/* Any thread, at any time: NCCL's kernels that wait for a peer end, and every later call is PX_EPEER.  A thread that is
 * inside NCCL leaves it first; a second abort is nothing. */
void    comm_abort(comm *c);

/* ---- the watchdog: a thread that polls while this rank's own waits for the device ---- */

typedef struct comm_watch comm_watch;
px_code comm_watch_open(comm_watch **w, px_alloc *a, comm *c, px_err *e);      /* c is borrowed */
void    comm_watch_close(comm_watch *w);               /* NULL is legal */
/* Between these two an error of comm_poll, or timeout_us gone by, aborts the comm: the wait on the device then ends.  disarm
 * says what was found, now or ever: comm_poll's error, or PX_ETIMEOUT (field "nccl", text: `what`, static). */
void    comm_watch_arm(comm_watch *w, px_time_us timeout_us, const char *what);
px_code comm_watch_disarm(comm_watch *w, px_err *e);

/* ---- before serving: every algorithm tried, its sums checked, its times taken, the best one chosen ---- */

typedef enum comm_algorithm {
    COMM_PLAIN,                   /* ncclAllReduce on buffers that NCCL does not know */
    COMM_SYMMETRIC,               /* the same on buffers registered in a symmetric window */
    COMM_STAGED,                  /* over the host: no graph can hold it */
    COMM_N_ALGORITHMS
} comm_algorithm;
const char *comm_algorithm_name(comm_algorithm a);     /* "nccl" "nccl-symmetric" "staged" */

#define COMM_MOST_SIZES 48u
typedef struct comm_latency {
    size_t bytes;
    float  us[COMM_N_ALGORITHMS]; /* of one sum on the slowest rank; 0: not measured */
} comm_latency;
typedef struct comm_measured {
    comm_algorithm chosen;
    bool     there[COMM_N_ALGORITHMS];
    bool     wrong[COMM_N_ALGORITHMS];             /* its sums were not exact where they must be, on some rank: not chosen */
    bool     graphs;                               /* NCCL's times were taken from a graph's replay */
    uint32_t n;
    comm_latency at[COMM_MOST_SIZES];              /* ascending */
} comm_measured;

/* Collective, after open and before anything is recorded; the same on all ranks.  Sizes: `row_bytes`, twice that, ..., the
 * whole partial buffer.  Sums of numbers whose every order of adding is exact are held against the known ones, bit by bit.
 * Chosen: of NCCL's algorithms the one with the smallest sum of (its time / the better time) over the sizes; staged only
 * where it is the fastest at every size, because it costs the graphs (and tried only where `host` was opened for messages as
 * large).  From then on the comm sums by it.
 * A world of one has nothing to measure: n is 0.  Errors: PX_ECORRUPT (field "selftest": no algorithm is right, found and
 * expected are a number), PX_ENOMEM, PX_ERANGE (row_bytes), the transport's own. */
px_code comm_measure_all(comm *c, size_t row_bytes, comm_measured *out, px_err *e);

#endif
