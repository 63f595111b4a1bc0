/* The tokenizer in a GGUF's metadata. */
#include "shard/store/gguf.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/use_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *path = fuzz_file("x.gguf", data, n);
    px_alloc *a = fuzz_begin(n);
    daemon_tokenizer *t;
    shard_gguf *g;
    char *json;
    size_t bytes;
    px_err e = { 0 };
    px_code rc;

    if (n % 2) fuzz_lengthen(n + (4u << 20));           /* a hole: half a million empty strings, or one long one */
    rc = shard_gguf_open(&g, a, path, &e);
    fuzz_refused(rc, &e);
    if (!rc) {
        rc = daemon_tokenizer_from_gguf(a, g, &json, &bytes, &e);
        fuzz_refused(rc, &e);
        if (!rc) {
            if (daemon_tokenizer_open(&t, a, json, bytes, &e)) __builtin_trap();      /* what an import makes can be opened */
            fuzz_tokenizer(a, t, data, n);
            px_del(a, json, bytes + 1);
        }
        shard_gguf_close(g);
    }
    fuzz_end();
    return 0;
}
