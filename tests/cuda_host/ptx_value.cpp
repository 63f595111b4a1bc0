/* ptx_value.cpp - what instructions compute: one lane's values, and the matrices of a warp. */
#include "ptx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

namespace ptx {
namespace {
float f32(uint64_t v) { return cuh_bits<float>(static_cast<unsigned>(v)); }
uint64_t bits(float f) { return cuh_bits<unsigned>(f); }
int64_t wide(uint64_t v, int n) { return n >= 64 ? static_cast<int64_t>(v) : static_cast<int64_t>(v << (64 - n)) >> (64 - n); }

double f16(uint64_t v)
{
    __half_raw h;

    h.x = static_cast<unsigned short>(v);
    return __half2float(__half(h));
}
uint64_t to_f16(double v) { return __half_raw(__double2half(v)).x; }         /* of a double once: every sum of a product is exact in it, or nearly */
float bf16(uint64_t v) { return f32(v << 16); }
uint64_t to_bf16(float v) { return __nv_bfloat16_raw(__float2bfloat16_rn(v)).x; }

template <typename T> bool holds(int how, T a, T b)
{
    switch (how) {
    case EQ: return a == b;
    case NE: return a != b;
    case LT: return a < b;
    case LE: return a <= b;
    case GT: return a > b;
    default: return a >= b;
    }
}

bool compared(const inst &i, uint64_t x, uint64_t y)
{
    if (i.type == 's') return holds(i.how, wide(x, i.bits), wide(y, i.bits));
    if (i.type != 'f') return holds(i.how, low(x, i.bits), low(y, i.bits));
    const float a = f32(x), b = f32(y);
    const bool unordered = a != a || b != b;

    if (i.how == NUM || i.how == NOT_A_NUM) return unordered == (i.how == NOT_A_NUM);
    return unordered ? i.how >= EQU : holds(i.how >= EQU ? i.how - EQU : i.how, a, b);
}

uint64_t rounded(float v)                                  /* cvt.rni.s32.f32: beyond the range its end, NaN 0 */
{
    const double r = v != v ? 0.0 : nearbyint(static_cast<double>(v));

    return low(static_cast<uint64_t>(static_cast<int64_t>(r > 2147483647.0 ? 2147483647.0 : r < -2147483648.0 ? -2147483648.0 : r)), 32);
}

uint64_t e4m3(float v) { return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3); }
uint64_t of_e4m3(uint64_t v) { return __half_raw(__nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(v), __NV_E4M3)).x; }

/* Pairs: the first operand is the upper half. */
uint64_t converted(const inst &i, const uint64_t *s)
{
    const std::string what = i.to + " " + i.from;
    const uint64_t x = s[0];

    if (what == "f16x2 f32" && i.rn) return to_f16(f32(x)) << 16 | to_f16(f32(s[1]));
    if (what == "bf16x2 f32" && i.rn) return to_bf16(f32(x)) << 16 | to_bf16(f32(s[1]));
    if (what == "e4m3x2 f32" && i.sat) return e4m3(f32(x)) << 8 | e4m3(f32(s[1]));
    if (what == "f16x2 e4m3x2") return of_e4m3(x >> 8 & 0xff) << 16 | of_e4m3(x & 0xff);
    if (what == "f32 f16") return bits(static_cast<float>(f16(x)));
    if (what == "f32 bf16") return bits(bf16(x));
    if (what == "f16 f32" && i.rn) return to_f16(f32(x));
    if (what == "bf16 f32" && i.rn) return to_bf16(f32(x));
    if (what == "s32 f32" && i.rni) return rounded(f32(x));
    if (what == "f64 f32") return cuh_bits<uint64_t>(static_cast<double>(f32(x)));
    const int n = atoi(i.from.c_str() + 1);
    if (i.to == "f32" && i.from[0] == 's' && i.rn) return bits(static_cast<float>(wide(x, n)));
    if (i.to == "f32" && i.from[0] == 'u' && i.rn) return bits(static_cast<float>(low(x, n)));
    if (!strchr("us", i.to[0]) || !strchr("us", i.from[0])) unknown("cvt", i.text);
    return low(i.from[0] == 's' ? static_cast<uint64_t>(wide(x, n)) : low(x, n), atoi(i.to.c_str() + 1));
}

