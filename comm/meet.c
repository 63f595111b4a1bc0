#include "comm/meet.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BROKEN 1u
#define STEP   2u
#define SPIN_US 50              /* what a sleep and a wake cost together: longer spinning cannot win */
#define PAUSES_PER_LOOK 16      /* between two looks at the clock */

static long futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *until)
{
    return syscall(SYS_futex, word, op, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void wake(comm_seat *s, bool shared)
{
    futex(&s->word, FUTEX_WAKE_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG), INT32_MAX, NULL);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void comm_meet_init(comm_meet *m, comm_seat *seats, uint32_t rank, uint32_t world, bool shared, px_time_us timeout_us)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    *m = (comm_meet){ .seat = seats, .rank = rank, .world = world, .shared = shared, .timeout_us = timeout_us };
    /* Where ranks outnumber cores the one that is waited for may need this very core.  Sleep at once: yielding in a loop
     * is faster only between empty reduces; with 60 us of work between them (3 ranks, 2 cores) a round takes 148 us
     * against 97, because a core that never idles pulls no work over from the other. */
    m->spin_us = cores > 0 && (unsigned long)cores >= world ? SPIN_US : 0;
    m->word = atomic_load(&seats[rank].word) & ~BROKEN;
}

unsigned comm_meet_parity(const comm_meet *m) { return (m->word / STEP + 1) & 1; }

/* Has the seat's rank come to the meeting with this word?  The count wraps; nobody is ever two meetings away. */
static inline bool has_come(uint32_t seen, uint32_t word) { return (int32_t)((seen & ~BROKEN) - word) >= 0; }

static px_code broken(px_err *e)
{
    return px_fail(e, PX_EPEER, "comm", "the group was broken: another rank has given up");
}

static px_code late(const comm_meet *m, uint32_t peer, px_err *e)
{
    px_code rc = px_fail(e, PX_ETIMEOUT, "comm", "rank %u waited %lld ms for rank %u", m->rank,
                         (long long)(m->timeout_us / 1000), peer);
    if (e && !e->found[0]) snprintf(e->found, sizeof e->found, "rank %u has not come", peer);
    return rc;
}

/* Sleep until the seat's rank has come.  Who sleeps says so first and looks again; who comes changes the word first
 * and then looks for sleepers; both in one total order, so one of them sees the other. */
static px_code sleep_for(const comm_meet *m, uint32_t peer, px_time_us deadline, px_err *e)
{
    comm_seat *s = &m->seat[peer];
    struct timespec at = { .tv_sec = deadline / 1000000, .tv_nsec = deadline % 1000000 * 1000 };
    px_code rc = PX_OK;

    atomic_fetch_add(&s->sleepers, 1);
    for (;;) {
        uint32_t seen = atomic_load(&s->word);
        if (seen & BROKEN) { rc = broken(e); break; }
        if (has_come(seen, m->word)) break;
        if (px_now_us() >= deadline) { rc = late(m, peer, e); break; }
        futex(&s->word, FUTEX_WAIT_BITSET | (m->shared ? 0 : FUTEX_PRIVATE_FLAG), seen,
              deadline == PX_NEVER ? NULL : &at);         /* EINTR, EAGAIN, ETIMEDOUT: the loop looks again */
    }
    atomic_fetch_sub(&s->sleepers, 1);
    return rc;
}

static uint64_t call_word(comm_call call, unsigned which, size_t bytes)
{
    return (uint64_t)call << 62 | (uint64_t)which << 61 | bytes;
}

static void call_describe(uint64_t w, uint32_t rank, char *buf, size_t cap)
{
    static const char *const name[] = { "barrier", "reduce", "gather", "?" };
    snprintf(buf, cap, "rank %u: %s of %llu bytes, buffer %u", rank, name[w >> 62],
             (unsigned long long)(w & (((uint64_t)1 << 61) - 1)), (unsigned)(w >> 61 & 1));
}

static px_code came_for_the_same(const comm_meet *m, uint32_t peer, uint64_t mine, px_err *e)
{
    uint64_t theirs = atomic_load_explicit(&m->seat[peer].call[m->word / STEP & 1], memory_order_relaxed);
    char found[128], expected[128];
    if (theirs == mine) return PX_OK;
    call_describe(theirs, peer, found, sizeof found);
    call_describe(mine, m->rank, expected, sizeof expected);
    return px_mismatch(e, "call", found, expected);
}

px_code comm_meet_all(comm_meet *m, comm_call call, unsigned which, size_t bytes, px_err *e)
{
    comm_seat *own = &m->seat[m->rank];
    uint64_t mine = call_word(call, which, bytes);
    px_time_us deadline = 0, spin_until = 0;
    px_code rc;

    m->word += STEP;
    atomic_store_explicit(&own->call[m->word / STEP & 1], mine, memory_order_relaxed);
    if (atomic_fetch_add(&own->word, STEP) & BROKEN) return broken(e);
    if (atomic_load(&own->sleepers)) wake(own, m->shared);

    for (uint32_t i = 1; i < m->world; i++) {
        uint32_t peer = (m->rank + i) % m->world;           /* each rank begins elsewhere: fewer fights for a line */
        comm_seat *s = &m->seat[peer];
        uint32_t seen;
        while (!has_come(seen = atomic_load_explicit(&s->word, memory_order_acquire), m->word) && !(seen & BROKEN)) {
            px_time_us now = px_now_us();
            if (!deadline) {                                /* the clock is read only by who has to wait */
                deadline = m->timeout_us > PX_NEVER - now ? PX_NEVER : now + m->timeout_us;
                spin_until = now + m->spin_us;
            }
            if (now >= spin_until || now >= deadline) {
                if ((rc = sleep_for(m, peer, deadline, e))) return rc;
                continue;
            }
            for (int k = 0; k < PAUSES_PER_LOOK; k++) {
                relax();
                if (has_come(atomic_load_explicit(&s->word, memory_order_relaxed), m->word)) break;
            }
        }
        if (seen & BROKEN) return broken(e);
        if ((rc = came_for_the_same(m, peer, mine, e))) return rc;
    }
    return PX_OK;
}

void comm_meet_break(comm_seat *seats, uint32_t world, bool shared)
{
    for (uint32_t r = 0; r < world; r++) {
        atomic_fetch_or(&seats[r].word, BROKEN);
        wake(&seats[r], shared);
    }
}
