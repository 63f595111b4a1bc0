#include "shard/plan/split.h"

#include "shard/plan/bytes.h"

#include <stdio.h>

/* Ranks above this are a mistake in a configuration, not a machine. */
#define MAX_WORLD 4096u

static uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t c = a % b;
        a = b;
        b = c;
    }
    return a;
}

/* C4: rank r of `world` gets floor(u / world) + (r < u % world) units, contiguous. */
static uint64_t deal_begin(uint64_t units, uint32_t world, uint32_t r)
{
    uint64_t rest = units % world;
    return units / world * r + (r < rest ? r : rest);
}

/* Units of `unit` elements of a whole of n; the last one may be short. */
static shard_range deal(uint32_t n, uint32_t unit, uint32_t world, uint32_t r)
{
    uint64_t units = ceil_div(n, unit);
    uint64_t lo = deal_begin(units, world, r) * unit, hi = deal_begin(units, world, r + 1) * unit;
    return (shard_range){ (uint32_t)(lo < n ? lo : n), (uint32_t)(hi < n ? hi : n) };
}

/* Elements that a cut along columns must keep together.  Every type's group is 1 or a power of two, so the largest
 * over the layers fits all of them. */
static uint32_t group_of(kern_dtype t)
{
    if (t == KERN_W8 || t == KERN_W4 || t == KERN_W4Z) return 128;
    if (t == KERN_FP8) return 1;
    if (t == KERN_Q2_HM) return 32;                       /* its unit may be half a one */
    return kern_dtype_get(t)->block;
}

static uint32_t group_over_layers(const shard_arch *m, const shard_types *t, shard_role r)
{
    uint32_t most = 1;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        uint32_t g = group_of(shard_type_of(t, r, i));
        if (g > most) most = g;
    }
    return most;
}

static px_code fail_ranks(px_err *e, uint32_t world, uint64_t largest, const char *what)
{
    px_code rc;
    if (e && e->code) return PX_ERANGE;
    rc = px_fail(e, PX_ERANGE, "ranks", "this model does not split over %u ranks (%s); the largest number that works is %llu",
                 world, what, (unsigned long long)largest);
    if (e) {
        snprintf(e->found, sizeof e->found, "%u", world);
        snprintf(e->expected, sizeof e->expected, "1 to %llu", (unsigned long long)largest);
    }
    return rc;
}

/* C6b: units go one by one to the rank with the fewest bytes so far, ties to the lowest rank.  The u-th unit of rank r
 * is dealt when that rank weighs base[r] + u * each; so the deal is the n smallest of those weights, and is found by
 * searching the weight at which it stops.  Every rank gets at least one unit. */
static uint64_t dealt_below(const uint64_t *base, uint32_t world, uint64_t each, uint64_t level, uint64_t *units)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < world; r++) {
        uint64_t n = base[r] < level ? ceil_div(level - base[r], each) : 0;
        if (n == 0) n = 1;
        if (units) units[r] = n;
        if (__builtin_add_overflow(sum, n, &sum)) return UINT64_MAX;
    }
    return sum;
}

static bool deal_balanced(const uint64_t *base, uint32_t world, uint64_t each, uint64_t n, uint64_t *units)
{
    uint64_t lo = 0, hi = 0, left;

    if (each == 0 || __builtin_mul_overflow(each, n, &hi)) return false;
    for (uint32_t r = 0; r < world; r++) {
        uint64_t top;
        if (__builtin_add_overflow(base[r], each * n, &top)) return false;
        if (top > hi) hi = top;
    }
    while (lo < hi) {                       /* the greatest level with at most n units below it */
        uint64_t mid = hi - (hi - lo) / 2;
        if (dealt_below(base, world, each, mid, NULL) <= n) lo = mid;
        else hi = mid - 1;
    }
    left = n - dealt_below(base, world, each, lo, units);
    for (uint32_t r = 0; r < world && left; r++)
        if (base[r] + units[r] * each == lo) {
            units[r]++;
            left--;
        }
    return left == 0;
}

