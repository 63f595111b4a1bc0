#include "daemon/coordinator/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/rank/fields.h"

/* ---- the watcher ---- */

#define WATCH_MAX 256

typedef struct watch_note { char kind; int pid; char dir[256]; } watch_note;   /* one write(2): shorter than PIPE_BUF */

static _Noreturn void watch(int fd)
{
    static int  kill_fd[WATCH_MAX];
    static char dir[256];
    int n = 0;
    watch_note note;
    bool clean = false;

    for (;;) {
        ssize_t got = read(fd, &note, sizeof note);
        if (got < 0 && errno == EINTR) continue;
        if (got != (ssize_t)sizeof note) break;
        if (note.kind == 'D') {
            memcpy(dir, note.dir, sizeof dir);
        } else if (note.kind == 'P') {
            /* Those that have ended make room; a pidfd never means another process. */
            int keep = 0;
            for (int i = 0; i < n; i++) {
                if (syscall(SYS_pidfd_send_signal, kill_fd[i], 0, NULL, 0) == 0) kill_fd[keep++] = kill_fd[i];
                else close(kill_fd[i]);
            }
            n = keep;
            int p = pidfd_open(note.pid, 0);
            if (p >= 0 && n < WATCH_MAX) kill_fd[n++] = p;
            else if (p >= 0) close(p);
        } else if (note.kind == 'Q') {
            clean = true;
        }
    }
    if (!clean && n) {
        /* mpirun has got SIGTERM by now and removes its own folder; give it three seconds. */
        for (int i = 0; i < 30; i++) {
            int live = 0;
            for (int k = 0; k < n; k++) live += syscall(SYS_pidfd_send_signal, kill_fd[k], 0, NULL, 0) == 0;
            if (!live) break;
            poll(NULL, 0, 100);
        }
        for (int k = 0; k < n; k++) syscall(SYS_pidfd_send_signal, kill_fd[k], SIGKILL, NULL, 0);
        poll(NULL, 0, 50);
    }
    if (!clean && dir[0]) px_remove_tree(dir, NULL);
    _exit(0);
}

px_code daemon_watcher_start(daemon_watcher *w, px_err *e)
{
    int p[2];

    *w = (daemon_watcher){ .pipe = -1 };
    if (pipe2(p, O_CLOEXEC)) return px_fail_errno(e, "watcher", "pipe");
    pid_t pid = fork();
    if (pid < 0) {
        close(p[0]), close(p[1]);
        return px_fail_errno(e, "watcher", "fork");
    }
    if (pid == 0) {
        setsid();                                        /* no terminal's signal reaches it */
        signal(SIGTERM, SIG_IGN), signal(SIGINT, SIG_IGN), signal(SIGHUP, SIG_IGN), signal(SIGPIPE, SIG_IGN);
        prctl(PR_SET_NAME, "phalanx-watch");
        close(p[1]);
        /* Whoever reads our output to its end must not wait for this process. */
        int null = open("/dev/null", O_RDWR);
        if (null >= 0) dup2(null, 0), dup2(null, 1), dup2(null, 2);
        watch(p[0]);
    }
    close(p[0]);
    *w = (daemon_watcher){ pid, p[1] };
    return PX_OK;
}

static void tell(const daemon_watcher *w, const watch_note *note)
{
    if (w->pipe >= 0) {
        ssize_t ignored = write(w->pipe, note, sizeof *note);   /* a dead watcher: EPIPE, and nothing to be done */
        (void)ignored;
    }
}

void daemon_watcher_dir(const daemon_watcher *w, const char *dir)
{
    watch_note note = { .kind = 'D' };
    snprintf(note.dir, sizeof note.dir, "%s", dir);
    tell(w, &note);
}

void daemon_watcher_pid(const daemon_watcher *w, pid_t pid)
{
    watch_note note = { .kind = 'P', .pid = pid };
    tell(w, &note);
}

void daemon_watcher_stop(daemon_watcher *w)
{
    if (w->pipe < 0) return;
    watch_note note = { .kind = 'Q' };
    tell(w, &note);
    close(w->pipe);
    while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR) continue;
    *w = (daemon_watcher){ .pipe = -1 };
}

