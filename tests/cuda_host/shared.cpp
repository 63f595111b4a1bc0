/* shared.cpp - shared memory, a heap block of exact size a variable, and copies that are under way.
 * Filled with NaN; past its end stand red zones (sanitizers) or marks that are looked at when the block ends. */
#include "block.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef CUH_MSAN
#include <sanitizer/msan_interface.h>
#endif

namespace cuh {
namespace {
#if defined(CUH_ASAN) || defined(CUH_MSAN) || defined(CUH_TSAN)
const size_t MARK = 0;
#else
const size_t MARK = 64;
#endif
const unsigned char MARK_BYTE = 0xa5;

#ifdef CUH_TSAN
/* From a mapping of our own: to TSan malloc is an access of the thread that happens to call.  No address is used twice
 * in a launch, so that what one block leaves is not taken for another's. */
const size_t ARENA = static_cast<size_t>(1) << 30;
char *arena;
size_t used;

char *take(size_t bytes)
{
    if (!arena) {
        void *m = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m == MAP_FAILED) fail(cu_site("shared memory", 0), "no memory");
        arena = static_cast<char *>(m);
    }
    if (bytes > ARENA - used - 128) fail(cu_site("shared memory", 0), "too many blocks for ThreadSanitizer: use a smaller shape");
    char *p = arena + used;
    used += (bytes + 127) / 128 * 128;
    return p;
}
void give(char *) {}
#else
char *take(size_t bytes)
{
    void *p;

    if (posix_memalign(&p, 128, bytes)) fail(cu_site("shared memory", 0), "no memory for %zu bytes", bytes);
    return static_cast<char *>(p);
}
void give(char *p) { free(p); }
#endif

char *make(size_t bytes)
{
    char *p = take(bytes + MARK);

    ignore_begin();
    memset(p, 0xff, bytes);
    memset(p + bytes, MARK_BYTE, MARK);
    ignore_end();
    poison_uninitialised(p, bytes);
    return p;
}
const char DYNAMIC = 0;            /* its address is the key of the dynamic memory */
}

void shared_reset(void)
{
#ifdef CUH_TSAN
    used = 0;
#endif
}

size_t optin_bytes(void) { return config.sm >= 90 ? 227 << 10 : config.sm == 86 || config.sm == 89 ? 99 << 10 : 163 << 10; }

void shared_open(block *b, size_t dynamic_bytes, size_t limit)
{
    b->static_bytes = 0;
    b->dynamic_bytes = dynamic_bytes;
    b->shared_limit = limit;
    b->shared.push_back(shared_block{ &DYNAMIC, "dynamic shared memory", make(dynamic_bytes), dynamic_bytes });
}

void *dynamic_shared(void) { return current->shared[0].p; }

void *shared(const void *key, const char *name, size_t bytes, cu_site at)
{
    if (!running) fail(at, "shared memory outside a kernel");
    for (const shared_block &s : current->shared)
        if (s.key == key) return s.p;
    current->static_bytes += (bytes + 15) / 16 * 16;
    if (current->static_bytes > WITHOUT_ASKING)
        fail(at, "%s: %zu bytes of static shared memory in all, %zu at most", name, current->static_bytes, WITHOUT_ASKING);
    if (current->static_bytes + current->dynamic_bytes > current->shared_limit)
        fail(at, "%s: %zu static and %zu dynamic bytes of shared memory, %zu at most on sm_%d%s", name, current->static_bytes,
             current->dynamic_bytes, current->shared_limit, config.sm,
             current->shared_limit < optin_bytes() ? " for a kernel that did not ask for more (cu_allow_shared)" : "");
    if (current->shared.size() == current->shared.capacity()) fail(at, "%s: more than %zu shared variables", name, current->shared.capacity());
    current->shared.push_back(shared_block{ key, name, make(bytes), bytes });
    return current->shared.back().p;
}

void shared_close(block *b)
{
    for (const shared_block &s : b->shared) {
        for (size_t i = 0; i < MARK; i++)
            if (static_cast<unsigned char>(s.p[s.bytes + i]) != MARK_BYTE)
                fail(cu_site(s.name, 0), "written %zu bytes past the end of its %zu (the sanitized builds tell where)", i, s.bytes);
        give(s.p);
    }
    b->shared.clear();
}

void shared_check(const char *what, const void *p, size_t bytes, cu_site at)
{
    const char *c = static_cast<const char *>(p);

    for (const shared_block &s : current->shared)
        if (c >= s.p && c < s.p + s.bytes) {
            if (static_cast<size_t>(s.p + s.bytes - c) < bytes)
                fail(at, "%s: %zu bytes at offset %zu of %s, which has %zu", what, bytes, static_cast<size_t>(c - s.p), s.name, s.bytes);
            return;
        }
    fail(at, "%s: an address that is not in the block's shared memory", what);
}

void check_aligned(const char *what, const void *p, size_t align, cu_site at)
{
    if (reinterpret_cast<uintptr_t>(p) % align) fail(at, "%s: misaligned address, %zu past a multiple of %zu", what, reinterpret_cast<uintptr_t>(p) % align, align);
}

/* ---- cp.async ---- */
namespace {
void arrive(copy *c)
{
    if (c->done) return;
    allow(c->shared, 16);
    ignore_begin();
    if (c->valid) memcpy(c->shared, c->global, 16);
    else memset(c->shared, 0, 16);
    ignore_end();
    wrote(c->shared, 16);
    c->done = true;
}
}

void copy_issue(void *shared, const void *global, bool valid, cu_site at)
{
    copy c = { shared, global, valid, false };

    if (!running) fail(at, "cp.async outside a kernel");
    shared_check("cp.async", shared, 16, at);
    if (config.copies == CUH_COPY_AT_ISSUE || (config.copies == CUH_COPY_COIN && draw() & 1)) {
        arrive(&c);
    } else {
        ignore_begin();
        memset(shared, 0xff, 16);          /* what was there is lost */
        ignore_end();
        poison_uninitialised(shared, 16);
        forbid(shared, 16);
    }
    running->copies.push_back(c);
    running->uncommitted++;
}

void copy_commit(void)
{
    running->groups.push_back(running->uncommitted);
    running->uncommitted = 0;
}

void copy_wait(unsigned left)
{
    thread *t = running;

    if (t->groups.size() <= left) return;
    const size_t n_groups = t->groups.size() - left;
    size_t n = 0;

    for (size_t i = 0; i < n_groups; i++) n += t->groups[i];
    for (size_t i = 0; i < n; i++) arrive(&t->copies[i]);
    t->copies.erase(t->copies.begin(), t->copies.begin() + static_cast<std::ptrdiff_t>(n));
    t->groups.erase(t->groups.begin(), t->groups.begin() + static_cast<std::ptrdiff_t>(n_groups));
}

void copies_drop(thread *t)
{
    for (copy &c : t->copies) allow(c.shared, 16);
    std::vector<copy>().swap(t->copies);           /* freed by the fiber that made them, for TSan */
    std::vector<unsigned>().swap(t->groups);
    t->uncommitted = 0;
}
}

extern "C" void cuh_defined(const void *p, size_t bytes)
{
#ifdef CUH_MSAN
    __msan_unpoison(p, bytes);
#endif
    (void)p, (void)bytes;
}
