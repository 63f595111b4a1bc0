/* tokenizer.model of SentencePiece. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/use_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    px_alloc *a = fuzz_begin(n);
    daemon_tokenizer *t;
    char *json;
    size_t bytes;
    px_err e = { 0 };
    px_code rc = daemon_tokenizer_from_model(a, data, n, NULL, &json, &bytes, &e);

    fuzz_refused(rc, &e);
    if (!rc) {
        if (daemon_tokenizer_open(&t, a, json, bytes, &e)) __builtin_trap();
        fuzz_tokenizer(a, t, data, n);
        px_del(a, json, bytes + 1);
    }
    fuzz_end();
    return 0;
}
