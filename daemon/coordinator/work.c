#include "daemon/coordinator/work.h"

static void *work(void *ctx)
{
    daemon_work *w = ctx;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->stop) pthread_cond_wait(&w->some, &w->lock);
        daemon_task *j = w->first;
        if (!j) break;
        if (!(w->first = j->next)) w->last = NULL;
        w->n_jobs--;
        w->bytes -= j->bytes;
        pthread_mutex_unlock(&w->lock);
        j->run(j->ctx);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

px_code daemon_work_init(daemon_work *w, px_err *e)
{
    *w = (daemon_work){0};
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->some, NULL);
    for (; w->n_threads < DAEMON_WORK_THREADS; w->n_threads++)
        if (pthread_create(&w->thread[w->n_threads], NULL, work, w)) {
            daemon_work_deinit(w);
            return px_fail(e, PX_EIO, "threads", "no thread for tokenization");
        }
    return PX_OK;
}

px_code daemon_work_put(daemon_work *w, daemon_task *j, px_err *e)
{
    px_code rc = PX_OK;

    pthread_mutex_lock(&w->lock);
    if (w->n_jobs >= DAEMON_WORK_JOBS || (w->n_jobs && j->bytes > DAEMON_WORK_BYTES - w->bytes))
        rc = px_fail(e, PX_EBUSY, "queue", "%u texts wait for tokenization already", w->n_jobs);
    else {
        j->next = NULL;
        if (w->last) w->last->next = j; else w->first = j;
        w->last = j;
        w->n_jobs++;
        w->bytes += j->bytes;
        pthread_cond_signal(&w->some);
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

void daemon_work_deinit(daemon_work *w)
{
    if (!w->n_threads && !w->stop) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->some);
    pthread_mutex_unlock(&w->lock);
    for (uint32_t i = 0; i < w->n_threads; i++) pthread_join(w->thread[i], NULL);
    pthread_cond_destroy(&w->some);
    pthread_mutex_destroy(&w->lock);
    *w = (daemon_work){0};
}
