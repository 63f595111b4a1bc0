#include "shard/plan/measure.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first `cap` bytes of a small file; 0: there is none. */
static size_t slurp(const char *root, const char *dir, const char *name, char *buf, size_t cap)
{
    char path[4096];
    size_t n = 0;
    FILE *f;

    buf[0] = 0;
    if (snprintf(path, sizeof path, "%s%s%s", root, dir, name) >= (int)sizeof path || !(f = fopen(path, "re"))) return 0;
    n = fread(buf, 1, cap - 1, f);
    fclose(f);
    buf[n] = 0;
    return n;
}

/* The number behind a word that begins a line; false: there is none. */
static bool number_after(const char *text, const char *word, uint64_t *out)
{
    size_t n = strlen(word);

    for (const char *p = text; p; p = strchr(p, '\n')) {
        if (*p == '\n') p++;
        if (!strncmp(p, word, n) && (p[n] == ' ' || p[n] == ':' || p[n] == '\t')) return sscanf(p + n, "%*[: \t]%" SCNu64, out) == 1;
    }
    return false;
}

/* What one group leaves; UINT64_MAX: no limit, or no such files. */
static uint64_t room(const char *root, const char *dir, const char *limit_name, const char *use_name)
{
    char text[8192];
    uint64_t limit, use, active = 0, inactive = 0, spare;
    char *end;

    if (!slurp(root, dir, limit_name, text, sizeof text)) return UINT64_MAX;
    limit = strtoull(text, &end, 10);
    if (end == text || limit >= UINT64_MAX >> 2) return UINT64_MAX;               /* "max", or v1's way to say it */
    if (!slurp(root, dir, use_name, text, sizeof text)) return UINT64_MAX;
    use = strtoull(text, NULL, 10);
    slurp(root, dir, "/memory.stat", text, sizeof text);
    if (!number_after(text, "active_file", &active)) active = 0;
    if (!number_after(text, "inactive_file", &inactive)) inactive = 0;
    spare = active + inactive < use ? active + inactive : use;
    use -= spare;
    return limit > use ? limit - use : 0;
}

/* The tightest of a group and those around it. */
static uint64_t tightest(const char *root, const char *mount, const char *group, const char *limit_name, const char *use_name)
{
    char dir[2048];
    uint64_t least, n;

    if (snprintf(dir, sizeof dir, "%s%s", mount, group) >= (int)sizeof dir) return UINT64_MAX;
    least = room(root, mount, limit_name, use_name);          /* in a container the mount is the group */
    while (strlen(dir) > strlen(mount)) {
        char *slash = strrchr(dir, '/');
        n = room(root, dir, limit_name, use_name);
        if (n < least) least = n;
        *slash = 0;
    }
    return least;
}

px_code shard_measure_free(const char *root, shard_free_memory *out, px_err *e)
{
    char text[8192], group[1024];
    uint64_t kib;

    *out = (shard_free_memory){ .cgroup = UINT64_MAX };
    if (!slurp(root, "/proc/meminfo", "", text, sizeof text)) return px_fail(e, PX_ENOTFOUND, "MemAvailable", "there is no /proc/meminfo");
    if (!number_after(text, "MemAvailable", &kib) || kib > UINT64_MAX >> 10)
        return px_fail(e, PX_ECORRUPT, "MemAvailable", "/proc/meminfo does not tell it");
    out->available = kib << 10;
    slurp(root, "/proc/self/cgroup", "", text, sizeof text);
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        const char *kinds = strchr(line, ':'), *path = kinds ? strchr(kinds + 1, ':') : NULL;
        uint64_t n = UINT64_MAX;
        if (!path || snprintf(group, sizeof group, "%s", path + 1) >= (int)sizeof group || strstr(group, "..")) continue;
        if (path == kinds + 1) n = tightest(root, "/sys/fs/cgroup", group, "/memory.max", "/memory.current");
        else if (!strncmp(kinds, ":memory:", 8))
            n = tightest(root, "/sys/fs/cgroup/memory", group, "/memory.limit_in_bytes", "/memory.usage_in_bytes");
        if (n < out->cgroup) out->cgroup = n;
    }
    out->bytes = out->cgroup < out->available ? out->cgroup : out->available;
    return PX_OK;
}

px_code shard_measure_resident(const char *root, shard_resident *out, px_err *e)
{
    const struct { const char *word; uint64_t *to; } field[] = {
        { "RssAnon", &out->anonymous }, { "RssShmem", &out->shared }, { "RssFile", &out->files } };
    char text[8192];

    *out = (shard_resident){ 0 };
    if (!slurp(root, "/proc/self/status", "", text, sizeof text)) return px_fail(e, PX_ENOTFOUND, "RssAnon", "there is no /proc/self/status");
    for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
        uint64_t kib;
        if (!number_after(text, field[i].word, &kib) || kib > UINT64_MAX >> 10) {
            *out = (shard_resident){ 0 };
            return px_fail(e, PX_ECORRUPT, field[i].word, "/proc/self/status does not tell it");
        }
        *field[i].to = kib << 10;
    }
    return PX_OK;
}
