#include "daemon/text/pipeline.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/pre.h"
#include "proto/base/log.h"

#define SPACE "\xe2\x96\x81"

static const char *text_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static bool text_is(const json_t *o, const char *key, const char *want)
{
    const char *s = text_of(o, key);
    return s && !strcmp(s, want);
}

/* A member as people see it: text quoted, other values as JSON. */
static void show(const json_t *v, char *buf, size_t cap)
{
    char raw[96] = "";
    size_t n;

    if (json_is_string(v)) px_log_quote(json_string_value(v), -1, buf, cap);
    else if (!v) snprintf(buf, cap, "nothing");
    else {
        n = json_dumpb(v, raw, sizeof raw - 1, JSON_ENCODE_ANY | JSON_COMPACT);
        if (n >= sizeof raw) n = sizeof raw - 1;
        raw[n] = 0;
        px_log_quote(raw, -1, buf, cap);
    }
}

static px_code refuse(const json_t *o, const char *where, const char *key, const char *want, px_err *e)
{
    char field[96], found[100];

    snprintf(field, sizeof field, "%s.%s", where, key);
    show(json_object_get(o, key), found, sizeof found);
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, want);
}

typedef px_code step_fn(daemon_pipeline *p, const json_t *step, const char *where, px_err *e);

/* A step, or each of a sequence of them, whose list has a name of its own.  Sequences do not nest. */
static px_code each(daemon_pipeline *p, const json_t *doc, const char *key, const char *list_key, step_fn *fn, px_err *e)
{
    const json_t *o = json_object_get(doc, key), *list;
    char where[80];
    px_code rc = PX_OK;

    if (!o || json_is_null(o)) return PX_OK;
    if (!json_is_object(o)) return px_fail(e, PX_ECORRUPT, key, "neither an object nor null");
    if (!text_is(o, "type", "Sequence")) return fn(p, o, key, e);
    list = json_object_get(o, list_key);
    snprintf(where, sizeof where, "%s.%s", key, list_key);
    if (!json_is_array(list)) return px_fail(e, PX_ECORRUPT, where, "a list is expected");
    for (size_t i = 0; i < json_array_size(list) && !rc; i++) {
        snprintf(where, sizeof where, "%s.%s[%zu]", key, list_key, i);
        rc = fn(p, json_array_get(list, i), where, e);
    }
    return rc;
}

/* ---- normalizer ---- */

static px_code normalizer(daemon_pipeline *p, const json_t *step, const char *where, px_err *e)
{
    if (text_is(step, "type", "NFC")) {
        p->nfc = true;
        return PX_OK;
    }
    if (text_is(step, "type", "Prepend")) {
        p->kind = DAEMON_SENTENCEPIECE;
        p->prefix = DAEMON_PREFIX_ALWAYS;
        p->normalizes_spaces = true;
        return text_is(step, "prepend", SPACE) ? PX_OK : refuse(step, where, "prepend", "\"" SPACE "\"", e);
    }
    if (text_is(step, "type", "Replace")) {
        const json_t *pattern = json_object_get(step, "pattern");
        p->kind = DAEMON_SENTENCEPIECE;
        if (!text_is(pattern, "String", " ")) return refuse(step, where, "pattern", "{\"String\": \" \"}", e);
        return text_is(step, "content", SPACE) ? PX_OK : refuse(step, where, "content", "\"" SPACE "\"", e);
    }
    return refuse(step, where, "type", "NFC, or SentencePiece's Prepend and Replace", e);
}

/* ---- pre-tokenizer ---- */

static px_code stage(daemon_pipeline *p, const char *expression, const char *where, px_err *e)
{
    size_t n = 0;

    while (p->stage[n]) n++;
    if (n == DAEMON_SPLIT_STAGES) return px_fail(e, PX_ERANGE, where, "at most %d steps", DAEMON_SPLIT_STAGES);
    p->stage[n] = expression;
    return PX_OK;
}

static px_code split(daemon_pipeline *p, const json_t *step, const char *where, px_err *e)
{
    const char *regex = text_of(json_object_get(step, "pattern"), "Regex"), *ours, *what;
    char field[96], found[96];

    if (!regex) return refuse(step, where, "pattern", "{\"Regex\": ...}", e);
    if (!text_is(step, "behavior", "Isolated")) return refuse(step, where, "behavior", "Isolated", e);
    if (json_is_true(json_object_get(step, "invert"))) return refuse(step, where, "invert", "false", e);
    if (json_string_length(json_object_get(json_object_get(step, "pattern"), "Regex")) == strlen(regex) &&
        (ours = daemon_pre_stage(regex, &what)))
        return stage(p, ours, where, e);
    snprintf(field, sizeof field, "%s.pattern.Regex", where);
    if (strlen(regex) < json_string_length(json_object_get(json_object_get(step, "pattern"), "Regex"))) what = "\\0";
    snprintf(found, sizeof found, "%s", what);
    return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found,
                               "an expression without parts that its engine and PCRE2 read differently");
}

