#include "daemon/coordinator/link.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/rank/fields.h"

#define FRESH_SPARE 8               /* connections beyond the world that may wait to say who they are */

static void link_drop(daemon_link *k)
{
    if (k->fd >= 0) close(k->fd);
    if (k->pidfd >= 0) close(k->pidfd);
    proto_frame_reader_deinit(&k->reader);
    *k = (daemon_link){ .fd = -1, .pidfd = -1 };
}

px_code daemon_links_open(daemon_links *l, px_alloc *a, const char *dir, uint32_t world, uint32_t generation, px_err *e)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    px_code rc;

    *l = (daemon_links){ .a = a, .world = world, .generation = generation, .listen_fd = -1,
                         .job_fd = -1, .signal_fd = -1, .wake_fd = -1, .cap_fresh = world + FRESH_SPARE };
    int n = snprintf(l->path, sizeof l->path, "%s/s", dir);
    if (n < 0 || (size_t)n >= sizeof at.sun_path) return px_fail(e, PX_ERANGE, "socket", "the path %s/s is too long for a socket", dir);
    memcpy(at.sun_path, l->path, (size_t)n + 1);
    if (!(l->rank = px_new(a, daemon_link, world)) || !(l->fresh = px_new(a, daemon_link, l->cap_fresh)) ||
        !(l->poll = px_new(a, struct pollfd, world + l->cap_fresh + 4))) {
        rc = px_fail(e, PX_ENOMEM, "ranks", "%u links", world);
        goto fail;
    }
    for (uint32_t i = 0; i < world; i++) l->rank[i] = (daemon_link){ .fd = -1, .pidfd = -1 };
    unlink(l->path);
    if ((l->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0 ||
        bind(l->listen_fd, (struct sockaddr *)&at, sizeof at) || listen(l->listen_fd, (int)l->cap_fresh)) {
        rc = px_fail_errno(e, "socket", l->path);
        goto fail;
    }
    return PX_OK;

fail:
    daemon_links_close(l);
    return rc;
}

void daemon_links_close(daemon_links *l)
{
    if (!l->a) return;
    for (uint32_t i = 0; l->rank && i < l->world; i++) link_drop(&l->rank[i]);
    for (uint32_t i = 0; l->fresh && i < l->n_fresh; i++) link_drop(&l->fresh[i]);
    if (l->listen_fd >= 0) {
        close(l->listen_fd);
        unlink(l->path);
    }
    if (l->poll) px_del(l->a, l->poll, l->world + l->cap_fresh + 4);
    if (l->fresh) px_del(l->a, l->fresh, l->cap_fresh);
    if (l->rank) px_del(l->a, l->rank, l->world);
    *l = (daemon_links){ .listen_fd = -1, .job_fd = -1, .signal_fd = -1, .wake_fd = -1 };
}

static void accept_one(daemon_links *l)
{
    struct ucred who;
    socklen_t n = sizeof who;
    int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0) return;
    if (l->n_fresh == l->cap_fresh || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) ||
        (who.uid != geteuid() && who.uid != 0)) {
        close(fd);
        return;
    }
    daemon_link *k = &l->fresh[l->n_fresh++];
    *k = (daemon_link){ .fd = fd, .pid = who.pid, .pidfd = pidfd_open(who.pid, 0) };
    if (k->pidfd >= 0) fcntl(k->pidfd, F_SETFD, FD_CLOEXEC);
    proto_frame_reader_init(&k->reader, l->a, PROTO_FRAME_CAP);
}

/* A whole frame that waits in a reader, if any; others' generations are dropped. */
static px_code frame_of(daemon_links *l, daemon_link *k, proto_frame *f, bool *got, px_err *e)
{
    px_code rc;

    for (;;) {
        char found[24], expected[24];
        if ((rc = proto_frame_reader_next(&k->reader, f, got, e)) || !*got || f->generation == l->generation) return rc;
        snprintf(found, sizeof found, "%u", f->generation);
        snprintf(expected, sizeof expected, "%u", l->generation);
        px_err_clear(&l->turned_away);
        px_mismatch(&l->turned_away, daemon_field_name(DAEMON_FIELD_GENERATION), found, expected);
        l->turned_away_pid = k->pid;
    }
}

static bool link_event(daemon_links *l, daemon_link *k, uint32_t i, bool fresh, bool readable, daemon_event *ev)
{
    bool got = false;
    px_err why = {0};
    px_code rc = PX_OK;

    if (k->fd < 0) return false;
    if (readable) rc = proto_frame_reader_fill(&k->reader, k->fd, &why);
    px_code filled = rc;
    if (rc == PX_OK || rc == PX_EPEER) {                  /* what came before the end still counts */
        px_err bad = {0};
        rc = frame_of(l, k, &ev->frame, &got, &bad);
        if (rc) why = bad;
    }
    if (got) {
        ev->kind = fresh ? DAEMON_EV_FRESH : DAEMON_EV_FRAME;
        ev->rank = i;
        return true;
    }
    if (!filled && !rc) return false;
    if (fresh) {
        daemon_links_reject(l, i, &why);
        return false;
    }
    close(k->fd);
    k->fd = -1;                                           /* the pidfd stays: the process may still be there */
    ev->kind = DAEMON_EV_LOST;
    ev->rank = i;
    ev->why = why;
    return true;
}

