/* layout_test.cpp - fragments of mma and ldmatrix as the shim has them (warp.cpp, from the PTX manual) against CUTLASS' tables
 * (ptx_value.cpp): two readings of what only a GPU knows.  Every register of every lane; numbers whose sums are exact. */
#include "ptx.h"

#include "cuda_host.h"
#include "kernels/cuda/ptx.h"

#include <stdio.h>
#include <stdlib.h>

namespace {
uint64_t state = 88172645463325252u;
unsigned draw()
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<unsigned>(state >> 32);
}

template <typename T> T *device(const std::vector<T> &v)
{
    void *p;

    if (cudaMalloc(&p, v.size() * sizeof(T)) || cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)) abort();
    return static_cast<T *>(p);
}

/* Registers of a warp: 4 of A, 2 of B, 4 of C, whose places D's take. */
template <bool BF16> static __global__ void product(unsigned *r)
{
    const unsigned lane = threadIdx.x;
    unsigned a[4], b[2];
    float d[4];

    for (int i = 0; i < 4; i++) a[i] = r[i * 32 + lane], d[i] = __uint_as_float(r[(6 + i) * 32 + lane]);
    for (int i = 0; i < 2; i++) b[i] = r[(4 + i) * 32 + lane];
    if (BF16) cu_mma_bf16(d, a, b);
    else cu_mma_f16(d, a, b);
    for (int i = 0; i < 4; i++) r[(6 + i) * 32 + lane] = __float_as_uint(d[i]);
}

template <int N, bool TRANSPOSED> static __global__ void load(const unsigned short *in, unsigned *r)
{
    CU_SHARED(unsigned short, m, 256);
    const unsigned lane = threadIdx.x;
    unsigned v[N];

    for (unsigned i = lane; i < 64 * N; i += 32) m[i] = in[i];
    __syncthreads();
    const unsigned short *const row = m + 8 * (lane % (8 * N));
    if constexpr (N == 4 && TRANSPOSED) cu_ldmatrix_x4_trans(v, row);
    else if constexpr (N == 4) cu_ldmatrix_x4(v, row);
    else if constexpr (TRANSPOSED) cu_ldmatrix_x2_trans(v, row);
    else cu_ldmatrix_x2(v, row);
    for (int i = 0; i < N; i++) r[i * 32 + lane] = v[i];
}

/* r: as the kernel left it; want: the same by the tables. */
int differ(const char *what, const std::vector<uint64_t> &want, unsigned *r)
{
    std::vector<unsigned> got(want.size());
    int bad = 0;

    if (cudaDeviceSynchronize() || cudaMemcpy(got.data(), r, got.size() * 4, cudaMemcpyDeviceToHost) || cudaFree(r)) abort();
    for (size_t i = 0; i < want.size(); i++)
        if (got[i] != want[i] && !bad++) printf("%s: register %zu of lane %zu is %08x, not %08x\n", what, i / 32, i % 32, got[i], static_cast<unsigned>(want[i]));
    return bad != 0;
}

template <bool BF16> int check_product()
{
    ptx::inst i = ptx::inst();
    std::vector<unsigned> in(10 * 32);

    const auto number = [](unsigned bits) {
        const float v = static_cast<float>(static_cast<int>(bits % 255) - 127);
        return static_cast<unsigned>(BF16 ? __nv_bfloat16_raw(__float2bfloat16_rn(v)).x : __half_raw(__float2half_rn(v)).x);
    };
    for (int n = 0; n < 10; n++) i.s.push_back(n);
    i.d = { 6, 7, 8, 9 };
    i.bf16 = BF16;
    for (size_t n = 0; n < in.size(); n++)
        in[n] = n < 6 * 32 ? number(draw()) << 16 | number(draw()) : __float_as_uint(static_cast<float>(draw() % 4096));
    std::vector<uint64_t> want(in.begin(), in.end());
    ptx::multiply(i, want.data());
    unsigned *const r = device(in);
    if (CU_LAUNCH(product<BF16>, dim3(1), dim3(32), 0, NULL, r)) abort();
    return differ(BF16 ? "mma of bf16" : "mma of f16", want, r);
}

template <int N, bool TRANSPOSED> int check_load()
{
    ptx::inst i = ptx::inst();
    std::vector<unsigned short> in(256);
    std::vector<uint64_t> want(N * 32);

    for (int n = 0; n < N; n++) i.d.push_back(n);
    i.trans = TRANSPOSED;
    for (size_t n = 0; n < in.size(); n++) in[n] = static_cast<unsigned short>(n * 257 + 1);
    ptx::matrices(i, want.data(), in.data());
    unsigned *const r = device(std::vector<unsigned>(N * 32));
    unsigned short *const m = device(in);
    if (CU_LAUNCH((load<N, TRANSPOSED>), dim3(1), dim3(32), 0, NULL, m, r)) abort();
    const int bad = differ(TRANSPOSED ? "ldmatrix, transposed" : "ldmatrix", want, r);
    if (cudaFree(m)) abort();
    return bad;
}
}

int main()
{
    int bad = 0;

    for (int n = 0; n < 100; n++) bad += check_product<true>() + check_product<false>();
    bad += check_load<4, false>() + check_load<4, true>() + check_load<2, false>() + check_load<2, true>();
    printf("layouts: %s\n", bad ? "FAILED" : "the same in both readings");
    return bad != 0;
}
