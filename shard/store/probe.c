#include "shard/store/probe.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/io.h"

static bool is_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && !strcmp(s + n - t, tail);
}

static px_code in_folder(shard_probe *p, px_err *e)
{
    px_code rc;
    char manifest[4096], adapter[4096];

    if ((rc = px_path_join(manifest, sizeof manifest, p->dir, "manifest.json", e)) ||
        (rc = px_path_join(adapter, sizeof adapter, p->dir, "adapter_config.json", e)) ||
        (rc = px_path_join(p->config, sizeof p->config, p->dir, "config.json", e)) ||
        (rc = px_path_join(p->weights, sizeof p->weights, p->dir, "model.safetensors", e)) ||
        (rc = px_path_join(p->index, sizeof p->index, p->dir, "model.safetensors.index.json", e)))
        return rc;
    if (is_file(manifest)) { p->kind = SHARD_IS_SET; return PX_OK; }
    if (is_file(adapter)) {                              /* weights to be added to those of another model */
        return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, "adapter_config.json", "an adapter",
                                   "a model with the adapter merged into it");
    }
    if (!is_file(p->config))
        return px_fail(e, PX_ENOTFOUND, "config.json", "the folder has no config.json and no manifest.json");
    p->kind = SHARD_IS_SAFETENSORS;
    if (is_file(p->weights)) {
        p->index[0] = 0;
    } else {
        p->weights[0] = 0;
        if (!is_file(p->index)) {
            p->index[0] = 0;
            p->kind = SHARD_IS_CONFIG;
        }
    }
    return PX_OK;
}

static px_code first_bytes(const char *path, char magic[4], size_t *n, px_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t got;

    if (fd < 0) return px_fail_errno(e, "", "open");
    got = read(fd, magic, 4);
    close(fd);
    if (got < 0) return px_fail_errno(e, "", "read");
    *n = (size_t)got;
    return PX_OK;
}

static px_code beside(shard_probe *p, const char *path, px_err *e)
{
    const char *slash = strrchr(path, '/');
    int n = slash == path ? snprintf(p->dir, sizeof p->dir, "/")
          : slash         ? snprintf(p->dir, sizeof p->dir, "%.*s", (int)(slash - path), path)
                          : snprintf(p->dir, sizeof p->dir, ".");

    if (n < 0 || (size_t)n >= sizeof p->dir || strlen(path) >= sizeof p->config)
        return px_fail(e, PX_ERANGE, "path", "a path of %zu bytes", strlen(path));
    return PX_OK;
}

static px_code probe(shard_probe *p, const char *path, px_err *e)
{
    px_code rc;
    struct stat st;
    char magic[4] = {0};
    size_t n = 0;

    if (stat(path, &st)) return px_fail_errno(e, "", "stat");
    if (S_ISDIR(st.st_mode)) {
        if (strlen(path) >= sizeof p->dir) return px_fail(e, PX_ERANGE, "path", "a path of %zu bytes", strlen(path));
        snprintf(p->dir, sizeof p->dir, "%s", path);
        return in_folder(p, e);
    }
    if (!S_ISREG(st.st_mode)) return px_fail(e, PX_EINVAL, "", "is neither a file nor a folder");
    if ((rc = first_bytes(path, magic, &n, e)) || (rc = beside(p, path, e))) return rc;
    if (n == 4 && !memcmp(magic, "GGUF", 4)) { p->kind = SHARD_IS_GGUF; return PX_OK; }
    if (ends_with(path, "manifest.json")) { p->kind = SHARD_IS_SET; return PX_OK; }
    if (ends_with(path, ".json")) {
        if (ends_with(path, ".index.json")) {
            if ((rc = px_path_join(p->config, sizeof p->config, p->dir, "config.json", e))) return rc;
            snprintf(p->index, sizeof p->index, "%s", path);
            p->kind = SHARD_IS_SAFETENSORS;
        } else {
            snprintf(p->config, sizeof p->config, "%s", path);
            p->kind = SHARD_IS_CONFIG;
        }
        return PX_OK;
    }
    if (ends_with(path, ".safetensors")) {
        if ((rc = px_path_join(p->config, sizeof p->config, p->dir, "config.json", e))) return rc;
        snprintf(p->weights, sizeof p->weights, "%s", path);
        p->kind = SHARD_IS_SAFETENSORS;
        return PX_OK;
    }
    if (ends_with(path, ".yaml")) { p->kind = SHARD_IS_MODEL; return PX_OK; }
    return px_fail(e, PX_EINVAL, "magic", "is neither a GGUF file nor a .safetensors nor a config.json");
}

px_code shard_probe_path(shard_probe *p, const char *path, px_err *e)
{
    px_code rc;

    *p = (shard_probe){0};
    rc = probe(p, path, e);
    if (rc) px_err_set_file(e, path);
    return rc;
}
