/* block.cpp - the fibers of a block: who runs next, barriers, and what is wrong when nobody can. */
#include "block.h"

#include <algorithm>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <mutex>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuh {
thread *running;
thread_local bool in_kernel;
block *current;
cuh_config config = cuh_defaults();

namespace {
fiber outside;
uint64_t random_state;
const char *kernel_name = "?";
std::vector<thread> finished;      /* TSan: fibers are kept to the launch's end, so that no number is used twice */
char fence_order;

const char *schedule_text()
{
    static const char *const orders[] = { "in order", "reverse", "random", "run ahead" };
    static const char *const copies[] = { "at the wait", "at the issue", "by coin" };
    static char text[128];

    snprintf(text, sizeof text, "%s, seed %llu, copies %s", orders[config.order],
             static_cast<unsigned long long>(config.seed), copies[config.copies]);
    return text;
}

unsigned pick_bit(unsigned bits, bool random, bool highest)
{
    if (random) {
        unsigned nth = static_cast<unsigned>(draw() % static_cast<unsigned>(__builtin_popcount(bits)));
        while (nth--) bits &= bits - 1;
        return static_cast<unsigned>(__builtin_ctz(bits));
    }
    return static_cast<unsigned>(highest ? 31 - __builtin_clz(bits) : __builtin_ctz(bits));
}

thread *next_thread()
{
    const bool random = config.order >= CUH_RANDOM, reverse = config.order == CUH_REVERSE;

    if (!current->ready_warps) return NULL;
    unsigned w = running ? running->warp : 0;
    if (config.order != CUH_RUN_AHEAD || !(current->ready_warps >> w & 1)) w = pick_bit(current->ready_warps, random, reverse);
    return &current->threads[32 * w + pick_bit(current->warps[w].ready, random, reverse)];
}

void switch_to(thread *t, bool done)
{
    thread *from = running;

    if (from == t) return;
    running = t;
    if (t) threadIdx = t->index;
    fiber_switch(from ? &from->f : &outside, t ? &t->f : &outside, done);
}

[[noreturn]] void report_stuck()
{
    const thread *one = NULL;

    fprintf(stderr, "cuda_host: no thread of the block can go on:\n");
    for (const thread &t : current->threads) {
        if (!t.waits) continue;
        bool first = true;
        unsigned n = 0;
        for (const thread &o : current->threads)
            if (o.waits && o.at.line == t.at.line && !strcmp(o.waits, t.waits) && !strcmp(o.at.file, t.at.file)) {
                first = first && (n > 0 || &o == &t);
                n++;
            }
        if (first) {
            fprintf(stderr, "cuda_host: %s:%d: %u threads wait in %s\n", t.at.file, t.at.line, n, t.waits);
            one = &t;
        }
    }
    fail(one ? one->at : cu_site("?", 0), "the others never come: %u of %zu threads have ended", current->exited,
         current->threads.size());
}

void end_of_thread()
{
    thread *t = running;
    warp *w = &current->warps[t->warp];

    if (current->waiting)
        fail(current->barrier_at, "thread (%u,%u,%u) has ended and never comes to this barrier, where %u threads wait",
             t->index.x, t->index.y, t->index.z, current->waiting);
    for (unsigned bits = w->parked; bits; bits &= bits - 1) {
        const thread *o = &current->threads[32 * t->warp + static_cast<unsigned>(__builtin_ctz(bits))];
        if (o->mask >> t->lane & 1)
            fail(o->at, "%s of lane %u names lane %u in mask %08x, which has ended", o->waits, o->lane, t->lane, o->mask);
    }
    copies_drop(t);
    order_release(&finished);
    w->exited |= 1u << t->lane;
    w->ready &= ~(1u << t->lane);
    if (!w->ready) current->ready_warps &= ~(1u << t->warp);
    current->exited++;
    current->live--;
    thread *n = next_thread();
    if (!n && current->live) report_stuck();
    switch_to(n, true);
    abort();
}

void entry()
{
    (*current->body)();
    end_of_thread();
}

void run_block(block *b)
{
    const unsigned n = static_cast<unsigned>(b->threads.size());

    for (unsigned i = 0; i < n; i++) {
        thread *t = &b->threads[i];
        *t = thread();
        t->index = make_uint3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
        t->lane = i % 32;
        t->warp = i / 32;
        fiber_make(&t->f, entry);
    }
    b->n_warps = (n + 31) / 32;
    for (warp &w : b->warps) w = warp();
    for (unsigned i = 0; i < n; i++) b->warps[i / 32].ready |= 1u << i % 32;
    for (unsigned w = 0; w < b->n_warps; w++) b->warps[w].there = b->warps[w].ready;
    b->ready_warps = b->n_warps == 32 ? ~0u : (1u << b->n_warps) - 1;
    b->live = n;
    b->exited = b->waiting = 0;
    switch_to(next_thread(), false);
    for (thread &t : b->threads)
#ifdef CUH_TSAN
        finished.push_back(t);
#else
        fiber_drop(&t.f);
#endif
}

std::mutex one_launch;
}

