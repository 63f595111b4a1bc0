#include "daemon/cli/model.h"

#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "daemon/text/chat.h"
#include "daemon/text/folder.h"
#include "proto/base/io.h"
#include "shard/store/gguf.h"
#include "shard/store/probe.h"
#include "shard/store/set.h"

bool daemon_model_is_set(const char *path, char *dir, size_t cap)
{
    shard_probe p;
    px_err e = {0};

    if (shard_probe_path(&p, path, &e) || p.kind != SHARD_IS_SET || strlen(p.dir) >= cap) return false;
    snprintf(dir, cap, "%s", p.dir);
    return true;
}

static px_code from_set(daemon_tokenizer **t, px_alloc *a, const char *dir, px_err *e)
{
    shard_manifest m;
    char *json;
    size_t bytes;
    px_code rc;

    if ((rc = shard_manifest_read(&m, a, dir, e))) return rc;
    if (!m.has_tokenizer) {
        rc = px_fail(e, PX_ENOTFOUND, "tokenizer.json", "the shard set has no tokenizer: it serves token ids");
    } else if (!(rc = shard_manifest_asset(&m, a, dir, "tokenizer.json", &json, &bytes, e))) {
        rc = daemon_tokenizer_open(t, a, json, bytes, e);
        px_del(a, json, bytes + 1);
    }
    if (rc) px_err_set_file(e, dir);
    shard_manifest_deinit(&m);
    return rc;
}

static px_code from_gguf(daemon_tokenizer **t, px_alloc *a, const char *path, px_err *e)
{
    shard_gguf *g;
    char *json;
    size_t bytes;
    px_code rc;

    if ((rc = shard_gguf_open(&g, a, path, e))) return rc;
    if (!(rc = daemon_tokenizer_from_gguf(a, g, &json, &bytes, e))) {
        rc = daemon_tokenizer_open(t, a, json, bytes, e);
        px_del(a, json, bytes + 1);
    }
    if (rc) px_err_set_file(e, path);
    shard_gguf_close(g);
    return rc;
}

/* tokenizer.json, tokenizer.v5.json, tokenizer.model: a tokenizer's own file. */
static const char *tokenizer_file(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');

    return dot && !strncmp(name, "tokenizer", 9) && (!strcmp(dot, ".json") || !strcmp(dot, ".model")) ? name : NULL;
}

/* name: one file of the folder, or NULL. */
static px_code from_folder(daemon_tokenizer **t, px_alloc *a, const char *dir, const char *name, px_err *e)
{
    char *json;
    size_t bytes;
    px_code rc = daemon_tokenizer_from_folder(a, dir, name, NULL, 0, &json, &bytes, e);

    if (rc) return rc;
    rc = daemon_tokenizer_open(t, a, json, bytes, e);
    px_del(a, json, bytes + 1);
    return rc;
}

px_code daemon_model_tokenizer(daemon_tokenizer **t, px_alloc *a, const char *path, px_err *e)
{
    shard_probe p;
    px_code rc;
    const char *name = tokenizer_file(path);
    char dir[4096];
    px_err why = {0};

    *t = NULL;
    if (name) {
        snprintf(dir, sizeof dir, "%.*s", (int)(name - path), path);
        return from_folder(t, a, *dir ? dir : ".", name, e);
    }
    rc = shard_probe_path(&p, path, &why);
    if (rc == PX_ENOTFOUND) {                          /* a folder with a tokenizer alone is one, too */
        if ((rc = from_folder(t, a, path, NULL, e)) == PX_ENOTFOUND && e) *e = why;
        return rc;
    }
    if (rc && e && !e->code) *e = why;
    if (rc) return rc;
    if (p.kind == SHARD_IS_SET) return from_set(t, a, p.dir, e);
    if (p.kind == SHARD_IS_GGUF) return from_gguf(t, a, path, e);
    return from_folder(t, a, p.dir, NULL, e);
}

/* ---- assets ---- */

/* The file's tokenizer and template, out of a GGUF or of the folder around safetensors. */
static px_code read_tokenizer(daemon_model_assets *x, const shard_checkpoint *c, px_err *e)
{
    const shard_gguf *g = shard_checkpoint_gguf(c);
    const shard_arch *m = shard_checkpoint_arch(c);
    px_code rc;

    if (!g) return daemon_tokenizer_from_folder(x->a, x->dir, NULL, m->eos, m->n_eos, &x->tokenizer, &x->tokenizer_bytes, e);
    rc = daemon_tokenizer_from_gguf(x->a, g, &x->tokenizer, &x->tokenizer_bytes, e);
    if (rc) px_err_set_file(e, shard_gguf_path(g));
    return rc;
}

