/* comm.h - sums between ranks behind one table.
 * Layer: comm (sees proto; knows no kernels).  Opaque: owns shared memory, threads' meeting points, MPI requests.
 * Threading: one thread per comm.  `_all` marks collectives: every rank calls them in the same order.
 *
 * Partial sums: a row-parallel matmul leaves them in one of two alternating partial buffers of this comm;
 * reduce_views_all makes them readable and answers with n views that the caller adds in tree order
 * (proto/base/tree.h).  n = world (local, shm, mpi by gathering) or 1 (mpi's sliced form for large messages: the same
 * bits).  The return of reduce k+1 promises that all ranks have read the views of reduce k. */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include "proto/base/alloc.h"
#include "proto/base/io.h"

#define COMM_MAX_WORLD 64u

typedef enum comm_kind { COMM_LOCAL, COMM_SHM, COMM_MPI } comm_kind;
typedef struct comm comm;
typedef struct comm_local_group comm_local_group;      /* the meeting point of n ranks that are threads */

typedef struct comm_args {
    comm_kind kind;
    uint32_t  rank, world;
    size_t    partial_bytes;      /* largest message of reduce_views_all */
    size_t    gather_bytes;       /* largest message a rank of gather_all */
    px_time_us timeout_us;        /* longest wait of one call; 0: 60 s */
    int       shm_fd;             /* COMM_SHM: memory file of comm_shm_bytes(), same for all ranks; not taken (dup it) */
    comm_local_group *group;      /* COMM_LOCAL; NULL when world is 1 */
} comm_args;

/* Pure sizes, for the plan and for whoever makes the memory file; 0: no such comm can be.  comm_open takes exactly
 * comm_private_bytes (local with a group: the object from `a`, the buffers from the group's allocator). */
size_t comm_shm_bytes(uint32_t world, size_t partial_bytes, size_t gather_bytes);
size_t comm_private_bytes(comm_kind kind, uint32_t world, size_t partial_bytes, size_t gather_bytes);

/* `a` may be used under the group's lock by any of its threads.  Close after all ranks have closed. */
px_code comm_local_group_open(comm_local_group **g, px_alloc *a, uint32_t world, px_err *e);
void    comm_local_group_close(comm_local_group *g);
void    comm_local_group_break(comm_local_group *g);   /* every present and future wait ends with PX_EPEER */

/* Not collective (MPI: MPI_Init has been called, see comm_mpi_init; a world of one needs none).  COMM_SHM: a fresh
 * memory file, zero at first, for every job.  Errors: PX_ENOMEM, PX_EINVAL, PX_ERANGE, PX_EMISMATCH (another memory
 * file, group or MPI world), PX_EBUSY (this rank is open already). */
px_code comm_open(comm **c, px_alloc *a, const comm_args *args, px_err *e);
/* After a last comm_barrier_all, so that no rank still reads what goes.  After an error at once: peers keep their maps,
 * and a local group keeps a rank's buffers until its last rank has closed. */
void    comm_close(comm *c);
const char *comm_name(const comm *c);                  /* "local" "shm" "mpi" */
size_t  comm_shared_held(const comm *c);               /* bytes of the memory file that this rank has mapped; 0: none */

/* Address of this rank's partial buffer `which` (0, 1): fixed for the comm's life, 64-byte aligned, zeroed, populated. */
float *comm_partial(comm *c, unsigned which);
/* Collectives.  Errors: PX_EINVAL and PX_ERANGE are found before anybody is told and change nothing; PX_ETIMEOUT
 * (e->found names the rank that has not come), PX_EPEER (broken, MPI failed) and PX_EMISMATCH (a rank came for another
 * call or size; "call") end this comm: every later call is PX_EPEER.  COMM_MPI knows no timeout: the coordinator's step
 * watchdog is its deadline. */

/* Make `bytes` of partial `which` readable by all.  views[0..n): fixed addresses for a given (which, large/small).
 * Buffers alternate: the same `which` twice in a row is PX_EINVAL, whatever calls lie between. */
px_code comm_reduce_views_all(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n_views, px_err *e);
/* all = world x bytes in rank order.  `mine` is this rank's place in `all`, or overlaps it nowhere. */
px_code comm_gather_all(comm *c, const void *mine, size_t bytes, void *all, px_err *e);
px_code comm_barrier_all(comm *c, px_err *e);

/* The sequence check: a debug mode that finds ranks which did not do the same.  Once on, every call of this comm is hashed
 * (what, how many of which numbers), and so are the graphs that are replayed, of which comm sees no calls; step_all compares
 * the hashes.  Every rank switches it on, before or after the same call.  A step's first COMM_SEQUENCE_KEPT calls are kept
 * to say where the difference is. */
#define COMM_SEQUENCE_KEPT 512u
typedef enum comm_op { COMM_OP_BARRIER, COMM_OP_REDUCE, COMM_OP_GATHER, COMM_OP_GRAPH } comm_op;
typedef enum comm_number { COMM_BYTES, COMM_FLOATS } comm_number;
px_code comm_sequence_on(comm *c, px_err *e);          /* PX_ENOMEM; PX_ERANGE: the comm gathers nothing */
void    comm_sequence_graph(comm *c, uint32_t graph);  /* a replay; nothing when off */
/* Collective when on, and a step begins anew; nothing when off.  PX_EMISMATCH, field "sequence", on all ranks: the text names
 * the rank and the call; found is what it did, expected what the others did. */
px_code comm_sequence_step_all(comm *c, px_err *e);

/* MPI process set-up: MPI_Init with errors returned; world and rank as MPI sees them.  Called once in main. */
px_code comm_mpi_init(uint32_t *rank, uint32_t *world, px_err *e);   /* PX_EMISMATCH: the launcher said otherwise */
/* What the MPI library calls itself ("Open MPI v4.1.6"); needs no MPI_Init. */
void    comm_mpi_version(char *out, size_t cap);
void    comm_mpi_finalize(void);                       /* idempotent; nothing if MPI does not run */
void    comm_mpi_abort(int code);                      /* ends the whole job; returns only if MPI does not run */
/* The number of this process among the launcher's on this host; 0 without a launcher. */
uint32_t comm_launcher_local_rank(void);
/* The rank and world that the launcher put into the environment, readable before MPI_Init; PX_ENOTFOUND if none,
 * PX_EINVAL if malformed (e->field is the variable). */
px_code comm_launcher_rank(uint32_t *rank, uint32_t *world, px_err *e);

#endif
