/* device.h - the intrinsics that the toolkit's headers leave out on the host, under CUDA's names.
 * Layer: tests; included by phalanx_cuda_host.h alone. */
#ifndef TESTS_CUDA_HOST_DEVICE_H
#define TESTS_CUDA_HOST_DEVICE_H

#include <cmath>
#include <cstring>
#include <type_traits>

/* ---- bits ---- */
template <typename To, typename From> inline To cuh_bits(From v)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To r;
    memcpy(&r, &v, sizeof r);
    return r;
}
inline unsigned __float_as_uint(float v) { return cuh_bits<unsigned>(v); }
inline int      __float_as_int(float v) { return cuh_bits<int>(v); }
inline float    __uint_as_float(unsigned v) { return cuh_bits<float>(v); }
inline float    __int_as_float(int v) { return cuh_bits<float>(v); }
inline int      __popc(unsigned v) { return __builtin_popcount(v); }
inline int      __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int      __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int      __ffs(int v) { return __builtin_ffs(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    const unsigned long long both = (static_cast<unsigned long long>(b) << 32) | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= static_cast<unsigned>((both >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
    return r;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by)
{
    by &= 31;
    return by ? (hi << by) | (lo >> (32 - by)) : hi;
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by)
{
    by &= 31;
    return by ? (lo >> by) | (hi << (32 - by)) : lo;
}
inline int __dp4a(int a, int b, int c)
{
    unsigned sum = static_cast<unsigned>(c);
    for (int i = 0; i < 4; i++)
        sum += static_cast<unsigned>(static_cast<signed char>(a >> (8 * i)) * static_cast<signed char>(b >> (8 * i)));
    return static_cast<int>(sum);
}

/* ---- arithmetic ---- */
template <typename A, typename B> inline typename std::common_type<A, B>::type min(A a, B b)
{
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return std::fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}
template <typename A, typename B> inline typename std::common_type<A, B>::type max(A a, B b)
{
    typedef typename std::common_type<A, B>::type T;
    if constexpr (std::is_floating_point<T>::value) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline float __saturatef(float a) { return a > 1.0f ? 1.0f : a > 0.0f ? a : 0.0f; }
/* As the GPU converts: to the nearest even, beyond the range to its end, NaN to 0. */
inline int __float2int_rn(float a)
{
    if (a != a) return 0;
    const float r = nearbyintf(a);
    return r >= 2147483648.0f ? 2147483647 : r < -2147483648.0f ? -2147483647 - 1 : static_cast<int>(r);
}
inline int __float2int_rz(float a) { return __float2int_rn(truncf(a)); }
inline int __float2int_rd(float a) { return __float2int_rn(floorf(a)); }
inline unsigned __float2uint_rn(float a)
{
    const float r = nearbyintf(a);
    return !(r > 0.0f) ? 0u : r >= 4294967296.0f ? 4294967295u : static_cast<unsigned>(r);
}
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline float cuh_exp(float a) { return expf(a); }
inline float cuh_log(float a) { return logf(a); }
inline float cuh_pow(float a, float b) { return powf(a, b); }
#define __expf(a) cuh_exp(a)            /* macros: the C library declares these names and does not export them */
#define __logf(a) cuh_log(a)
#define __log2f(a) log2f(a)
#define __powf(a, b) cuh_pow(a, b)
#define __sinf(a) sinf(a)
#define __cosf(a) cosf(a)

/* In double, where a product is exact, and rounded once more: as fused, but for ties of about one in 2^29. */
inline __half __hfma(__half a, __half b, __half c)
{
    return __double2half(static_cast<double>(__half2float(a)) * __half2float(b) + __half2float(c));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c)
{
    return __double2bfloat16(static_cast<double>(__bfloat162float(a)) * __bfloat162float(b) + __bfloat162float(c));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return __half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); }
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c)
{
    return __nv_bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

/* ---- memory ---- */
template <typename T> inline T __ldg(const T *p) { return *p; }
template <typename T> inline T __ldcs(const T *p) { return *p; }
template <typename T> inline T __ldcg(const T *p) { return *p; }
template <typename T> inline void __stcs(T *p, T v) { *p = v; }
template <typename T> inline void __stcg(T *p, T v) { *p = v; }
inline void __threadfence() { cuh::fence(); }
inline void __threadfence_block() { cuh::fence(); }
inline void __threadfence_system() { cuh::fence(); }
[[noreturn]] inline void cuh_trap(cu_site at = cu_site()) { cuh::fail(at, "__trap"); }
#define __trap() cuh_trap()

/* Atomics are relaxed, as on the GPU: they order nothing but themselves. */
template <typename T> inline T atomicAdd(T *p, typename std::common_type<T>::type v)
{
    cuh::maybe_switch();
    if constexpr (std::is_integral<T>::value) return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
    else {
        T old, sum;
        __atomic_load(p, &old, __ATOMIC_RELAXED);
        do sum = old + v;
        while (!__atomic_compare_exchange(p, &old, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
        return old;
    }
}
template <typename T, typename F> inline T cuh_atomic_update(T *p, F next)
{
    cuh::maybe_switch();
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, next(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <typename T> inline T atomicSub(T *p, typename std::common_type<T>::type v) { cuh::maybe_switch(); return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED); }
template <typename T> inline T atomicOr(T *p, typename std::common_type<T>::type v) { cuh::maybe_switch(); return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }
template <typename T> inline T atomicAnd(T *p, typename std::common_type<T>::type v) { cuh::maybe_switch(); return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }
template <typename T> inline T atomicExch(T *p, typename std::common_type<T>::type v) { cuh::maybe_switch(); return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); }
template <typename T> inline T atomicMax(T *p, typename std::common_type<T>::type v) { return cuh_atomic_update(p, [v](T o) { return o < v ? v : o; }); }
template <typename T> inline T atomicMin(T *p, typename std::common_type<T>::type v) { return cuh_atomic_update(p, [v](T o) { return v < o ? v : o; }); }
inline unsigned atomicInc(unsigned *p, unsigned top) { return cuh_atomic_update(p, [top](unsigned o) { return o >= top ? 0u : o + 1; }); }
template <typename T> inline T atomicCAS(T *p, typename std::common_type<T>::type expected, typename std::common_type<T>::type v)
{
    cuh::maybe_switch();
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

/* ---- barriers ---- */
inline void __syncthreads(cu_site at = cu_site()) { cuh::barrier(cuh::NO_VOTE, false, at); }
inline int  __syncthreads_count(int v, cu_site at = cu_site()) { return cuh::barrier(cuh::COUNT, v != 0, at); }
inline int  __syncthreads_and(int v, cu_site at = cu_site()) { return cuh::barrier(cuh::AND, v != 0, at); }
inline int  __syncthreads_or(int v, cu_site at = cu_site()) { return cuh::barrier(cuh::OR, v != 0, at); }
inline void __syncwarp(unsigned mask = 0xffffffffu, cu_site at = cu_site()) { cuh::warp_barrier(mask, at); }

#endif
