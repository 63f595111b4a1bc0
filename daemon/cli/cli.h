/* cli.h - what the subcommands of `phalanx` share: exit codes, signals, messages.
 * Layer: daemon/cli.  One thread.  Results go to standard output, everything else to standard error. */
#ifndef DAEMON_CLI_H
#define DAEMON_CLI_H

#include "proto/base/alloc.h"

/* Exit codes, the same for every subcommand. */
typedef enum daemon_exit {
    DAEMON_EXIT_OK = 0,
    DAEMON_EXIT_FAILURE = 1,       /* the system said no: files, memory, a timeout, a server's inner error */
    DAEMON_EXIT_USAGE = 2,         /* the command line is wrong */
    DAEMON_EXIT_REFUSED = 3,       /* understood and refused: damaged, mismatched, not served, out of range */
    DAEMON_EXIT_UNAVAILABLE = 4,   /* no server there, or it is not ready */
    DAEMON_EXIT_INTERRUPTED = 130  /* SIGINT or SIGTERM */
} daemon_exit;

/* A subcommand: argv[0] is its name.  Returns an exit code. */
typedef int daemon_cli_run(px_alloc *a, int argc, char **argv);
daemon_cli_run daemon_cli_plan, daemon_cli_shard, daemon_cli_verify, daemon_cli_serve, daemon_cli_tokenize,
               daemon_cli_detokenize, daemon_cli_supported, daemon_cli_generate, daemon_cli_score, daemon_cli_info, daemon_cli_compare;
/* The exit code of a command that ends with `code`: results that did not reach their file are a failure. */
int daemon_cli_finish(int code);
/* Become the program that lies beside this one, with argv as it is; returns only with an error's exit code. */
int daemon_cli_become(const char *command, const char *program, char **argv);
/* Subcommands that talk to a server live in phalanx-client, so that the others need not load gRPC: become it. */
#define DAEMON_CLI_CLIENT "phalanx-client"

/* Take SIGINT and SIGTERM from now on: they only set the flag. */
const volatile int *daemon_cli_interrupts(void);
bool daemon_cli_interrupted(void);
/* The exit code for an error: what is not there is a failure, what lacks a part (e->field) is refused. */
daemon_exit daemon_cli_exit_of(const px_err *e);
/* "phalanx COMMAND: ..." on standard error; returns the exit code. */
int daemon_cli_fail(const char *command, const px_err *e);

/* Called by main: a mapped file that is truncated while a command reads it is named, and ends the program with
 * DAEMON_EXIT_REFUSED (PX_EIO: DAEMON_EXIT_FAILURE). */
void daemon_cli_guard(const char *command);
/* The folder to remove then, once *writing; NULL: none. */
void daemon_cli_guard_partial(const char *partial, const volatile bool *writing);

/* All of a descriptor (at most cap bytes), terminated; put with px_del(a, *data, *bytes + 1).
 * Errors: PX_ERANGE (more than cap), PX_EIO, PX_ENOMEM, PX_ECANCELLED (a signal came). */
px_code daemon_cli_read_all(px_alloc *a, int fd, size_t cap, char **data, size_t *bytes, px_err *e);
#define DAEMON_CLI_STDIN_CAP ((size_t)1 << 30)

/* 12,345,678; returns buf. */
char *daemon_cli_grouped(uint64_t n, char buf[32]);
uint32_t daemon_cli_cores(void);                        /* of this machine, at least 1 */

#endif
