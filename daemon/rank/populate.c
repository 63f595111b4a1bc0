#include "daemon/rank/populate.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#define SLICE    ((size_t)16 << 20)
#define PAGE     ((size_t)4096)             /* the smallest there is: a larger one is only touched more than once */
#define MAX_HELPERS 63u

typedef struct job {
    char  *p; size_t bytes;
    _Atomic size_t next, done;              /* bytes handed out, and there */
    _Atomic int    failed;                  /* errno of the first failure */
    void (*progress)(void *ctx, uint64_t done, uint64_t total); void *ctx;
} job;

static int slice(char *p, size_t n)
{
    if (!madvise(p, n, MADV_POPULATE_WRITE)) return 0;
    if (errno != EINVAL) return errno;
    for (size_t at = 0; at < n; at += PAGE) {             /* a kernel before 5.14 */
        volatile char *c = p + at;
        *c = *c;
    }
    return 0;
}

static void work(job *j, bool tell)
{
    for (;;) {
        size_t at = atomic_fetch_add(&j->next, SLICE);
        if (at >= j->bytes || j->failed) return;
        size_t n = j->bytes - at < SLICE ? j->bytes - at : SLICE;
        int why = slice(j->p + at, n);
        if (why) {
            j->failed = why;
            return;
        }
        size_t done = atomic_fetch_add(&j->done, n) + n;
        if (tell) j->progress(j->ctx, done, j->bytes);
    }
}

static void *help(void *arg)
{
    work(arg, false);
    return NULL;
}

px_code daemon_populate(void *p, size_t bytes, uint32_t threads, void (*progress)(void *ctx, uint64_t done, uint64_t total),
                        void *ctx, px_err *e)
{
    job j = { .p = p, .bytes = bytes, .progress = progress, .ctx = ctx };
    size_t slices = bytes / SLICE + 1, n = 0;
    pthread_t helper[MAX_HELPERS];

    /* A helper that cannot be made is no error: the others do its slices. */
    while (n < MAX_HELPERS && n + 1 < threads && n + 1 < slices && !pthread_create(&helper[n], NULL, help, &j)) n++;
    work(&j, true);
    while (n) pthread_join(helper[--n], NULL);
    if (j.failed)
        return px_fail(e, PX_ENOMEM, "kv", "the KV cache's %zu bytes cannot be had: %s", bytes, strerror(j.failed));
    return PX_OK;
}
