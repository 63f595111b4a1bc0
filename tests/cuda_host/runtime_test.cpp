/* runtime_test.cpp - the runtime's host version: recorded graphs replay, lazy streams wait, errors come when injected. */
#include "cuda_host.h"
#include "planted.h"

#include <cuda_runtime_api.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int bad;
static void expect(const char *what, long got, long want)
{
    if (got == want) return;
    printf("%s: %ld, not %ld\n", what, got, want);
    bad++;
}

#if defined(CUH_ASAN) || defined(CUH_MSAN) || defined(CUH_TSAN)
#define SANITIZED 1                /* device memory is the sanitizer's */
#else
#define SANITIZED 0
#endif

/* The signal that ends a child which does it; 0: none. */
template <typename F> static int ends(F f)
{
    int status = -1;
    const pid_t pid = fork();

    if (!pid) {
        f();
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* A kernel's limit is raised to what the device can give, once, and no launch with less lowers it. */
static void shared_memory_is_asked_for_once(cudaStream_t s)
{
    enum { COLS = 15000, MORE = 20000 };           /* 60,000 and 80,000 bytes */
    float *in, *out;
    cuh_config c = cuh_current();

    expect("malloc", cudaMalloc(reinterpret_cast<void **>(&in), MORE * sizeof(float)) | cudaMalloc(reinterpret_cast<void **>(&out), 4), 0);
    expect("zeros", cudaMemset(in, 0, MORE * sizeof(float)), 0);
    const long before = static_cast<long>(cuh_calls("cudaFuncSetAttribute"));
    c.sm = 90;                                     /* another device than the kernel has run on: of its static memory it is known */
    cuh_configure(&c);
    expect("overtaken", good_sum_overtaken(in, 1, COLS, out, s), 0);
    expect("more", good_sum(in, 1, MORE, out, s) | cudaStreamSynchronize(s), 0);
    expect("asked", static_cast<long>(cuh_calls("cudaFuncSetAttribute")) - before, 1);
    expect("more than it can give", good_sum(in, 1, 60000, out, s), cudaErrorInvalidValue);
    c.sm = 80;
    cuh_configure(&c);
    cudaFree(in);
    cudaFree(out);
}

int main(void)
{
    float *in, *out, *pinned, result[2] = { 0, 0 };
    cudaStream_t s;
    cudaGraph_t g;
    cudaGraphExec_t x;
    cudaEvent_t e;
    size_t left, total;
    cuh_config c = cuh_defaults();

    expect("malloc", cudaMalloc(reinterpret_cast<void **>(&in), 32) | cudaMalloc(reinterpret_cast<void **>(&out), 8) |
                     cudaMallocHost(reinterpret_cast<void **>(&pinned), 32) | cudaStreamCreate(&s) | cudaEventCreate(&e), 0);
    for (int i = 0; i < 8; i++) pinned[i] = 1.0f;
    /* recorded, not run; every replay reads the memory as it is then */
    expect("begin", cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), 0);
    expect("copy", cudaMemcpyAsync(in, pinned, 32, cudaMemcpyHostToDevice, s), 0);
    expect("launch", good_sum(in, 2, 4, out, s), 0);
    expect("end", cudaStreamEndCapture(s, &g), 0);
    expect("kernels run while recording", static_cast<long>(cuh_calls("launch")), 0);
    expect("instantiate", cudaGraphInstantiate(&x, g, 0), 0);
    pinned[0] = 5.0f;
    expect("replay", cudaGraphLaunch(x, s) | cudaStreamSynchronize(s), 0);
    expect("download", cudaMemcpy(result, out, 8, cudaMemcpyDeviceToHost), 0);
    expect("first row", static_cast<long>(result[0]), 8);
    expect("second row", static_cast<long>(result[1]), 4);
    /* what may not be called while a stream records */
    expect("begin", cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal), 0);
    expect("wait while recording", cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    cudaGraph_t none;
    expect("end of a broken one", cudaStreamEndCapture(s, &none), cudaErrorStreamCaptureInvalidated);
    /* lazy: nothing runs before somebody waits */
    c.lazy = true;
    cuh_configure(&c);
    pinned[0] = 1.0f;
    const long before = static_cast<long>(cuh_calls("launch"));
    expect("lazy replay", cudaGraphLaunch(x, s) | cudaEventRecord(e, s), 0);
    expect("kernels run before a wait", static_cast<long>(cuh_calls("launch")), before);
    expect("not ready", cudaEventQuery(e), cudaErrorNotReady);
    expect("event", cudaEventSynchronize(e), 0);
    expect("kernels run after it", static_cast<long>(cuh_calls("launch")), before + 1);
    /* a queue that stands still */
    cuh_stall(true);
    expect("put on it", cudaGraphLaunch(x, s) | cudaEventRecord(e, s), 0);
    expect("it stands", cudaStreamQuery(s) == cudaErrorNotReady && cudaEventQuery(e) == cudaErrorNotReady, 1);
    expect("kernels that ran meanwhile", static_cast<long>(cuh_calls("launch")), before + 1);
    cuh_stall(false);
    expect("it goes on", cudaStreamSynchronize(s) | cudaEventQuery(e), 0);
    expect("kernels that ran then", static_cast<long>(cuh_calls("launch")), before + 2);
    /* sides, sizes, limits */
    expect("beyond the end", cudaMemcpy(in, result, 33, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    expect("what touches device memory ends", ends([in] { in[0] = 1.0f; }), SANITIZED ? 0 : SIGSEGV);
    expect("what touches pinned memory goes on", ends([pinned] { pinned[0] = 1.0f; }), 0);
    expect("wrong side", cudaMemcpy(result, pinned, 8, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    expect("no rows", good_sum(in, 0, 4, out, s), cudaErrorInvalidConfiguration);
    expect("memory", cudaMemGetInfo(&left, &total), 0);
    expect("left", static_cast<long>(total - left), 40);
    void *huge;
    expect("too much", cudaMalloc(&huge, total), cudaErrorMemoryAllocation);
    /* injected, perhaps by who is called first */
    cuh_each_call([](const char *call) { if (!strcmp(call, "cudaDeviceReset")) cuh_inject("cudaDeviceReset", 1, cudaErrorUnknown, false); });
    expect("by a call's own", cudaDeviceReset(), cudaErrorUnknown);
    cuh_each_call(NULL);
    expect("by nobody", cudaDeviceReset(), 0);
    cuh_inject("cudaLaunchKernel", 2, cudaErrorIllegalAddress, true);
    expect("first launch", good_sum(in, 2, 4, out, s), 0);
    expect("second launch", good_sum(in, 2, 4, out, s), cudaErrorIllegalAddress);
    expect("sticks", cudaStreamSynchronize(s), cudaErrorIllegalAddress);
    cuh_inject_nothing();
    c.driver = 0;
    cuh_configure(&c);
    int n = 7;
    expect("no driver", cudaGetDeviceCount(&n), cudaErrorInsufficientDriver);
    expect("devices", n, 0);
    c.driver = 13000;
    cuh_configure(&c);
    shared_memory_is_asked_for_once(s);
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(g);
    cudaEventDestroy(e);
    cudaStreamDestroy(s);
    cudaFree(in);
    cudaFree(out);
    cudaFreeHost(pinned);
    expect("memory left", static_cast<long>(cuh_live_bytes()), 0);
    printf("runtime: %s\n", bad ? "FAILED" : "passed");
    return bad != 0;
}
