#include "proto/base/alloc.h"
#include "proto/base/guard.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* More than any process here takes from malloc in one piece; a larger wish is a bug or a hostile size. */
#define MOST_BYTES ((size_t)1 << 40)

/* ---- counts ---- */

/* The one process-wide list: a count belongs to its allocator, the list only lets a reader find it. */
static pthread_mutex_t counts_lock = PTHREAD_MUTEX_INITIALIZER;
static px_count       *counts;

static void unlink_count(px_count *c)
{
    for (px_count **at = &counts; *at; at = &(*at)->next)
        if (*at == c) { *at = c->next; c->next = NULL; return; }
}

void px_count_register(px_count *c, const char *subsystem)
{
    pthread_mutex_lock(&counts_lock);
    unlink_count(c);
    c->subsystem = subsystem;
    c->next = counts;
    counts = c;
    pthread_mutex_unlock(&counts_lock);
}

void px_count_unregister(px_count *c)
{
    pthread_mutex_lock(&counts_lock);
    unlink_count(c);
    pthread_mutex_unlock(&counts_lock);
}

void px_count_each(void (*fn)(void *ctx, const char *subsystem, size_t live, size_t peak), void *ctx)
{
    pthread_mutex_lock(&counts_lock);
    for (px_count *c = counts; c; c = c->next)
        fn(ctx, c->subsystem, atomic_load_explicit(&c->live, memory_order_relaxed),
           atomic_load_explicit(&c->peak, memory_order_relaxed));
    pthread_mutex_unlock(&counts_lock);
}

void px_count_add(px_count *c, size_t bytes)
{
    size_t live = atomic_fetch_add_explicit(&c->live, bytes, memory_order_relaxed) + bytes;
    size_t peak = atomic_load_explicit(&c->peak, memory_order_relaxed);
    while (live > peak && !atomic_compare_exchange_weak_explicit(&c->peak, &peak, live, memory_order_relaxed,
                                                                 memory_order_relaxed)) { }
    atomic_fetch_add_explicit(&c->gets, 1, memory_order_relaxed);
}

void px_count_sub(px_count *c, size_t bytes)
{
    atomic_fetch_sub_explicit(&c->live, bytes, memory_order_relaxed);
}

/* An allocator's storage may have been used before without deinit: its old place on the list goes first. */
static void start_count(px_count *c, px_alloc *a, const char *subsystem)
{
    atomic_init(&c->live, 0);
    atomic_init(&c->peak, 0);
    atomic_init(&c->gets, 0);
    a->count = c;
    px_count_register(c, subsystem);
}

/* ---- helpers over the interface ---- */

void *px_alloc_zero(px_alloc *a, size_t n, size_t each, size_t align)
{
    size_t bytes;
    if (px_mul(n, each, &bytes)) return NULL;
    void *p = a->get(a, bytes, align);
    if (p) memset(p, 0, bytes);
    return p;
}

void px_alloc_put(px_alloc *a, void *p, size_t n, size_t each)
{
    if (p) a->put(a, p, n * each);      /* cannot overflow: the get of the same n and each did not */
}

void *px_alloc_grow(px_alloc *a, void *old, size_t old_n, size_t new_n, size_t each, size_t align)
{
    size_t old_bytes = old ? old_n * each : 0, bytes;
    if (px_mul(new_n, each, &bytes)) return NULL;
    uint8_t *p = a->get(a, bytes, align);
    if (!p) return NULL;
    size_t kept = old_bytes < bytes ? old_bytes : bytes;
    if (kept) memcpy(p, old, kept);
    if (bytes > kept) memset(p + kept, 0, bytes - kept);
    px_alloc_put(a, old, old_n, each);
    return p;
}

char *px_strdup(px_alloc *a, const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = a->get(a, n, 1);
    if (p) memcpy(p, s, n);
    return p;
}

void px_strdel(px_alloc *a, char *s)
{
    if (s) a->put(a, s, strlen(s) + 1);
}