static px_code metaspace(daemon_pipeline *p, const json_t *step, const char *where, px_err *e)
{
    const json_t *add = json_object_get(step, "add_prefix_space");
    const char *scheme = text_of(step, "prepend_scheme");

    p->kind = DAEMON_SENTENCEPIECE;
    if (!text_is(step, "replacement", SPACE)) return refuse(step, where, "replacement", "\"" SPACE "\"", e);
    if (!json_is_false(json_object_get(step, "split"))) return refuse(step, where, "split", "false", e);
    if (!scheme) scheme = json_is_false(add) ? "never" : "always";
    for (int i = 0; i < DAEMON_N_PREFIXES; i++)
        if (!strcmp(scheme, daemon_prefix_name[i])) {
            p->prefix = (daemon_prefix)i;
            return PX_OK;
        }
    return refuse(step, where, "prepend_scheme", "always, first or never", e);
}

static px_code pre_tokenizer(daemon_pipeline *p, const json_t *step, const char *where, px_err *e)
{
    if (text_is(step, "type", "Split")) return split(p, step, where, e);
    if (text_is(step, "type", "Digits"))
        return stage(p, json_is_true(json_object_get(step, "individual_digits")) ? daemon_pre_digit : daemon_pre_digits, where, e);
    if (text_is(step, "type", "Metaspace")) return metaspace(p, step, where, e);
    if (!text_is(step, "type", "ByteLevel")) return refuse(step, where, "type", "Split, Digits, ByteLevel or Metaspace", e);
    if (json_is_true(json_object_get(step, "add_prefix_space"))) return refuse(step, where, "add_prefix_space", "false", e);
    return json_is_false(json_object_get(step, "use_regex")) ? PX_OK : stage(p, daemon_pre_gpt2, where, e);
}

/* ---- post-processor and decoder ---- */

/* What is put around one text: nothing, or one special token in front. */
static px_code post_processor(daemon_pipeline *p, const json_t *step, const char *where, px_err *e)
{
    const json_t *single = json_object_get(step, "single"), *first = json_array_get(single, 0);
    size_t n = json_array_size(single);
    const char *bos = text_of(json_object_get(first, "SpecialToken"), "id");

    if (text_is(step, "type", "ByteLevel")) return PX_OK;
    if (!text_is(step, "type", "TemplateProcessing")) return refuse(step, where, "type", "ByteLevel or TemplateProcessing", e);
    if (n == 0 || n > 2 || (n == 2 && !bos) || !json_object_get(json_array_get(single, n - 1), "Sequence"))
        return refuse(step, where, "single", "the text, with one token in front or none", e);
    if (n == 2) p->bos = bos;
    return PX_OK;
}

/* Decoding is what the vocabulary's kind says; a decoder of another kind means another tokenizer. */
static px_code decoder(daemon_pipeline *p, const json_t *step, const char *where, px_err *e)
{
    static const char *const of_kind[2][6] = { { "ByteLevel" }, { "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace" } };

    for (size_t i = 0; of_kind[p->kind][i]; i++)
        if (text_is(step, "type", of_kind[p->kind][i])) return PX_OK;
    return refuse(step, where, "type", p->kind ? "Replace, ByteFallback, Fuse, Strip or Metaspace" : "ByteLevel", e);
}

static px_code check_together(const daemon_pipeline *p, const json_t *doc, px_err *e)
{
    const json_t *model = json_object_get(doc, "model");

    if (p->kind == DAEMON_BYTELEVEL) {
        if (json_is_true(json_object_get(model, "byte_fallback"))) return refuse(model, "model", "byte_fallback", "false", e);
        return PX_OK;
    }
    if (p->nfc || p->stage[0])
        return px_fail(e, PX_EUNSUP, p->nfc ? "normalizer" : "pre_tokenizer", "SentencePiece's spaces together with other steps");
    if (!json_is_true(json_object_get(model, "byte_fallback"))) return refuse(model, "model", "byte_fallback", "true", e);
    if (json_is_true(json_object_get(model, "ignore_merges"))) return refuse(model, "model", "ignore_merges", "false", e);
    return PX_OK;
}

px_code daemon_pipeline_read(daemon_pipeline *p, const json_t *doc, px_err *e)
{
    px_code rc;

    *p = (daemon_pipeline){ .kind = DAEMON_BYTELEVEL };
    if ((rc = each(p, doc, "normalizer", "normalizers", normalizer, e)) ||
        (rc = each(p, doc, "pre_tokenizer", "pretokenizers", pre_tokenizer, e)) ||
        (rc = each(p, doc, "post_processor", "processors", post_processor, e)) ||
        (rc = each(p, doc, "decoder", "decoders", decoder, e)))
        return rc;
    return check_together(p, doc, e);
}
