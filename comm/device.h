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
} comm_device;

typedef struct comm_device_args {
    const comm_device *device;    /* borrowed for the comm's life */
    comm  *host;                  /* open on the same ranks, with the same partial_bytes and gather_bytes; borrowed */
    size_t partial_bytes;         /* largest message of reduce_views_all */
    px_time_us timeout_us;        /* of NCCL's initialisation and of a step that does not end; 0: 60 s */
    uint32_t channels;            /* NCCL: at most so many CTAs, 0: NCCL's choice */
} comm_device_args;

/* Device memory that they take: two partial buffers, and the sum (worlds over one). */
size_t comm_device_bytes(uint32_t world, size_t partial_bytes);

/* Not collective.  Errors: PX_ENOMEM, PX_EINVAL, what the device says. */
px_code comm_open_staged(comm **c, px_alloc *a, const comm_device_args *args, px_err *e);
/* Collective (id over `host`, ncclCommInitRankConfig non-blocking with a deadline).  PX_EUNSUP (field "nccl"): libnccl
 * cannot be opened, or is too old; found says what dlopen said.  PX_ETIMEOUT, PX_EPEER: as in comm.h. */
px_code comm_open_nccl_all(comm **c, px_alloc *a, const comm_device_args *args, px_err *e);
/* "2.28.9", or "" where libnccl cannot be opened; opens nothing else. */
void    comm_nccl_version(char *out, size_t cap);

/* The transport of what is small: a host comm's own name. */
const char *comm_host_name(const comm *c);
/* May reduce_views_all stand between the backend's record and end? */
bool    comm_captures(const comm *c);
/* NCCL: poll for asynchronous errors, as the step's watchdog does while it waits; PX_EPEER after an abort.  Others: PX_OK. */
px_code comm_poll(comm *c, px_err *e);
/* Any thread, once: NCCL's kernels that wait for a peer end with an error; every later call is PX_EPEER. */
void    comm_abort(comm *c);

#endif
