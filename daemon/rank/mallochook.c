/* Counts what libraries take from malloc while a step runs (proto/base/guard.h).  Linked into phalanx-rank of debug and
 * sanitizer builds: a sanitizer offers a hook, elsewhere this program's malloc stands before the C library's. */
#include "daemon/rank/mallochook.h"

#include <errno.h>
#include <stdlib.h>

#include "proto/base/guard.h"

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif

#ifdef UNDER_ASAN
/* As sanitizer/allocator_interface.h has it, which not every compiler's package brings. */
extern int __sanitizer_install_malloc_and_free_hooks(void (*on_get)(const volatile void *, size_t),
                                                     void (*on_put)(const volatile void *));

static void on_malloc(const volatile void *p, size_t bytes) { (void)p, (void)bytes; px_guard_saw_malloc(); }
static void on_free(const volatile void *p) { (void)p; }

bool daemon_malloc_hook(void) { return __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) > 0; }
#else
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t each);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
void *memalign(size_t align, size_t n);

bool daemon_malloc_hook(void) { return true; }

void *malloc(size_t n) { px_guard_saw_malloc(); return __libc_malloc(n); }
void *calloc(size_t n, size_t each) { px_guard_saw_malloc(); return __libc_calloc(n, each); }
void *realloc(void *p, size_t n) { px_guard_saw_malloc(); return __libc_realloc(p, n); }
void *memalign(size_t align, size_t n) { px_guard_saw_malloc(); return __libc_memalign(align, n); }
void *aligned_alloc(size_t align, size_t n) { px_guard_saw_malloc(); return __libc_memalign(align, n); }

int posix_memalign(void **out, size_t align, size_t n)
{
    if (!align || align % sizeof(void *) || (align & (align - 1))) return EINVAL;
    px_guard_saw_malloc();
    void *p = __libc_memalign(align, n);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}
#endif
