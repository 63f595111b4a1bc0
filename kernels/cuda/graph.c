/* graph.c - steps that are put on the queue once and replayed: a fixed number of graphs, found by their id.
 * The capture is the thread's own, so that another thread (a library's, a second device's) may go on using CUDA. */
#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>

static kern_cuda_graph *find(kern_dev *d, uint32_t id)
{
    for (uint32_t i = 0; i < KERN_CUDA_MAX_GRAPHS; i++)
        if (d->graph[i].exec && d->graph[i].id == id) return &d->graph[i];
    return NULL;
}

static kern_cuda_graph *place(kern_dev *d, uint32_t id)
{
    kern_cuda_graph *g = find(d, id);

    for (uint32_t i = 0; !g && i < KERN_CUDA_MAX_GRAPHS; i++)
        if (!d->graph[i].exec) g = &d->graph[i];
    return g;
}

void kern_cuda_graphs_close(kern_dev *d)
{
    cudaGraph_t g = NULL;

    if (d->recording) {
        (void)cudaStreamEndCapture((cudaStream_t)d->stream, &g);
        if (g) (void)cudaGraphDestroy(g);
        d->recording = false;
    }
    for (uint32_t i = 0; i < KERN_CUDA_MAX_GRAPHS; i++)
        if (d->graph[i].exec) (void)cudaGraphExecDestroy((cudaGraphExec_t)d->graph[i].exec);
}

px_code kern_cuda_record(kern_dev *d, uint32_t id, px_err *e)
{
    px_code rc;

    if (d->recording) return px_fail(e, PX_EINVAL, "record", "record %u inside record %u", id, d->record_id);
    if (!place(d, id))
        return px_fail(e, PX_ERANGE, "record", "graph %u would be one more than the %u that are kept", id, KERN_CUDA_MAX_GRAPHS);
    if ((rc = kern_cuda_idle(d, "record", e)) ||
        (rc = kern_cuda_done(d, "record", cudaStreamBeginCapture((cudaStream_t)d->stream, cudaStreamCaptureModeThreadLocal), e)))
        return rc;
    d->recording = true;
    d->record_id = id;
    return PX_OK;
}

/* Whatever happened in between, the queue is an ordinary one again afterwards.  Nothing recorded: the graph of that id is gone. */
px_code kern_cuda_end(kern_dev *d, px_err *e)
{
    const cudaStream_t s = (cudaStream_t)d->stream;
    cudaGraphExec_t exec = NULL;
    cudaGraph_t g = NULL;
    kern_cuda_graph *keep;
    size_t nodes = 0;
    px_code rc;

    if (!d->recording) return px_fail(e, PX_EINVAL, "end", "end without record");
    d->recording = false;
    if ((rc = kern_cuda_done(d, "end", cudaStreamEndCapture(s, &g), e)) ||
        (rc = kern_cuda_done(d, "end", cudaGraphGetNodes(g, NULL, &nodes), e))) goto drop;
    if (nodes && ((rc = kern_cuda_done(d, "end", cudaGraphInstantiate(&exec, g, 0), e)) ||
                  (rc = kern_cuda_done(d, "end", cudaGraphUpload(exec, s), e)))) goto drop;
    keep = place(d, d->record_id);                 /* there is one: record looked */
    if (keep->exec) (void)cudaGraphExecDestroy((cudaGraphExec_t)keep->exec);
    *keep = (kern_cuda_graph){ .id = d->record_id, .exec = exec };
    exec = NULL;

drop:
    if (exec) (void)cudaGraphExecDestroy(exec);
    if (g) (void)cudaGraphDestroy(g);
    return rc;
}

px_code kern_cuda_replay(kern_dev *d, uint32_t id, bool *replayed, px_err *e)
{
    const kern_cuda_graph *g = find(d, id);
    px_code rc;

    *replayed = false;
    if ((rc = kern_cuda_idle(d, "replay", e)) || !g) return rc;
    if ((rc = kern_cuda_done(d, "replay", cudaGraphLaunch((cudaGraphExec_t)g->exec, (cudaStream_t)d->stream), e))) return rc;
    *replayed = true;
    return PX_OK;
}