size_t run_grid(const char *name, dim3 grid, dim3 dim, size_t shared_bytes, size_t shared_limit, const std::function<void()> &body)
{
    std::lock_guard<std::mutex> lock(one_launch);
    const uint64_t n = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    std::vector<uint32_t> order;
    block b = block();
    size_t fixed = 0;

    kernel_name = name;
    random_state = config.seed * 0x9e3779b97f4a7c15u + 1;
    blockDim = dim;
    gridDim = grid;
    b.threads.resize(static_cast<size_t>(dim.x) * dim.y * dim.z);
    b.body = &body;
    b.shared.reserve(64);          /* never grows in a fiber */
#ifdef CUH_TSAN
    if (n * b.threads.size() > 7000) fail(cu_site(name, 0), "%llu threads are more than ThreadSanitizer can tell apart: use a smaller shape",
                                          static_cast<unsigned long long>(n * b.threads.size()));
#endif
    if (config.order >= CUH_RANDOM && n <= 1u << 20) {
        order.resize(n);
        for (uint32_t i = 0; i < n; i++) order[i] = i;
        for (uint64_t i = n; i > 1; i--) std::swap(order[i - 1], order[draw() % i]);
    }
    fiber_adopt(&outside);
    current = &b;
    in_kernel = true;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t k = !order.empty() ? order[i] : config.order == CUH_REVERSE ? n - 1 - i : i;
        blockIdx = make_uint3(static_cast<unsigned>(k % grid.x), static_cast<unsigned>(k / grid.x % grid.y),
                              static_cast<unsigned>(k / grid.x / grid.y));
        shared_open(&b, shared_bytes, shared_limit);
        run_block(&b);
        fixed = std::max(fixed, b.static_bytes);
        shared_close(&b);
    }
    current = NULL;
    in_kernel = false;
    order_acquire(&finished);
    for (thread &t : finished) fiber_drop(&t.f);
    finished.clear();
    shared_reset();
    return fixed;
}

void fail(cu_site at, const char *format, ...)
{
    va_list list;

    fflush(stdout);
    fprintf(stderr, "cuda_host: %s:%d: ", at.file, at.line);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    if (running)
        fprintf(stderr, "\ncuda_host: kernel %s, block (%u,%u,%u), thread (%u,%u,%u), warp %u, lane %u; schedule: %s", kernel_name,
                blockIdx.x, blockIdx.y, blockIdx.z, running->index.x, running->index.y, running->index.z, running->warp,
                running->lane, schedule_text());
    fputc('\n', stderr);
    fflush(stderr);
    abort();
}

uint64_t draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

void *order_fresh(void)
{
    static uint64_t ring[1 << 16];
    static unsigned next;

    return &ring[next++ % (1 << 16)];
}

void wait_here(const char *what, cu_site at)
{
    warp *w = &current->warps[running->warp];

    running->waits = what;
    running->at = at;
    w->ready &= ~(1u << running->lane);
    if (!w->ready) current->ready_warps &= ~(1u << running->warp);
    thread *n = next_thread();
    if (!n) report_stuck();
    switch_to(n, false);
}

void wake(thread *t)
{
    t->waits = NULL;
    current->warps[t->warp].ready |= 1u << t->lane;
    current->ready_warps |= 1u << t->warp;
}

int barrier(vote kind, bool value, cu_site at)
{
    block *b = current;
    thread *self = running;

    if (!self) fail(at, "__syncthreads outside a kernel");
    if (b->exited) fail(at, "%u threads of the block have ended before this barrier", b->exited);
    if (!b->waiting) {
        b->barrier_at = at;
        b->kind = kind;
        b->n_votes = 0;
    } else if (at.line != b->barrier_at.line || strcmp(at.file, b->barrier_at.file) || kind != b->kind) {
        fail(at, "divergent barrier: %u other threads wait at %s:%d", b->waiting, b->barrier_at.file, b->barrier_at.line);
    }
    if (!b->waiting) b->order = order_fresh();
    void *order = b->order;
    order_release(order);
    b->n_votes += value;
    if (++b->waiting == b->threads.size()) {
        const unsigned n = static_cast<unsigned>(b->threads.size());
        b->votes_result = kind == COUNT ? b->n_votes : kind == AND ? b->n_votes == n : b->n_votes != 0;
        b->waiting = 0;
        for (thread &t : b->threads) {
            t.votes = b->votes_result;
            if (&t != self) wake(&t);
        }
        if (config.order >= CUH_RANDOM) maybe_switch();
    } else {
        wait_here("__syncthreads", at);
    }
    order_acquire(order);
    return static_cast<int>(self->votes);
}

void maybe_switch(void)
{
    if (running && config.order == CUH_RANDOM) switch_to(next_thread(), false);
    else if (running && config.order == CUH_RUN_AHEAD && draw() % 4 == 0) {
        const unsigned w = pick_bit(current->ready_warps, true, false);
        switch_to(&current->threads[32 * w + pick_bit(current->warps[w].ready, true, false)], false);
    }
}

void fence(void)
{
    order_release(&fence_order);
    order_acquire(&fence_order);
}

unsigned lane(void) { return running->lane; }
}

/* ---- what a test sets ---- */
extern "C" cuh_config cuh_defaults(void)
{
    cuh_config c = cuh_config();

    c.sm = 80;
    c.memory_bytes = static_cast<size_t>(1) << 30;
    c.devices = 1;
    c.driver = 13000;
    return c;
}
extern "C" void cuh_configure(const cuh_config *c) { cuh::config = *c; }
extern "C" cuh_config cuh_current(void) { return cuh::config; }

#ifdef CUH_TSAN
static const unsigned RUN_AHEAD = 2;
#else
static const unsigned RUN_AHEAD = 10;
#endif
extern "C" unsigned cuh_n_schedules(void) { return 3 + RUN_AHEAD; }
extern "C" void cuh_schedule(unsigned i)
{
    cuh::config.order = i < 3 ? static_cast<cuh_order>(i) : CUH_RUN_AHEAD;
    cuh::config.copies = i < 3 ? static_cast<cuh_copies>(i) : static_cast<cuh_copies>(i % 3);
    cuh::config.seed = i + 1;
}