uint64_t of_floats(const inst &i, const uint64_t *s)
{
    const float a = f32(s[0]), b = f32(s[1]);

    switch (i.op) {
    case ADD: return bits(a + b);
    case SUB: return bits(a - b);
    case MUL_LO: return bits(a * b);
    case FMA: return bits(fmaf(a, b, f32(s[2])));
    case DIV: return bits(a / b);
    case MIN: return bits(fminf(a, b));
    case MAX: return bits(fmaxf(a, b));
    case NEG: return s[0] ^ 0x80000000u;
    case ABS: return s[0] & 0x7fffffffu;
    case SQRT: return bits(sqrtf(a));
    case RCP: return bits(1.0f / a);
    case COPYSIGN: return (s[1] & 0x7fffffffu) | (s[0] & 0x80000000u);       /* the sign of the first */
    default: {
        const float y = exp2f(fabsf(a) < 0x1p-126f ? 0.0f : a);
        return bits(y < 0x1p-126f ? 0.0f : y);
    }
    }
}

uint64_t of_halves(const inst &i, const uint64_t *s)
{
    uint64_t v = 0;

    if (i.op != SUB_H2 && !i.rn && i.text.find(".ftz") != std::string::npos) unknown("f16x2", i.text);
    for (int h = 0; h < 32; h += 16) {
        const double a = f16(s[0] >> h), b = f16(s[1] >> h), c = i.op == FMA_H2 ? f16(s[2] >> h) : 0.0;
        v |= to_f16(i.op == ADD_H2 ? a + b : i.op == SUB_H2 ? a - b : i.op == MUL_H2 ? a * b : a * b + c) << h;
    }
    return v;
}

uint64_t permuted(const uint64_t *s)
{
    const uint64_t both = low(s[1], 32) << 32 | low(s[0], 32);
    uint64_t v = 0;

    for (int i = 0; i < 4; i++) {
        const unsigned choice = s[2] >> 4 * i & 15;
        const uint64_t byte = both >> 8 * (choice & 7) & 0xff;
        v |= (choice & 8 ? (byte & 0x80 ? 0xff : 0) : byte) << 8 * i;
    }
    return v;
}

uint64_t looked_up(const uint64_t *s)                      /* the table's index is a b c */
{
    uint64_t v = 0;

    for (int i = 0; i < 32; i++) v |= (s[3] >> ((s[0] >> i & 1) << 2 | (s[1] >> i & 1) << 1 | (s[2] >> i & 1)) & 1) << i;
    return v;
}

uint64_t inserted(const uint64_t *s, int n)                /* s[3] bits of s[0] into s[1] at s[2] */
{
    const uint64_t field = low(low(~static_cast<uint64_t>(0), static_cast<int>(s[3] & 0xff)) << (s[2] & 0x3f), n);

    return (low(s[1], n) & ~field) | ((s[0] << (s[2] & 0x3f)) & field);
}

uint64_t reversed(uint64_t v, int n)
{
    uint64_t r = 0;

    for (int i = 0; i < n; i++) r |= (v >> i & 1) << (n - 1 - i);
    return r;
}
}

