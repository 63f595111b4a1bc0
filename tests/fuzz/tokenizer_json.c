/* tokenizer.json of the tokenizers library; the set's normal form; and chat_template.json, which is JSON of ours, too. */
#include <string.h>

#include "daemon/text/chat.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/use_tokenizer.h"

static void chat(px_alloc *a, const uint8_t *data, size_t n)
{
    daemon_template *t;
    px_err e = { 0 };

    fuzz_refused(daemon_template_open(&t, a, (const char *)data, n, NULL, 0, &e), &e);
    daemon_template_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    px_alloc *a = fuzz_begin(n);
    daemon_hints h = { .config = (const char *)data, .config_bytes = n };
    daemon_tokenizer *t;
    char *json;
    size_t bytes;
    px_err e = { 0 };
    px_code rc = daemon_tokenizer_from_json(a, (const char *)data, n, n % 2 ? &h : NULL, &json, &bytes, &e);

    fuzz_refused(rc, &e);
    if (!rc) {
        if (daemon_tokenizer_open(&t, a, json, bytes, &e)) __builtin_trap();      /* what an import makes can be opened */
        fuzz_tokenizer(a, t, data, n);
        px_del(a, json, bytes + 1);
    }
    px_err_clear(&e);
    rc = daemon_tokenizer_open(&t, a, (const char *)data, n, &e);
    fuzz_refused(rc, &e);
    if (!rc) fuzz_tokenizer(a, t, data, n);
    chat(a, data, n);
    fuzz_end();
    return 0;
}
