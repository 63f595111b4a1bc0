/* twins.h - the host twins of kernels/cuda/ptx.h and warp.h, and the warp's own intrinsics.
 * Layer: tests; included by phalanx_cuda_host.h alone.  What touches a kernel's memory stands here and not in the shim's
 * own files, so that sanitizers see it with the kernel's line. */
#ifndef TESTS_CUDA_HOST_TWINS_H
#define TESTS_CUDA_HOST_TWINS_H

/* ---- votes and shuffles ---- */
struct cuh_value_ { unsigned char *bytes; unsigned size; unsigned from; unsigned width; };
namespace cuh {
void shuffle(const char *name, unsigned mask, cuh_value_ *v, cu_site at);   /* bytes of lane `from` replace one's own */
unsigned ballot(const char *name, unsigned mask, bool value, cu_site at);
unsigned reduce(const char *name, unsigned mask, unsigned value, cu_site at);
void mma(bool bf16, float *d, const unsigned *a, const unsigned *b, cu_site at);
void ldmatrix(const char *name, unsigned n, bool transposed, unsigned *r, const void *row, cu_site at);
void copy_issue(void *shared, const void *global, bool valid, cu_site at);
void copy_commit(void);
void copy_wait(unsigned left);
void check_aligned(const char *what, const void *p, size_t align, cu_site at);

template <typename T> inline T shuffled(const char *name, unsigned mask, T v, unsigned from, int width, cu_site at)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "what the GPU shuffles");
    cuh_value_ a = { reinterpret_cast<unsigned char *>(&v), sizeof v, from, static_cast<unsigned>(width) };
    shuffle(name, mask, &a, at);
    return v;
}
/* A source outside one's group of `width` lanes gives one's own value. */
inline unsigned source_down(unsigned by, unsigned width) { return lane() % width + by < width ? lane() + by : lane(); }
inline unsigned source_up(unsigned by, unsigned width) { return lane() % width >= by ? lane() - by : lane(); }
inline unsigned source_xor(unsigned x, unsigned width)
{
    const unsigned s = lane() ^ x;
    return s / width <= lane() / width ? s : lane();
}
inline unsigned source_at(unsigned l, unsigned width) { return lane() / width * width + l % width; }
}

template <typename T> inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, cu_site at = cu_site())
{
    return cuh::shuffled("shfl_xor", mask, v, cuh::source_xor(static_cast<unsigned>(x), static_cast<unsigned>(width)), width, at);
}
template <typename T> inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, cu_site at = cu_site())
{
    return cuh::shuffled("shfl_down", mask, v, cuh::source_down(by, static_cast<unsigned>(width)), width, at);
}
template <typename T> inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, cu_site at = cu_site())
{
    return cuh::shuffled("shfl_up", mask, v, cuh::source_up(by, static_cast<unsigned>(width)), width, at);
}
template <typename T> inline T __shfl_sync(unsigned mask, T v, int l, int width = 32, cu_site at = cu_site())
{
    return cuh::shuffled("shfl", mask, v, cuh::source_at(static_cast<unsigned>(l), static_cast<unsigned>(width)), width, at);
}
inline unsigned __ballot_sync(unsigned mask, int v, cu_site at = cu_site()) { return cuh::ballot("ballot", mask, v != 0, at); }
inline int __any_sync(unsigned mask, int v, cu_site at = cu_site()) { return cuh::ballot("any", mask, v != 0, at) != 0; }
inline int __all_sync(unsigned mask, int v, cu_site at = cu_site()) { return cuh::ballot("all", mask, v != 0, at) == mask; }
inline unsigned __reduce_add_sync(unsigned mask, unsigned v, cu_site at = cu_site()) { return cuh::reduce("add", mask, v, at); }
inline int __reduce_add_sync(unsigned mask, int v, cu_site at = cu_site()) { return static_cast<int>(cuh::reduce("add", mask, static_cast<unsigned>(v), at)); }
inline unsigned __reduce_max_sync(unsigned mask, unsigned v, cu_site at = cu_site()) { return cuh::reduce("max", mask, v, at); }
inline unsigned __reduce_min_sync(unsigned mask, unsigned v, cu_site at = cu_site()) { return cuh::reduce("min", mask, v, at); }
inline unsigned __reduce_or_sync(unsigned mask, unsigned v, cu_site at = cu_site()) { return cuh::reduce("or", mask, v, at); }
inline unsigned __reduce_and_sync(unsigned mask, unsigned v, cu_site at = cu_site()) { return cuh::reduce("and", mask, v, at); }
/* Signed: order-preserving as unsigned once the sign is flipped. */
inline int __reduce_max_sync(unsigned mask, int v, cu_site at = cu_site())
{
    return static_cast<int>(cuh::reduce("max", mask, static_cast<unsigned>(v) ^ 0x80000000u, at) ^ 0x80000000u);
}
inline int __reduce_min_sync(unsigned mask, int v, cu_site at = cu_site())
{
    return static_cast<int>(cuh::reduce("min", mask, static_cast<unsigned>(v) ^ 0x80000000u, at) ^ 0x80000000u);
}

