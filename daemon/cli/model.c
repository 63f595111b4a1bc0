#include "daemon/cli/model.h"

#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"
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

px_code daemon_model_tokenizer(daemon_tokenizer **t, px_alloc *a, const char *path, px_err *e)
{
    shard_probe p;
    px_code rc = shard_probe_path(&p, path, e);

    *t = NULL;
    if (rc) return rc;
    if (p.kind == SHARD_IS_SET) return from_set(t, a, p.dir, e);
    if (p.kind == SHARD_IS_GGUF) return from_gguf(t, a, path, e);
    rc = px_fail(e, PX_EUNSUP, "tokenizer", "the tokenizer of a safetensors checkpoint is not read yet; take a GGUF or a "
                                            "shard set made from one");
    px_err_set_file(e, path);
    return rc;
}

/* ---- assets ---- */

px_code daemon_model_assets_init(daemon_model_assets *x, px_alloc *a, const shard_checkpoint *c, bool tokenizer, px_err *e)
{
    const shard_gguf *g = shard_checkpoint_gguf(c);
    const char *text;
    size_t bytes;
    px_code rc;

    *x = (daemon_model_assets){ .a = a };
    if (!g) {
        x->why_no_tokenizer = x->why_no_template = "the tokenizer of a safetensors checkpoint is not read yet";
        return PX_OK;
    }
    if (!tokenizer) {
        x->why_no_tokenizer = x->why_no_template = "--no-tokenizer";
        return PX_OK;
    }
    rc = daemon_tokenizer_from_gguf(a, g, &x->tokenizer, &x->tokenizer_bytes, e);
    if (rc == PX_ENOTFOUND) {
        px_err_clear(e);
        x->why_no_tokenizer = x->why_no_template = "the file has none";
        return PX_OK;
    }
    if (rc) {
        px_err_set_file(e, shard_gguf_path(g));
        return rc;
    }
    /* A larger tokenizer would give ids that the table has no row for; a smaller one leaves rows without text. */
    size_t n_token;
    uint32_t n_row = shard_checkpoint_arch(c)->n_vocab;
    if ((rc = shard_gguf_array_len(g, "tokenizer.ggml.tokens", &n_token, e))) return rc;
    if (n_token > n_row) {
        char found[32], expected[32];
        snprintf(found, sizeof found, "%zu tokens", n_token);
        snprintf(expected, sizeof expected, "at most %u", n_row);
        rc = px_refuse(e, PX_EMISMATCH, "tokenizer.ggml.tokens", found, expected,
                       "the tokenizer has more tokens than the model's table has rows: it is another model's");
        px_err_set_file(e, shard_gguf_path(g));
        return rc;
    }
    x->list[x->n++] = (shard_asset){ "tokenizer.json", x->tokenizer, x->tokenizer_bytes };
    if (!shard_gguf_has(g, "tokenizer.chat_template")) x->why_no_template = "the file has none";
    else if ((rc = shard_gguf_str(g, "tokenizer.chat_template", &text, &bytes, e))) {
        px_err_clear(e);
        x->why_no_template = "the file's is no text";
    } else x->list[x->n++] = (shard_asset){ "chat_template.txt", text, bytes };
    return PX_OK;
}

void daemon_model_assets_deinit(daemon_model_assets *x)
{
    if (x->tokenizer) px_del(x->a, x->tokenizer, x->tokenizer_bytes + 1);
    *x = (daemon_model_assets){0};
}