/* A larger tokenizer would give ids that the table has no row for; a smaller one leaves rows without text. */
static px_code check_size(const daemon_model_assets *x, const shard_checkpoint *c, px_err *e)
{
    const shard_gguf *g = shard_checkpoint_gguf(c);
    uint32_t n_row = shard_checkpoint_arch(c)->n_vocab, n_token;
    char found[32], expected[32];
    daemon_tokenizer *t;
    px_code rc = daemon_tokenizer_open(&t, x->a, x->tokenizer, x->tokenizer_bytes, e);

    if (rc) return rc;
    n_token = daemon_tokenizer_n_vocab(t);
    daemon_tokenizer_close(t);
    if (n_token <= n_row) return PX_OK;
    snprintf(found, sizeof found, "%u tokens", n_token);
    snprintf(expected, sizeof expected, "at most %u", n_row);
    rc = px_refuse(e, PX_EMISMATCH, g ? "tokenizer.ggml.tokens" : "model.vocab", found, expected,
                   "the tokenizer has more tokens than the model's table has rows: it is another model's");
    px_err_set_file(e, g ? shard_gguf_path(g) : x->dir);
    return rc;
}

/* A template that cannot be read costs Chat, not the set. */
static px_code read_template(daemon_model_assets *x, const shard_checkpoint *c, px_err *e)
{
    const shard_gguf *g = shard_checkpoint_gguf(c);
    const char *text;
    size_t bytes;
    px_err why = {0};
    px_code rc;

    if (!g) {
        rc = daemon_template_from_folder(x->a, x->dir, &x->chat, &x->chat_bytes, &why);
        text = x->chat;
        bytes = x->chat_bytes;
    } else {
        rc = shard_gguf_has(g, "tokenizer.chat_template") ? shard_gguf_str(g, "tokenizer.chat_template", &text, &bytes, &why)
                                                          : PX_ENOTFOUND;
    }
    if (rc == PX_ENOMEM) return px_fail(e, rc, "chat_template", "reading it");
    if (!rc && bytes > DAEMON_TEMPLATE_BYTES) rc = PX_ERANGE;
    if (rc) x->why_no_template = rc == PX_ENOTFOUND ? "the checkpoint has none" : rc == PX_ERANGE ? "the checkpoint's has more than 16 MiB"
                                                                                              : "the checkpoint's is no text";
    else x->list[x->n++] = (shard_asset){ "chat_template.txt", text, bytes };
    x->unknown_template = !rc && !daemon_template_by_text(text, bytes);
    return PX_OK;
}

/* A chat table from a file: of this model's template, if it has one. */
static px_code read_chat_table(daemon_model_assets *x, const char *path, px_err *e)
{
    const shard_asset *text = x->why_no_template ? NULL : &x->list[x->n - 1];
    daemon_template *t;
    px_code rc = px_read_file(x->a, path, 1 << 20, &x->table, &x->table_bytes, e);

    if (rc) return rc;
    if ((rc = daemon_template_open(&t, x->a, x->table, x->table_bytes, text ? text->data : NULL, text ? text->bytes : 0, e))) {
        px_err_set_file(e, path);
        return rc;
    }
    daemon_template_close(t);
    x->list[x->n++] = (shard_asset){ "chat_template.json", x->table, x->table_bytes };
    x->why_no_template = NULL;
    x->unknown_template = false;
    return PX_OK;
}

px_code daemon_model_assets_init(daemon_model_assets *x, px_alloc *a, const shard_checkpoint *c, const char *path, bool tokenizer,
                                 const char *table, px_err *e)
{
    shard_probe p = {0};
    px_code rc;

    *x = (daemon_model_assets){ .a = a };
    if (!tokenizer) {
        x->why_no_tokenizer = x->why_no_template = "--no-tokenizer";
        return PX_OK;
    }
    if (!shard_checkpoint_gguf(c)) {
        if ((rc = shard_probe_path(&p, path, e))) return rc;
        snprintf(x->dir, sizeof x->dir, "%s", p.dir);
    }
    rc = read_tokenizer(x, c, e);
    if (rc == PX_ENOTFOUND) {
        px_err_clear(e);
        x->why_no_tokenizer = x->why_no_template = "the checkpoint has none";
        return PX_OK;
    }
    if (rc || (rc = check_size(x, c, e))) return rc;
    x->list[x->n++] = (shard_asset){ "tokenizer.json", x->tokenizer, x->tokenizer_bytes };
    if ((rc = read_template(x, c, e))) return rc;
    return table ? read_chat_table(x, table, e) : PX_OK;
}

void daemon_model_assets_deinit(daemon_model_assets *x)
{
    if (x->table) px_del(x->a, x->table, x->table_bytes + 1);
    if (x->chat) px_del(x->a, x->chat, x->chat_bytes + 1);
    if (x->tokenizer) px_del(x->a, x->tokenizer, x->tokenizer_bytes + 1);
    *x = (daemon_model_assets){0};
}
