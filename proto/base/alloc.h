/* alloc.h - the one allocator interface, and the allocators behind it.
 * Layer: proto (sees err.h).  Every allocating function in the project takes a px_alloc * right after its object.
 * `put` gets the size back, so no allocator needs headers.  The struct that names the allocator owns the memory.
 * Threading: heap and debug may be used by many threads; the others by one at a time. */
#ifndef PROTO_ALLOC_H
#define PROTO_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/err.h"

/* C++ (the CUDA backend's kernels) sees the layout and leaves the counting to C. */
#ifdef __cplusplus
typedef size_t px_counter;
extern "C" {
#else
#include <stdatomic.h>
typedef _Atomic size_t px_counter;
_Static_assert(sizeof(px_counter) == sizeof(size_t), "one layout for C and C++");
#endif

/* Sizes count as requested.  An allocator's storage does not move after init: the list points into it.
 * Live and peak bytes of one subsystem ("text", "scheduler", "kv", ...).  Linked into a process-wide list of counts
 * that GetServerInfo and the log read; static storage or outlives its allocators. */
typedef struct px_count {
    const char       *subsystem;   /* static */
    px_counter        live, peak, gets;
    struct px_count  *next;
} px_count;

void px_count_register(px_count *c, const char *subsystem);   /* idempotent for the same object */
void px_count_unregister(px_count *c);                          /* takes it off the list */
/* Same names are summed by the reader.  fn runs under the list's lock: it must not init or deinit an allocator. */
void px_count_each(void (*fn)(void *ctx, const char *subsystem, size_t live, size_t peak), void *ctx);
/* For allocators: a get and a put of bytes. */
void px_count_add(px_count *c, size_t bytes);
void px_count_sub(px_count *c, size_t bytes);

typedef struct px_alloc px_alloc;
struct px_alloc {
    void *(*get)(px_alloc *a, size_t bytes, size_t align);      /* NULL: no memory. bytes 0 is legal: a unique pointer.
                                                                  * align: a power of two up to 4096 */
    void  (*put)(px_alloc *a, void *p, size_t bytes);           /* p may be NULL */
    px_count *count;                                            /* may be NULL */
};

/* n objects of type T, zeroed; NULL when n * sizeof(T) overflows or no memory is left. */
#define px_new(a, T, n)   ((T *)px_alloc_zero((a), (size_t)(n), sizeof(T), _Alignof(T)))
#define px_del(a, p, n)   px_alloc_put((a), (p), (size_t)(n), sizeof *(p))
void *px_alloc_zero(px_alloc *a, size_t n, size_t each, size_t align);
void  px_alloc_put(px_alloc *a, void *p, size_t n, size_t each);
/* Grow an array: new storage of new_n, old contents copied, the rest zeroed, old put.  NULL: old is untouched. */
void *px_alloc_grow(px_alloc *a, void *old, size_t old_n, size_t new_n, size_t each, size_t align);
char *px_strdup(px_alloc *a, const char *s);                    /* put with px_strdel */
void  px_strdel(px_alloc *a, char *s);

/* Overflow-checked size arithmetic: true on overflow, like __builtin_*_overflow. */
static inline bool px_mul(size_t a, size_t b, size_t *out) { return __builtin_mul_overflow(a, b, out); }
static inline bool px_add(size_t a, size_t b, size_t *out) { return __builtin_add_overflow(a, b, out); }
static inline size_t px_align_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* heap: malloc behind the interface. */
typedef struct px_heap { px_alloc a; px_count count; } px_heap;
void px_heap_init(px_heap *h, const char *subsystem);
void px_heap_deinit(px_heap *h);

/* arena: bump allocation in chunks taken from `under`; put is a no-op except for the last block.
 * reset drops everything but keeps (retains) chunks up to `retain` bytes; cap bounds the total (0: none). */
typedef struct px_arena_chunk px_arena_chunk;
typedef struct px_arena {
    px_alloc a; px_count count; px_alloc *under; px_arena_chunk *first; size_t chunk_bytes, retain, cap, used, held;
} px_arena;
void px_arena_init(px_arena *r, px_alloc *under, const char *subsystem, size_t chunk_bytes, size_t retain, size_t cap);
void px_arena_reset(px_arena *r);
void px_arena_deinit(px_arena *r);

/* fixed: bump allocation in a caller's buffer. */
typedef struct px_fixed { px_alloc a; px_count count; uint8_t *base; size_t cap, used; } px_fixed;
void px_fixed_init(px_fixed *f, const char *subsystem, void *base, size_t cap);
void px_fixed_reset(px_fixed *f);
void px_fixed_deinit(px_fixed *f);

/* pool: n objects of one size, taken from `under` once; get of another size fails.  Objects are aligned to the largest
 * power of two that divides `each` (at least a pointer's, at most 4096), enough for every C type; more fails.
 * Errors: PX_EINVAL (each or n is 0), PX_ERANGE (each * n overflows), PX_ENOMEM; e->field is the subsystem. */
typedef struct px_pool { px_alloc a; px_count count; px_alloc *under; uint8_t *base; void *free; size_t each, n; } px_pool;
px_code px_pool_init(px_pool *p, px_alloc *under, const char *subsystem, size_t each, size_t n, px_err *e);
void px_pool_deinit(px_pool *p);

/* mmap: whole pages from the kernel, per get; populate touches them. */
typedef struct px_mmap { px_alloc a; px_count count; bool populate; } px_mmap;
void px_mmap_init(px_mmap *m, const char *subsystem, bool populate);
void px_mmap_deinit(px_mmap *m);

/* debug: heap with canaries (use after free: freed blocks are kept filled and checked), red zones (overflow), and
 * books: leaks with the stack of the allocation, double free, wrong size, wrong allocator; fails the N-th get.
 * Faults are counted and described, never aborted on, unless `abort_on_fault`. */
typedef struct px_debug_block px_debug_block;
typedef enum px_fault { PX_FAULT_LEAK, PX_FAULT_DOUBLE_FREE, PX_FAULT_WRONG_SIZE, PX_FAULT_WRONG_ALLOC,
                        PX_FAULT_USE_AFTER_FREE, PX_FAULT_OVERFLOW, PX_N_FAULTS } px_fault;
typedef struct px_debug {
    px_alloc a; px_count count;
    int64_t  fail_at;            /* fail the get with this index (0 first); -1 never */
    int64_t  n_gets;
    bool     abort_on_fault;
    size_t   n_faults[PX_N_FAULTS];
    char     first[512];         /* description of the first fault, with the stack of the allocation */
    px_debug_block *live, *quarantine;
    void    *lock;               /* owned */
} px_debug;
void   px_debug_init(px_debug *d, const char *subsystem, int64_t fail_at);
size_t px_debug_check(px_debug *d);       /* checks all red zones and the quarantine; returns the number of faults so far */
size_t px_debug_deinit(px_debug *d);      /* counts leaks as faults, frees everything, returns the number of faults */

#ifdef __cplusplus
}
#endif

#endif
