/* config.json of Hugging Face: for serving and for planning. */
#include "shard/store/hfconfig.h"

#include "shard/store/checkpoint.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *path = fuzz_file("config.json", data, n);
    px_alloc *a = fuzz_begin(n);
    char revision[96];
    kern_dtype dtype;
    shard_arch m;
    shard_types t;
    px_err e = { 0 };
    px_code rc;

    for (int served = 0; served < 2; served++) {
        rc = shard_hfconfig_read(&m, &dtype, revision, sizeof revision, served, a, path, &e);
        fuzz_refused(rc, &e);
        px_err_clear(&e);
        if (rc) continue;
        if (m.n_layer > 4096) continue;               /* the types of so many layers are more than the input's multiple */
        rc = shard_arch_read(&m, &t, a, path, &e);
        fuzz_refused(rc, &e);
        px_err_clear(&e);
        if (!rc) shard_types_deinit(&t);
    }
    fuzz_end();
    return 0;
}
