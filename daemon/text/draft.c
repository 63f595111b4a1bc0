#include "daemon/text/draft.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/detok.h"
#include "daemon/text/ranks.h"
#include "proto/base/io.h"

/* Control tokens of these names end a generation, whatever the file's eos is. */
static const char *const known_eog[] = { "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                         "<|end|>", "<end_of_turn>", "</s>" };

px_code daemon_draft_no_memory(px_err *e)
{
    return px_fail(e, PX_ENOMEM, "tokenizer", "making the tokenizer's normal form");
}

px_code daemon_draft_init(daemon_draft *d, px_alloc *a, daemon_vocab_kind kind, size_t n, const char *field, px_err *e)
{
    *d = (daemon_draft){ .a = a, .kind = kind, .bos = DAEMON_NO_ID64, .eos = DAEMON_NO_ID64, .unk = DAEMON_NO_ID64,
                         .pad = DAEMON_NO_ID64, .pre_name = "none" };
    if (n == 0 || n > DAEMON_MAX_VOCAB)
        return px_fail(e, PX_ECORRUPT, field, "%zu tokens; 1 to %u are possible", n, DAEMON_MAX_VOCAB);
    d->n = n;
    d->types = px_new(a, char, n + 1);
    d->eog = px_new(a, bool, n);
    d->tokens = json_array();
    d->merges = json_array();
    return d->types && d->eog && d->tokens && d->merges ? PX_OK : daemon_draft_no_memory(e);
}

void daemon_draft_deinit(daemon_draft *d)
{
    if (d->scores) px_del(d->a, d->scores, d->n);
    if (d->eog) px_del(d->a, d->eog, d->n);
    if (d->types) px_del(d->a, d->types, d->n + 1);
    json_decref(d->late);
    json_decref(d->merges);
    json_decref(d->tokens);
    *d = (daemon_draft){0};
}

px_code daemon_draft_append(json_t *array, const char *key, size_t i, const char *s, size_t bytes, px_err *e)
{
    char field[64];

    if (!bytes || !px_utf8_valid(s, bytes)) {
        snprintf(field, sizeof field, "%s[%zu]", key, i);
        return px_fail(e, PX_ECORRUPT, field, bytes ? "not UTF-8" : "no text, of 0 bytes");
    }
    return json_array_append_new(array, json_stringn_nocheck(s, bytes)) ? daemon_draft_no_memory(e) : PX_OK;
}

static const char *token(const daemon_draft *d, size_t id, size_t *bytes)
{
    const json_t *s = json_array_get(d->tokens, id);
    *bytes = json_string_length(s);
    return json_string_value(s);
}

static void mark_eog(daemon_draft *d)
{
    if (d->eos < d->n) d->eog[d->eos] = true;
    for (size_t i = 0; i < d->n; i++)
        for (size_t k = 0; k < sizeof known_eog / sizeof *known_eog && d->types[i] == '0' + DAEMON_TOKEN_CONTROL; k++)
            if (!strcmp(json_string_value(json_array_get(d->tokens, i)), known_eog[k])) d->eog[i] = true;
}

/* ---- SentencePiece: ranks out of scores, or out of merges that say the same ---- */

static px_code open_vocab(const daemon_draft *d, daemon_vocab *v, px_err *e)
{
    px_code rc;
    size_t total = 0, bytes;

    for (size_t i = 0; i < d->n; i++) total += json_string_length(json_array_get(d->tokens, i));
    if ((rc = daemon_vocab_init(v, d->a, d->kind, (uint32_t)d->n, total, e))) return rc;
    for (size_t i = 0; i < d->n; i++) {
        const char *s = token(d, i, &bytes);
        if ((rc = daemon_vocab_add(v, s, bytes, d->types[i] - '0', e))) return rc;
    }
    return PX_OK;
}

/* The file's merges by ids.  A merge that needs a special or byte token is dropped: SentencePiece has none such. */
static px_code resolve_all(daemon_draft *d, const daemon_vocab *v, daemon_merge *merge, size_t *n, px_err *e)
{
    size_t i, longest = 1;
    json_t *s;
    char *both, field[40];
    px_code rc = PX_OK;

    *n = 0;
    json_array_foreach(d->merges, i, s)
        if (json_string_length(s) > longest) longest = json_string_length(s);
    if (!(both = px_new(d->a, char, longest))) return daemon_draft_no_memory(e);
    json_array_foreach(d->merges, i, s) {
        daemon_merge *g = &merge[*n];
        if (!daemon_merge_resolve(v, json_string_value(s), json_string_length(s), both, g)) {
            snprintf(field, sizeof field, "merges[%zu]", i);
            rc = px_fail(e, PX_ECORRUPT, field, "is not two tokens that make a third");
            break;
        }
        if (v->token[g->left].type == DAEMON_TOKEN_NORMAL && v->token[g->right].type == DAEMON_TOKEN_NORMAL &&
            v->token[g->result].type == DAEMON_TOKEN_NORMAL)
            ++*n;
    }
    px_del(d->a, both, longest);
    return rc;
}

static px_code rank_merges(daemon_draft *d, const daemon_vocab *v, uint32_t *rank, bool *same, px_err *e)
{
    size_t n = json_array_size(d->merges), used = 0;
    daemon_merge *merge = px_new(d->a, daemon_merge, n + 1);
    px_code rc;

    if (!merge) return daemon_draft_no_memory(e);
    if (!(rc = resolve_all(d, v, merge, &used, e))) *same = daemon_ranks_of_merges(rank, v, merge, used);
    px_del(d->a, merge, n + 1);
    return rc;
}

/* *ranks: JSON of the ranks, null where the merges stand for themselves. */
static px_code make_ranks(daemon_draft *d, json_t **ranks, px_err *e)
{
    daemon_vocab v = {0};
    uint32_t *rank = NULL;
    bool same = true;
    px_code rc;

    *ranks = NULL;
    if (d->kind != DAEMON_SENTENCEPIECE) return (*ranks = json_null()) ? PX_OK : daemon_draft_no_memory(e);
    if ((rc = open_vocab(d, &v, e))) goto done;
    if (!(rank = px_new(d->a, uint32_t, d->n))) { rc = daemon_draft_no_memory(e); goto done; }
    rc = d->scores ? daemon_ranks_of_scores(rank, d->a, &v, d->scores, e) : rank_merges(d, &v, rank, &same, e);
    if (rc) goto done;
    if (!(*ranks = same ? json_array() : json_null())) rc = daemon_draft_no_memory(e);
    for (size_t i = 0; i < d->n && same && !rc; i++)
        if (json_array_append_new(*ranks, json_integer(rank[i] == DAEMON_NO_ID ? -1 : (json_int_t)rank[i])))
            rc = daemon_draft_no_memory(e);
    if (same && !rc) json_array_clear(d->merges);

done:
    if (rank) px_del(d->a, rank, d->n);
    daemon_vocab_deinit(&v);
    return rc;
}

/* ---- writing ---- */

static json_t *id_json(uint64_t id)
{
    return id == DAEMON_NO_ID64 ? json_null() : json_integer((json_int_t)id);
}

static json_t *eog_json(const daemon_draft *d)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < d->n; i++)
        if (d->eog[i] && json_array_append_new(list, json_integer((json_int_t)i))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *stages_json(const daemon_draft *d)
{
    json_t *list = json_array();

    for (size_t i = 0; list && d->stage[i]; i++)
        if (json_array_append_new(list, json_string(d->stage[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* json_pack takes what it is given with "o" also where it fails. */
static json_t *document(const daemon_draft *d, json_t *ranks)
{
    return json_pack("{s:i, s:s, s:{s:s, s:o}, s:b, s:s, s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:s, s:O, s:O, s:O, s:O*}",
        "format", DAEMON_NORMAL_FORMAT, "kind", daemon_vocab_kind_name[d->kind], "pre", "name", d->pre_name, "stages", stages_json(d),
        "nfc", d->nfc, "space_prefix", daemon_prefix_name[d->prefix], "ignore_merges", d->ignore_merges, "add_bos", d->add_bos,
        "bos", id_json(d->bos), "eos", id_json(d->eos), "unk", id_json(d->unk), "pad", id_json(d->pad), "eog", eog_json(d),
        "types", d->types, "tokens", d->tokens, "merges", d->merges, "ranks", ranks,
        "late", d->late);
}

struct written { daemon_bytes text; bool full; };

static int put_chunk(const char *p, size_t n, void *out)
{
    struct written *to = out;

    if (n > DAEMON_NORMAL_BYTES - to->text.n) to->full = true;
    return to->full || daemon_bytes_put(&to->text, p, n, NULL) ? -1 : 0;
}

px_code daemon_draft_finish(daemon_draft *d, char **json, size_t *bytes, px_err *e)
{
    px_code rc;
    json_t *doc = NULL, *ranks = NULL;
    struct written to = {0};
    daemon_tokenizer *t = NULL;

    *json = NULL;
    *bytes = 0;
    daemon_bytes_init(&to.text, d->a);
    mark_eog(d);
    if ((rc = make_ranks(d, &ranks, e))) goto done;
    if (!(doc = document(d, ranks)) || json_dump_callback(doc, put_chunk, &to, JSON_COMPACT | JSON_PRESERVE_ORDER)) {
        rc = to.full ? px_fail(e, PX_ERANGE, "tokenizer", "its normal form has more than %zu bytes", DAEMON_NORMAL_BYTES)
                     : daemon_draft_no_memory(e);
        goto done;
    }
    /* opening reads them all again: one copy at a time */
    json_decref(doc);
    json_decref(ranks);
    doc = ranks = NULL;
    json_array_clear(d->tokens);
    json_array_clear(d->merges);
    if ((rc = daemon_tokenizer_open(&t, d->a, to.text.p, to.text.n, e))) goto done;
    if (!(*json = px_new(d->a, char, to.text.n + 1))) {
        rc = daemon_draft_no_memory(e);
        goto done;
    }
    memcpy(*json, to.text.p, to.text.n);
    *bytes = to.text.n;

done:
    daemon_tokenizer_close(t);
    daemon_bytes_deinit(&to.text);
    json_decref(doc);
    json_decref(ranks);
    return rc;
}
