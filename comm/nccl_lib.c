#include "comm/nccl_lib.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "comm/device.h"

typedef struct symbol { const char *name; size_t at; bool may_lack; } symbol;

#define AT(member) offsetof(comm_nccl_lib, member)

static const symbol symbols[] = {
    { "ncclGetVersion", AT(get_version), false },
    { "ncclGetUniqueId", AT(get_unique_id), false },
    { "ncclCommInitRankConfig", AT(comm_init_rank_config), false },
    { "ncclCommGetAsyncError", AT(comm_get_async_error), false },
    { "ncclCommFinalize", AT(comm_finalize), false },
    { "ncclCommDestroy", AT(comm_destroy), false },
    { "ncclCommAbort", AT(comm_abort), false },
    { "ncclAllReduce", AT(all_reduce), false },
    { "ncclGetErrorString", AT(get_error_string), false },
    { "ncclGetLastError", AT(get_last_error), false },
    { "ncclMemAlloc", AT(mem_alloc), true },
    { "ncclMemFree", AT(mem_free), true },
    { "ncclCommWindowRegister", AT(window_register), true },
    { "ncclCommWindowDeregister", AT(window_deregister), true },
};
#define N_SYMBOLS (sizeof symbols / sizeof *symbols)

void comm_nccl_version_text(int version, char *out, size_t cap)
{
    const int major = version >= 10000 ? 10000 : 1000;     /* 2.8 and before counted in thousands */

    snprintf(out, cap, "%d.%d.%d", version / major, version % major / 100, version % 100);
}

bool comm_nccl_lib_symmetric(const comm_nccl_lib *lib)
{
    return lib->version >= COMM_NCCL_SYMMETRIC && lib->mem_alloc && lib->mem_free && lib->window_register && lib->window_deregister;
}

static px_code find_all(comm_nccl_lib *lib, px_err *e)
{
    for (size_t i = 0; i < N_SYMBOLS; i++) {
        void *f = dlsym(lib->handle, symbols[i].name);
        if (!f && !symbols[i].may_lack)
            return px_refuse(e, PX_EUNSUP, "nccl", "", symbols[i].name, "%s has no %s", COMM_NCCL_FILE, symbols[i].name);
        memcpy((char *)lib + symbols[i].at, &f, sizeof f);
    }
    return PX_OK;
}

static px_code check_version(comm_nccl_lib *lib, px_err *e)
{
    char found[24], oldest[32];
    int r = lib->get_version(&lib->version);

    if (r) return px_fail(e, PX_EUNSUP, "nccl", "ncclGetVersion: %.180s", lib->get_error_string(r));
    if (lib->version >= COMM_NCCL_OLDEST) return PX_OK;
    comm_nccl_version_text(lib->version, found, sizeof found);
    comm_nccl_version_text(COMM_NCCL_OLDEST, oldest, sizeof oldest);
    return px_refuse(e, PX_EUNSUP, "nccl", found, oldest, "%s is too old", COMM_NCCL_FILE);
}

px_code comm_nccl_lib_open(comm_nccl_lib *lib, px_err *e)
{
    px_code rc;

    *lib = (comm_nccl_lib){0};
    if (!(lib->handle = dlopen(COMM_NCCL_FILE, RTLD_NOW | RTLD_LOCAL))) {
        const char *why = dlerror();
        return px_refuse(e, PX_EUNSUP, "nccl", why ? why : "", COMM_NCCL_FILE,
                         "%s cannot be opened; reduce: ordered needs none", COMM_NCCL_FILE);
    }
    if ((rc = find_all(lib, e)) || (rc = check_version(lib, e))) {
        dlclose(lib->handle);
        *lib = (comm_nccl_lib){0};
    }
    return rc;
}

void comm_nccl_version(char *out, size_t cap)
{
    /* Not unmapped: it has a CUDA runtime in it, with things to do at the exit, and a rank opens it again soon. */
    void *handle = dlopen(COMM_NCCL_FILE, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    int (*get)(int *) = NULL, version = 0;

    if (cap) out[0] = '\0';
    if (!handle) return;
    void *f = dlsym(handle, "ncclGetVersion");
    memcpy(&get, &f, sizeof f);
    if (get && !get(&version)) comm_nccl_version_text(version, out, cap);
    dlclose(handle);
}
