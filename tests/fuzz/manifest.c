/* manifest.json of a set, and the opening of its ranks' files, which are not there. */
#include "shard/store/set.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    px_alloc *a = fuzz_begin(n);
    shard_manifest m;
    px_err e = { 0 };
    px_code rc;

    fuzz_file("manifest.json", data, n);
    rc = shard_manifest_read(&m, a, fuzz_dir(), &e);
    fuzz_refused(rc, &e);
    if (!rc) {
        for (uint32_t r = 0; r < m.world && r < 3; r++) {
            px_err errs[4] = { { 0 } };
            size_t n_errs = 0;
            shard_file *f;
            if (!shard_file_open(&f, a, fuzz_dir(), &m, r, errs, 4, &n_errs)) shard_file_close(f);
            else fuzz_refused(errs[0].code, &errs[0]);
        }
        for (uint32_t i = 0; i < m.n_assets && i < 4; i++) {
            char *asset;
            size_t bytes;
            px_err_clear(&e);
            fuzz_refused(shard_manifest_asset(&m, a, fuzz_dir(), "tokenizer.json", &asset, &bytes, &e), &e);
        }
        shard_manifest_deinit(&m);
    }
    fuzz_end();
    return 0;
}