uint64_t value(const inst &i, const uint64_t *s)
{
    const int n = i.bits;
    const bool is_signed = i.type == 's';
    const uint64_t a = low(s[0], n), b = low(s[1], n), by = low(s[1], 32);

    if (i.type == 'f' && n == 32 && i.op != SETP && i.op != SELP && i.op != CVT) return of_floats(i, s);
    switch (i.op) {
    case ADD: return low(a + b, n);
    case SUB: return low(a - b, n);
    case MUL_LO: return low(a * b, n);
    case MUL_WIDE: return low(is_signed ? static_cast<uint64_t>(wide(a, n) * wide(b, n)) : a * b, 2 * n);
    case MUL_HI: return n == 32 && !is_signed ? a * b >> 32 : (unknown("mul.hi", i.text), 0);
    case MAD_LO: return low(a * b + s[2], n);
    case DIV: return is_signed || !b ? (unknown("div", i.text), 0) : a / b;
    case REM: return is_signed || !b ? (unknown("rem", i.text), 0) : a % b;
    case MIN: return is_signed ? (wide(a, n) < wide(b, n) ? a : b) : a < b ? a : b;
    case MAX: return is_signed ? (wide(a, n) > wide(b, n) ? a : b) : a > b ? a : b;
    case NEG: return low(0 - a, n);
    case ABS: return low(wide(a, n) < 0 ? 0 - a : a, n);
    case AND: return a & b;
    case OR: return a | b;
    case XOR: return a ^ b;
    case NOT: return low(~a, n);
    case SHL: return by >= static_cast<unsigned>(n) ? 0 : low(a << by, n);
    case SHR:
        if (is_signed) return low(static_cast<uint64_t>(wide(a, n) >> (by >= static_cast<unsigned>(n) ? n - 1 : static_cast<int>(by))), n);
        return by >= static_cast<unsigned>(n) ? 0 : a >> by;
    case SETP: return compared(i, s[0], s[1]);
    case SELP: return s[2] ? a : b;
    case CVT: return converted(i, s);
    case BFI: return inserted(s, n);
    case BREV: return reversed(a, n);
    case BFIND: case CLZ: return a ? static_cast<uint64_t>(__builtin_clz(static_cast<unsigned>(a))) : i.op == CLZ ? 32 : 0xffffffffu;
    case POPC: return static_cast<uint64_t>(__builtin_popcount(static_cast<unsigned>(a)));
    case PRMT: return permuted(s);
    case LOP3: return looked_up(s);
    case FMA_H2: case MUL_H2: case SUB_H2: case ADD_H2: return of_halves(i, s);
    default: unknown("value", i.text);
    }
}

/* CUTLASS, include/cute/atom/mma_traits_sm80.hpp, SM80_16x8x16_F32F16F16F32_TN: (thread, value) to a place, as strides.
 * A: (4,8),(2,2,2) -> (32,1),(16,8,128), m + 16 k.  B: (4,8),(2,2) -> (16,1),(8,64), n + 8 k.  C: (4,8),(2,2) -> (32,1),(16,8), m + 16 n. */
void multiply(const inst &i, uint64_t *r)
{
    float a[256], b[128], c[128];
    const auto element = [&i](uint64_t word, unsigned odd) {
        const uint64_t v = word >> (16 * odd) & 0xffff;
        return i.bf16 ? bf16(v) : static_cast<float>(f16(v));
    };
    const auto of_c = [](unsigned lane, unsigned v) { return lane % 4 * 32 + lane / 4 + v % 2 * 16 + v / 2 * 8; };

    for (unsigned lane = 0; lane < 32; lane++) {
        for (unsigned v = 0; v < 8; v++) a[lane % 4 * 32 + lane / 4 + v % 2 * 16 + v / 2 % 2 * 8 + v / 4 * 128] = element(r[i.s[v / 2] * 32 + lane], v % 2);
        for (unsigned v = 0; v < 4; v++) b[lane % 4 * 16 + lane / 4 + v % 2 * 8 + v / 2 * 64] = element(r[i.s[4 + v / 2] * 32 + lane], v % 2);
        for (unsigned v = 0; v < 4; v++) c[of_c(lane, v)] = f32(r[i.s[6 + v] * 32 + lane]);
    }
    for (unsigned m = 0; m < 16; m++)
        for (unsigned n = 0; n < 8; n++)
            for (unsigned k = 0; k < 16; k++) c[m + 16 * n] = fmaf(a[m + 16 * k], b[n + 8 * k], c[m + 16 * n]);
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned v = 0; v < 4; v++) r[i.d[v] * 32 + lane] = bits(c[of_c(lane, v)]);
}

/* include/cute/atom/copy_traits_sm75.hpp, SM75_U32x4_LDSM_N and SM75_U16x8_LDSM_T: (thread, value) to a bit of the rows in order.
 * (32),(32,4) -> (32),(1,1024); transposed (4,8),(16,2,4) -> (256,16),(1,128,1024). */
void matrices(const inst &i, uint64_t *r, const unsigned short *m)
{
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned x = 0; x < i.d.size(); x++) {
            const unsigned first = i.trans ? lane % 4 * 256 + lane / 4 * 16 : lane * 32, step = i.trans ? 128 : 16;
            r[i.d[x] * 32 + lane] = m[(first + x * 1024) / 16] | static_cast<uint64_t>(m[(first + step + x * 1024) / 16]) << 16;
        }
}
}
