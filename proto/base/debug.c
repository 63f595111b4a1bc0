#include "proto/base/alloc.h"
#include "proto/base/guard.h"

#include <execinfo.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZONE            ((size_t)64)            /* red zone before and after a block */
#define ZONE_BYTE       0xFB
#define FRESH_BYTE      0xA5                    /* nobody reads zeros by luck */
#define FREED_BYTE      0xDD
#define STACK_DEPTH     16
#define BUCKETS         4096
#define MOST_BYTES      ((size_t)1 << 40)
#define QUARANTINE_MAX  ((size_t)64 << 20)      /* bytes of freed blocks that are kept */

/* A block's record lies apart from its bytes, so that no overflow reaches it and no hostile pointer is followed. */
struct px_debug_block {
    px_debug_block *next, *prev;                /* live list, or quarantine (prev is newer) */
    px_debug_block *hash_next;
    uint8_t        *base, *user;
    size_t          before, bytes, whole;       /* red zone before; what was asked for; all of it */
    int64_t         index;                      /* of the get */
    bool            freed;
    int             depth;
    void           *stack[STACK_DEPTH];
};

typedef struct books {
    pthread_mutex_t  lock;
    px_debug_block  *bucket[BUCKETS];
    px_debug_block  *oldest;                    /* end of the quarantine */
    size_t           quarantine_bytes;
    struct px_debug *next;                      /* the process-wide list, under all_lock */
} books;

/* Every debug allocator of the process: a put of another one's block is told from a put of garbage.
 * Order of locks: all_lock before any allocator's. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static px_debug       *all;

static size_t bucket_of(const void *user)
{
    uint64_t h = (uint64_t)(uintptr_t)user * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 52);                   /* 12 bits: BUCKETS */
}
_Static_assert(BUCKETS == 1 << 12, "bucket_of makes 12 bits");

static px_debug_block *find(books *k, const void *user)
{
    /* The newest block at an address stands first: memory is not used again while it is in quarantine. */
    px_debug_block *b = k->bucket[bucket_of(user)];
    while (b && b->user != user) b = b->hash_next;
    return b;
}

static void forget(books *k, px_debug_block *b)
{
    px_debug_block **at = &k->bucket[bucket_of(b->user)];
    while (*at != b) at = &(*at)->hash_next;
    *at = b->hash_next;
    free(b->base);
    free(b);
}

/* ---- faults ---- */

static void fault(px_debug *d, px_fault kind, const px_debug_block *b, const char *what)
{
    static const char *const names[PX_N_FAULTS] = {
        "leak", "double free", "wrong size", "wrong allocator", "use after free", "overflow",
    };
    char text[sizeof d->first];
    int n = snprintf(text, sizeof text, "%s in %s: %s", names[kind], d->count.subsystem, what);

    d->n_faults[kind]++;
    if (b && n > 0 && (size_t)n < sizeof text) {
        size_t at = (size_t)n;
        n = snprintf(text + at, sizeof text - at, "; %zu bytes, get %" PRId64 ", allocated at", b->bytes, b->index);
        at += n > 0 ? (size_t)n : 0;
        char **symbols = backtrace_symbols(b->stack, b->depth);
        for (int i = 0; symbols && i < b->depth && at < sizeof text; i++) {
            const char *name = strrchr(symbols[i], '/');
            n = snprintf(text + at, sizeof text - at, " %s", name ? name + 1 : symbols[i]);
            at += n > 0 ? (size_t)n : 0;
        }
        free(symbols);
    }
    if (!d->first[0]) memcpy(d->first, text, sizeof text);
    if (d->abort_on_fault) {
        fprintf(stderr, "%s\n", text);
        abort();
    }
}

/* First byte in [p, p+n) that is not `byte`, or n.  Repairs it all, so that a fault is counted once. */
static size_t first_change(uint8_t *p, size_t n, uint8_t byte)
{
    size_t i = 0;
    while (i < n && p[i] == byte) i++;
    if (i < n) memset(p, byte, n);
    return i;
}

