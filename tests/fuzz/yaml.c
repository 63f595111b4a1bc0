/* YAML: a configuration of serving, and the numbers of an architecture. */
#include "proto/config/config.h"
#include "shard/store/models.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    px_alloc *a = fuzz_begin(n);
    proto_config c;
    px_err errs[8] = { { 0 } }, e = { 0 };
    size_t n_errs = 0;
    kern_dtype dtype;
    shard_arch m;
    px_code rc;

    proto_config_init(&c);
    rc = proto_config_parse(&c, a, "x.yaml", (const char *)data, n, errs, 8, &n_errs);
    fuzz_refused(rc, &errs[0]);
    if (!rc) fuzz_refused(proto_config_check(&c, &e), &e);
    px_err_clear(&e);
    fuzz_refused(shard_model_parse(&m, &dtype, "x.yaml", (const char *)data, n, &e), &e);
    fuzz_end();
    return 0;
}
