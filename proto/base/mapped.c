#include "proto/base/mapped.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* A signal handler can reach nothing else.  A spinning lock, which the handler may take: nobody holds it while reading a
 * listed file. */
static struct {
    atomic_flag lock, telling;
    px_mapped  *first;
    void      (*fn)(void *ctx, const px_err *e);
    void       *ctx;
} list = { .lock = ATOMIC_FLAG_INIT, .telling = ATOMIC_FLAG_INIT };

static void lock(void)   { while (atomic_flag_test_and_set_explicit(&list.lock, memory_order_acquire)) continue; }
static void unlock(void) { atomic_flag_clear_explicit(&list.lock, memory_order_release); }

void px_mapped_add(px_mapped *m, const void *at, size_t bytes, const char *path)
{
    *m = (px_mapped){ .at = at, .bytes = bytes, .path = path };
    lock();
    m->next = list.first;
    list.first = m;
    unlock();
}

void px_mapped_drop(px_mapped *m)
{
    lock();
    for (px_mapped **p = &list.first; *p; p = &(*p)->next)
        if (*p == m) {
            *p = m->next;
            break;
        }
    unlock();
    *m = (px_mapped){0};
}

static void describe(const px_mapped *m, px_err *e)
{
    char found[32] = "", expected[32];
    struct stat st;
    bool there = !stat(m->path, &st);

    if (there && (unsigned long long)st.st_size >= m->bytes) {
        px_fail(e, PX_EIO, "file", "cannot be read: its disk fails, or it was replaced while it was read");
    } else {
        snprintf(expected, sizeof expected, "%zu bytes", m->bytes);
        if (there) snprintf(found, sizeof found, "%llu bytes", (unsigned long long)st.st_size);
        px_refuse(e, PX_ECORRUPT, "size", found, expected, "the file was truncated while it was read");
    }
    px_err_set_file(e, m->path);
}

static void on_bus_error(int sig, siginfo_t *info, void *ctx)
{
    const char *at = info->si_addr;
    px_mapped hit = { .path = NULL };
    px_err e = { .rank = -1 };

    (void)ctx;
    lock();
    for (const px_mapped *m = list.first; m && !hit.path; m = m->next)
        if ((uintptr_t)at - (uintptr_t)m->at < m->bytes) hit = *m;
    unlock();
    if (!hit.path || !list.fn) {
        signal(sig, SIG_DFL);                             /* the read is tried again, and kills */
        return;
    }
    while (atomic_flag_test_and_set(&list.telling)) pause();   /* another thread is at it, and ends the process */
    describe(&hit, &e);
    list.fn(list.ctx, &e);
    _exit(1);
}

px_code px_mapped_guard(void (*fn)(void *ctx, const px_err *e), void *ctx, px_err *e)
{
    struct sigaction sa = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };

    list.fn = fn;
    list.ctx = ctx;
    if (!fn) return signal(SIGBUS, SIG_DFL) == SIG_ERR ? px_fail_errno(e, "guard", "signal") : PX_OK;
    sigemptyset(&sa.sa_mask);
    return sigaction(SIGBUS, &sa, NULL) ? px_fail_errno(e, "guard", "sigaction") : PX_OK;
}