/* ---- warp.h ---- */
template <typename T> inline T cu_shfl_xor(T v, int lanes, unsigned mask = 0xffffffffu, cu_site at = cu_site())
{
    return __shfl_xor_sync(mask, v, lanes, 32, at);
}
template <typename T> inline T cu_shfl_down(T v, unsigned by, unsigned mask = 0xffffffffu, cu_site at = cu_site())
{
    return __shfl_down_sync(mask, v, by, 32, at);
}
template <typename T> inline T cu_shfl(T v, int lane, unsigned mask = 0xffffffffu, cu_site at = cu_site())
{
    return __shfl_sync(mask, v, lane, 32, at);
}
inline void cu_syncthreads(cu_site at = cu_site()) { __syncthreads(at); }

/* ---- ptx.h ---- */
inline void cu_mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], cu_site at = cu_site()) { cuh::mma(true, d, a, b, at); }
inline void cu_mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], cu_site at = cu_site()) { cuh::mma(false, d, a, b, at); }

/* The lane's own access, for sanitizers: 16 bytes. */
inline __attribute__((always_inline)) void cuh_touch_read(const void *p)
{
    const volatile unsigned long long *q = static_cast<const volatile unsigned long long *>(p);
    (void)q[0];
    (void)q[1];
}
inline void cuh_ldmatrix_(const char *name, unsigned n, bool transposed, unsigned *r, const void *row, cu_site at)
{
    if (cuh::lane() < 8 * n) {
        cuh::check_aligned("ldmatrix", row, 16, at);
        cuh_touch_read(row);
    }
    cuh::ldmatrix(name, n, transposed, r, row, at);
}
inline void cu_ldmatrix_x4(unsigned (&r)[4], const void *row, cu_site at = cu_site()) { cuh_ldmatrix_("ldmatrix_x4", 4, false, r, row, at); }
inline void cu_ldmatrix_x4_trans(unsigned (&r)[4], const void *row, cu_site at = cu_site()) { cuh_ldmatrix_("ldmatrix_x4_trans", 4, true, r, row, at); }
inline void cu_ldmatrix_x2(unsigned (&r)[2], const void *row, cu_site at = cu_site()) { cuh_ldmatrix_("ldmatrix_x2", 2, false, r, row, at); }
inline void cu_ldmatrix_x2_trans(unsigned (&r)[2], const void *row, cu_site at = cu_site()) { cuh_ldmatrix_("ldmatrix_x2_trans", 2, true, r, row, at); }

inline void cu_cp_async16(void *shared, const void *global, bool valid = true, cu_site at = cu_site())
{
    cuh::check_aligned("cp.async to shared memory", shared, 16, at);
    if (valid) {
        cuh::check_aligned("cp.async from global memory", global, 16, at);
        cuh_touch_read(global);
    }
#if defined(CUH_ASAN) || defined(CUH_TSAN)
    volatile unsigned long long *d = static_cast<volatile unsigned long long *>(shared);
    d[0] = d[0];                                /* the place is written from here on */
    d[1] = d[1];
#endif
    cuh::copy_issue(shared, global, valid, at);
}
inline void cu_cp_async_commit(cu_site = cu_site()) { cuh::copy_commit(); }
template <int N> inline void cu_cp_async_wait(cu_site = cu_site()) { cuh::copy_wait(N); }

inline uint4 cu_load16(const void *p, cu_site at = cu_site()) { cuh::check_aligned("a 16-byte load", p, 16, at); return *static_cast<const uint4 *>(p); }
inline uint4 cu_load16_stream(const void *p, cu_site at = cu_site()) { cuh::check_aligned("a 16-byte load", p, 16, at); return *static_cast<const uint4 *>(p); }
inline uint2 cu_load8_stream(const void *p, cu_site at = cu_site()) { cuh::check_aligned("an 8-byte load", p, 8, at); return *static_cast<const uint2 *>(p); }
inline void cu_store16(void *p, uint4 v, cu_site at = cu_site()) { cuh::check_aligned("a 16-byte store", p, 16, at); *static_cast<uint4 *>(p) = v; }

inline unsigned cu_prmt(unsigned a, unsigned b, unsigned selector)
{
    const unsigned long long both = (static_cast<unsigned long long>(b) << 32) | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = selector >> (4 * i);
        unsigned byte = static_cast<unsigned>(both >> (8 * (s & 7))) & 0xff;
        if (s & 8) byte = byte & 0x80 ? 0xff : 0;
        r |= byte << (8 * i);
    }
    return r;
}
template <int TABLE> inline unsigned cu_lop3(unsigned a, unsigned b, unsigned c)
{
    unsigned r = 0;
    for (int i = 0; i < 8; i++)
        if (TABLE >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return r;
}
inline float cu_exp2(float x) { return x < -126.0f ? 0.0f : exp2f(x); }
inline __half2 cu_fma2(__half2 a, __half2 b, __half2 c) { return __hfma2(a, b, c); }
inline __nv_bfloat162 cu_fma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) { return __hfma2(a, b, c); }

#endif
