/* selftest.cpp - does the host build find what it is there to find?  Every fault of planted.cu runs in a process of its
 * own, under all schedules, and must be found as the table says for this variant; kernels without a fault must pass.
 * usage: selftest              all cases
 *        selftest fault NAME   runs one fault: exit 0 when nothing was noticed, 3 when the result was wrong */
#include "cuda_host.h"
#include "planted.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#if defined(CUH_ASAN)
#define VARIANT 1
#elif defined(CUH_MSAN)
#define VARIANT 2
#elif defined(CUH_TSAN)
#define VARIANT 3
#else
#define VARIANT 0
#endif

/* line: a report names the marked line; result: at least one schedule gives a wrong result or a status, or a report
 * names the variable; '-': this variant cannot see it. */
static const struct fault { const char *name; char found[5]; } faults[] = {   /* plain, ASan + UBSan, MSan, TSan */
    { "missing_syncthreads", "rrrl" }, { "missing_syncwarp", "rrrl" }, { "shuffle_as_barrier", "---l" }, { "wrong_mask", "llll" }, { "not_in_mask", "llll" },
    { "other_line", "llll" },          { "exited_lane", "llll" },      { "shared_bounds", "rl--" }, { "global_bounds", "-l--" },
    { "uninitialised", "rrlr" },       { "missing_wait", "rlrr" },     { "copy_bounds", "-l--" }, { "copy_overrun", "rrrl" },
    { "warp_race", "rrrl" },           { "divergent_barrier", "llll" }, { "early_return", "llll" }, { "too_much_shared", "llll" },
    { "misaligned", "llll" },          { "misaligned_raw", "-l--" },   { "matrix_address", "llll" }, { "block_race", "---l" },
    { "missing_fence", "---l" },       { "not_opted_in", "rrrr" },     { "static_beside_dynamic", "llll" },
};

static const unsigned N = 128;

/* Memory of exactly this size on the device. */
template <typename T> static T *device(const std::vector<T> &v)
{
    void *p;

    if (cudaMalloc(&p, v.size() * sizeof(T)) || cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)) abort();
    return static_cast<T *>(p);
}
template <typename T> static std::vector<T> host(const T *p, size_t n)
{
    std::vector<T> v(n);

    if (cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost)) abort();
    return v;
}

/* What each fault would compute if it were none. */
static float expected(const char *name, const std::vector<float> &in, unsigned i)
{
    const unsigned base = i - i % 32;
    float sum = 0.0f;

    if (!strcmp(name, "missing_syncthreads")) return in[(i + 33) % N];
    if (!strcmp(name, "missing_syncwarp") || !strcmp(name, "shuffle_as_barrier")) return in[base + (i + 1) % 32];
    if (!strcmp(name, "uninitialised")) return in[i] + 1.0f;
    if (!strcmp(name, "shared_bounds")) return in[i / 2];
    if (!strcmp(name, "global_bounds") || !strcmp(name, "copy_bounds")) return NAN;       /* not compared */
    if (!strcmp(name, "copy_overrun")) return in[i] + in[i ^ 4];
    if (!strcmp(name, "warp_race")) {
        for (unsigned k = 0; k < N; k++) sum += in[k];
        return sum;
    }
    return in[i];
}

static int run_fault(const char *name)
{
    std::vector<float> in(N), out;
    unsigned wrong = 0;

    for (unsigned i = 0; i < N; i++) in[i] = static_cast<float>(i * 7 % 31);      /* sums are exact */
    for (unsigned k = 0; k < cuh_n_schedules(); k++) {
        cuh_schedule(k);
        float *d_in = device(in), *d_out = device(std::vector<float>(3 * N, -1.0f));
        unsigned *count = device(std::vector<unsigned>(1, 0));
        const cu_status rc = planted(name, d_in, d_out, count, NULL);
        if (rc) {
            printf("%s: status %d\n", name, rc);
            return 3;
        }
        if (cudaDeviceSynchronize()) return 4;
        out = host(d_out, N);
        for (unsigned i = 0; i < N; i++) {
            const float e = expected(name, in, i);
            if (e == e && strcmp(name, "missing_fence") && !(out[i] == e)) wrong++;
        }
        cudaFree(d_in);
        cudaFree(d_out);
        cudaFree(count);
    }
    return wrong ? 3 : 0;
}

/* Is FILE:LINE in the report, for a line of planted.cu that carries the fault's mark? */
static bool names_line(const char *name, const char *report)
{
    FILE *f = fopen(PLANTED_CU, "r");
    char line[512], mark[64], place[64];
    bool found = false;

    if (!f) { perror(PLANTED_CU); exit(2); }
    snprintf(mark, sizeof mark, "BUG(%s)", name);
    for (unsigned n = 1; fgets(line, sizeof line, f); n++) {
        if (!strstr(line, mark)) continue;
        for (const char *p = report; (p = strstr(p, "planted.cu:")); p++) {
            snprintf(place, sizeof place, "planted.cu:%u", n);
            const size_t len = strlen(place);
            if (!strncmp(p, place, len) && (p[len] < '0' || p[len] > '9')) found = true;
        }
    }
    fclose(f);
    return found;
}

