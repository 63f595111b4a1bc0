/* meet.h - where ranks that share memory meet: a seat a rank, and the wait for all seats.
 * Layer: comm, internal.  Seats lie in memory that all ranks map, zero at first; a comm_meet is one rank's side of it.
 *
 * A seat's word counts the meetings that its rank has come to, in steps of two; bit 0 says "broken".  It is also the
 * futex that the others sleep on, so a break must change the word: a flag beside it could be set between a sleeper's
 * last look and its sleep.  All-zero memory is a valid beginning, so ranks open in any order. */
#ifndef COMM_MEET_H
#define COMM_MEET_H

#include <stdatomic.h>

#include "proto/base/io.h"

#define COMM_SEAT_BYTES 128u                      /* two lines: the adjacent-line prefetcher pairs them */

typedef struct comm_seat {
    _Alignas(COMM_SEAT_BYTES) _Atomic uint32_t word;
    _Atomic uint32_t sleepers;                    /* who sleeps on word; a killed rank may leave it too high */
    _Atomic uint64_t call[2];                     /* what the rank came for, by parity of the meeting */
} comm_seat;
_Static_assert(sizeof(comm_seat) == COMM_SEAT_BYTES, "a seat fills its lines");

typedef struct comm_meet {
    comm_seat *seat;                              /* (world) borrowed */
    uint32_t   rank, world;
    bool       shared;                            /* between processes: futexes are not private */
    px_time_us timeout_us, spin_us;
    uint32_t   word;                              /* this rank's count, as in its seat */
} comm_meet;

typedef enum comm_call { COMM_CALL_BARRIER, COMM_CALL_REDUCE, COMM_CALL_GATHER } comm_call;

/* Goes on where the seat stands. */
void comm_meet_init(comm_meet *m, comm_seat *seats, uint32_t rank, uint32_t world, bool shared, px_time_us timeout_us);
/* Parity of the next meeting: what is written into slot [parity] before it may be overwritten two meetings later. */
unsigned comm_meet_parity(const comm_meet *m);
/* Say that this rank is here, and wait until all are.  Errors: PX_ETIMEOUT (e->found names the first rank that has not
 * come), PX_EPEER (broken), PX_EMISMATCH ("call": a rank came for something else). */
px_code comm_meet_all(comm_meet *m, comm_call call, unsigned which, size_t bytes, px_err *e);
/* Every present and future wait on these seats ends with PX_EPEER.  Any thread. */
void comm_meet_break(comm_seat *seats, uint32_t world, bool shared);

#endif
