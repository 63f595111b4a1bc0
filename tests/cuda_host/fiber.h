/* fiber.h - a fiber: a stack and a switch, known to whichever sanitizer is built in.  Layer: tests/cuda_host.
 * CUH_ASAN, CUH_MSAN, CUH_TSAN come from the build.  Under TSan the shim itself is built without instrumentation. */
#ifndef TESTS_CUDA_HOST_FIBER_H
#define TESTS_CUDA_HOST_FIBER_H

#include <stddef.h>

namespace cuh {
struct fiber {
    void  *sp;
    char  *stack;                  /* NULL: the thread's own */
    size_t stack_bytes;
    void  *fake;                   /* ASan's */
    void  *tsan;
};

/* The thread that runs the fibers.  Call before the first switch. */
void fiber_adopt(fiber *self);
/* `entry` runs at the first switch and never returns: it switches away with `done`. */
void fiber_make(fiber *f, void (*entry)(void));
void fiber_switch(fiber *from, fiber *to, bool done);
void fiber_drop(fiber *f);         /* its stack goes to the pool */

/* What a barrier orders; nothing but ThreadSanitizer looks at it. */
void order_release(void *p);
void order_acquire(void *p);
void ignore_begin(void);           /* TSan: what the shim does for others (memcpy and its like) is nobody's access ... */
void ignore_end(void);             /* ... until here */
void wrote(const void *p, size_t bytes);           /* TSan: the running fiber wrote here */
void poison_uninitialised(void *p, size_t bytes);  /* MSan */
void forbid(void *p, size_t bytes);                /* ASan: not to be touched ... */
void allow(void *p, size_t bytes);                 /* ... until now */
}
#endif
