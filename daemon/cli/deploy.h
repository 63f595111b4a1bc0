/* deploy.h - what `phalanx plan` is asked: options, a deployment file, sizes with units.
 * Layer: daemon/cli. */
#ifndef DAEMON_DEPLOY_H
#define DAEMON_DEPLOY_H

#include <stdbool.h>

#include "proto/base/alloc.h"

/* "80GiB", "79.2 GiB", "512MB": units of 1000 (K M G T, with or without B) or of 1024 (KiB MiB GiB TiB). */
bool daemon_parse_size(const char *s, uint64_t *bytes);

/* A YAML file of options as arguments: `key: value` is --key=value, `key: [a, b]` is --key=a --key=b.  argv[0] and what the
 * caller puts behind win, because they come later.  section: of a larger document this map alone, which may be absent; NULL:
 * the document is the map.  Put with daemon_deploy_deinit.
 * Errors, e->file the file: PX_EINVAL (no flat map of words and lists of words; anchors, aliases, tags), PX_EEXIST (a key
 * twice), PX_ERANGE (too large), PX_ENOMEM, and those of px_read_file. */
typedef struct daemon_deploy { px_alloc *a; char *text; size_t bytes; char **arg; size_t n, cap; } daemon_deploy;
px_code daemon_deploy_read(daemon_deploy *d, px_alloc *a, const char *path, const char *section, px_err *e);
void    daemon_deploy_deinit(daemon_deploy *d);

#endif
