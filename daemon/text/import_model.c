#include "daemon/text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "daemon/text/hints.h"
#include "daemon/text/sentencepiece.pb-c.h"
#include "proto/wire/pb.h"

/* Bytes that a byte of the file may become when it is unpacked.  The smallest piece with a text has five: a message, a pointer,
 * the text and a place in the parser's own list come to some 30 a byte; pieces without a text, to more than is allowed. */
enum { UNPACKED = 40, FLOOR = 64 << 10 };

static px_code unpack(px_arena *r, const void *data, size_t n, Daemon__Spm__Model **out, px_err *e)
{
    px_err why = {0};
    ProtobufCMessage *m;
    px_code rc = proto_pb_unpack(&daemon__spm__model__descriptor, &r->a, n, data, &m, &why);

    *out = (Daemon__Spm__Model *)m;
    if (rc == PX_OK) return PX_OK;
    return rc == PX_ERANGE ? px_fail(e, PX_ENOMEM, "tokenizer.model", "no memory is left, or it is larger than %zu bytes when unpacked", r->cap)
                           : px_fail(e, PX_ECORRUPT, "tokenizer.model", "%zu bytes that are no SentencePiece model", n);
}

/* What a file may say of how text is prepared: all but the space in front must be as Llama's and Mistral's files say. */
static px_code check_specs(const Daemon__Spm__Model *m, px_err *e)
{
    static const char *const types[] = { "?", "unigram", "bpe", "word", "char" };
    const Daemon__Spm__Trainer *t = m->trainer_spec;
    const Daemon__Spm__Normalizer *z = m->normalizer_spec;
    struct { const char *field; bool right; const char *found, *want; } rule[] = {
        { "trainer_spec", t != NULL, "nothing", "a message" },
        { "normalizer_spec", z != NULL, "nothing", "a message" },
        { "trainer_spec.model_type", t && t->model_type == DAEMON__SPM__TRAINER__MODEL_TYPE__BPE,
          t && t->model_type >= 1 && t->model_type <= 4 ? types[t->model_type] : types[0], "bpe" },
        { "trainer_spec.byte_fallback", t && t->byte_fallback, "false", "true" },
        { "trainer_spec.treat_whitespace_as_suffix", t && !t->treat_whitespace_as_suffix, "true", "false" },
        { "normalizer_spec.precompiled_charsmap", z && z->precompiled_charsmap.len == 0, "a table of characters", "none" },
        { "normalizer_spec.remove_extra_whitespaces", z && !z->remove_extra_whitespaces, "true", "false" },
        { "normalizer_spec.escape_whitespaces", z && z->escape_whitespaces, "false", "true" },
    };

    for (size_t i = 0; i < sizeof rule / sizeof *rule; i++)
        if (!rule[i].right)
            return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, rule[i].field, rule[i].found, rule[i].want);
    return PX_OK;
}

static px_code read_pieces(daemon_draft *d, const Daemon__Spm__Model *m, px_err *e)
{
    px_code rc;
    char field[40], found[32];

    if (!(d->scores = px_new(d->a, double, d->n))) return daemon_draft_no_memory(e);
    for (size_t i = 0; i < d->n; i++) {
        const Daemon__Spm__Piece *p = m->pieces[i];
        snprintf(field, sizeof field, "pieces[%zu].type", i);
        snprintf(found, sizeof found, "%d", (int)p->type);
        if ((int)p->type < DAEMON_TOKEN_NORMAL || (int)p->type > DAEMON_TOKEN_BYTE)
            return px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, field, found, "1 to 6");
        if ((rc = daemon_draft_append(d->tokens, "pieces", i, p->piece.len ? (const char *)p->piece.data : "", p->piece.len, e)))
            return rc;
        d->types[i] = (char)('0' + (int)p->type);
        d->scores[i] = (double)p->score;
    }
    return PX_OK;
}

static px_code id_of(const daemon_draft *d, const char *field, int32_t id, uint64_t *out, px_err *e)
{
    char found[32], want[48];

    if (id < 0) return PX_OK;                          /* there is none */
    *out = (uint64_t)id;
    if (*out < d->n) return PX_OK;
    snprintf(found, sizeof found, "%d", id);
    snprintf(want, sizeof want, "an id below %zu", d->n);
    return px_err_set_mismatch(e, PX_ECORRUPT, __FILE__, __LINE__, field, found, want);
}

static px_code build(daemon_draft *d, px_alloc *a, const Daemon__Spm__Model *m, const daemon_hints *h, px_err *e)
{
    px_code rc;
    const Daemon__Spm__Trainer *t = m->trainer_spec;

    if ((rc = check_specs(m, e)) || (rc = daemon_draft_init(d, a, DAEMON_SENTENCEPIECE, m->n_pieces, "pieces", e)) ||
        (rc = read_pieces(d, m, e)) || (rc = id_of(d, "trainer_spec.bos_id", t->bos_id, &d->bos, e)) ||
        (rc = id_of(d, "trainer_spec.eos_id", t->eos_id, &d->eos, e)) ||
        (rc = id_of(d, "trainer_spec.unk_id", t->unk_id, &d->unk, e)) ||
        (rc = id_of(d, "trainer_spec.pad_id", t->pad_id, &d->pad, e)))
        return rc;
    d->prefix = m->normalizer_spec->add_dummy_prefix ? DAEMON_PREFIX_ALWAYS : DAEMON_PREFIX_NEVER;
    return daemon_hints_apply(h, d, NULL, e);
}

px_code daemon_tokenizer_from_model(px_alloc *a, const void *data, size_t n, const daemon_hints *hints, char **json,
                                    size_t *bytes, px_err *e)
{
    px_code rc;
    px_arena unpacked;
    Daemon__Spm__Model *m;
    daemon_draft d = {0};

    *json = NULL;
    *bytes = 0;
    if (n > DAEMON_NORMAL_BYTES) return px_fail(e, PX_ERANGE, "tokenizer.model", "%zu bytes; at most %zu", n, DAEMON_NORMAL_BYTES);
    px_arena_init(&unpacked, a, "tokenizer.model", 256 << 10, 0, UNPACKED * n + FLOOR);
    if (!(rc = unpack(&unpacked, data, n, &m, e))) rc = build(&d, a, m, hints, e);
    px_arena_deinit(&unpacked);                        /* the draft has copies of its own */
    if (!rc) rc = daemon_draft_finish(&d, json, bytes, e);
    daemon_draft_deinit(&d);
    return rc;
}