static bool is_align(size_t align) { return align && (align & (align - 1)) == 0; }
static size_t at_least_one(size_t bytes) { return bytes ? bytes : 1; }
/* How far p is from the next multiple of align. */
static size_t gap(const void *p, size_t align) { return (size_t)(-(uintptr_t)p & (align - 1)); }

/* ---- heap ---- */

static void *heap_get(px_alloc *a, size_t bytes, size_t align)
{
    void *p = NULL;
    if (!is_align(align) || bytes > MOST_BYTES) return NULL;
    px_guard_saw(a->count ? a->count->subsystem : NULL, bytes);
    if (align <= _Alignof(max_align_t)) p = malloc(at_least_one(bytes));
    else if (posix_memalign(&p, align, at_least_one(bytes))) p = NULL;
    if (p) px_count_add(a->count, bytes);
    return p;
}

static void heap_put(px_alloc *a, void *p, size_t bytes)
{
    if (!p) return;
    px_count_sub(a->count, bytes);
    free(p);
}

void px_heap_init(px_heap *h, const char *subsystem)
{
    px_count_unregister(&h->count);
    *h = (px_heap){ .a = { .get = heap_get, .put = heap_put } };
    start_count(&h->count, &h->a, subsystem);
}

void px_heap_deinit(px_heap *h) { px_count_unregister(&h->count); }

/* ---- arena ---- */

/* The head of the list is the chunk that is being filled; `spare` of the head lists the empty ones that reset kept. */
struct px_arena_chunk {
    px_arena_chunk *next, *spare;
    size_t          bytes, used;        /* of data[] */
    _Alignas(max_align_t) uint8_t data[];
};

static void chunk_put(px_arena *r, px_arena_chunk *c)
{
    size_t whole = sizeof *c + c->bytes;
    r->held -= whole;
    r->under->put(r->under, c, whole);
}

static px_arena_chunk *chunk_take(px_arena *r, size_t need)
{
    /* A kept chunk that is large enough. */
    for (px_arena_chunk **at = r->first ? &r->first->spare : NULL; at && *at; at = &(*at)->spare)
        if ((*at)->bytes >= need) {
            px_arena_chunk *c = *at;
            *at = c->spare;
            c->spare = NULL;
            return c;
        }

    size_t bytes = need > r->chunk_bytes ? need : r->chunk_bytes, whole;
    if (px_add(bytes, sizeof(px_arena_chunk), &whole)) return NULL;
    if (r->cap && (whole > r->cap || r->held > r->cap - whole)) {
        bytes = need;                       /* near the cap, take only what is asked for */
        if (px_add(bytes, sizeof(px_arena_chunk), &whole)) return NULL;
        if (whole > r->cap || r->held > r->cap - whole) return NULL;
    }
    px_arena_chunk *c = r->under->get(r->under, whole, _Alignof(px_arena_chunk));
    if (!c) return NULL;
    *c = (px_arena_chunk){ .bytes = bytes };
    r->held += whole;
    return c;
}

static void *arena_get(px_alloc *a, size_t bytes, size_t align)
{
    px_arena *r = (px_arena *)a;
    px_arena_chunk *c = r->first;
    size_t n = at_least_one(bytes), need;

    if (!is_align(align)) return NULL;
    if (c) {
        size_t pad = gap(c->data + c->used, align), free_bytes = c->bytes - c->used;
        if (pad <= free_bytes && n <= free_bytes - pad) goto bump;
    }
    if (px_add(n, align - 1, &need)) return NULL;
    if (!(c = chunk_take(r, need))) return NULL;
    if (r->first && need > r->chunk_bytes) {
        c->next = r->first->next;           /* a chunk of its own: keep filling the current one */
        r->first->next = c;
    } else {
        c->next = r->first;
        if (r->first) { c->spare = r->first->spare; r->first->spare = NULL; }
        r->first = c;
    }

bump:;
    uint8_t *p = c->data + c->used;
    p += gap(p, align);
    c->used = (size_t)(p - c->data) + n;
    r->used += n;
    px_count_add(&r->count, n);
    return p;
}