static int check_fault(const fault *f)
{
    static char report[1 << 20];
    int ends[2], status;
    size_t n = 0;
    ssize_t got;

    if (pipe(ends)) { perror("pipe"); exit(2); }
    fflush(stdout);
    const pid_t pid = fork();
    if (pid < 0) { perror("fork"); exit(2); }
    if (!pid) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "selftest", "fault", f->name, static_cast<char *>(NULL));
        _exit(2);
    }
    close(ends[1]);
    while (n < sizeof report - 1 && (got = read(ends[0], report + n, sizeof report - 1 - n)) > 0) n += static_cast<size_t>(got);
    report[n] = 0;
    close(ends[0]);
    waitpid(pid, &status, 0);
    const bool passed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const char as = passed ? '-' : names_line(f->name, report) ? 'l' : 'r', want = f->found[VARIANT];
    const bool good = want == '-' || as == 'l' || (as == 'r' && want == 'r');
    printf("%-20s %s%s\n", f->name, as == 'l' ? "found, with its line" : as == 'r' ? "found by its result" : "not seen",
           good ? "" : want == 'l' ? ", BUT ITS LINE IS WANTED" : ", BUT IT MUST BE FOUND");
    if (!good) printf("--- exit %x\n%s---\n", static_cast<unsigned>(status), report);
    return !good;
}

/* ---- kernels without a fault ---- */
static int differ(const char *what, unsigned schedule, size_t i, double got, double want)
{
    printf("%s: schedule %u: [%zu] is %g, not %g\n", what, schedule, i, got, want);
    return 1;
}

static int check_sum(unsigned k)
{
    const uint32_t rows = 3, cols = 1001;
    std::vector<float> in(rows * cols);

    for (size_t i = 0; i < in.size(); i++) in[i] = static_cast<float>(i % 13) - 5.0f;
    float *d = device(in), *out = device(std::vector<float>(rows, NAN));
    if (good_sum(d, rows, cols, out, NULL)) return differ("sum: launch", k, 0, 1, 0);
    const std::vector<float> got = host(out, rows);
    for (uint32_t r = 0; r < rows; r++) {
        float want = 0.0f;
        for (uint32_t c = 0; c < cols; c++) want += in[r * cols + c];
        if (got[r] != want) return differ("sum", k, r, got[r], want);
    }
    cudaFree(d);
    cudaFree(out);
    return 0;
}

static int check_copy(unsigned k)
{
    for (uint32_t n : { 1u, 127u, 128u, 300u }) {
        std::vector<uint32_t> in(4 * n);
        for (size_t i = 0; i < in.size(); i++) in[i] = static_cast<uint32_t>(i * 2654435761u);
        uint32_t *d = device(in), *out = device(std::vector<uint32_t>(4 * n, 0));
        if (good_copy(d, n, out, NULL)) return differ("copy: launch", k, n, 1, 0);
        const std::vector<uint32_t> got = host(out, 4 * n);
        for (size_t i = 0; i < got.size(); i++)
            if (got[i] != in[i]) return differ("copy", k, i, got[i], in[i]);
        cudaFree(d);
        cudaFree(out);
    }
    return 0;
}

static int check_multiply(unsigned k, bool bf16)
{
    const uint32_t m = 41, depth = 48;
    std::vector<uint16_t> a(m * depth), b(depth * 16);
    std::vector<float> fa(a.size()), fb(b.size());
    auto bits = [bf16](float v) -> uint16_t {
        return bf16 ? __nv_bfloat16_raw(__float2bfloat16(v)).x : __half_raw(__float2half(v)).x;
    };

    for (size_t i = 0; i < a.size(); i++) a[i] = bits(fa[i] = static_cast<float>(i * 37 % 17) - 8.0f);
    for (size_t i = 0; i < b.size(); i++) b[i] = bits(fb[i] = static_cast<float>(i * 11 % 19) - 9.0f);
    uint16_t *da = device(a), *db = device(b);
    float *out = device(std::vector<float>(m * 16, NAN));
    if (good_multiply(bf16, da, db, m, depth, out, NULL)) return differ("multiply: launch", k, 0, 1, 0);
    const std::vector<float> got = host(out, m * 16);
    for (uint32_t r = 0; r < m; r++)
        for (uint32_t c = 0; c < 16; c++) {
            float want = 0.0f;
            for (uint32_t i = 0; i < depth; i++) want += fa[r * depth + i] * fb[i * 16 + c];
            if (got[r * 16 + c] != want) return differ(bf16 ? "multiply bf16" : "multiply f16", k, r * 16 + c, got[r * 16 + c], want);
        }
    cudaFree(da);
    cudaFree(db);
    cudaFree(out);
    return 0;
}

static int check_last_block(unsigned k)
{
    std::vector<float> in(N);

    for (unsigned i = 0; i < N; i++) in[i] = static_cast<float>(i);
    float *d = device(in), *out = device(std::vector<float>(4 * N, NAN));
    unsigned *count = device(std::vector<unsigned>(1, 0));
    if (good_last_block(d, out, count, NULL)) return differ("last block: launch", k, 0, 1, 0);
    const std::vector<float> got = host(out, N);
    for (unsigned i = 0; i < N; i++)
        if (got[i] != 3.0f * in[i]) return differ("last block", k, i, got[i], 3.0f * in[i]);
    if (host(count, 1)[0] != 0) return differ("last block: counter", k, 0, 1, 0);
    cudaFree(d);
    cudaFree(out);
    cudaFree(count);
    return 0;
}

int main(int argc, char **argv)
{
    int bad = 0;

    if (argc == 3 && !strcmp(argv[1], "fault")) return run_fault(argv[2]);
    for (unsigned k = 0; k < cuh_n_schedules() && !bad; k++) {
        cuh_schedule(k);
        bad += check_sum(k) + check_copy(k) + check_multiply(k, true) + check_multiply(k, false) + check_last_block(k);
    }
    if (cuh_live_bytes()) bad += differ("memory left", 0, 0, static_cast<double>(cuh_live_bytes()), 0);
    printf("kernels without a fault: %s\n", bad ? "FAILED" : "passed under every schedule");
    for (const fault &f : faults) bad += check_fault(&f);
    return bad != 0;
}
