/* table.h - what a transport is: one table of functions behind comm.h, and the object that they share.
 * Layer: comm, internal.  open.c checks every argument before a transport sees it, so a table's functions get
 * `which` in {0, 1}, alternating, and sizes within what was opened. */
#ifndef COMM_TABLE_H
#define COMM_TABLE_H

#include "comm/device.h"
#include "comm/meet.h"

#define COMM_ALIGN 64u
#define COMM_DEFAULT_TIMEOUT_US (60 * (px_time_us)1000000)     /* as comm.h and device.h promise */

typedef struct comm_table {
    const char *name;
    px_code (*open)(comm *c, const comm_args *args, px_err *e);       /* partial[] and what stands behind it */
    void    (*close)(comm *c);                                        /* idempotent; accepts a half-open comm */
    px_code (*reduce)(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e);
    px_code (*gather)(comm *c, const void *mine, size_t bytes, void *all, px_err *e);
    px_code (*barrier)(comm *c, px_err *e);
    px_code (*poll)(comm *c, px_err *e);                              /* NULL: nothing happens behind our back */
    void    (*abort)(comm *c);                                        /* any thread; NULL: calls end by their deadline */
} comm_table;

struct comm {
    const comm_table *table;
    px_alloc   *a;                                /* borrowed; owns this object and `block` */
    comm_kind   kind;
    uint32_t    rank, world;
    size_t      partial_bytes, gather_bytes;
    int         last_which;                       /* -1 before the first reduce */
    bool        any_turn;                         /* partial buffers need not alternate: no peer reads them */
    bool        failed;                           /* a wait failed: the ranks are no longer in step */

    float      *partial[2];
    const float *view[2][COMM_MAX_WORLD];         /* of the form with world views */
    uint8_t    *block; size_t block_bytes;        /* private buffers, from `a` (not: local with a group) */

    struct {                                      /* local, shm */
        comm_meet  at;
        comm_seat  own;                           /* the only seat when there are no peers */
        uint8_t   *slot[COMM_MAX_WORLD][2];       /* gather slots by rank and parity of the meeting */
        bool       met;                           /* the peers' addresses are known */
        comm_local_group *group;                  /* borrowed; NULL without peers */
        uint8_t   *map; size_t map_bytes;         /* shm: the memory file */
    } room;

    struct {                                      /* mpi */
        float  *stage;                            /* small: world views; large: this rank's slice of every rank */
        float  *sum;                              /* large: the one view */
        size_t  stride;                           /* floats between two views in stage */
        const float *sum_view[1];
    } mpi;

    struct {                                      /* staged, nccl (comm/device.h) */
        const comm_device *on;                    /* borrowed */
        comm       *host;                         /* borrowed: the transport under it, and of all that is small */
        float      *sum;                          /* on the device; the partial itself in a world of one */
        const float *view[2][1];                  /* by partial buffer */
        float      *host_sum;                     /* staged: in `block` */
        size_t      each;                         /* bytes of a buffer on the device */
        px_time_us  timeout_us;                   /* of a wait for the device */
        bool        apart;                        /* the sum has a buffer of its own */
        bool        staged;                       /* nccl: sums go over the host (comm_measure_all chose that) */
        bool        placed;                       /* the buffers lie in memory that the transport got by itself */
    } dev;
    struct comm_nccl *nccl;                       /* nccl.c */
    struct comm_sequence *sequence;               /* sequence.c; NULL: calls are not counted */
};

extern const comm_table comm_local_table, comm_shm_table, comm_mpi_table, comm_staged_table, comm_nccl_table;

/* What staged and nccl share: the object, and its buffers on the device, which it gets there (take) or which the transport
 * has got: three of dev.each (place).  comm_close gives back what is there. */
px_code comm_device_open(comm **c, px_alloc *a, const comm_table *t, const comm_device_args *args, px_err *e);
px_code comm_device_take(comm *c, px_err *e);
void    comm_device_place(comm *c, uint8_t *base);
void    comm_device_close(comm *c);
/* Every rank's code, over the host transport: `mine` if that is an error (e is filled), PX_EPEER naming the first rank that
 * has one.  So that no rank begins what others cannot follow. */
px_code comm_device_agree_all(comm *c, px_code mine, const char *what, px_err *e);
/* The host's memory that staged sums go through: in `block`, once; and back. */
px_code comm_staged_room(comm *c, px_err *e);
void    comm_staged_leave(comm *c);
px_code comm_device_gather(comm *c, const void *mine, size_t bytes, void *all, px_err *e);
px_code comm_device_barrier(comm *c, px_err *e);

/* Buffers of one rank in local and shm: two partials, then two gather slots, all on 64-byte lines. */
typedef struct comm_room_layout { size_t partial, slot, rank_bytes; } comm_room_layout;
/* Inputs are within COMM_MAX_MESSAGE. */
comm_room_layout comm_room_layout_of(size_t partial_bytes, size_t gather_bytes);
void comm_room_carve(comm_room_layout l, uint8_t *base, float *partial[2], uint8_t *slot[2]);

/* Bytes of private buffers that the mpi transport takes. */
size_t comm_mpi_block_bytes(uint32_t world, size_t partial_bytes);

/* So large that no world of COMM_MAX_WORLD can overflow a size_t. */
#define COMM_MAX_MESSAGE ((size_t)1 << 40)

/* comm_gather_all, not counted by the sequence check, of any size: in pieces of at most gather_bytes. */
px_code comm_gather_pieces_all(comm *c, const void *mine, size_t bytes, void *all, px_err *e);

/* sequence.c: a call of this rank. */
void comm_sequence_note(comm *c, comm_op op, size_t count, comm_number number);
void comm_sequence_close(comm *c);

/* nccl.c: reduce by this algorithm from now on.  Collective; plain and symmetric only where a communicator is. */
px_code comm_nccl_use_all(comm *c, comm_algorithm how, px_err *e);
bool    comm_nccl_has(const comm *c, comm_algorithm how);

/* The three collectives of local and shm, on c->room. */
px_code comm_room_reduce(comm *c, unsigned which, size_t bytes, const float *const **views, uint32_t *n, px_err *e);
px_code comm_room_gather(comm *c, const void *mine, size_t bytes, void *all, px_err *e);
px_code comm_room_barrier(comm *c, px_err *e);
/* Local: take the peers' addresses from the group, once all have arrived. */
void comm_local_learn(comm *c);

/* `bytes` zeroed and touched, 64-byte aligned. */
uint8_t *comm_block_get(px_alloc *a, size_t bytes);

#endif
