/* sequence.c - did all ranks do the same?  A call is a word of 64 bits; a step's words are hashed, and the first of them kept. */
#include "comm/table.h"

#include <stdio.h>
#include <string.h>

typedef struct comm_sequence {
    uint64_t hash;
    uint64_t n;                                   /* calls of this step */
    uint64_t call[COMM_SEQUENCE_KEPT];
} comm_sequence;

/* A message has at most 2^40 bytes. */
#define COUNT_BITS 42u
#define KIND_BITS  8u
_Static_assert(COMM_MAX_MESSAGE < (uint64_t)1 << COUNT_BITS, "a count fits into its part of the word");
#define NOTHING UINT64_MAX                        /* no call: a step that had ended */

static uint64_t word_of(comm_op op, uint64_t count, comm_number number)
{
    return (uint64_t)op << (COUNT_BITS + KIND_BITS) | (uint64_t)number << COUNT_BITS | count;
}

/* Before each value its name, so that a reader needs no key. */
static const char *describe(uint64_t w, char *buf, size_t cap)
{
    static const char *const op[] = { "barrier", "reduce", "gather", "graph" };
    const uint64_t count = w & (((uint64_t)1 << COUNT_BITS) - 1);
    const unsigned which = (unsigned)(w >> (COUNT_BITS + KIND_BITS));

    if (w == NOTHING) snprintf(buf, cap, "nothing");
    else if (which == COMM_OP_BARRIER) snprintf(buf, cap, "barrier");
    else if (which == COMM_OP_GRAPH) snprintf(buf, cap, "graph %llu", (unsigned long long)count);
    else if (which > COMM_OP_GRAPH) snprintf(buf, cap, "word %016llx", (unsigned long long)w);
    else snprintf(buf, cap, "%s of %llu %s", op[which], (unsigned long long)count, w >> COUNT_BITS & 1 ? "f32" : "bytes");
    return buf;
}

static void add(comm_sequence *s, uint64_t word)
{
    uint64_t z = (s->hash ^ word) + 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    s->hash = z ^ z >> 31;
    if (s->n < COMM_SEQUENCE_KEPT) s->call[s->n] = word;
    s->n++;
}

void comm_sequence_note(comm *c, comm_op op, size_t count, comm_number number) { add(c->sequence, word_of(op, count, number)); }

void comm_sequence_graph(comm *c, uint32_t graph)
{
    if (c->sequence) add(c->sequence, word_of(COMM_OP_GRAPH, graph, COMM_BYTES));
}

px_code comm_sequence_on(comm *c, px_err *e)
{
    if (c->sequence) return PX_OK;
    if (!c->gather_bytes) return px_fail(e, PX_ERANGE, "gather_bytes", "a comm that gathers nothing cannot compare");
    if (!(c->sequence = px_new(c->a, comm_sequence, 1))) return px_fail(e, PX_ENOMEM, "sequence", "%zu bytes", sizeof(comm_sequence));
    return PX_OK;
}

void comm_sequence_close(comm *c)
{
    px_del(c->a, c->sequence, c->sequence ? 1 : 0);
    c->sequence = NULL;
}

/* The word that most ranks have; of as many the lowest rank's. */
static uint64_t usual(const uint64_t *word, uint32_t world)
{
    uint32_t most = 0;
    uint64_t it = word[0];

    for (uint32_t r = 0; r < world; r++) {
        uint32_t n = 0;
        for (uint32_t k = 0; k < world; k++) n += word[k] == word[r];
        if (n > most) { most = n; it = word[r]; }
    }
    return it;
}

static bool all_same(const uint64_t *word, uint32_t world)
{
    for (uint32_t r = 1; r < world; r++)
        if (word[r] != word[0]) return false;
    return true;
}

/* All ranks have seen the same hashes, so all come here: call after call until one differs. */
static px_code find_all(comm *c, uint64_t longest, px_err *e)
{
    const comm_sequence *s = c->sequence;
    uint64_t word[COMM_MAX_WORLD];
    char found[64], expected[64];
    px_code rc;

    for (uint64_t i = 0; i < longest && i < COMM_SEQUENCE_KEPT; i++) {
        const uint64_t mine = i < s->n ? s->call[i] : NOTHING;
        if ((rc = comm_gather_pieces_all(c, &mine, sizeof mine, word, e))) return rc;
        if (all_same(word, c->world)) continue;
        const uint64_t want = usual(word, c->world);
        uint32_t r = 0;
        while (word[r] == want) r++;
        return px_refuse(e, PX_EMISMATCH, "sequence", describe(word[r], found, sizeof found), describe(want, expected, sizeof expected),
                         "call %llu of the step: rank %u did %s, the others %s", (unsigned long long)i + 1, r, found, expected);
    }
    return px_refuse(e, PX_EMISMATCH, "sequence", "", "", "the ranks' calls differ behind the first %u of the step", COMM_SEQUENCE_KEPT);
}

px_code comm_sequence_step_all(comm *c, px_err *e)
{
    comm_sequence *s = c->sequence;
    uint64_t mine[2], all[COMM_MAX_WORLD][2], hash[COMM_MAX_WORLD], longest = 0;
    bool same = true;
    px_code rc;

    if (!s) return PX_OK;
    mine[0] = s->hash;
    mine[1] = s->n;
    if ((rc = comm_gather_pieces_all(c, mine, sizeof mine, all, e))) return rc;
    for (uint32_t r = 0; r < c->world; r++) {
        hash[r] = all[r][0];
        if (all[r][1] != all[0][1]) same = false;
        if (all[r][1] > longest) longest = all[r][1];
    }
    rc = same && all_same(hash, c->world) ? PX_OK : find_all(c, longest, e);
    if (rc) c->failed = true;                     /* the ranks are no longer in step */
    s->n = 0;
    return rc;
}
