/* ptx_run.cpp - a block's warps, lanes that branch apart and meet again, shared memory, copies under way.
 * Lanes of a warp that stand at the same instruction run it together, those furthest behind first.  A warp runs until it waits or,
 * under random schedules, for some instructions; when copies arrive says the schedule, too. */
#include "ptx.h"

#include <algorithm>
#include <string.h>

namespace ptx {
namespace {
enum state { RUNS, MEETS, WAITS, ENDED };                  /* MEETS: other lanes are due at a warp-wide instruction; WAITS: at a barrier */
struct copy { unsigned char *to; const void *from; uint64_t bytes; bool done; };
struct lane_state { ptx::state state; long at; std::vector<copy> copies; std::vector<size_t> groups; size_t uncommitted; };
struct warp_state { std::vector<uint64_t> r; lane_state lane[32]; unsigned there; };

unsigned lanes_in(const warp_state &w, ptx::state s)
{
    unsigned bits = 0;

    for (unsigned l = 0; l < 32; l++)
        if ((w.there >> l & 1) && w.lane[l].state == s) bits |= 1u << l;
    return bits;
}
unsigned lanes_at(const warp_state &w, unsigned of, long at)
{
    for (unsigned l = 0; l < 32; l++)
        if ((of >> l & 1) && w.lane[l].at != at) of &= ~(1u << l);
    return of;
}
long first_of(const warp_state &w, unsigned lanes, long none)
{
    for (unsigned l = 0; l < 32; l++)
        if ((lanes >> l & 1) && w.lane[l].at < none) none = w.lane[l].at;
    return none;
}

void arrive(copy *c)
{
    if (!c->done && c->bytes) memcpy(c->to, c->from, 16);
    else if (!c->done) memset(c->to, 0, 16);
    c->done = true;
}

struct block_run {
    const kernel &k;
    cu_site at;
    unsigned char *fixed, *dynamic;                        /* static shared memory, at address 0, and dynamic, behind it */
    size_t dynamic_at;
    std::vector<warp_state> warps;
    unsigned live, waiting = 0, votes = 0;
    uint64_t steps = 0;

    [[noreturn]] void wrong(const inst &i, const char *what) const { cuh::fail(at, "%s: %s: %s", k.name.c_str(), what, i.text.c_str()); }

