/* fiber.cpp - fibers for x86-64, with what each sanitizer has to be told.
 * The switch ends in a jump and not in a return: the processor's predictor of returns would be wrong each time. */
#include "fiber.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

#ifdef CUH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUH_MSAN
#include <sanitizer/msan_interface.h>
#endif
#ifdef CUH_TSAN
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *p);
void __tsan_release(void *p);
void __tsan_write8(void *p);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#endif

/* The first finding ends the process, so that a test cannot pass with one. */
extern "C" const char *__tsan_default_options(void) { return "halt_on_error=1:report_signal_unsafe=0"; }
extern "C" const char *__asan_default_options(void) { return "detect_stack_use_after_return=0"; }
extern "C" const char *__ubsan_default_options(void) { return "halt_on_error=1:print_stacktrace=1"; }

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif
extern "C" void cuh_switch_stacks(void **save, void *load);
asm(".text\n.globl cuh_switch_stacks\n.type cuh_switch_stacks,@function\ncuh_switch_stacks:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\n"
    "popq %rcx\njmp *%rcx\n.size cuh_switch_stacks,.-cuh_switch_stacks\n");

namespace cuh {
namespace {
#if defined(CUH_ASAN) || defined(CUH_MSAN)
const size_t STACK = 256 << 10;
#else
const size_t STACK = 128 << 10;
#endif
const size_t GUARD = 4096;
/* Given back with the thread: a process that opens many ranks would run out of mappings, of which each stack is two. */
struct stacks : std::vector<char *> {
    ~stacks()
    {
        for (char *s : *this) munmap(s - GUARD, STACK + GUARD);
    }
};
thread_local stacks pool;

char *stack_get()
{
    if (!pool.empty()) {
        char *s = pool.back();
        pool.pop_back();
        return s;
    }
    void *m = mmap(NULL, STACK + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED || mprotect(m, GUARD, PROT_NONE)) {
        perror("cuda_host: no memory for a fiber's stack");
        abort();
    }
    return static_cast<char *>(m) + GUARD;
}

thread_local void (*entry_of_new)(void);
void first_entry()
{
    void (*entry)(void) = entry_of_new;
#ifdef CUH_ASAN
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
    entry();
    abort();                       /* an entry does not return */
}
#ifdef CUH_ASAN
thread_local void *main_bottom;     /* the thread's own stack */
thread_local size_t main_bytes;
#endif
}

void fiber_adopt(fiber *self)
{
    *self = fiber();
#ifdef CUH_TSAN
    self->tsan = __tsan_get_current_fiber();
#endif
#ifdef CUH_ASAN
    if (!main_bottom) {
        pthread_attr_t attr;
        pthread_getattr_np(pthread_self(), &attr);
        pthread_attr_getstack(&attr, &main_bottom, &main_bytes);
        pthread_attr_destroy(&attr);
    }
#endif
}

void fiber_make(fiber *f, void (*entry)(void))
{
    *f = fiber();
    f->stack = stack_get();
    f->stack_bytes = STACK;
    entry_of_new = entry;
    void **top = reinterpret_cast<void **>(f->stack + STACK);
    *--top = NULL;
    *--top = NULL;
    *--top = NULL;                 /* in the place of a return address: 8 bytes off 16, as after a call */
    *--top = reinterpret_cast<void *>(first_entry);
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->sp = top;
#ifdef CUH_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
}

void fiber_switch(fiber *from, fiber *to, bool done)
{
#ifdef CUH_ASAN
    __sanitizer_start_switch_fiber(done ? NULL : &from->fake, to->stack ? to->stack : main_bottom,
                                   to->stack ? to->stack_bytes : main_bytes);
#endif
#ifdef CUH_TSAN
    __tsan_switch_to_fiber(to->tsan, 1);           /* 1: a switch orders nothing */
#endif
    (void)done;
    cuh_switch_stacks(&from->sp, to->sp);
#ifdef CUH_ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

void fiber_drop(fiber *f)
{
    if (f->stack) {
#ifdef CUH_ASAN
        __asan_unpoison_memory_region(f->stack, f->stack_bytes);
#endif
#ifdef CUH_TSAN
        __tsan_destroy_fiber(f->tsan);
#endif
        pool.push_back(f->stack);
    }
    *f = fiber();
}

void order_release(void *p)
{
#ifdef CUH_TSAN
    __tsan_release(p);
#endif
    (void)p;
}
void order_acquire(void *p)
{
#ifdef CUH_TSAN
    __tsan_acquire(p);
#endif
    (void)p;
}
void ignore_begin(void)
{
#ifdef CUH_TSAN
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
}
void ignore_end(void)
{
#ifdef CUH_TSAN
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
}
void wrote(const void *p, size_t bytes)
{
#ifdef CUH_TSAN
    for (size_t i = 0; i + 8 <= bytes; i += 8) __tsan_write8(const_cast<char *>(static_cast<const char *>(p)) + i);
#endif
    (void)p, (void)bytes;
}
void poison_uninitialised(void *p, size_t bytes)
{
#ifdef CUH_MSAN
    __msan_poison(p, bytes);
#endif
    (void)p, (void)bytes;
}
void forbid(void *p, size_t bytes)
{
#ifdef CUH_ASAN
    __asan_poison_memory_region(p, bytes);
#endif
    (void)p, (void)bytes;
}
void allow(void *p, size_t bytes)
{
#ifdef CUH_ASAN
    __asan_unpoison_memory_region(p, bytes);
#endif
    (void)p, (void)bytes;
}
}
