/* model.safetensors.index.json beside two files, of which each holds one tensor. */
#include "shard/store/safetensors.h"

#include <stdio.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static void one(const char *file, const char *name)
{
    char b[256];
    uint64_t n = 0;
    int len = snprintf(b + 8, sizeof b - 8, "{\"%s\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", name);

    n = (uint64_t)len;
    memcpy(b, &n, 8);
    memset(b + 8 + len, 0, 4);
    fuzz_file(file, b, (size_t)len + 12);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    px_alloc *a = fuzz_begin(n);
    shard_safetensors_set s;
    px_err e = { 0 };

    one("a.safetensors", "x");
    one("b.safetensors", "y");
    fuzz_refused(shard_safetensors_set_index(&s, a, fuzz_dir(), fuzz_file("model.safetensors.index.json", data, n), &e), &e);
    shard_safetensors_set_close(&s);
    fuzz_end();
    return 0;
}
