/* tokenize and detokenize: the model's own tokenizer, without a server. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "daemon/cli/model.h"
#include "daemon/cli/options.h"
#include "daemon/text/detok.h"

static void print_ids(const uint32_t *id, size_t n, bool json)
{
    if (json) fputs("{\"ids\": [", stdout);
    for (size_t i = 0; i < n; i++) printf("%s%" PRIu32, i ? json ? ", " : " " : "", id[i]);
    puts(json ? "]}" : "");
}

static px_code encode(px_alloc *a, const char *path, const daemon_encode_args *args, daemon_ids *ids, px_err *e)
{
    daemon_tokenizer *t = NULL;
    char *text = NULL;
    size_t bytes = 0;
    px_code rc;

    daemon_cli_interrupts();
    if (!(rc = daemon_model_tokenizer(&t, a, path, e)) &&
        !(rc = daemon_cli_read_all(a, 0, DAEMON_CLI_STDIN_CAP, &text, &bytes, e)))
        rc = daemon_tokenizer_encode(t, text, bytes, args, ids, e);
    if (text) px_del(a, text, bytes + 1);
    daemon_tokenizer_close(t);
    return rc;
}

int daemon_cli_tokenize(px_alloc *a, int argc, char **argv)
{
    const char *path;
    bool no_special = false, bos = false, json = false;
    px_err e = {0};
    daemon_ids ids;
    const daemon_option options[] = {
        { "no-special", DAEMON_OPT_FLAG, NULL, "control tokens in the text are text", &no_special, NULL },
        { "bos", DAEMON_OPT_FLAG, NULL, "begin with BOS if the tokenizer adds it", &bos, NULL },
        { "json", DAEMON_OPT_FLAG, NULL, "print {\"ids\": [...]}", &json, NULL },
    };
    daemon_command c = { .name = "tokenize", .line = "MODEL_OR_DIR [--no-special] [--bos] [--json] < TEXT",
        .about = "Token ids of the text on standard input.  MODEL_OR_DIR is a GGUF file or a shard set.",
        .option = options, .n_options = sizeof options / sizeof *options, .least = 1, .most = 1, .arg = &path };
    int code = daemon_options_parse(&c, argc, argv);

    if (code >= 0) return code;
    daemon_ids_init(&ids, a);
    daemon_encode_args args = { .parse_special = !no_special, .add_special = bos };
    code = DAEMON_EXIT_OK;
    if (encode(a, path, &args, &ids, &e)) code = daemon_cli_fail("tokenize", &e);
    else print_ids(ids.id, ids.n, json);
    daemon_ids_deinit(&ids);
    return code;
}

/* ---- the other way ---- */

static px_code decode(px_alloc *a, const daemon_tokenizer *t, const uint32_t *id, size_t n, daemon_bytes *out, px_err *e)
{
    daemon_detok d;
    bool hit;
    size_t which;
    px_code rc = daemon_detok_init(&d, a, t, false, NULL, NULL, 0, false, e);

    for (size_t i = 0; i < n && !rc; i++) rc = daemon_detok_push(&d, id[i], out, &hit, &which, e);
    if (!rc) rc = daemon_detok_finish(&d, out, e);
    daemon_detok_deinit(&d);
    return rc;
}

static px_code print_text(const daemon_bytes *text, bool json, px_err *e)
{
    json_t *doc;

    if (!json) {
        if (text->n) fwrite(text->p, 1, text->n, stdout);
        return PX_OK;
    }
    if (!(doc = json_pack("{s:o}", "text", json_stringn(text->n ? text->p : "", text->n))))
        return px_fail(e, PX_ENOMEM, "json", "no memory for the answer");
    json_dumpf(doc, stdout, 0);
    putchar('\n');
    json_decref(doc);
    return PX_OK;
}

int daemon_cli_detokenize(px_alloc *a, int argc, char **argv)
{
    const char *path;
    char *input = NULL;
    size_t bytes = 0, n = 0;
    uint32_t *ids = NULL;
    bool json = false;
    px_err e = {0};
    daemon_tokenizer *t = NULL;
    daemon_bytes text;
    const daemon_option options[] = {
        { "json", DAEMON_OPT_FLAG, NULL, "print {\"text\": \"...\"}", &json, NULL },
    };
    daemon_command c = { .name = "detokenize", .line = "MODEL_OR_DIR [--json] < IDS",
        .about = "The text of the token ids on standard input: numbers between white space or commas, or JSON, [1, 2] or\n"
                 "{\"ids\": [1, 2]}.  Control tokens are written by their names; nothing is added at the end.",
        .option = options, .n_options = sizeof options / sizeof *options, .least = 1, .most = 1, .arg = &path };
    int code = daemon_options_parse(&c, argc, argv);

    if (code >= 0) return code;
    daemon_cli_interrupts();
    daemon_bytes_init(&text, a);
    code = DAEMON_EXIT_OK;
    if (daemon_model_tokenizer(&t, a, path, &e) ||
        daemon_cli_read_all(a, 0, DAEMON_CLI_STDIN_CAP, &input, &bytes, &e) ||
        daemon_parse_ids(a, "stdin", input, bytes, &ids, &n, &e) || decode(a, t, ids, n, &text, &e) ||
        print_text(&text, json, &e))
        code = daemon_cli_fail("detokenize", &e);
    daemon_bytes_deinit(&text);
    if (ids) px_del(a, ids, n);
    if (input) px_del(a, input, bytes + 1);
    daemon_tokenizer_close(t);
    return code;
}