static void check_zones(px_debug *d, px_debug_block *b)
{
    char what[96];
    size_t after = b->whole - b->before - b->bytes, i;

    if (first_change(b->base, b->before, ZONE_BYTE) < b->before)
        fault(d, PX_FAULT_OVERFLOW, b, "a write before the block");
    if ((i = first_change(b->user + b->bytes, after, ZONE_BYTE)) < after) {
        snprintf(what, sizeof what, "a write %zu bytes after the end", i);
        fault(d, PX_FAULT_OVERFLOW, b, what);
    }
}

static void check_freed(px_debug *d, px_debug_block *b)
{
    char what[96];
    size_t i = first_change(b->user, b->bytes, FREED_BYTE);

    if (i < b->bytes) {
        snprintf(what, sizeof what, "a write at offset %zu of a freed block", i);
        fault(d, PX_FAULT_USE_AFTER_FREE, b, what);
    }
    check_zones(d, b);
}

/* ---- get and put ---- */

static void *debug_get(px_alloc *a, size_t bytes, size_t align)
{
    px_debug *d = (px_debug *)a;
    books *k = d->lock;
    px_debug_block *b = NULL;
    void *base = NULL;

    if (!k) return NULL;
    px_guard_saw(d->count.subsystem, bytes);
    pthread_mutex_lock(&k->lock);
    int64_t index = d->n_gets++;
    pthread_mutex_unlock(&k->lock);
    if (index == d->fail_at || !align || (align & (align - 1)) || bytes > MOST_BYTES || align > MOST_BYTES) return NULL;

    size_t before = align > ZONE ? align : ZONE, whole = before + bytes + ZONE;
    size_t base_align = align < sizeof(void *) ? sizeof(void *) : align;
    if (!(b = malloc(sizeof *b))) return NULL;
    if (posix_memalign(&base, base_align, whole)) {
        free(b);
        return NULL;
    }
    *b = (px_debug_block){ .base = base, .user = (uint8_t *)base + before, .before = before, .bytes = bytes,
                           .whole = whole, .index = index };
    void *stack[STACK_DEPTH + 1];
    int depth = backtrace(stack, STACK_DEPTH + 1);
    if (depth > 1) {                                    /* without this function itself */
        b->depth = depth - 1;
        memcpy(b->stack, stack + 1, (size_t)b->depth * sizeof *stack);
    }
    memset(b->base, ZONE_BYTE, before);
    memset(b->user, FRESH_BYTE, bytes);
    memset(b->user + bytes, ZONE_BYTE, ZONE);

    pthread_mutex_lock(&k->lock);
    px_debug_block **head = &k->bucket[bucket_of(b->user)];
    b->hash_next = *head;
    *head = b;
    b->next = d->live;
    if (d->live) d->live->prev = b;
    d->live = b;
    pthread_mutex_unlock(&k->lock);
    px_count_add(&d->count, bytes);
    return b->user;
}

static void into_quarantine(px_debug *d, books *k, px_debug_block *b)
{
    if (b->prev) b->prev->next = b->next;
    else d->live = b->next;
    if (b->next) b->next->prev = b->prev;

    b->freed = true;
    memset(b->user, FREED_BYTE, b->bytes);
    b->prev = NULL;
    b->next = d->quarantine;
    if (d->quarantine) d->quarantine->prev = b;
    else k->oldest = b;
    d->quarantine = b;
    k->quarantine_bytes += b->whole;

    while (k->quarantine_bytes > QUARANTINE_MAX) {
        px_debug_block *old = k->oldest;
        check_freed(d, old);
        k->oldest = old->prev;
        if (old->prev) old->prev->next = NULL;
        else d->quarantine = NULL;
        k->quarantine_bytes -= old->whole;
        forget(k, old);
    }
}

