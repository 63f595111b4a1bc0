/* phalanx: the command line.  A table of subcommands, a file each; those without a function here are phalanx-client's. */
#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "proto/base/io.h"

static const struct subcommand { const char *name; daemon_cli_run *run; const char *doc; } subcommands[] = {
    { "plan",       daemon_cli_plan,       "what every rank will hold in memory, to the byte" },
    { "shard",      daemon_cli_shard,      "cut a checkpoint into a shard set" },
    { "verify",     daemon_cli_verify,     "check a shard set" },
    { "serve",      daemon_cli_serve,      "serve a shard set over gRPC" },
    { "tokenize",   daemon_cli_tokenize,   "text on standard input to token ids" },
    { "detokenize", daemon_cli_detokenize, "token ids on standard input to text" },
    { "supported",  daemon_cli_supported,  "what is read, stored and served" },
    { "generate",   NULL,                  "complete a prompt or a chat on a server" },
    { "score",      NULL,                  "log-probabilities of a given text on a server" },
    { "info",       NULL,                  "state, memory and cold start of a server" },
};
#define N (sizeof subcommands / sizeof *subcommands)

static void usage(FILE *out)
{
    fputs("usage: phalanx COMMAND ...\n\nCommands (phalanx COMMAND --help tells more):\n", out);
    for (size_t i = 0; i < N; i++) fprintf(out, "  %-12s%s\n", subcommands[i].name, subcommands[i].doc);
    fputs("\nphalanx --version prints the version.\n"
          "Exit codes: 0 done, 1 failure, 2 usage, 3 refused (damaged, mismatched, not served, out of range),\n"
          "4 no server or not ready, 130 interrupted.\n", out);
}

int main(int argc, char **argv)
{
    const char *names[N], *near;
    px_heap heap;
    int code = DAEMON_EXIT_USAGE;

    if (argc < 2) return usage(stderr), DAEMON_EXIT_USAGE;
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return usage(stdout), daemon_cli_finish(DAEMON_EXIT_OK);
    if (!strcmp(argv[1], "--version")) return puts("phalanx " PHALANX_BUILD), daemon_cli_finish(DAEMON_EXIT_OK);
    for (size_t i = 0; i < N; i++) {
        names[i] = subcommands[i].name;
        if (strcmp(argv[1], names[i])) continue;
        if (!subcommands[i].run) return daemon_cli_become(names[i], DAEMON_CLI_CLIENT, argv);
        px_heap_init(&heap, "cli");
        daemon_cli_guard(names[i]);
        code = subcommands[i].run(&heap.a, argc - 1, argv + 1);
        px_heap_deinit(&heap);
        return daemon_cli_finish(code);
    }
    near = px_nearest(argv[1], names, N);
    fprintf(stderr, "phalanx: \"%.100s\" is no command%s%s; phalanx --help lists them\n", argv[1],
            near ? "; the nearest is " : "", near ? near : "");
    return code;
}