    unsigned char *memory(const inst &i, uint64_t address, size_t bytes) const
    {
        if (i.space != SHARED && i.op != LDMATRIX) {
            if (address % bytes) wrong(i, "misaligned address");
            return reinterpret_cast<unsigned char *>(address);
        }
        address = low(address, 32);
        if (address % bytes) wrong(i, "misaligned shared address");
        unsigned char *const p = address < dynamic_at ? fixed + address : dynamic + (address - dynamic_at);
        if (address < dynamic_at && address + bytes > k.shared) wrong(i, "past static shared memory");
        cuh::shared_check("the plugin's PTX", p, bytes, at);
        return p;
    }
    unsigned due(const warp_state &w, const inst &i, unsigned on) const;
    void together(warp_state *w, const inst &i, unsigned on);
    void lane(warp_state *w, const inst &i, unsigned l);
    bool step(warp_state *w, const inst &i, unsigned on);
    void run(warp_state *w, uint64_t budget);
    void release();
};

/* The lanes that a warp-wide instruction is for; 0: it is not one. */
unsigned block_run::due(const warp_state &w, const inst &i, unsigned on) const
{
    const unsigned first = static_cast<unsigned>(__builtin_ctz(on));

    switch (i.op) {
    case MMA: case LDMATRIX: return ~0u;
    case BAR: case BAR_RED: return w.there & ~lanes_in(w, ENDED);
    case SHFL: case VOTE: case REDUX: case BAR_WARP: break;
    default: return 0;
    }
    const unsigned mask = static_cast<unsigned>(w.r[i.s.back() * 32 + first]);
    for (unsigned l = 0; l < 32; l++)
        if ((on >> l & 1) && static_cast<unsigned>(w.r[i.s.back() * 32 + l]) != mask) wrong(i, "lanes with different masks");
    if ((mask & ~w.there) || (mask & lanes_in(w, ENDED))) wrong(i, "a mask with lanes that are not there");
    return mask;
}

void block_run::together(warp_state *w, const inst &i, unsigned on)
{
    uint64_t *const r = w->r.data(), *const d = i.d.empty() ? NULL : r + i.d[0] * 32;
    const uint64_t *const s = i.s.empty() ? NULL : r + i.s[0] * 32;
    uint64_t before[32], all = 0;
    unsigned short m[4 * 64];

    if (i.op == MMA) multiply(i, r);
    if (i.op == LDMATRIX) {
        for (unsigned j = 0; j < 8 * i.d.size(); j++) memcpy(m + 8 * j, memory(i, s[j] + static_cast<uint64_t>(i.number), 16), 16);
        matrices(i, r, m);
    }
    if (i.op != SHFL && i.op != VOTE && i.op != REDUX) return;
    memcpy(before, s, sizeof before);
    for (unsigned l = 0; l < 32; l++) {
        if (!(on >> l & 1)) continue;
        all = i.op == VOTE ? all | static_cast<uint64_t>(before[l] != 0) << l : i.how ? all | before[l] : low(all + before[l], 32);
        if (i.op != SHFL) continue;
        const unsigned clamp = static_cast<unsigned>(r[i.s[2] * 32 + l]), segment = clamp >> 8 & 31, from = l ^ (r[i.s[1] * 32 + l] & 31);
        const bool inside = from <= ((l & segment) | (clamp & 31 & ~segment));
        if (inside && !(on >> from & 1)) wrong(i, "a lane that is not in the mask");
        d[l] = before[inside ? from : l];
        if (i.d.size() > 1) r[i.d[1] * 32 + l] = inside;
    }
    for (unsigned l = 0; l < 32 && i.op != SHFL; l++)
        if (on >> l & 1) d[l] = all;
}

void block_run::lane(warp_state *w, const inst &i, unsigned l)
{
    const auto r = [w, l](int n) -> uint64_t & { return w->r[n * 32 + l]; };
    lane_state *const me = &w->lane[l];
    uint64_t s[4] = { 0, 0, 0, 0 };

    switch (i.op) {
    case MOV: {
        const int each = i.bits / static_cast<int>(std::max(i.d.size(), i.s.size()));
        uint64_t v = 0;
        for (size_t j = 0; j < i.s.size(); j++) v |= low(r(i.s[j]), i.parts ? i.bits : each) << (each * static_cast<int>(j));
        for (size_t j = 0; j < i.d.size(); j++) r(i.d[j]) = i.type == 'p' ? v != 0 : low(v >> (each * static_cast<int>(j)), i.parts ? each : i.bits);
        return;
    }
    case LD: case ST: {
        const size_t each = static_cast<size_t>(i.bits) / 8;
        unsigned char *const p = memory(i, r(i.s[0]) + static_cast<uint64_t>(i.number), each * i.d.size());
        for (size_t j = 0; j < i.d.size(); j++) {
            uint64_t v = i.op == ST ? r(i.d[j]) : 0;
            if (i.op == ST) memcpy(p + each * j, &v, each);
            else memcpy(&v, p + each * j, each);
            if (i.op == LD) r(i.d[j]) = i.type == 's' && (v >> (i.bits - 1) & 1) ? v | ~low(~static_cast<uint64_t>(0), i.bits) : v;
        }
        return;
    }
    case ATOM: {
        unsigned *const p = reinterpret_cast<unsigned *>(memory(i, r(i.s[0]) + static_cast<uint64_t>(i.number), 4));
        const unsigned old = *p, by = static_cast<unsigned>(r(i.s[1]));
        *p = i.how ? old | by : old + by;
        r(i.d[0]) = old;
        return;
    }
    case CP_ASYNC: {
        inst to = i, from = i;
        to.space = SHARED, from.space = GLOBAL;
        copy c = { memory(to, r(i.d[0]), 16), NULL, low(r(i.s[1]), 32), false };
        if (c.bytes && c.bytes != 16) wrong(i, "16 or 0 bytes");
        if (c.bytes) c.from = memory(from, r(i.s[0]) + static_cast<uint64_t>(i.number), 16);
        if (cuh::config.copies == CUH_COPY_AT_ISSUE || (cuh::config.copies == CUH_COPY_COIN && cuh::draw() & 1)) arrive(&c);
        else memset(c.to, 0xff, 16);
        me->copies.push_back(c);
        me->uncommitted++;
        return;
    }
    case CP_COMMIT:
        me->groups.push_back(me->uncommitted);
        me->uncommitted = 0;
        return;
    case CP_WAIT:
        while (me->groups.size() > static_cast<size_t>(i.number)) {
            const auto end = me->copies.begin() + static_cast<std::ptrdiff_t>(me->groups[0]);
            for (auto c = me->copies.begin(); c != end; c++) arrive(&*c);
            me->copies.erase(me->copies.begin(), end);
            me->groups.erase(me->groups.begin());
        }
        return;
    default:
        for (size_t j = 0; j < i.s.size(); j++) s[j] = r(i.s[j]);
        r(i.d[0]) = value(i, s);
    }
}

/* One instruction by the lanes `on`; false: they do not simply go on to the next. */
bool block_run::step(warp_state *w, const inst &i, unsigned on)
{
    if (i.op == BRA || i.op == RET || i.op == BAR || i.op == BAR_RED) {
        for (unsigned l = 0; l < 32; l++) {
            if (!(on >> l & 1)) continue;
            w->lane[l].at = i.op == BRA ? i.number : w->lane[l].at;
            w->lane[l].state = i.op == BRA ? RUNS : i.op == RET ? ENDED : WAITS;
            if (i.op == RET) live--;
            else if (i.op != BRA) waiting++;
            if (i.op == BAR_RED) votes += w->r[i.s[0] * 32 + l] != 0;
        }
        return false;
    }
    if (i.op == SHFL || i.op == VOTE || i.op == REDUX || i.op == MMA || i.op == LDMATRIX || i.op == BAR_WARP) together(w, i, on);
    else
        for (unsigned l = 0; l < 32; l++)
            if (on >> l & 1) lane(w, i, l);
    return true;
}

void block_run::run(warp_state *w, uint64_t budget)
{
    const long end = static_cast<long>(k.code.size());

    while (budget) {
        unsigned runs = lanes_in(*w, RUNS);
        if (!runs) break;
        long now = first_of(*w, runs, end);
        unsigned here = lanes_at(*w, runs, now);
        long next = first_of(*w, runs & ~here, end);       /* where others are: to be met there */

        do {
            const inst &i = k.code[static_cast<size_t>(now)];
            unsigned on = here;
            if (i.pred >= 0)
                for (unsigned l = 0; l < 32; l++)
                    if ((w->r[i.pred * 32 + l] != 0) == i.unless) on &= ~(1u << l);
            for (unsigned l = 0; l < 32; l++)
                if (here >> l & 1) w->lane[l].at = now;
            if (const unsigned want = on ? due(*w, i, on) : 0) {
                const unsigned all = on | lanes_at(*w, lanes_in(*w, MEETS), now);
                for (unsigned l = 0; l < 32; l++)
                    if (all >> l & 1) w->lane[l].state = (all & want) == want ? RUNS : MEETS;
                if ((all & want) != want) break;
                here = on = all;
                next = first_of(*w, lanes_in(*w, RUNS) & ~here, end);
            }
            steps++, budget--;
            const bool on_to_next = step(w, i, on);
            now++;
            for (unsigned l = 0; l < 32; l++)
                if ((here >> l & 1) && (on_to_next || !(on >> l & 1))) w->lane[l].at = now;
            if (!on_to_next) break;
        } while (now < next && budget);
    }
    if (const unsigned meet = lanes_in(*w, RUNS) ? 0 : lanes_in(*w, MEETS))
        wrong(k.code[static_cast<size_t>(first_of(*w, meet, end))], "other lanes never come");
}

/* All that live have come to the barrier. */
void block_run::release()
{
    long where = -1;

    for (warp_state &w : warps)
        for (unsigned l = 0; l < 32; l++) {
            lane_state *const s = &w.lane[l];
            if (!(w.there >> l & 1) || s->state != WAITS) continue;
            const inst &i = k.code[static_cast<size_t>(s->at)];
            if (where >= 0 && s->at != where) wrong(i, "a divergent barrier");
            where = s->at;
            if (i.op == BAR_RED) w.r[i.d[0] * 32 + l] = votes != 0;
            s->state = RUNS;
            s->at++;
        }
    waiting = votes = 0;
}
}

void run_block(const kernel &k, const std::vector<std::vector<uint64_t>> &params, cu_site at)
{
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    const unsigned special[N_SPECIAL] = { 0, 0, 0, blockDim.x, blockDim.y, blockDim.z, blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, 0 };
    block_run b = { k, at, NULL, static_cast<unsigned char *>(cuh::dynamic_shared()), (k.shared + 127) / 128 * 128, {}, threads };

    if (k.shared) b.fixed = static_cast<unsigned char *>(cuh::shared(&k, k.name.c_str(), k.shared, at));
    b.warps.resize((threads + 31) / 32);
    for (unsigned t = 0; t < 32 * b.warps.size(); t++) {
        warp_state *const w = &b.warps[t / 32];
        const unsigned l = t % 32;
        const auto r = [w, l](int n) -> uint64_t & { return w->r[n * 32 + l]; };

        if (!l) w->r.assign(static_cast<size_t>(k.n_registers) * 32, 0xdeadbeefdeadbeefu), w->there = 0;
        w->lane[l] = lane_state{ RUNS, 0, {}, {}, 0 };
        if (t < threads) w->there |= 1u << l;
        for (int i = 0; i < N_SPECIAL; i++) r(i) = special[i];
        r(TID) = t % blockDim.x, r(TID + 1) = t / blockDim.x % blockDim.y, r(TID + 2) = t / blockDim.x / blockDim.y, r(LANE) = l;
        for (const auto &c : k.constants) r(c.first) = c.second;
        for (const auto &c : k.addresses) r(c.first) = c.second;
        for (const auto &c : k.param_addresses) r(c.first) = reinterpret_cast<uint64_t>(params[c.second].data());
        if (k.dynamic >= 0) r(k.dynamic) = b.dynamic_at;
    }
    while (b.live) {
        const bool random = cuh::config.order >= CUH_RANDOM;
        const uint64_t steps = b.steps;
        std::vector<size_t> order(b.warps.size());

        for (size_t i = 0; i < order.size(); i++) order[i] = cuh::config.order == CUH_REVERSE ? order.size() - 1 - i : i;
        for (size_t i = order.size(); random && i > 1; i--) std::swap(order[i - 1], order[cuh::draw() % i]);
        for (const size_t w : order) b.run(&b.warps[w], random ? 1 + cuh::draw() % 500 : ~static_cast<uint64_t>(0));
        if (b.live && b.waiting == b.live) b.release();
        else if (b.steps == steps) cuh::fail(at, "%s: %u threads wait at a barrier that %u others never come to", k.name.c_str(), b.waiting, b.live - b.waiting);
    }
}
}
