/* stream.cpp - streams, events and graphs.  A stream runs its work at once, or, if lazy, when something waits: all lazy
 * streams share one queue, whose order keeps every dependence.  A stream that records keeps its work as closures. */
#include "runtime.h"
#include "block.h"

#include <atomic>
#include <deque>
#include <mutex>
#include <time.h>

/* The toolkit leaves these types open. */
struct CUgraph_st { std::vector<std::function<void()>> nodes; };
struct CUgraphExec_st { std::vector<std::function<void()>> nodes; };
/* A library of another making knows no more of a stream than how to put work on it. */
struct CUstream_st { cudaError_t (*put)(cudaStream_t, void (*)(void *), void *); CUgraph_st *recording; bool origin; bool broken; };
struct CUevent_st { unsigned long ticket; CUgraph_st *recording; bool recorded; };

namespace cuh {
namespace {
std::recursive_mutex lock_;
std::recursive_mutex turn;         /* held while a work runs: who finds the queue empty knows that all of it is done */
std::deque<std::function<void()>> queue;
unsigned long put, done;           /* works ever put into the queue, and finished */
std::atomic<bool> stalls;
std::vector<cudaStream_t> streams;
CUstream_st default_stream;

cudaStream_t real(cudaStream_t s) { return s && s != cudaStreamLegacy && s != cudaStreamPerThread ? s : &default_stream; }
bool known(cudaStream_t s)
{
    if (s == &default_stream) return true;
    for (cudaStream_t o : streams)
        if (o == s) return true;
    return false;
}

bool run_one()
{
    if (stalls) return false;
    std::lock_guard<std::recursive_mutex> alone(turn);
    std::function<void()> work;
    {
        std::lock_guard<std::recursive_mutex> lock(lock_);
        if (queue.empty()) return false;
        work.swap(queue.front());
        queue.pop_front();
    }
    {
        on_device here;
        work();
    }
    std::lock_guard<std::recursive_mutex> lock(lock_);
    done++;
    return true;
}

cudaError_t leave_capture(cudaStream_t s)
{
    CUgraph_st *g = s->recording;

    for (cudaStream_t o : streams)
        if (o->recording == g) o->recording = NULL;
    s->recording = NULL;
    s->origin = false;
    return cudaSuccess;
}
}

bool capturing(cudaStream_t s) { return real(s)->recording != NULL; }

/* As long as the queue stands still. */
static void await(void)
{
    while (stalls) {
        const timespec nap = { 0, 1000000 };
        nanosleep(&nap, NULL);
    }
}

void flush(void)
{
    await();
    while (run_one()) {}
}

cudaError_t enqueue(cudaStream_t stream, const std::function<void()> &work)
{
    cudaStream_t s = real(stream);
    {
        std::lock_guard<std::recursive_mutex> lock(lock_);
        if (!known(s)) return cudaErrorInvalidResourceHandle;
        if (s->recording) {
            s->recording->nodes.push_back(work);
            return cudaSuccess;
        }
        put++;
        queue.push_back(work);
    }
    if (!config.lazy && !stalls) flush();
    return cudaSuccess;
}

cudaError_t not_while_capturing(void)
{
    std::lock_guard<std::recursive_mutex> lock(lock_);
    bool any = false;

    for (cudaStream_t s : streams)
        if (s->recording) any = s->broken = true;
    return any ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
}

using namespace cuh;

extern "C" void cuh_stall(bool on) { stalls = on; }

/* ---- streams ---- */
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    *s = new CUstream_st{ cudaLaunchHostFunc, NULL, false, false };
    streams.push_back(*s);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int) { return cudaStreamCreateWithFlags(s, flags); }
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    flush();
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == s) {
            streams.erase(streams.begin() + static_cast<std::ptrdiff_t>(i));
            delete s;
            return cudaSuccess;
        }
    return remember(cudaErrorInvalidResourceHandle);
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (capturing(s)) return remember(not_while_capturing());
    flush();
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (cudaError_t e = not_while_capturing()) return remember(e);
    flush();
    return cudaSuccess;
}
/* Each question lets one more work of a lazy queue finish. */
cudaError_t cudaStreamQuery(cudaStream_t s)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (capturing(s)) return remember(not_while_capturing());
    run_one();
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    return queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *arg)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    return remember(enqueue(s, [fn, arg] { fn(arg); }));
}

/* ---- events ---- */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { if (cudaError_t e_ = enter(__func__)) return e_; *e = new CUevent_st(); return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { if (cudaError_t e_ = enter(__func__)) return e_; delete e; return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    cudaStream_t s = real(stream);
    if (!known(s)) return remember(cudaErrorInvalidResourceHandle);
    e->recording = s->recording;
    e->ticket = put;
    e->recorded = true;
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (e->recording) return remember(cudaErrorCapturedEvent);
    run_one();
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    return !e->recorded || done >= e->ticket ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (e->recording) return remember(cudaErrorCapturedEvent);
    if (e->recorded && done < e->ticket) await();
    while (e->recorded && done < e->ticket && run_one()) {}
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (!a->recorded || !b->recorded) return remember(cudaErrorInvalidResourceHandle);
    *ms = 0.0f;
    return cudaSuccess;
}
/* The order of the one queue is the dependence already; a stream that waits for a recorded event joins the recording. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t e, unsigned)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    cudaStream_t s = real(stream);
    if (!known(s)) return remember(cudaErrorInvalidResourceHandle);
    if (s->recording && e->recording != s->recording) return remember(cudaErrorStreamCaptureIsolation);
    if (e->recording) s->recording = e->recording;
    return cudaSuccess;
}

/* ---- graphs ---- */
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    if (real(s) == &default_stream) return remember(cudaErrorStreamCaptureUnsupported);
    if (!known(s) || s->recording) return remember(cudaErrorIllegalState);
    s->recording = new CUgraph_st();
    s->origin = true;
    s->broken = false;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = NULL;
    const cudaError_t e_ = enter(__func__);
    std::lock_guard<std::recursive_mutex> guard(cuh::lock_);
    if (!known(s) || !s->recording || !s->origin) return remember(e_ ? e_ : cudaErrorIllegalState);
    CUgraph_st *made = s->recording;
    leave_capture(s);                              /* also with an error: the recording is over */
    if (e_ || s->broken) {
        delete made;
        return remember(e_ ? e_ : cudaErrorStreamCaptureInvalidated);
    }
    *g = made;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    *status = !capturing(s) ? cudaStreamCaptureStatusNone
                            : real(s)->broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    if (nodes) return remember(cudaErrorNotSupported);
    *n = g->nodes.size();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    *x = new CUgraphExec_st{ g->nodes };
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { if (cudaError_t e_ = enter(__func__)) return e_; return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    if (cudaError_t e_ = enter(__func__)) return e_;
    for (const auto &node : x->nodes)
        if (cudaError_t e = enqueue(s, node)) return remember(e);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { if (cudaError_t e_ = enter(__func__)) return e_; delete g; return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) { if (cudaError_t e_ = enter(__func__)) return e_; delete x; return cudaSuccess; }
