/* make_set MODEL OUT RANKS [F32|BF16]: a shard set for the end-to-end tests, with the tokenizer and the chat template
 * where the model has them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/text/tokenizer.h"
#include "shard/store/gguf.h"
#include "shard/store/sharder.h"

static int fail(const px_err *e)
{
    char line[1024];
    fprintf(stderr, "make_set: %s\n", px_err_format(e, line, sizeof line));
    return 1;
}

int main(int argc, char **argv)
{
    px_heap heap = {0};
    px_err e = {0};
    shard_checkpoint *c;
    shard_asset asset[2];
    shard_pack_result res;

    if (argc < 4) return fputs("usage: make_set MODEL OUT RANKS [F32|BF16]\n", stderr), 2;
    px_heap_init(&heap, "make_set");
    if (shard_checkpoint_open(&c, &heap.a, argv[1], &e)) return fail(&e);
    shard_pack_args args = { .source = c, .out = argv[2], .ranks = (uint32_t)strtoul(argv[3], NULL, 10), .vocab = SHARD_VOCAB_PADDED64,
                             .policy = argc < 5 ? SHARD_AS_FILE : strcmp(argv[4], "F32") ? SHARD_TO_BF16 : SHARD_TO_F32,
                             .asset = asset };
    const struct shard_gguf *g = shard_checkpoint_gguf(c);
    char *json = NULL;
    const char *text;
    size_t bytes;
    if (g) {
        px_code rc = daemon_tokenizer_from_gguf(&heap.a, g, &json, &bytes, &e);
        if (rc && rc != PX_ENOTFOUND) return fail(&e);
        if (!rc) asset[args.n_assets++] = (shard_asset){ "tokenizer.json", json, bytes };
        px_err_clear(&e);
        size_t json_bytes = bytes;
        if (!rc && !shard_gguf_str(g, "tokenizer.chat_template", &text, &bytes, &e))
            asset[args.n_assets++] = (shard_asset){ "chat_template.txt", text, bytes };
        px_err_clear(&e);
        rc = shard_pack(&heap.a, &args, &res, &e);
        if (json) px_alloc_put(&heap.a, json, json_bytes + 1, 1);
        if (rc) return fail(&e);
    } else if (shard_pack(&heap.a, &args, &res, &e)) return fail(&e);
    shard_checkpoint_close(c);
    px_heap_deinit(&heap);
    return 0;
}
