/* warp.cpp - what the lanes of a warp do together.  Each lane parks its arguments; the last of the mask computes for all. */
#include "block.h"

#include <string.h>

namespace cuh {
void warp_call(const char *name, unsigned mask, void *args, warp_fn fn, cu_site at)
{
    thread *self = running;
    void *all[32] = { NULL };

    if (!self) fail(at, "%s outside a kernel", name);
    warp *w = &current->warps[self->warp];
    thread *lanes = &current->threads[32 * self->warp];

    if (!(mask >> self->lane & 1)) fail(at, "%s: lane %u is not in its own mask %08x", name, self->lane, mask);
    if (mask & ~w->there) fail(at, "%s: mask %08x names lanes that the block does not have (%08x)", name, mask, w->there);
    if (mask & w->exited) fail(at, "%s: mask %08x names lanes that have ended (%08x)", name, mask, w->exited);
    /* Addresses of texts tell quickly that two are the same; only where they differ is the text looked at. */
    const bool alike = w->parked && w->alike && w->first_mask == mask && w->first_name == name && w->first_at.file == at.file && w->first_at.line == at.line;
    for (unsigned bits = alike ? 0 : w->parked; bits; bits &= bits - 1) {
        const thread *o = &lanes[__builtin_ctz(bits)];
        const bool mine = mask >> o->lane & 1, theirs = o->mask >> self->lane & 1;
        if (!mine && !theirs) continue;
        if (o->mask != mask) fail(at, "%s: lane %u has mask %08x, lane %u mask %08x at %s:%d", name, self->lane, mask, o->lane, o->mask, o->at.file, o->at.line);
        if (strcmp(o->waits, name) || o->at.line != at.line || strcmp(o->at.file, at.file))
            fail(at, "%s: lane %u is here while lane %u of its mask waits in %s at %s:%d", name, self->lane, o->lane, o->waits, o->at.file, o->at.line);
    }
    if (!w->parked) {
        w->first_mask = mask;
        w->first_name = name;
        w->first_at = at;
    }
    w->alike = alike || !w->parked;
    self->args = args;
    self->mask = mask;
    w->parked |= 1u << self->lane;
    if ((w->parked & mask) != mask) {
        wait_here(name, at);
        return;
    }
    for (unsigned bits = mask; bits; bits &= bits - 1) all[__builtin_ctz(bits)] = lanes[__builtin_ctz(bits)].args;
    ignore_begin();
    fn(all);
    ignore_end();
    w->parked &= ~mask;
    for (unsigned bits = mask; bits; bits &= bits - 1) {
        thread *t = &lanes[__builtin_ctz(bits)];
        if (t != self) wake(t);
    }
    if (config.order == CUH_RANDOM) maybe_switch();
}

namespace {
/* A barrier orders memory, which shuffles do not. */
void order_lanes(void *const *args)
{
    void *after = order_fresh();

    for (int i = 0; i < 32; i++)
        if (args[i]) order_acquire(*static_cast<void **>(args[i]));
    order_release(after);
    for (int i = 0; i < 32; i++)
        if (args[i]) *static_cast<void **>(args[i]) = after;
}

void move_values(void *const *args)
{
    unsigned char before[32][8];

    for (int i = 0; i < 32; i++)
        if (args[i]) memcpy(before[i], static_cast<cuh_value_ *>(args[i])->bytes, static_cast<cuh_value_ *>(args[i])->size);
    for (int i = 0; i < 32; i++)
        if (args[i]) {
            cuh_value_ *v = static_cast<cuh_value_ *>(args[i]);
            memcpy(v->bytes, before[v->from], v->size);
        }
}

struct ballot_args { bool value; unsigned result; };
void count_votes(void *const *args)
{
    unsigned bits = 0;

    for (int i = 0; i < 32; i++)
        if (args[i] && static_cast<ballot_args *>(args[i])->value) bits |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (args[i]) static_cast<ballot_args *>(args[i])->result = bits;
}

template <typename F> void fold(void *const *args, F f)
{
    bool any = false;
    unsigned r = 0;

    for (int i = 0; i < 32; i++)
        if (args[i]) {
            const unsigned v = *static_cast<unsigned *>(args[i]);
            r = any ? f(r, v) : v;
            any = true;
        }
    for (int i = 0; i < 32; i++)
        if (args[i]) *static_cast<unsigned *>(args[i]) = r;
}
void fold_add(void *const *a) { fold(a, [](unsigned x, unsigned y) { return x + y; }); }
void fold_max(void *const *a) { fold(a, [](unsigned x, unsigned y) { return x < y ? y : x; }); }
void fold_min(void *const *a) { fold(a, [](unsigned x, unsigned y) { return y < x ? y : x; }); }
void fold_or(void *const *a) { fold(a, [](unsigned x, unsigned y) { return x | y; }); }
void fold_and(void *const *a) { fold(a, [](unsigned x, unsigned y) { return x & y; }); }

struct mma_args { float *d; const unsigned *a, *b; };
float element(unsigned word, unsigned odd, bool bf16)
{
    const unsigned short bits = static_cast<unsigned short>(word >> (16 * odd));

    if (bf16) return __uint_as_float(static_cast<unsigned>(bits) << 16);
    __half_raw h;
    h.x = bits;
    return __half2float(__half(h));
}
/* Sums in ascending k, one fmaf after the other; a tensor core's order and rounding are its own. */
template <bool BF16> void multiply(void *const *args)
{
    float a[16][16], b[16][8];

    for (unsigned lane = 0; lane < 32; lane++) {
        const mma_args *m = static_cast<mma_args *>(args[lane]);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 2; i++) {
            for (unsigned r = 0; r < 4; r++) a[g + 8 * (r & 1)][2 * t + 8 * (r >> 1) + i] = element(m->a[r], i, BF16);
            for (unsigned r = 0; r < 2; r++) b[2 * t + 8 * r + i][g] = element(m->b[r], i, BF16);
        }
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        const mma_args *m = static_cast<mma_args *>(args[lane]);
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
            for (unsigned k = 0; k < 16; k++) m->d[i] = fmaf(a[row][k], b[k][col], m->d[i]);
        }
    }
}

