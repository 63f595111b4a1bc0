#include "daemon/coordinator/adopted.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARK          "PHALANX_COORDINATOR"     /* our pid */
#define EXITING       0x4u                      /* PF_EXITING: it may have no environment any more, and is not reaped yet */
#define LOOK_AGAIN_MS 100                       /* one that we wait for may be held by another one, which is a child of ours by then */

px_code daemon_adopted_begin(px_err *e)
{
    char pid[16];

    snprintf(pid, sizeof pid, "%d", (int)getpid());
    if (setenv(MARK, pid, 1)) return px_fail_errno(e, "launcher", "setenv");
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) return px_fail_errno(e, "launcher", "prctl(PR_SET_CHILD_SUBREAPER)");
    return PX_OK;
}

static int open_of(pid_t pid, const char *what)
{
    char path[40];

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* Whether it is a child of ours, and whether it is about to end by itself. */
static bool is_child(pid_t pid, bool *exiting)
{
    char text[512];
    int parent;
    unsigned flags;
    int fd = open_of(pid, "stat");

    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = 0;
    const char *after = strrchr(text, ')');              /* the name before it may hold anything */
    if (!after || sscanf(after + 1, " %*c %d %*d %*d %*d %*d %u", &parent, &flags) != 2) return false;
    *exiting = flags & EXITING;
    return parent == getpid();
}

/* Whether its environment has our mark: NAME=VALUE with a zero behind each. */
static bool is_marked(pid_t pid)
{
    char mark[40], buf[4096];
    ssize_t n;
    size_t at = 0;                                       /* so much of the mark the variable begins with */
    bool same = true;                                    /* it has nothing else so far */
    int fd = open_of(pid, "environ");

    if (fd < 0) return false;
    size_t all = (size_t)snprintf(mark, sizeof mark, MARK "=%d", (int)getpid()) + 1;     /* with its zero */
    while (at < all && (n = read(fd, buf, sizeof buf)) > 0)
        for (ssize_t i = 0; i < n && at < all; i++) {
            same = same && buf[i] == mark[at];
            if (same) at++;
            if (!buf[i] && at < all) at = 0, same = true;
        }
    close(fd);
    return at == all;
}

/* Once through all processes: how many were reaped; *alive: a child that has to end and is still there, or 0. */
static int reap(DIR *proc, pid_t spare, pid_t *alive)
{
    const struct dirent *d;
    int reaped = 0;
    bool exiting;

    *alive = 0;
    rewinddir(proc);
    while ((d = readdir(proc))) {
        pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
        if (pid <= 0 || pid == spare || !is_child(pid, &exiting)) continue;
        const bool marked = is_marked(pid);
        if (marked) kill(pid, SIGKILL);                   /* a child's pid is no other process's until we have reaped it */
        if (waitpid(pid, NULL, WNOHANG) == pid) reaped++;
        else if (marked || exiting) *alive = pid;
    }
    return reaped;
}

pid_t daemon_adopted_end(pid_t spare, px_time_us patience)
{
    px_time_us until = px_now_us() + patience, left;
    DIR *proc = opendir("/proc");
    pid_t alive;

    if (!proc) return 0;
    while (reap(proc, spare, &alive) || alive) {
        if ((left = until - px_now_us()) <= 0) break;
        if (!alive) continue;                             /* what the dead have left behind may be ours now */
        struct pollfd p = { pidfd_open(alive, 0), POLLIN, 0 };
        poll(&p, 1, left < LOOK_AGAIN_MS * 1000 ? (int)(left / 1000) + 1 : LOOK_AGAIN_MS);
        if (p.fd >= 0) close(p.fd);
    }
    closedir(proc);
    return alive;
}
