#include "shard/plan/act.h"

#define ALIGN 256u

/* A sum of products that remembers whether it left 64 bits. */
typedef struct sum { uint64_t n; bool over; } sum;

static uint64_t product(sum *s, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t n;
    s->over |= __builtin_mul_overflow(a, b, &n);
    s->over |= __builtin_mul_overflow(n, c, &n);
    return n;
}

/* One buffer: a x b x c bytes, at the arena's alignment. */
static void put(sum *s, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t n = product(s, a, b, c);

    s->over |= __builtin_add_overflow(n, ALIGN - 1, &n);
    s->over |= __builtin_add_overflow(s->n, n / ALIGN * ALIGN, &s->n);
}

px_code shard_act_of(const shard_arch *m, const shard_split *s, uint32_t rank, uint32_t tokens, uint32_t sequences,
                     shard_act_kind kind, shard_act *out, px_err *e)
{
    const uint64_t T = tokens, S = sequences, d = m->d_model, h = m->head_dim, V = m->n_vocab;
    const uint64_t E = m->n_expert, used = m->n_expert_used;
    sum x = { 0 }, attn = { 0 }, ffn = { 0 }, head = { 0 }, naive = { 0 }, sampling = { 0 };
    const shard_cut *c;
    uint64_t q, kv, f, v, most;

    *out = (shard_act){ 0 };
    if (rank >= s->world) return px_fail(e, PX_ERANGE, "rank", "%u of %u ranks", rank, s->world);
    if (!tokens) return px_fail(e, PX_ERANGE, "token_budget", "a step of no tokens");
    if (!sequences) return px_fail(e, PX_ERANGE, "max_sequences", "no sequences");
    c = &s->cut[rank];
    q = c->q_head.end - c->q_head.begin;
    kv = c->kv_head.end - c->kv_head.begin;
    f = c->ffn.end - c->ffn.begin;
    v = c->vocab.end - c->vocab.begin;

    put(&x, T, d, kind.res);

    put(&attn, T, d, kind.act);
    put(&attn, T, (q + 2 * kv) * h, kind.act);
    put(&attn, T, q * h, kind.act);
    put(&attn, T, d, kind.comm);

    put(&ffn, T, d, kind.act);
    if (E) {
        put(&ffn, T, E, 4);
        put(&ffn, T, used, 8);
        put(&ffn, T, used * d, kind.act);
        put(&ffn, T, used * 2 * f, kind.act);
        put(&ffn, T, used * d, kind.comm);
    } else {
        put(&ffn, T, 2 * f, kind.act);
    }
    put(&ffn, T, d, kind.comm);

    put(&head, S, d, kind.act);
    put(&head, S, v, 4);
    put(&head, S, V, 4);               /* gathered */

    naive.n = product(&naive, q * 4, T, T);
    if (rank == 0) {
        put(&sampling, S, V, 4);
        put(&sampling, S, V, 8);
        put(&sampling, S, V, 2);
        put(&sampling, S, (V + 31) / 32, 4);
    }
    most = attn.n > ffn.n ? attn.n : ffn.n;
    if (head.n > most) most = head.n;
    if (x.over || attn.over || ffn.over || head.over || naive.over || sampling.over ||
        __builtin_add_overflow(x.n, most, &out->total)) {
        *out = (shard_act){ 0 };
        return px_fail(e, PX_ERANGE, "model", "the activations of %u tokens are beyond 64 bits", tokens);
    }
    out->residual = x.n;
    out->attn = attn.n;
    out->ffn = ffn.n;
    out->head = head.n;
    out->scores_if_naive = naive.n;
    out->sampling = sampling.n;
    return PX_OK;
}
