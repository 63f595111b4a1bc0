#include "daemon/text/bpe.h"

#define NONE DAEMON_NO_ID        /* end of the list; as an id: a symbol that was merged into its left neighbour */
enum { WAYS = 4 };               /* four children a node: half the levels of a binary heap */

void daemon_bpe_init(daemon_bpe *b, px_alloc *a)
{
    *b = (daemon_bpe){ .a = a };
}

void daemon_bpe_deinit(daemon_bpe *b)
{
    if (b->heap) px_del(b->a, b->heap, b->cap_heap);
    if (b->sym) px_del(b->a, b->sym, b->cap_sym);
    *b = (daemon_bpe){ .a = b->a };
}

/* Room for a piece of n bytes.  A merge takes one entry off the heap and adds at most two, so 2n is never passed.
 * What was there is scratch: put first, get after, so that the two never lie side by side. */
static px_code reserve(daemon_bpe *b, size_t n, px_err *e)
{
    size_t want = n < 128 ? 128 : n;

    if (want <= b->cap_sym) return PX_OK;
    if (want < 2 * b->cap_sym) want = 2 * b->cap_sym;
    daemon_bpe_deinit(b);
    b->cap_sym = want;
    b->cap_heap = 2 * want;
    b->sym = px_new(b->a, struct daemon_symbol, b->cap_sym);
    b->heap = px_new(b->a, uint64_t, b->cap_heap);
    if (b->sym && b->heap) return PX_OK;
    daemon_bpe_deinit(b);
    return px_fail(e, PX_ENOMEM, "text", "merging a piece of %zu bytes", n);
}

static void sift_down(daemon_bpe *b, size_t at, uint64_t x)
{
    for (;;) {
        size_t child = WAYS * at + 1, end = child + WAYS < b->n_heap ? child + WAYS : b->n_heap, least = child;
        if (child >= b->n_heap) break;
        for (size_t c = child + 1; c < end; c++)
            if (b->heap[c] < b->heap[least]) least = c;
        if (b->heap[least] >= x) break;
        b->heap[at] = b->heap[least];
        at = least;
    }
    b->heap[at] = x;
}

static void push(daemon_bpe *b, uint64_t x)
{
    size_t at = b->n_heap++;
    while (at > 0 && b->heap[(at - 1) / WAYS] > x) {
        b->heap[at] = b->heap[(at - 1) / WAYS];
        at = (at - 1) / WAYS;
    }
    b->heap[at] = x;
}

static uint64_t pop(daemon_bpe *b)
{
    uint64_t top = b->heap[0];
    if (--b->n_heap) sift_down(b, 0, b->heap[b->n_heap]);
    return top;
}

/* The key of the pair (i, next of i); false if it does not merge. */
static bool pair_key(const daemon_bpe *b, const daemon_merges *m, uint32_t i, uint64_t *key)
{
    uint32_t next = b->sym[i].next;
    const daemon_merge *g = next == NONE ? NULL : daemon_merges_find(m, b->sym[i].id, b->sym[next].id);

    if (g) *key = (uint64_t)g->rank << 32 | i;
    return g != NULL;
}

/* The merge that a key stands for; NULL if it is stale: either side has been merged since (dead symbols have the id NONE,
 * which merges with nothing), and what is there now has another rank. */
static const daemon_merge *merge_of(const daemon_bpe *b, const daemon_merges *m, uint64_t key)
{
    const struct daemon_symbol *s = &b->sym[(uint32_t)key];
    const daemon_merge *g = s->id == NONE || s->next == NONE ? NULL : daemon_merges_find(m, s->id, b->sym[s->next].id);

    return g && g->rank == key >> 32 ? g : NULL;
}

static uint32_t put(daemon_bpe *b, uint32_t k, uint32_t id)
{
    b->sym[k] = (struct daemon_symbol){ .id = id, .prev = k - 1, .next = k + 1 };    /* 0 - 1 is NONE */
    return k + 1;
}

/* Byte-level: a symbol a byte.  SentencePiece: a symbol a character that is a token, else its bytes'. */
static uint32_t fill(daemon_bpe *b, const daemon_vocab *v, const char *p, size_t n)
{
    uint32_t k = 0;

    for (size_t i = 0, each = 1; i < n; i += each) {
        uint32_t id = v->byte_id[(uint8_t)p[i]];
        if (v->kind == DAEMON_SENTENCEPIECE) {
            for (each = 1; i + each < n && ((uint8_t)p[i + each] & 0xc0) == 0x80; ) each++;
            id = daemon_vocab_find(v, DAEMON_CLASS_TEXT, p + i, each);
            for (size_t c = 0; c < each && id == DAEMON_NO_ID; c++) k = put(b, k, v->byte_id[(uint8_t)p[i + c]]);
        }
        if (id != DAEMON_NO_ID) k = put(b, k, id);
    }
    if (k) b->sym[k - 1].next = NONE;
    return k;
}

px_code daemon_bpe_piece(daemon_bpe *b, const daemon_vocab *v, const daemon_merges *m, const char *p, size_t n,
                         daemon_ids *out, px_err *e)
{
    px_code rc;
    uint64_t key;

    if (n == 1 && v->kind == DAEMON_BYTELEVEL) {
        const uint32_t *id = &v->byte_id[(uint8_t)*p];
        return *id == DAEMON_NO_ID ? PX_OK : daemon_ids_push(out, id, 1, e);
    }
    if (n > INT32_MAX) return px_fail(e, PX_ERANGE, "text", "a piece of %zu bytes", n);
    if ((rc = reserve(b, n, e))) return rc;

    uint32_t k = fill(b, v, p, n);
    b->n_heap = 0;
    for (uint32_t i = 0; i + 1 < k; i++)
        if (pair_key(b, m, i, &key)) b->heap[b->n_heap++] = key;
    for (size_t i = b->n_heap / WAYS + 1; i-- > 0 && b->n_heap;)       /* all at once: linear */
        if (i < b->n_heap) sift_down(b, i, b->heap[i]);

    while (b->n_heap) {
        const daemon_merge *g = merge_of(b, m, key = pop(b));
        uint32_t i = (uint32_t)key;
        struct daemon_symbol *s = &b->sym[i];
        if (!g) continue;
        uint32_t next = s->next;
        s->id = g->result;
        s->next = b->sym[next].next;
        b->sym[next].id = NONE;
        if (s->next != NONE) b->sym[s->next].prev = i;
        if (pair_key(b, m, i, &key)) push(b, key);
        if (s->prev != NONE && pair_key(b, m, s->prev, &key)) push(b, key);
    }
    for (uint32_t i = k ? 0 : NONE; i != NONE; i = b->sym[i].next)
        if ((rc = daemon_ids_push(out, &b->sym[i].id, 1, e))) return rc;
    return PX_OK;
}
