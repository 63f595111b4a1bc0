/* serve: become phalanxd, which lies beside this program. */
#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "proto/config/config.h"

static void help(void)
{
    char value[1100];
    proto_config c;

    puts("usage: phalanx serve -c FILE.yaml [--dry-run] [--KEY VALUE ...]\n\n"
         "Serves a shard set over gRPC in the foreground.  Starts the ranks, checks that they agree, and prints one line\n"
         "`ready address=HOST:PORT` on standard output when it serves; logs go to standard error.  SIGTERM and SIGINT stop\n"
         "it: running calls get grace_s seconds.  --dry-run starts the ranks, compares what they say, prints each one's plan, and\n"
         "ends before memory is taken: exit code 0 if all fits.\n\n"
         "Exit codes: 0 stopped by a signal, 2 usage or configuration, 3 refused at the start or restarts used up,\n"
         "1 anything else.\n\nKeys of the file, each also a flag that is over the file:");
    proto_config_init(&c);
    for (size_t i = 0; i < proto_n_fields; i++) {
        const proto_field *f = &proto_fields[i];
        proto_config_show(&c, f, value, sizeof value);
        printf("  --%-24s %s (default: %s)\n", f->key, f->doc, *value ? value : "none");
    }
}

int daemon_cli_serve(px_alloc *a, int argc, char **argv)
{
    (void)a;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return help(), DAEMON_EXIT_OK;
    if (argc == 1) {
        fputs("phalanx serve: which set?  Give -c FILE.yaml or --set FOLDER; phalanx serve --help tells more\n", stderr);
        return DAEMON_EXIT_USAGE;
    }
    return daemon_cli_become("serve", "phalanxd", argv);
}