static px_code split_ffn(shard_split *s, const shard_arch *m, const shard_types *t, px_err *e)
{
    shard_weight_bytes w;
    uint64_t *base = NULL, *units = NULL, each = 0, at = 0;
    bool balanced = s->ffn == SHARD_SPLIT_BALANCED && s->world > 1 && m->d_ff % s->ffn_unit == 0;
    px_code rc = PX_OK;

    for (uint32_t r = 0; r < s->world; r++) s->cut[r].ffn = deal(m->d_ff, s->ffn_unit, s->world, r);
    if (!balanced) return PX_OK;

    base = px_new(s->a, uint64_t, s->world);
    units = px_new(s->a, uint64_t, s->world);
    if (!base || !units) {
        rc = px_fail(e, PX_ENOMEM, "ranks", "balance of %u ranks", s->world);
        goto fail;
    }
    /* What a rank holds without its FFN, and what one unit adds: the same sizing function, on cuts of one and of two units
     * (there are two where there are two ranks), because the first brings what is there once, like the scale of a tensor. */
    for (uint32_t r = 0; r < s->world; r++) {
        shard_range dealt = s->cut[r].ffn;
        s->cut[r].ffn = (shard_range){ 0, s->ffn_unit };
        rc = shard_weight_bytes_of(m, t, s, r, false, &w, e);
        base[r] = rc ? 0 : w.stored;
        s->cut[r].ffn = (shard_range){ 0, 2 * s->ffn_unit };
        if (!rc) rc = shard_weight_bytes_of(m, t, s, r, false, &w, e);
        each = rc ? 0 : w.stored - base[r];
        base[r] -= each;
        s->cut[r].ffn = dealt;
        if (rc) goto fail;
    }
    if (!deal_balanced(base, s->world, each, m->d_ff / s->ffn_unit, units)) {
        rc = px_fail(e, PX_ERANGE, "d_ff", "the weights of %u FFN columns are beyond 64 bits", m->d_ff);
        goto fail;
    }
    for (uint32_t r = 0; r < s->world; r++) {
        s->cut[r].ffn.begin = (uint32_t)(at * s->ffn_unit);
        at += units[r];
        s->cut[r].ffn.end = (uint32_t)(at * s->ffn_unit);
    }

fail:
    if (base) px_del(s->a, base, s->world);
    if (units) px_del(s->a, units, s->world);
    return rc;
}

static px_code split_vocab(shard_split *s, const shard_arch *m, px_err *e)
{
    uint64_t per = ceil_div(m->n_vocab, 64ull * s->world) * 64;

    if (s->vocab == SHARD_VOCAB_PADDED64 && per * s->world > UINT32_MAX)
        return px_fail(e, PX_ERANGE, "n_vocab", "%u rows padded for %u ranks are beyond 32 bits", m->n_vocab, s->world);
    for (uint32_t r = 0; r < s->world; r++)
        s->cut[r].vocab = s->vocab == SHARD_VOCAB_PADDED64
            ? (shard_range){ (uint32_t)(per * r), (uint32_t)(per * (r + 1)) }
            : deal(m->n_vocab, 1, s->world, r);
    return PX_OK;
}

const char *shard_ffn_split_name(shard_ffn_split s)
{
    static const char *const name[] = { [SHARD_SPLIT_EVEN] = "even", [SHARD_SPLIT_BALANCED] = "balanced", [SHARD_SPLIT_ALIGNED] = "aligned" };
    return (unsigned)s < sizeof name / sizeof *name ? name[s] : "no split";
}

/* Eight leaves: is there a whole number of heads and of FFN units in each? */
static px_code check_leaves(const shard_arch *m, uint32_t world, uint32_t unit_q, uint32_t ffn_unit, px_err *e)
{
    uint32_t leaf = SHARD_LEAVES * unit_q, columns = SHARD_LEAVES * ffn_unit;      /* blocks have at most 256 elements */

    if (m->n_head % leaf)
        return px_fail(e, PX_EUNSUP, "split", "aligned wants eight leaves of whole heads: %u heads are not a multiple of %u (units of %u); "
                       "balanced and even take them", m->n_head, leaf, unit_q);
    if (m->d_ff % columns)
        return px_fail(e, PX_EUNSUP, "split", "aligned wants eight leaves of whole FFN units: %u columns are not a multiple of %u (units of "
                       "%u); balanced and even take them", m->d_ff, columns, ffn_unit);
    if (world == 1 || world == 2 || world == 4 || world == 8) return PX_OK;
    px_fail(e, PX_ERANGE, "ranks", "split aligned has eight leaves: %u ranks do not hold whole ones; the nearest is %u", world,
            world < 1 ? 1 : world > 5 ? 8 : world > 2 ? 4 : 2);
    if (e) {
        snprintf(e->found, sizeof e->found, "%u", world);
        snprintf(e->expected, sizeof e->expected, "1, 2, 4 or 8");
    }
    return PX_ERANGE;
}

