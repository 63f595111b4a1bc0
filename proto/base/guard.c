#include "proto/base/guard.h"

#include <stdatomic.h>
#include <stdio.h>

/* One process, one step path: like the list of counts, this is state of the process itself. */
static struct {
    atomic_bool   armed;
    atomic_size_t seen, mallocs;
    _Atomic(const char *) subsystem;        /* static storage: names of subsystems are */
    atomic_size_t bytes;
} guard;
static _Thread_local bool exempt;

void px_guard_arm(void)
{
    atomic_store_explicit(&guard.seen, 0, memory_order_relaxed);
    atomic_store_explicit(&guard.armed, true, memory_order_release);
}

px_code px_guard_disarm(px_err *e)
{
    atomic_store_explicit(&guard.armed, false, memory_order_release);
    size_t n = atomic_load(&guard.seen);
    if (!n) return PX_OK;
    return px_fail(e, PX_EINTERNAL, "guard", "law 2: %zu allocations in a step, the first of %zu bytes by \"%s\"", n,
                   atomic_load(&guard.bytes), atomic_load(&guard.subsystem));
}

bool px_guard_exempt(bool on)
{
    bool was = exempt;
    exempt = on;
    return was;
}

void px_guard_saw(const char *subsystem, size_t bytes)
{
    if (!atomic_load_explicit(&guard.armed, memory_order_acquire) || exempt) return;
    if (atomic_fetch_add(&guard.seen, 1)) return;
    atomic_store(&guard.subsystem, subsystem ? subsystem : "");
    atomic_store(&guard.bytes, bytes);
}

void px_guard_saw_malloc(void)
{
    if (!atomic_load_explicit(&guard.armed, memory_order_acquire) || exempt) return;
    atomic_fetch_add_explicit(&guard.mallocs, 1, memory_order_relaxed);
}

size_t px_guard_mallocs(void) { return atomic_load(&guard.mallocs); }
