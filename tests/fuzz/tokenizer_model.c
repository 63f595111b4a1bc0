/* tokenizer.model of SentencePiece; behind a mark the tokenizer_config.json beside it, behind another the added_tokens.json. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/use_tokenizer.h"

/* The text behind the next mark, up to the one after it; *n: of what is before.  NULL: there is none. */
static const char *behind(const char *p, size_t *n, size_t *bytes)
{
    static const char mark[] = "\n@@\n";
    const char *at = p ? memmem(p, *n, mark, sizeof mark - 1) : NULL;

    *bytes = 0;
    if (!at) return NULL;
    *bytes = *n - (size_t)(at - p) - (sizeof mark - 1);
    *n = (size_t)(at - p);
    return at + sizeof mark - 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    px_alloc *a = fuzz_begin(n);
    daemon_tokenizer *t;
    char *json;
    size_t bytes;
    daemon_hints h = { 0 };
    px_err e = { 0 };
    px_code rc;

    h.config = behind((const char *)data, &n, &h.config_bytes);
    h.added = behind(h.config, &h.config_bytes, &h.added_bytes);
    rc = daemon_tokenizer_from_model(a, data, n, &h, &json, &bytes, &e);

    fuzz_refused(rc, &e);
    if (!rc) {
        if (daemon_tokenizer_open(&t, a, json, bytes, &e)) __builtin_trap();
        fuzz_tokenizer(a, t, data, n);
        px_del(a, json, bytes + 1);
    }
    fuzz_end();
    return 0;
}