/* ---- the job ---- */

/* Launch flags by Open MPI's major version (findings: a coordinator outside the MPI world).  %s is the job's folder. */
typedef struct launch { int major; const char *arg[16]; } launch;
static const launch launches[] = {
    { 4, { "--oversubscribe", "--mca", "pml", "ob1", "--mca", "btl", "self,vader",
           "--mca", "odls_base_sigkill_timeout", "0", NULL } },
    { 5, { "--map-by", ":oversubscribe", "--mca", "pml", "ob1", "--mca", "btl", "self,sm", NULL } },
};
static const launch launch_dirs[] = {       /* each followed by the folder */
    { 4, { "orte_tmpdir_base", "btl_vader_backing_directory", NULL } },
    { 5, { "btl_sm_backing_directory", NULL } },
};

/* What Open MPI puts into those folders, so that it never touches /dev/shm: two PMIx stores of 4 MiB and small files for
 * the job, a segment of 4 MiB for each rank.  A folder without that room ends in a refused MPI_Init, or in SIGBUS. */
#define JOB_BYTES      (9ull << 20)
#define JOB_RANK_BYTES ((4ull << 20) + (64u << 10))

static px_code check_room(const daemon_job_args *args, px_err *e)
{
    uint64_t want = JOB_BYTES + args->ranks * JOB_RANK_BYTES, have;
    char found[48], expected[64];
    struct statvfs v;

    if (statvfs(args->dir, &v)) return px_fail_errno(e, daemon_field_name(DAEMON_FIELD_TMPDIR), args->dir);
    have = (uint64_t)v.f_bavail * v.f_frsize;
    if (!v.f_blocks || have >= want) return PX_OK;        /* some file systems do not tell */
    snprintf(found, sizeof found, "%" PRIu64 " bytes free", have);
    snprintf(expected, sizeof expected, "at least %" PRIu64 " bytes", want);
    px_refuse(e, PX_ERANGE, daemon_field_name(DAEMON_FIELD_TMPDIR), found, expected,
              "no room for the shared memory files of MPI and its %u ranks", args->ranks);
    px_err_set_file(e, args->dir);
    return PX_ERANGE;
}

typedef struct argv_list { const char *v[DAEMON_MAX_ARGS + 1]; int n; } argv_list;

static void add(argv_list *l, const char *s)
{
    if (l->n < DAEMON_MAX_ARGS) l->v[l->n++] = s;
    l->v[l->n] = NULL;
}

static px_code make_argv(argv_list *l, const daemon_job_args *args, char *count, size_t cap, px_err *e)
{
    if (args->launcher) {
        size_t at = 0, n = sizeof launches / sizeof *launches;
        while (at < n && launches[at].major != PHALANX_MPI_MAJOR) at++;
        if (at == n)
            return px_fail(e, PX_EUNSUP, "launcher", "no launch flags for Open MPI %d", PHALANX_MPI_MAJOR);
        add(l, args->launcher);
        if (geteuid() == 0) add(l, "--allow-run-as-root");
        snprintf(count, cap, "%u", args->ranks);
        add(l, "-n"), add(l, count);
        bool fits = (long)args->ranks * args->threads <= sysconf(_SC_NPROCESSORS_ONLN);
        add(l, "--bind-to"), add(l, fits && args->threads == 1 ? "core" : "none");
        for (int i = 0; launches[at].arg[i]; i++) add(l, launches[at].arg[i]);
        for (int i = 0; launch_dirs[at].arg[i]; i++) add(l, "--mca"), add(l, launch_dirs[at].arg[i]), add(l, args->dir);
    }
    add(l, args->rank_program);
    for (int i = 0; args->rank_arg[i]; i++) add(l, args->rank_arg[i]);
    if (l->n >= DAEMON_MAX_ARGS) return px_fail(e, PX_ERANGE, "launcher", "more than %d arguments", DAEMON_MAX_ARGS);
    return PX_OK;
}