/* The subsystem of another debug allocator that gave p, into owner. */
static bool given_by_another(const px_debug *d, const void *p, char *owner, size_t cap)
{
    bool found = false;

    pthread_mutex_lock(&all_lock);
    for (px_debug *o = all; o && !found; o = ((books *)o->lock)->next) {
        books *k = o->lock;
        if (o == d) continue;
        pthread_mutex_lock(&k->lock);
        if (find(k, p)) {
            found = true;
            snprintf(owner, cap, "%s", o->count.subsystem);
        }
        pthread_mutex_unlock(&k->lock);
    }
    pthread_mutex_unlock(&all_lock);
    return found;
}

static void debug_put(px_alloc *a, void *p, size_t bytes)
{
    px_debug *d = (px_debug *)a;
    books *k = d->lock;
    char what[128], owner[64] = "";

    if (!p || !k) return;
    pthread_mutex_lock(&k->lock);
    px_debug_block *b = find(k, p);
    if (!b) {
        /* Its own lock is left first: the order of locks. */
        pthread_mutex_unlock(&k->lock);
        if (given_by_another(d, p, owner, sizeof owner))
            snprintf(what, sizeof what, "put of a block of %s", owner);
        else
            snprintf(what, sizeof what, "put of %p, which it never gave", p);
        pthread_mutex_lock(&k->lock);
        fault(d, PX_FAULT_WRONG_ALLOC, NULL, what);
    } else if (b->freed) {
        fault(d, PX_FAULT_DOUBLE_FREE, b, "put twice");
    } else {
        if (bytes != b->bytes) {
            snprintf(what, sizeof what, "put with %zu bytes", bytes);
            fault(d, PX_FAULT_WRONG_SIZE, b, what);
        }
        check_zones(d, b);
        px_count_sub(&d->count, b->bytes);
        into_quarantine(d, k, b);
    }
    pthread_mutex_unlock(&k->lock);
}

/* ---- life ---- */

static size_t n_faults(const px_debug *d)
{
    size_t n = 0;
    for (int i = 0; i < PX_N_FAULTS; i++) n += d->n_faults[i];
    return n;
}

void px_debug_init(px_debug *d, const char *subsystem, int64_t fail_at)
{
    void *warm[1];

    *d = (px_debug){ .a = { .get = debug_get, .put = debug_put, .count = NULL }, .fail_at = fail_at };
    d->count.subsystem = subsystem;
    d->a.count = &d->count;
    books *k = calloc(1, sizeof *k);
    if (!k) return;                             /* every get answers NULL */
    backtrace(warm, 1);                         /* its first call loads a library */
    pthread_mutex_init(&k->lock, NULL);
    d->lock = k;
    px_count_register(&d->count, subsystem);
    pthread_mutex_lock(&all_lock);
    k->next = all;
    all = d;
    pthread_mutex_unlock(&all_lock);
}

static void check_all(px_debug *d)
{
    for (px_debug_block *b = d->live; b; b = b->next) check_zones(d, b);
    for (px_debug_block *b = d->quarantine; b; b = b->next) check_freed(d, b);
}

size_t px_debug_check(px_debug *d)
{
    books *k = d->lock;

    if (!k) return n_faults(d);
    pthread_mutex_lock(&k->lock);
    check_all(d);
    size_t n = n_faults(d);
    pthread_mutex_unlock(&k->lock);
    return n;
}

size_t px_debug_deinit(px_debug *d)
{
    books *k = d->lock;

    if (!k) return n_faults(d);
    pthread_mutex_lock(&all_lock);
    for (px_debug **at = &all; *at; at = &((books *)(*at)->lock)->next)
        if (*at == d) { *at = k->next; break; }
    pthread_mutex_unlock(&all_lock);

    check_all(d);
    for (px_debug_block *b = d->live; b; b = b->next) fault(d, PX_FAULT_LEAK, b, "not put");
    while (d->live) { px_debug_block *b = d->live; d->live = b->next; forget(k, b); }
    while (d->quarantine) { px_debug_block *b = d->quarantine; d->quarantine = b->next; forget(k, b); }
    px_count_unregister(&d->count);
    pthread_mutex_destroy(&k->lock);
    free(k);
    d->lock = NULL;
    return n_faults(d);
}
