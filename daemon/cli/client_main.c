/* phalanx-client: the subcommands of `phalanx` that talk to a server.  phalanx becomes it; its messages are phalanx's. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"

static const struct subcommand { const char *name; daemon_cli_run *run; } subcommands[] = {
    { "generate", daemon_cli_generate }, { "score", daemon_cli_score }, { "info", daemon_cli_info }, { "compare", daemon_cli_compare },
};

int main(int argc, char **argv)
{
    px_heap heap;

    for (size_t i = 0; argc > 1 && i < sizeof subcommands / sizeof *subcommands; i++) {
        if (strcmp(argv[1], subcommands[i].name)) continue;
        px_heap_init(&heap, "cli");
        daemon_cli_guard(strcmp(argv[1], "compare") ? argv[1] : "plan");
        int code = subcommands[i].run(&heap.a, argc - 1, argv + 1);
        px_heap_deinit(&heap);
        return daemon_cli_finish(code);
    }
    fputs("phalanx-client is a part of phalanx: phalanx --help\n", stderr);
    return DAEMON_EXIT_USAGE;
}
