#include "daemon/text/hints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/log.h"

#define FILE_NAME "tokenizer_config.json"
#define ADDED_NAME "added_tokens.json"

/* The first token of a name; DAEMON_NO_ID64: none. */
static uint64_t find(const daemon_draft *d, const char *name)
{
    for (size_t i = 0; i < d->n; i++) {
        const json_t *s = json_array_get(d->tokens, i);
        if (!strcmp(json_string_value(s), name)) return i;
    }
    return DAEMON_NO_ID64;
}

/* "<s>", {"content": "<s>", ...}, null or nothing; one that the vocabulary lacks is a fault, or as none where it is not `needed`. */
static px_code named(const daemon_draft *d, const json_t *config, const char *key, bool needed, uint64_t *id, px_err *e)
{
    const json_t *v = json_object_get(config, key);
    char field[64], found[64];

    if (json_is_object(v)) v = json_object_get(v, "content");
    if (!v || json_is_null(v)) return PX_OK;
    snprintf(field, sizeof field, FILE_NAME ": %s", key);
    if (!json_is_string(v)) return px_fail(e, PX_ECORRUPT, field, "neither a token nor null");
    uint64_t at = find(d, json_string_value(v));
    if (at == DAEMON_NO_ID64 && needed)
        return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field,
                                   px_log_quote(json_string_value(v), -1, found, sizeof found), "a token of the vocabulary");
    if (at != DAEMON_NO_ID64) *id = at;
    return PX_OK;
}

json_t *daemon_hints_load(const char *text, size_t bytes, json_error_t *why)
{
    return json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, why);
}

static px_code read_object(const char *name, const char *text, size_t bytes, json_t **out, px_err *e)
{
    json_error_t why;
    char quoted[160];

    *out = NULL;
    if (!text) return PX_OK;
    *out = daemon_hints_load(text, bytes, &why);
    if (json_is_object(*out)) return PX_OK;
    px_fail(e, PX_ECORRUPT, name, "not a JSON object: %s (line %d)",
            px_log_quote(*out ? "another value" : why.text, -1, quoted, sizeof quoted), *out ? 1 : why.line);
    json_decref(*out);
    *out = NULL;
    return PX_ECORRUPT;
}

/* The id of an added token is one of the tokenizer's own; `said`: as the file has it, `id`: what that means, below 0: no id. */
static px_code is_within(const daemon_draft *d, const char *field, const char *token, const char *said, double id, px_err *e)
{
    char quoted[64], value[64], found[128], want[96];
    const bool whole = id >= 0 && id == floor(id);

    if (whole && id < (double)d->n) return PX_OK;
    snprintf(found, sizeof found, "%s, id %s", px_log_quote(token, -1, quoted, sizeof quoted), px_log_quote(said, -1, value, sizeof value));
    snprintf(want, sizeof want, "the %zu tokens of the tokenizer's own file, or a tokenizer.json with all", d->n);
    return whole ? px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, want)
                 : px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field, found, "a whole number as the id");
}

/* {"32000": {"content": "<|im_end|>", ...}} of the one file, {"<|im_end|>": 32000} of the other. */
static px_code check_added(const daemon_draft *d, const json_t *config, const json_t *added, px_err *e)
{
    px_code rc;
    const char *key;
    char said[48];
    json_t *list = json_object_get(config, "added_tokens_decoder"), *v;

    if (list && !json_is_object(list) && !json_is_null(list))
        return px_fail(e, PX_ECORRUPT, FILE_NAME ": added_tokens_decoder", "neither an object of tokens nor null");
    json_object_foreach(list, key, v) {
        const char *content = json_string_value(json_object_get(v, "content"));
        const bool digits = *key && !key[strspn(key, "0123456789")];
        if ((rc = is_within(d, FILE_NAME ": added_tokens_decoder", content ? content : "", key, digits ? strtod(key, NULL) : -1, e))) return rc;
    }
    json_object_foreach((json_t *)added, key, v) {
        size_t n = json_dumpb(v, said, sizeof said - 1, JSON_ENCODE_ANY | JSON_COMPACT);
        if (json_is_number(v)) snprintf(said, sizeof said, "%.9g", json_number_value(v));
        else if (n < sizeof said) said[n] = 0;
        else snprintf(said, sizeof said, "a long value");
        if ((rc = is_within(d, ADDED_NAME, key, said, json_is_number(v) ? json_number_value(v) : -1, e))) return rc;
    }
    return PX_OK;
}

px_code daemon_hints_apply(const daemon_hints *h, daemon_draft *d, const char *bos, px_err *e)
{
    static const char *const ends[] = { "</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>" };
    px_code rc;
    json_t *config = NULL, *added = NULL;
    const json_t *add;

    if (h && ((rc = read_object(FILE_NAME, h->config, h->config_bytes, &config, e)) ||
              (rc = read_object(ADDED_NAME, h->added, h->added_bytes, &added, e)) || (rc = check_added(d, config, added, e))))
        goto done;
    if (d->bos == DAEMON_NO_ID64 && bos && (d->bos = find(d, bos)) == DAEMON_NO_ID64) {
        rc = px_fail(e, PX_ECORRUPT, "post_processor.single", "begins with a token that the vocabulary lacks");
        goto done;
    }
    if (d->kind == DAEMON_SENTENCEPIECE && d->bos == DAEMON_NO_ID64) d->bos = find(d, "<s>");
    if ((rc = named(d, config, "bos_token", true, &d->bos, e)) || (rc = named(d, config, "eos_token", true, &d->eos, e)) ||
        (rc = named(d, config, "unk_token", true, &d->unk, e)) || (rc = named(d, config, "pad_token", false, &d->pad, e)))        /* nothing is padded here */
        goto done;
    for (size_t i = 0; h && i < h->n_eos; i++) {
        if (h->eos[i] >= d->n) continue;                  /* the architecture's own check names it */
        if (d->eos == DAEMON_NO_ID64) d->eos = h->eos[i];
        d->eog[h->eos[i]] = true;
    }
    for (size_t i = 0; d->eos == DAEMON_NO_ID64 && i < sizeof ends / sizeof *ends; i++) d->eos = find(d, ends[i]);
    add = json_object_get(config, "add_bos_token");
    d->add_bos = json_is_boolean(add) ? json_is_true(add) : bos || d->kind == DAEMON_SENTENCEPIECE;
    if (d->bos == DAEMON_NO_ID64) d->add_bos = false;

done:
    json_decref(config);
    json_decref(added);
    return rc;
}
