#include "tests/fuzz/use_tokenizer.h"

#include <string.h>

#include "daemon/text/detok.h"
#include "tests/fuzz/fuzz.h"

static void there_and_back(px_alloc *a, const daemon_tokenizer *t, const char *text, size_t bytes, bool special)
{
    daemon_encode_args args = { .parse_special = special, .add_special = special, .max_ids = 4096 };
    daemon_ids ids;
    daemon_bytes out;
    daemon_detok d;
    px_err e = { 0 };
    bool hit;
    size_t which;

    daemon_ids_init(&ids, a);
    daemon_bytes_init(&out, a);
    fuzz_refused(daemon_tokenizer_encode(t, text, bytes, &args, &ids, &e), &e);
    px_err_clear(&e);
    if (!daemon_detok_init(&d, a, t, !special, NULL, NULL, 0, false, &e)) {
        for (size_t i = 0; i < ids.n; i++) fuzz_refused(daemon_detok_push(&d, ids.id[i], &out, &hit, &which, &e), &e);
        fuzz_refused(daemon_detok_finish(&d, &out, &e), &e);
        daemon_detok_deinit(&d);
    }
    fuzz_touch(out.p, out.n);
    daemon_bytes_deinit(&out);
    daemon_ids_deinit(&ids);
}

void fuzz_tokenizer(px_alloc *a, daemon_tokenizer *t, const uint8_t *data, size_t n)
{
    static const char text[] = "<s>The 12 foxes\n\n  don't\xe2\x96\x81jump: \xe6\x97\xa5\xe6\x9c\xac e\xcc\x81 \xf0\x9f\x98\x80<|im_end|>";
    size_t bytes, most = n < 200 ? n : 200;

    for (int special = 0; special < 2; special++) {
        there_and_back(a, t, text, sizeof text - 1, special);
        there_and_back(a, t, (const char *)data + n - most, most, special);
    }
    for (uint32_t i = 0; i < daemon_tokenizer_n_vocab(t) + 1; i++) {
        const char *p = daemon_tokenizer_bytes(t, i, &bytes);
        fuzz_touch(p, bytes);
        if (p) daemon_tokenizer_find(t, p, bytes);
    }
    daemon_tokenizer_close(t);
}