static void arena_put(px_alloc *a, void *p, size_t bytes)
{
    px_arena *r = (px_arena *)a;
    px_arena_chunk *c = r->first;
    size_t n = at_least_one(bytes);

    if (!p || !c || c->used < n || (uint8_t *)p != c->data + c->used - n) return;
    c->used -= n;
    r->used -= n;
    px_count_sub(&r->count, n);
}

void px_arena_init(px_arena *r, px_alloc *under, const char *subsystem, size_t chunk_bytes, size_t retain, size_t cap)
{
    px_count_unregister(&r->count);
    *r = (px_arena){ .a = { .get = arena_get, .put = arena_put }, .under = under,
                     .chunk_bytes = chunk_bytes ? chunk_bytes : 4096, .retain = retain, .cap = cap };
    start_count(&r->count, &r->a, subsystem);
}

/* One list of all chunks, used and spare. */
static px_arena_chunk *chunks_all(px_arena *r)
{
    px_arena_chunk *all = NULL, *spare = r->first ? r->first->spare : NULL;
    for (px_arena_chunk *c = r->first, *next; c; c = next) { next = c->next; c->next = all; all = c; }
    for (px_arena_chunk *c = spare, *next; c; c = next) { next = c->spare; c->next = all; all = c; }
    r->first = NULL;
    return all;
}

static void arena_empty(px_arena *r, size_t retain)
{
    size_t kept = 0;

    for (px_arena_chunk *c = chunks_all(r), *next; c; c = next) {
        next = c->next;
        size_t whole = sizeof *c + c->bytes;
        if (whole > retain - kept) {
            chunk_put(r, c);
            continue;
        }
        kept += whole;
        c->used = 0;
        c->next = NULL;
        c->spare = r->first ? r->first->spare : NULL;
        if (r->first) r->first->spare = c;
        else r->first = c;
    }
    px_count_sub(&r->count, r->used);
    r->used = 0;
}

void px_arena_reset(px_arena *r) { arena_empty(r, r->retain); }

void px_arena_deinit(px_arena *r)
{
    arena_empty(r, 0);
    px_count_unregister(&r->count);
}

/* ---- fixed ---- */

static void *fixed_get(px_alloc *a, size_t bytes, size_t align)
{
    px_fixed *f = (px_fixed *)a;
    size_t n = at_least_one(bytes);

    if (!is_align(align) || !f->base) return NULL;
    size_t pad = gap(f->base + f->used, align), left = f->cap - f->used;
    if (pad > left || n > left - pad) return NULL;
    uint8_t *p = f->base + f->used + pad;
    f->used += pad + n;
    px_count_add(&f->count, n);
    return p;
}

static void fixed_put(px_alloc *a, void *p, size_t bytes)
{
    px_fixed *f = (px_fixed *)a;
    size_t n = at_least_one(bytes);

    if (!p || f->used < n || (uint8_t *)p != f->base + f->used - n) return;
    f->used -= n;
    px_count_sub(&f->count, n);
}

void px_fixed_init(px_fixed *f, const char *subsystem, void *base, size_t cap)
{
    px_count_unregister(&f->count);
    *f = (px_fixed){ .a = { .get = fixed_get, .put = fixed_put }, .base = base, .cap = cap };
    start_count(&f->count, &f->a, subsystem);
}

void px_fixed_reset(px_fixed *f)
{
    f->used = 0;
    atomic_store_explicit(&f->count.live, 0, memory_order_relaxed);
}

void px_fixed_deinit(px_fixed *f)
{
    px_fixed_reset(f);
    f->base = NULL;
    f->cap = 0;
    px_count_unregister(&f->count);
}

/* ---- pool ---- */

#define POOL_ALIGN_MAX ((size_t)4096)

static size_t pool_stride(size_t each)
{
    size_t step = _Alignof(void *);
    return (each < step ? step : each + step - 1) / step * step;
}

/* What every object of the pool is aligned to: the largest power of two in the stride. */
static size_t pool_align(size_t each)
{
    size_t stride = pool_stride(each), low = stride & -stride;
    return low < POOL_ALIGN_MAX ? low : POOL_ALIGN_MAX;
}

