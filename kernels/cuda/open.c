/* open.c - find the plugin, open it, and say which of plugin, driver and device is missing.
 * Never closed, also when it is refused: errors point to its strings, and the runtime in it has handlers for the exit. */
#include "kernels/cuda/open.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/plugin.h"

/* PLUGIN in `folder` from where the running program lies; false: that cannot be known, or is too long. */
static bool beside(const char *folder, char out[PATH_MAX])
{
    char self[PATH_MAX], *slash;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n <= 0) return false;
    self[n] = '\0';
    if (!(slash = strrchr(self, '/'))) return false;
    slash[1] = '\0';
    n = snprintf(out, PATH_MAX, "%s%s%s", self, folder, KERN_CUDA_PLUGIN_FILE);
    return n > 0 && n < PATH_MAX;
}

static px_code find(char out[PATH_MAX], px_err *e)
{
    if (beside("", out) && !access(out, F_OK)) return PX_OK;
    if (beside("../lib/", out) && !access(out, F_OK)) return PX_OK;
    return px_refuse(e, PX_ENOTFOUND, "plugin", "no file", KERN_CUDA_PLUGIN_FILE,
                     "%s is neither beside this program nor in ../lib from there: this is a build without CUDA",
                     KERN_CUDA_PLUGIN_FILE);
}

/* dlopen names the file that it could not open first: "libcublasLt.so.13: cannot open shared object file: ...".  What the
 * plugin needs and every machine need not have is of the toolkit. */
static px_code cannot(px_err *e, const char *file)
{
    const char *why = dlerror();
    const bool another = why && strncmp(why, file, strlen(file)) && strstr(why, ": cannot open shared object file");

    px_refuse(e, PX_ENOTFOUND, "plugin", why ? why : "no reason", "", "%s: %s",
              another ? "the CUDA plugin needs a library of the CUDA toolkit that is missing" : "the CUDA plugin cannot be opened",
              why ? why : "no reason");
    px_err_set_file(e, file);
    return PX_ENOTFOUND;
}

static px_code check(const kern_ops *ops, px_err *e)
{
    char found[48], expected[48];

    if (!ops) return px_fail(e, PX_EUNSUP, "plugin", "the plugin refuses this program");
    snprintf(found, sizeof found, "abi %u, %u bytes", ops->abi, ops->size);
    snprintf(expected, sizeof expected, "abi %u, %zu bytes", KERN_ABI, sizeof(kern_ops));
    if (ops->abi != KERN_ABI || ops->size != sizeof(kern_ops)) return px_mismatch(e, "plugin", found, expected);
    if (ops->backend != KERN_ON_CUDA) return px_fail(e, PX_EUNSUP, "plugin", "the plugin is not of the CUDA backend");
    return PX_OK;
}

px_code kern_cuda_ops(const kern_ops **out, const char *file, px_err *e)
{
    char path[PATH_MAX];
    const kern_ops *ops;
    void *lib, *make, *probe;
    px_code rc;

    *out = NULL;
    if (!file) {
        if ((rc = find(path, e))) return rc;
        file = path;
    }
    if (!(lib = dlopen(file, RTLD_NOW | RTLD_LOCAL))) return cannot(e, file);
    if (!(make = dlsym(lib, KERN_PLUGIN_SYMBOL)) || !(probe = dlsym(lib, KERN_PLUGIN_PROBE_SYMBOL))) {
        px_fail(e, PX_EUNSUP, "plugin", "the library is no plugin: it lacks %s", make ? KERN_PLUGIN_PROBE_SYMBOL : KERN_PLUGIN_SYMBOL);
        px_err_set_file(e, file);
        return PX_EUNSUP;
    }
    ops = (*(kern_plugin_fn **)&make)(KERN_ABI, sizeof(kern_ops));
    if ((rc = check(ops, e))) {
        px_err_set_file(e, file);
        return rc;
    }
    if ((rc = (*(kern_plugin_probe_fn **)&probe)(e))) return rc;
    *out = ops;
    return PX_OK;
}
