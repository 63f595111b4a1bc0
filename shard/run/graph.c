/* graph.c - the forward pass as graphs: the body one for every bucket of rows, the head one for every bucket of its rows,
 * with lists of candidates and without.  A graph keeps its host arguments, so they are the bucket's: what is live lies on
 * the device. */
#include "shard/run/engine.h"

#define BODIES 17u                         /* token_budget is at most 65,536, max_sequences 4,096: 17 and 13 buckets */
#define HEADS  26u
_Static_assert(BODIES + HEADS <= KERN_MAX_GRAPHS && BODIES + HEADS <= 64, "a place for every bucket, a bit of `recorded`");

/* log2 of the bucket; the last bucket is the budget itself. */
static uint32_t nth(uint32_t bucket)
{
    uint32_t i = 0;

    for (uint32_t b = 1; b < bucket; b *= 2) i++;
    return i;
}

static uint32_t body_id(uint32_t rows) { return nth(rows); }

static uint32_t head_id(const shard_forward_shape *s)
{
    return BODIES + 2 * nth(s->head_rows) + (s->record_bytes > sizeof(kern_cand_head));
}

static px_code run_body_all(shard_executor *x, uint32_t rows, px_err *e)
{
    x->f.turn = 0;                         /* as it was recorded; comm says that turns are free where graphs are */
    return shard_forward_body_all(&x->f, rows, e);
}

px_code shard_graph_forward_all(shard_executor *x, const shard_forward_shape *shape, px_err *e)
{
    shard_forward_shape s = *shape;
    bool replayed = false;
    px_code rc;

    if (!x->graphs) return shard_forward_all(&x->f, shape, e);
    s.rows = shard_forward_bucket(s.rows, x->f.max_rows);
    if ((rc = x->ops->replay(x->dev, body_id(s.rows), &replayed, e)) || (!replayed && (rc = run_body_all(x, s.rows, e)))) return rc;
    if (replayed) comm_sequence_graph(x->f.comm, body_id(s.rows));
    x->replayed += replayed;
    x->ran += !replayed;
    if (!s.head_rows) return PX_OK;
    s.head_rows = shard_forward_bucket(s.head_rows, x->f.max_head_rows);
    if ((rc = x->ops->replay(x->dev, head_id(&s), &replayed, e)) || replayed) return rc;
    return shard_forward_head(&x->f, &s, e);
}

/* Everything once op by op: what a library or the driver does at a first call must not fall into a recording. */
static px_code record_body_all(shard_executor *x, uint32_t rows, px_err *e)
{
    px_code rc, ended;

    if ((rc = run_body_all(x, rows, e)) || (rc = x->ops->wait(x->dev, e)) || (rc = x->ops->record(x->dev, body_id(rows), e)))
        return rc;
    x->recorded |= (uint64_t)1 << body_id(rows);
    rc = run_body_all(x, rows, e);
    ended = x->ops->end(x->dev, rc ? NULL : e);            /* the first error is the one to tell */
    return rc ? rc : ended;
}

static px_code record_head(shard_executor *x, const shard_forward_shape *s, px_err *e)
{
    px_code rc, ended;

    if ((rc = shard_forward_head(&x->f, s, e)) || (rc = x->ops->wait(x->dev, e)) || (rc = x->ops->record(x->dev, head_id(s), e)))
        return rc;
    x->recorded |= (uint64_t)1 << head_id(s);
    rc = shard_forward_head(&x->f, s, e);
    ended = x->ops->end(x->dev, rc ? NULL : e);
    return rc ? rc : ended;
}

/* By an empty one in its place: what a graph holds of a communicator must be gone before that is closed. */
void shard_graph_drop(shard_executor *x)
{
    for (uint32_t id = 0; x->graphs && x->dev && id < BODIES + HEADS; id++) {
        bool kept = x->recorded >> id & 1;
        if (kept && !x->ops->record(x->dev, id, NULL)) x->ops->end(x->dev, NULL);
    }
}

px_code shard_graph_record_all(shard_executor *x, px_err *e)
{
    const uint32_t T = x->f.max_rows, S = x->f.max_head_rows;
    px_code rc;

    if (!x->graphs) return x->fp8_activations ? shard_forward_body_all(&x->f, T, e) : PX_OK;
    for (uint32_t rows = 0; rows < T;) {
        rows = shard_forward_bucket(rows + 1, T);
        if ((rc = record_body_all(x, rows, e))) return rc;
    }
    for (uint32_t rows = 0; rows < S;) {
        rows = shard_forward_bucket(rows + 1, S);
        for (int list = 0; list < 2; list++) {
            const shard_forward_shape s = { .head_rows = rows, .record_bytes = shard_record_bytes(x, list ? 1 : 0) };
            if ((rc = record_head(x, &s, e))) return rc;
        }
    }
    return PX_OK;
}
