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

#define LOOK_AGAIN_MS 100       /* one that we wait for may be held by another one, which is a child of ours by then */

px_code daemon_adopted_begin(px_err *e)
{
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) return px_fail_errno(e, "launcher", "prctl(PR_SET_CHILD_SUBREAPER)");
    return PX_OK;
}

/* Its parent and session; false: it is gone. */
static bool look(pid_t pid, pid_t *parent, pid_t *session)
{
    char path[32], text[512];
    int group;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = 0;
    const char *after = strrchr(text, ')');              /* the name before it may hold anything */
    return after && sscanf(after + 1, " %*c %d %d %d", parent, &group, session) == 3;
}

/* Once through all processes: how many were reaped; *alive: a child of the session that is still there, or 0. */
static int reap(DIR *proc, pid_t session, pid_t spare, pid_t *alive)
{
    const struct dirent *d;
    pid_t self = getpid(), of, in;
    int reaped = 0;

    *alive = 0;
    rewinddir(proc);
    while ((d = readdir(proc))) {
        pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
        if (pid <= 0 || pid == spare || !look(pid, &of, &in) || of != self) continue;
        /* A child's pid is no other process's until we have reaped it. */
        if (in == session) kill(pid, SIGKILL);
        if (waitpid(pid, NULL, WNOHANG) == pid) reaped++;
        else if (in == session) *alive = pid;
    }
    return reaped;
}

pid_t daemon_adopted_end(pid_t session, pid_t spare, px_time_us patience)
{
    px_time_us until = px_now_us() + patience, left;
    DIR *proc = opendir("/proc");
    pid_t alive;

    if (!proc) return 0;
    while (reap(proc, session, spare, &alive) || alive) {
        if ((left = until - px_now_us()) <= 0) break;
        if (!alive) continue;                             /* what the dead have left behind may be ours now */
        struct pollfd p = { pidfd_open(alive, 0), POLLIN, 0 };
        poll(&p, 1, left < LOOK_AGAIN_MS * 1000 ? (int)(left / 1000) + 1 : LOOK_AGAIN_MS);
        if (p.fd >= 0) close(p.fd);
    }
    closedir(proc);
    return alive;
}