struct matrix_args { unsigned n; bool transposed; unsigned *r; const void *row; };
void load_matrices(void *const *args)
{
    const matrix_args *first = static_cast<matrix_args *>(args[0]);
    unsigned short m[8][8];

    for (unsigned i = 0; i < first->n; i++) {
        for (unsigned j = 0; j < 8; j++) memcpy(m[j], static_cast<matrix_args *>(args[8 * i + j])->row, 16);
        for (unsigned lane = 0; lane < 32; lane++) {
            const unsigned g = lane / 4, t = 2 * (lane % 4);
            const unsigned short pair[2] = { first->transposed ? m[t][g] : m[g][t], first->transposed ? m[t + 1][g] : m[g][t + 1] };
            memcpy(&static_cast<matrix_args *>(args[lane])->r[i], pair, 4);
        }
    }
}
}

void warp_barrier(unsigned mask, cu_site at)
{
    void *order = order_fresh();

    order_release(order);
    warp_call("__syncwarp", mask, &order, order_lanes, at);
    order_acquire(order);
}

void shuffle(const char *name, unsigned mask, cuh_value_ *v, cu_site at)
{
    if (v->width < 1 || v->width > 32 || (v->width & (v->width - 1))) fail(at, "%s: a width of %u is no power of two up to 32", name, v->width);
    if (v->from >= 32 || !(mask >> v->from & 1))
        fail(at, "%s: lane %u reads from lane %u, which is not in mask %08x", name, lane(), v->from, mask);
    warp_call(name, mask, v, move_values, at);
}

unsigned ballot(const char *name, unsigned mask, bool value, cu_site at)
{
    ballot_args a = { value, 0 };

    warp_call(name, mask, &a, count_votes, at);
    return a.result;
}

unsigned reduce(const char *name, unsigned mask, unsigned value, cu_site at)
{
    warp_call(name, mask, &value, !strcmp(name, "add") ? fold_add : !strcmp(name, "max") ? fold_max : !strcmp(name, "min") ? fold_min
                                  : !strcmp(name, "or") ? fold_or : fold_and, at);
    return value;
}

void mma(bool bf16, float *d, const unsigned *a, const unsigned *b, cu_site at)
{
    mma_args m = { d, a, b };

    warp_call(bf16 ? "mma_bf16" : "mma_f16", 0xffffffffu, &m, bf16 ? multiply<true> : multiply<false>, at);
}

void ldmatrix(const char *name, unsigned n, bool transposed, unsigned *r, const void *row, cu_site at)
{
    matrix_args m = { n, transposed, r, row };

    if (lane() < 8 * n) shared_check(name, row, 16, at);
    warp_call(name, 0xffffffffu, &m, load_matrices, at);
}
}