px_code daemon_job_spawn(daemon_job *j, const daemon_job_args *args, px_err *e)
{
    argv_list l = { .n = 0 };
    char count[16];
    int report[2];
    px_code rc;

    *j = (daemon_job){ .pidfd = -1 };
    if ((rc = make_argv(&l, args, count, sizeof count, e))) return rc;
    if (args->launcher && (rc = check_room(args, e))) return rc;
    if (pipe2(report, O_CLOEXEC)) return px_fail_errno(e, "launcher", "pipe");
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) {
        close(report[0]), close(report[1]);
        return px_fail_errno(e, "launcher", "fork");
    }
    if (pid == 0) {
        /* mpirun gets SIGTERM at our death, so that it takes its folder with it; a rank on its own gets SIGKILL. */
        prctl(PR_SET_PDEATHSIG, args->launcher ? SIGTERM : SIGKILL);
        if (getppid() != parent) _exit(1);
        setpgid(0, 0);                                    /* a terminal's ^C is for the coordinator alone */
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        int null = open("/dev/null", O_RDONLY);
        if (null >= 0) dup2(null, 0);
        dup2(2, 1);
        execvp(l.v[0], (char *const *)(uintptr_t)l.v);
        int why = errno;
        ssize_t ignored = write(report[1], &why, sizeof why);
        (void)ignored;
        _exit(127);
    }
    close(report[1]);
    int why = 0;
    ssize_t got;
    while ((got = read(report[0], &why, sizeof why)) < 0 && errno == EINTR) continue;
    close(report[0]);
    if (got > 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
        rc = px_fail(e, why == ENOENT ? PX_ENOTFOUND : PX_EIO, "launcher", "%s cannot be started: %s", l.v[0], strerror(why));
        px_err_set_file(e, l.v[0]);
        return rc;
    }
    *j = (daemon_job){ pid, pidfd_open(pid, 0) };
    if (j->pidfd < 0) {
        rc = px_fail_errno(e, "launcher", "pidfd_open");
        daemon_job_end(j, false, 0);
        return rc;
    }
    fcntl(j->pidfd, F_SETFD, FD_CLOEXEC);
    return PX_OK;
}

bool daemon_job_ended(daemon_job *j, char *text, size_t cap)
{
    int status;

    if (!j->pid || waitpid(j->pid, &status, WNOHANG) != j->pid) return false;
    if (WIFSIGNALED(status)) snprintf(text, cap, "signal %d", WTERMSIG(status));
    else snprintf(text, cap, "exit status %d", WEXITSTATUS(status));
    if (j->pidfd >= 0) close(j->pidfd);
    *j = (daemon_job){ .pidfd = -1 };
    return true;
}

void daemon_job_end(daemon_job *j, bool gently, px_time_us patience)
{
    char text[64];

    if (!j->pid) return;
    kill(j->pid, gently ? SIGTERM : SIGKILL);
    px_time_us until = px_now_us() + patience;
    while (gently && !daemon_job_ended(j, text, sizeof text)) {
        px_time_us left = until - px_now_us();
        if (left <= 0) {
            kill(j->pid, SIGKILL);
            break;
        }
        struct pollfd p = { j->pidfd, POLLIN, 0 };
        poll(&p, 1, (int)(left / 1000) + 1);
    }
    if (j->pid) {
        while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR) continue;
        if (j->pidfd >= 0) close(j->pidfd);
    }
    *j = (daemon_job){ .pidfd = -1 };
}

px_code daemon_job_dir_make(char *out, size_t cap, px_err *e)
{
    const char *const env[] = { getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp" };

    for (size_t i = 0; i < sizeof env / sizeof *env; i++) {
        if (!env[i] || env[i][0] != '/' || access(env[i], W_OK | X_OK)) continue;
        int n = snprintf(out, cap, "%s/phalanx-XXXXXX", env[i]);
        if (n < 0 || (size_t)n >= cap || n > 80) continue;     /* room for "/s" within a socket's 107 bytes */
        if (mkdtemp(out)) return PX_OK;
    }
    return px_fail(e, PX_EIO, daemon_field_name(DAEMON_FIELD_TMPDIR), "no folder for sockets: XDG_RUNTIME_DIR, TMPDIR and /tmp are unwritable or too long");
}
