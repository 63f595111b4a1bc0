#include "daemon/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/io.h"
#include "proto/base/mapped.h"

/* A signal handler can reach nothing else. */
static volatile int interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

const volatile int *daemon_cli_interrupts(void)
{
    struct sigaction sa = { .sa_handler = on_signal };      /* no SA_RESTART: a read from a terminal ends */

    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    return &interrupted;
}

bool daemon_cli_interrupted(void) { return interrupted != 0; }

daemon_exit daemon_cli_exit_of(const px_err *e)
{
    switch (e->code) {
    case PX_OK: return DAEMON_EXIT_OK;
    case PX_EINVAL: case PX_ERANGE: case PX_EMISMATCH: case PX_ECORRUPT: case PX_EEXIST: case PX_EUNSUP:
        return DAEMON_EXIT_REFUSED;
    case PX_EPEER: return DAEMON_EXIT_UNAVAILABLE;
    case PX_ECANCELLED: return interrupted ? DAEMON_EXIT_INTERRUPTED : DAEMON_EXIT_FAILURE;
    case PX_ENOTFOUND:        /* where a set should be made is a place, not a part */
        return e->field[0] && strcmp(e->field, "out") ? DAEMON_EXIT_REFUSED : DAEMON_EXIT_FAILURE;
    case PX_ENOMEM: case PX_EIO: case PX_ETIMEOUT: case PX_EBUSY: case PX_EINTERNAL: case PX_EDEVICE:
    case PX_N_CODES:
        break;
    }
    return DAEMON_EXIT_FAILURE;
}

int daemon_cli_fail(const char *command, const px_err *e)
{
    char line[1200];

    fflush(stdout);
    fprintf(stderr, "phalanx %s: %s\n", command, px_err_format(e, line, sizeof line));
    return (int)daemon_cli_exit_of(e);
}

/* Where a mapped file cannot be read any more there is no way back to who asked. */
static struct { const char *command, *partial; const volatile bool *writing; } reader;

static void on_lost_file(void *ctx, const px_err *e)
{
    char line[1200];

    (void)ctx;                             /* no stdio: the thread that reads may hold its locks */
    px_err_format(e, line, sizeof line);
    const char *const say[] = { "\nphalanx ", reader.command, ": ", line, "\n" };
    for (size_t i = 0; i < sizeof say / sizeof *say; i++)
        if (write(2, say[i], strlen(say[i])) < 0) break;
    if (reader.partial && *reader.writing) px_remove_tree(reader.partial, NULL);
    _exit((int)daemon_cli_exit_of(e));
}

void daemon_cli_guard(const char *command)
{
    px_err e = {0};

    reader.command = command;
    if (px_mapped_guard(on_lost_file, NULL, &e)) daemon_cli_fail(command, &e);     /* said, and no reason to end */
}

void daemon_cli_guard_partial(const char *partial, const volatile bool *writing)
{
    reader.writing = writing;
    reader.partial = partial;
}

px_code daemon_cli_read_all(px_alloc *a, int fd, size_t cap, char **data, size_t *bytes, px_err *e)
{
    size_t room = 65536, n = 0;
    char *p = px_new(a, char, room), *more;
    px_code rc = PX_OK;

    *data = NULL;
    *bytes = 0;
    if (!p) return px_fail(e, PX_ENOMEM, "stdin", "no memory for the input");
    for (;;) {
        ssize_t got = read(fd, p + n, room - 1 - n);
        if (got == 0) break;
        if (interrupted) {
            rc = px_fail(e, PX_ECANCELLED, "stdin", "interrupted");
            goto fail;
        }
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            rc = px_fail_errno(e, "stdin", "read");
            goto fail;
        }
        n += (size_t)got;
        if (n > cap) {
            rc = px_fail(e, PX_ERANGE, "stdin", "the input has more than %zu bytes", cap);
            goto fail;
        }
        if (n + 1 < room) continue;
        if (!(more = px_alloc_grow(a, p, room, room * 2, 1, 1))) {
            rc = px_fail(e, PX_ENOMEM, "stdin", "no memory for the input");
            goto fail;
        }
        p = more;
        room *= 2;
    }
    if (!(more = px_alloc_grow(a, p, room, n + 1, 1, 1))) {           /* all beyond what was read is zero */
        rc = px_fail(e, PX_ENOMEM, "stdin", "no memory for the input");
        goto fail;
    }
    *data = more;
    *bytes = n;
    return PX_OK;

fail:
    px_del(a, p, room);
    return rc;
}

uint32_t daemon_cli_cores(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    return cores > 0 ? (uint32_t)cores : 1;
}

char *daemon_cli_grouped(uint64_t n, char buf[32])
{
    char digits[24];
    size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRIu64, n), at = 0;

    for (size_t i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) buf[at++] = ',';
        buf[at++] = digits[i];
    }
    buf[at] = 0;
    return buf;
}

int daemon_cli_finish(int code)
{
    if ((fflush(stdout) || ferror(stdout)) && code == DAEMON_EXIT_OK) {
        fprintf(stderr, "phalanx: standard output: %s\n", strerror(errno ? errno : EIO));
        return DAEMON_EXIT_FAILURE;
    }
    return code;
}

int daemon_cli_become(const char *command, const char *program, char **argv)
{
    char path[4200];
    ssize_t n = readlink("/proc/self/exe", path, 4096);
    px_err e = {0};

    if (n < 0 || n >= 4096) {
        px_fail_errno(&e, program, "/proc/self/exe");
    } else {
        path[n] = 0;
        strcpy(strrchr(path, '/') + 1, program);
        argv[0] = path;
        execv(path, argv);
        px_fail_errno(&e, program, path);
    }
    daemon_cli_fail(command, &e);
    return DAEMON_EXIT_FAILURE;
}
