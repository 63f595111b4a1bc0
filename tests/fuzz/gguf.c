/* A GGUF file: the reader with every kind of question, its architecture, and the checkpoint made of it. */
#include "shard/store/gguf.h"
#include "shard/store/gguf_arch.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/readers.h"

static px_code text(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    (void)ctx, (void)i, (void)e;
    fuzz_touch(s, bytes);
    return PX_OK;
}

static void ask(const shard_gguf *g, const char *key)
{
    uint64_t u;
    double d;
    bool b;
    const char *s;
    size_t n;
    int64_t i;
    px_err e = { 0 };

    fuzz_refused(shard_gguf_u64(g, key, &u, &e), &e), px_err_clear(&e);
    fuzz_refused(shard_gguf_f64(g, key, &d, &e), &e), px_err_clear(&e);
    fuzz_refused(shard_gguf_bool(g, key, &b, &e), &e), px_err_clear(&e);
    if (!shard_gguf_str(g, key, &s, &n, &e)) fuzz_touch(s, n);
    px_err_clear(&e);
    if (!shard_gguf_array_len(g, key, &n, &e))
        for (size_t k = 0; k < n + 2 && k < 1000; k++) {
            px_err_clear(&e);
            fuzz_refused(shard_gguf_array_i64(g, key, k, &i, &e), &e), px_err_clear(&e);
            fuzz_refused(shard_gguf_array_f64(g, key, k, &d, &e), &e);
        }
    px_err_clear(&e);
    fuzz_refused(shard_gguf_array_str(g, key, text, NULL, &e), &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const keys[] = {
        "general.architecture", "general.alignment", "llama.block_count", "llama.attention.head_count_kv", "llama.rope.freq_base",
        "llama.rope.scaling.factor", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges",
        "tokenizer.ggml.model", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", "tokenizer.chat_template", "none",
    };
    const char *path = fuzz_file("model.gguf", data, n);
    px_alloc *a = fuzz_begin(n);
    shard_gguf *g;
    px_err e = { 0 };
    px_code rc = shard_gguf_open(&g, a, path, &e);

    fuzz_refused(rc, &e);
    if (!rc) {
        shard_arch m;
        for (size_t i = 0; i < shard_gguf_n_tensors(g); i++) {
            const shard_gguf_tensor *t = shard_gguf_tensor_at(g, i);
            fuzz_touch(t->name, t->name_bytes);
            fuzz_touch(t->data, t->bytes);
        }
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) ask(g, keys[i]);
        for (int served = 0; served < 2; served++) {
            px_err_clear(&e);
            fuzz_refused(shard_gguf_arch(&m, g, served, &e), &e);
        }
        shard_gguf_close(g);
    }
    fuzz_checkpoint(a, path);
    fuzz_end();
    return 0;
}