px_code shard_split_init(shard_split *s, px_alloc *a, const shard_arch *m, const shard_types *t, uint32_t world,
                         shard_ffn_split ffn, shard_vocab_split vocab, px_err *e)
{
    uint32_t group, block, u, unit_q;
    uint64_t kv_units, q_units, ffn_units, largest;
    px_code rc;

    *s = (shard_split){ .a = a, .world = world, .ffn = ffn, .vocab = vocab };
    if ((rc = shard_arch_check(m, e))) goto fail;
    if (t->n_layer != m->n_layer) {
        rc = px_fail(e, PX_EINVAL, "n_layer", "types of %u layers for a model of %u", t->n_layer, m->n_layer);
        goto fail;
    }

    /* C5: whole KV groups while there are enough of them, else query heads */
    group = m->n_head / m->n_kv_head;
    block = group_over_layers(m, t, SHARD_ATTN_OUT);
    u = block / gcd(block, (uint32_t)((uint64_t)group * m->head_dim % block));
    unit_q = block / gcd(block, m->head_dim % block);
    kv_units = ceil_div(m->n_kv_head, u);
    q_units = ceil_div(m->n_head, unit_q);
    s->ffn_unit = group_over_layers(m, t, SHARD_FFN_DOWN);
    if (s->ffn_unit < 32) s->ffn_unit = 32;
    ffn_units = ceil_div(m->d_ff, s->ffn_unit);
    if (ffn == SHARD_SPLIT_ALIGNED && (rc = check_leaves(m, world, unit_q, s->ffn_unit, e))) goto fail;

    largest = q_units < ffn_units ? q_units : ffn_units;
    if (largest > m->n_vocab) largest = m->n_vocab;
    if (largest > MAX_WORLD) largest = MAX_WORLD;
    if (world < 1 || world > largest) {
        char what[96];
        if (world < 1 || world > MAX_WORLD)
            snprintf(what, sizeof what, "a world has 1 to %u ranks", MAX_WORLD);
        else if (world > q_units)
            snprintf(what, sizeof what, "attention has %llu units of %u heads", (unsigned long long)q_units, unit_q);
        else if (world > ffn_units)
            snprintf(what, sizeof what, "the FFN has %llu units of %u columns", (unsigned long long)ffn_units, s->ffn_unit);
        else
            snprintf(what, sizeof what, "the vocabulary has %u rows", m->n_vocab);
        rc = fail_ranks(e, world, largest, what);
        goto fail;
    }
    if (!(s->cut = px_new(a, shard_cut, world))) {
        rc = px_fail(e, PX_ENOMEM, "ranks", "cuts of %u ranks", world);
        goto fail;
    }

    s->kv_replicated = kv_units < world;
    s->attn_unit_heads = s->kv_replicated ? unit_q : u * group;
    if (ffn == SHARD_SPLIT_ALIGNED) {                   /* by leaves whatever the groups are: replicated where a leaf is less than one */
        s->attn_unit_heads = m->n_head / SHARD_LEAVES;
        s->kv_replicated = m->n_kv_head % world != 0;
    }
    for (uint32_t r = 0; r < world; r++) {
        shard_cut *c = &s->cut[r];
        if (s->kv_replicated || ffn == SHARD_SPLIT_ALIGNED) {
            c->q_head = deal(m->n_head, ffn == SHARD_SPLIT_ALIGNED ? s->attn_unit_heads : unit_q, world, r);
            c->kv_head = (shard_range){ c->q_head.begin / group, (c->q_head.end - 1) / group + 1 };
        } else {
            c->kv_head = deal(m->n_kv_head, u, world, r);
            c->q_head = (shard_range){ c->kv_head.begin * group, c->kv_head.end * group };
        }
    }
    if ((rc = split_vocab(s, m, e))) goto fail;
    if ((rc = split_ffn(s, m, t, e))) goto fail;
    return PX_OK;

fail:
    shard_split_deinit(s);
    return rc;
}

void shard_split_deinit(shard_split *s)
{
    if (s->cut) px_del(s->a, s->cut, s->world);
    *s = (shard_split){ 0 };
}

uint32_t shard_split_kv_of(const shard_arch *m, const shard_cut *c, uint32_t q_head)
{
    return q_head / (m->n_head / m->n_kv_head) - c->kv_head.begin;
}

void shard_split_extent(const shard_split *s, const shard_arch *m, shard_role r, uint32_t rank, shard_extent *x)
{
    const shard_role_info *info = shard_role_get(r);
    const shard_cut *c = &s->cut[rank];
    uint64_t begin, n;
    bool cols = info->vector;            /* a vector is one row: what cuts a matrix's rows cuts its elements */

    *x = (shard_extent){ 0 };
    shard_arch_shape(m, r, &x->rows, &x->cols);
    switch (info->cut) {
    case SHARD_CUT_Q_COLS: cols = true; /* fall through */
    case SHARD_CUT_Q_ROWS:
        begin = (uint64_t)c->q_head.begin * m->head_dim;
        n = (uint64_t)(c->q_head.end - c->q_head.begin) * m->head_dim;
        break;
    case SHARD_CUT_KV_ROWS:
        begin = (uint64_t)c->kv_head.begin * m->head_dim;
        n = (uint64_t)(c->kv_head.end - c->kv_head.begin) * m->head_dim;
        break;
    case SHARD_CUT_FFN_COLS: cols = true; /* fall through */
    case SHARD_CUT_FFN_ROWS:
        begin = c->ffn.begin;
        n = c->ffn.end - c->ffn.begin;
        break;
    case SHARD_CUT_VOCAB_ROWS:
        begin = c->vocab.begin;
        n = c->vocab.end - c->vocab.begin;
        break;
    default:
        return;
    }
    if (cols) {
        x->col0 = begin;
        x->cols = n;
    } else {
        x->row0 = begin;
        x->rows = n;
    }
}