static void *pool_get(px_alloc *a, size_t bytes, size_t align)
{
    px_pool *p = (px_pool *)a;

    if (bytes != p->each || !p->free || !is_align(align) || align > pool_align(p->each)) return NULL;
    void *out = p->free;
    memcpy(&p->free, out, sizeof p->free);      /* a free object holds the next free one */
    px_count_add(&p->count, bytes);
    return out;
}

static void pool_put(px_alloc *a, void *obj, size_t bytes)
{
    px_pool *p = (px_pool *)a;

    if (!obj) return;
    memcpy(obj, &p->free, sizeof p->free);
    p->free = obj;
    px_count_sub(&p->count, bytes);
}

px_code px_pool_init(px_pool *p, px_alloc *under, const char *subsystem, size_t each, size_t n, px_err *e)
{
    size_t whole;

    px_count_unregister(&p->count);
    *p = (px_pool){ .a = { .get = pool_get, .put = pool_put }, .under = under, .each = each, .n = n };
    if (!each || !n) return px_fail(e, PX_EINVAL, subsystem, "a pool of %zu objects of %zu bytes", n, each);
    if (each > SIZE_MAX - _Alignof(void *) || px_mul(pool_stride(each), n, &whole)) {
        return px_fail(e, PX_ERANGE, subsystem, "a pool of %zu objects of %zu bytes", n, each);
    }
    if (!(p->base = under->get(under, whole, pool_align(each))))
        return px_fail(e, PX_ENOMEM, subsystem, "a pool of %zu objects of %zu bytes", n, each);
    for (size_t i = n; i-- > 0;) {
        uint8_t *obj = p->base + i * pool_stride(each);
        memcpy(obj, &p->free, sizeof p->free);
        p->free = obj;
    }
    start_count(&p->count, &p->a, subsystem);
    return PX_OK;
}

void px_pool_deinit(px_pool *p)
{
    if (p->base) p->under->put(p->under, p->base, pool_stride(p->each) * p->n);
    p->base = NULL;
    p->free = NULL;
    px_count_unregister(&p->count);
}

/* ---- mmap ---- */

static bool whole_pages(size_t bytes, size_t *out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), up;
    if (px_add(at_least_one(bytes), page - 1, &up)) return false;
    *out = up / page * page;
    return true;
}

#define LARGE_BYTES ((size_t)4 << 20)       /* two huge pages: fewer may not be aligned to hold one */

static void *mmap_get(px_alloc *a, size_t bytes, size_t align)
{
    px_mmap *m = (px_mmap *)a;
    size_t whole;

    if (!is_align(align) || align > (size_t)sysconf(_SC_PAGESIZE) || !whole_pages(bytes, &whole)) return NULL;
    px_guard_saw(m->count.subsystem, bytes);
    bool large = m->populate && whole >= LARGE_BYTES;
    void *p = mmap(NULL, whole, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | (m->populate && !large ? MAP_POPULATE : 0), -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (large) {                                          /* a tenth of the faults where the kernel gives huge pages */
        (void)madvise(p, whole, MADV_HUGEPAGE);
        if (madvise(p, whole, MADV_POPULATE_WRITE)) memset(p, 0, whole);
    }
    px_count_add(&m->count, bytes);
    return p;
}

static void mmap_put(px_alloc *a, void *p, size_t bytes)
{
    px_mmap *m = (px_mmap *)a;
    size_t whole;

    if (!p || !whole_pages(bytes, &whole)) return;
    munmap(p, whole);
    px_count_sub(&m->count, bytes);
}

void px_mmap_init(px_mmap *m, const char *subsystem, bool populate)
{
    px_count_unregister(&m->count);
    *m = (px_mmap){ .a = { .get = mmap_get, .put = mmap_put }, .populate = populate };
    start_count(&m->count, &m->a, subsystem);
}

void px_mmap_deinit(px_mmap *m) { px_count_unregister(&m->count); }
