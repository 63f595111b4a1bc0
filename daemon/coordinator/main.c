/* phalanxd: the coordinator.  `phalanx serve` starts it in the foreground. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon/coordinator/adopted.h"
#include "daemon/coordinator/server.h"
#include "daemon/coordinator/supervisor.h"
#include "daemon/rank/contract.h"
#include "kernels/math.h"

typedef struct service {
    px_log_sink    log;
    px_heap        heap;
    proto_config   config;
    char           config_path[1024];
    bool           from_flag[PROTO_MAX_FIELDS];
    bool           dry_run;
    char           rank_program[1100];
    daemon_watcher watcher;
    daemon_engine *engine;
    daemon_server *server;
    uint16_t       port;
} service;

static void usage(FILE *out)
{
    char value[1100];
    proto_config c;

    fputs("usage: phalanxd -c FILE.yaml [--dry-run] [--KEY VALUE ...]\n"
          "Serves a shard set over gRPC.  `ready address=HOST:PORT` on standard output says that it serves; logs go to\n"
          "standard error.  Exit codes: 0 stopped by a signal, 2 usage or configuration, 3 refused at the start or\n"
          "restarts used up, 1 anything else.  --dry-run ends before memory is taken: ranks have met, and the plan fits.\n\nKeys of the file, each also a flag:\n", out);
    proto_config_init(&c);
    for (size_t i = 0; i < proto_n_fields; i++)
        fprintf(out, "  --%-24s %s (default: %s)\n", proto_fields[i].key, proto_fields[i].doc,
                *proto_config_show(&c, &proto_fields[i], value, sizeof value) ? value : "none");
}

static void complain(const px_err *errs, size_t n)
{
    char line[1024];
    for (size_t i = 0; i < n; i++) fprintf(stderr, "phalanxd: %s\n", px_err_format(&errs[i], line, sizeof line));
}

/* 0: go on; else the exit code (-1: help was asked for). */
static int parse(service *s, int argc, char **argv)
{
    px_err errs[16] = {0}, e = {0};
    size_t n = 0;

    proto_config_init(&s->config);
    /* The file first, wherever it stands: flags are over it. */
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return usage(stdout), -1;
        if (strcmp(argv[i], "-c")) continue;
        if (i + 1 >= argc) return fputs("phalanxd: -c needs a file\n", stderr), 2;
        if (!realpath(argv[i + 1], s->config_path)) {
            px_fail_errno(&e, "config", argv[i + 1]);
            return complain(&e, 1), 2;
        }
        if (proto_config_read(&s->config, &s->heap.a, argv[i + 1], errs, 16, &n)) return complain(errs, n), 2;
    }
    for (int i = 1; i < argc; i += 2) {
        if (!strcmp(argv[i], "-c")) continue;
        if (!strcmp(argv[i], "--dry-run")) {
            s->dry_run = true;
            i--;                                       /* it has no value */
            continue;
        }
        if (strncmp(argv[i], "--", 2) || i + 1 >= argc) {
            fprintf(stderr, "phalanxd: %s: flags are --KEY VALUE; --help lists them\n", argv[i]);
            return 2;
        }
        if (proto_config_set(&s->config, argv[i] + 2, argv[i + 1], &e)) return complain(&e, 1), 2;
        s->from_flag[proto_config_find(argv[i] + 2) - proto_fields] = true;
    }
    if (proto_config_check(&s->config, &e)) return complain(&e, 1), 2;
    char set[sizeof s->config.set];
    if (!realpath(s->config.set, set)) {
        px_fail_errno(&e, "set", s->config.set);
        return complain(&e, 1), 3;
    }
    memcpy(s->config.set, set, sizeof set);
    return 0;
}

/* phalanx-rank lies beside us. */
static px_code find_rank_program(service *s, px_err *e)
{
    char self[1024];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n < 0) return px_fail_errno(e, "phalanx-rank", "/proc/self/exe");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    snprintf(s->rank_program, sizeof s->rank_program, "%s/phalanx-rank", self);
    if (access(s->rank_program, X_OK)) return px_fail_errno(e, "phalanx-rank", s->rank_program);
    return PX_OK;
}

static void state_changed(void *ctx, daemon_state st)
{
    service *s = ctx;
    if (s->server) daemon_server_set_state(s->server, st);
}

static void say_ready(void *ctx)
{
    service *s = ctx;
    char host[256];
    uint16_t port;
    px_err e = {0};

    if (proto_split_address(s->config.listen, host, sizeof host, &port, &e)) return;
    printf(strchr(host, ':') ? "ready address=[%s]:%u\n" : "ready address=%s:%u\n", host, s->port);
    fflush(stdout);
    px_log_line(&s->log, PX_INFO, "ready", "address=%s port=%u", host, s->port);
}

static int serve(service *s, int signal_fd)
{
    px_err e = {0};
    char line[1024];
    daemon_engine_args args = { .config = &s->config, .log = &s->log, .config_path = s->config_path,
                                .from_flag = s->from_flag, .watcher = &s->watcher, .rank_program = s->rank_program,
                                .dry_run = s->dry_run, .signal_fd = signal_fd, .state_changed = state_changed, .ctx = s };
    int code = 1;

    if (find_rank_program(s, &e) || daemon_engine_open(&s->engine, &s->heap.a, &args, &e)) goto fail;
    if (daemon_server_open(&s->server, &s->heap.a, &s->config, &s->log, s->engine, &s->port, &e)) {
        code = e.code == PX_EBUSY ? 3 : 1;
        goto fail;
    }
    px_log_line(&s->log, PX_INFO, "listening", "port=%u", s->port);
    code = daemon_engine_run(s->engine, say_ready, s);
    daemon_server_drain(s->server, px_now_us() + 1000000);
    daemon_server_close(s->server);
    s->server = NULL;
    daemon_engine_close(s->engine);
    px_log_line(&s->log, PX_INFO, "exit", "code=%d", code);
    return code;

fail:
    px_log_err(&s->log, PX_ERROR, "start_failed", &e);
    fprintf(stderr, "phalanxd: %s\n", px_err_format(&e, line, sizeof line));
    daemon_engine_close(s->engine);
    return code;
}

int main(int argc, char **argv)
{
    static service s;
    px_err e = {0};
    px_level level;
    sigset_t set;
    int code;

    kern_ftz_set();
    signal(SIGPIPE, SIG_IGN);
    /* The ranks' OpenMP threads wait some microseconds by spinning, then sleep: with the library's default a busy
     * neighbour on one of two cores takes a rank of two threads from 380 to 15 tokens/s, so from 350 to 120. */
    setenv("GOMP_SPINCOUNT", "1000", 0);
    px_heap_init(&s.heap, "coordinator");
    if ((code = parse(&s, argc, argv))) return code < 0 ? 0 : code;
    if (px_level_parse(s.config.log_level, &level, &e)) return complain(&e, 1), 2;
    px_log_init(&s.log, 2, level, -1);

    /* The watcher first: it is forked before any thread.  Then the signals, so that every thread has them blocked. */
    if (daemon_watcher_start(&s.watcher, &e) || daemon_adopted_begin(&e)) return complain(&e, 1), 1;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd < 0) {
        px_fail_errno(&e, "signalfd", "signalfd");
        code = 1;
        complain(&e, 1);
    } else {
        code = serve(&s, signal_fd);
        close(signal_fd);
    }
    daemon_watcher_stop(&s.watcher);
    px_heap_deinit(&s.heap);
    return code;
}