px_code daemon_links_next(daemon_links *l, px_time_us deadline, daemon_event *ev, px_err *e)
{
    *ev = (daemon_event){ .kind = DAEMON_EV_TIMEOUT };
    for (uint32_t i = 0; i < l->world; i++)
        if (link_event(l, &l->rank[i], i, false, false, ev)) return PX_OK;
    for (uint32_t i = 0; i < l->n_fresh; i++)
        if (link_event(l, &l->fresh[i], i, true, false, ev)) return PX_OK;
    for (;;) {
        nfds_t n = 0;
        l->poll[n++] = (struct pollfd){ l->signal_fd, POLLIN, 0 };
        l->poll[n++] = (struct pollfd){ l->wake_fd, POLLIN, 0 };
        l->poll[n++] = (struct pollfd){ l->job_fd, POLLIN, 0 };
        l->poll[n++] = (struct pollfd){ l->listen_fd, POLLIN, 0 };
        for (uint32_t i = 0; i < l->world; i++) l->poll[n++] = (struct pollfd){ l->rank[i].fd, POLLIN, 0 };
        uint32_t n_fresh = l->n_fresh;
        for (uint32_t i = 0; i < n_fresh; i++) l->poll[n++] = (struct pollfd){ l->fresh[i].fd, POLLIN, 0 };
        int wait = -1;
        if (deadline != PX_NEVER) {
            px_time_us left = deadline - px_now_us();
            wait = left <= 0 ? 0 : left > 3600000000ll ? 3600000 : (int)((left + 999) / 1000);
        }
        int ready = poll(l->poll, n, wait);
        if (ready < 0 && errno != EINTR) return px_fail_errno(e, "poll", "poll");
        if (ready < 0) continue;
        if (ready == 0) {
            if (deadline != PX_NEVER && px_now_us() >= deadline) return PX_OK;
            continue;
        }
        for (uint32_t i = 0; i < l->world; i++)
            if (l->poll[4 + i].revents && link_event(l, &l->rank[i], i, false, true, ev)) return PX_OK;
        /* From the last: a rejected one is replaced by the last of the list. */
        for (uint32_t i = n_fresh; i > 0; i--)
            if (l->poll[4 + l->world + i - 1].revents && link_event(l, &l->fresh[i - 1], i - 1, true, true, ev)) return PX_OK;
        if (l->poll[0].revents) return ev->kind = DAEMON_EV_SIGNAL, PX_OK;
        if (l->poll[2].revents) return ev->kind = DAEMON_EV_JOB, PX_OK;
        if (l->poll[3].revents) accept_one(l);
        if (l->poll[1].revents) return ev->kind = DAEMON_EV_WAKE, PX_OK;
    }
}

px_code daemon_links_adopt(daemon_links *l, uint32_t fresh, uint32_t rank, px_err *e)
{
    if (rank >= l->world)
        return px_fail(e, PX_ERANGE, daemon_field_name(DAEMON_FIELD_HELLO_RANK), "rank %u of a world of %u", rank, l->world);
    if (l->rank[rank].fd >= 0)
        return px_fail(e, PX_EEXIST, daemon_field_name(DAEMON_FIELD_HELLO_RANK), "two processes say that they are rank %u: %d and %d",
                       rank, (int)l->rank[rank].pid, (int)l->fresh[fresh].pid);
    l->rank[rank] = l->fresh[fresh];
    l->fresh[fresh] = l->fresh[--l->n_fresh];
    return PX_OK;
}

void daemon_links_reject(daemon_links *l, uint32_t fresh, const px_err *why)
{
    if (why && why->code) {
        l->turned_away = *why;
        l->turned_away_pid = l->fresh[fresh].pid;
    }
    link_drop(&l->fresh[fresh]);
    l->fresh[fresh] = l->fresh[--l->n_fresh];
}

size_t daemon_links_unfinished(const daemon_links *l, pid_t *pid)
{
    for (uint32_t i = 0; i < l->n_fresh; i++)
        if (l->fresh[i].reader.held > l->fresh[i].reader.consumed) {
            *pid = l->fresh[i].pid;
            return l->fresh[i].reader.held - l->fresh[i].reader.consumed;
        }
    return 0;
}

px_code daemon_links_send(daemon_links *l, uint32_t rank, uint16_t type, const void *data, size_t n, px_time_us deadline, px_err *e)
{
    if (l->rank[rank].fd < 0) return px_fail(e, PX_EPEER, "rank", "rank %u is gone", rank);
    px_code rc = proto_frame_send(l->rank[rank].fd, type, l->generation, data, n, deadline, e);
    if (rc) px_err_set_rank(e, (int)rank, "");
    return rc;
}

void daemon_links_kill(daemon_links *l)
{
    for (uint32_t i = 0; i < l->world; i++)
        if (l->rank[i].pidfd >= 0) syscall(SYS_pidfd_send_signal, l->rank[i].pidfd, SIGKILL, NULL, 0);
    for (uint32_t i = 0; i < l->n_fresh; i++)
        if (l->fresh[i].pidfd >= 0) syscall(SYS_pidfd_send_signal, l->fresh[i].pidfd, SIGKILL, NULL, 0);
}
