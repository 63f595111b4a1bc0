/* measure.c - which way of adding is right, and which is fast, on the machine at hand. */
#include "comm/table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PART    16384u                         /* floats that go to the device, and come back, at a time */
#define QUEUED  8u                             /* sums between two looks at the clock */
#define REPEATS 4u                             /* of which the fastest counts */

typedef struct trial {
    comm       *c;
    comm_watch *watch;
    float      *room, *want;                   /* PART each */
    px_time_us  timeout_us;
} trial;

const char *comm_algorithm_name(comm_algorithm a)
{
    static const char *const name[COMM_N_ALGORITHMS] = { "nccl", "nccl-symmetric", "staged" };
    return (unsigned)a < COMM_N_ALGORITHMS ? name[a] : "?";
}

static bool by_graph(const comm *c, comm_algorithm how) { return how != COMM_STAGED && c->dev.on->record && c->dev.on->end && c->dev.on->replay; }

/* A wait on the device, watched: what the watch found is why it ended. */
static px_code wait_for(const trial *t, const char *what, px_err *e)
{
    const comm_device *on = t->c->dev.on;
    float end;
    px_err own = {0};
    px_code rc, seen;

    comm_watch_arm(t->watch, t->timeout_us, what);
    rc = on->to_host(on->ctx, &end, t->c->dev.sum, sizeof end, &own);
    seen = comm_watch_disarm(t->watch, e);
    if (!seen && rc && e && !e->code) *e = own;
    return seen ? seen : rc;
}

/* ---- sums whose every order of adding is exact: eighths of small numbers ---- */

static float share(uint32_t rank, size_t i) { return (float)((rank + 1) * (i % 97)) / 8 - 6; }

static float known(uint32_t world, size_t i)
{
    return (float)(world * (world + 1) / 2 * (i % 97)) / 8 - 6 * (float)world;
}

static px_code fill(const trial *t, unsigned which, size_t floats, px_err *e)
{
    comm *c = t->c;
    const comm_device *on = c->dev.on;
    px_code rc = PX_OK;

    for (size_t at = 0, n; at < floats && !rc; at += n) {
        n = floats - at < PART ? floats - at : PART;
        for (size_t i = 0; i < n; i++) {
            t->room[i] = share(c->rank, at + i);
            t->want[i] = NAN;                              /* what no sum wrote must not look like one */
        }
        if (!(rc = on->to_device(on->ctx, c->partial[which] + at, t->room, n * sizeof(float), e)))
            rc = on->to_device(on->ctx, c->dev.sum + at, t->want, n * sizeof(float), e);
    }
    return rc;
}

/* *wrong: another sum than the known one; e->found and e->expected of `wrong_e` hold the first. */
static px_code compare(const trial *t, comm_algorithm how, size_t floats, bool *wrong, px_err *wrong_e, px_err *e)
{
    comm *c = t->c;
    const comm_device *on = c->dev.on;
    char found[48], expected[48];
    px_code rc = PX_OK;

    for (size_t at = 0, n; at < floats && !rc; at += n) {
        n = floats - at < PART ? floats - at : PART;
        for (size_t i = 0; i < n; i++) t->want[i] = known(c->world, at + i);
        if ((rc = on->to_host(on->ctx, t->room, c->dev.sum + at, n * sizeof(float), e))) return rc;
        for (size_t i = 0; i < n; i++) {
            if (!memcmp(&t->room[i], &t->want[i], sizeof(float))) continue;
            *wrong = true;
            snprintf(found, sizeof found, "%.9g", (double)t->room[i]);
            snprintf(expected, sizeof expected, "%.9g", (double)t->want[i]);
            px_refuse(wrong_e, PX_ECORRUPT, "selftest", found, expected, "%s of %zu bytes on rank %u: number %zu is another",
                      comm_algorithm_name(how), floats * sizeof(float), c->rank, at + i);
            return PX_OK;
        }
    }
    return rc;
}

static px_code check_all(const trial *t, comm_algorithm how, size_t bytes, unsigned which, bool *wrong, px_err *wrong_e, px_err *e)
{
    const float *const *views;
    uint32_t n;
    px_code rc;

    if ((rc = fill(t, which, bytes / sizeof(float), e)) ||
        (rc = comm_reduce_views_all(t->c, which, bytes, &views, &n, e)) ||
        (rc = wait_for(t, comm_algorithm_name(how), e)))
        return rc;
    return compare(t, how, bytes / sizeof(float), wrong, wrong_e, e);
}

/* ---- times ---- */

static px_code queue_all(const trial *t, size_t bytes, px_err *e)
{
    const float *const *views;
    uint32_t n;
    px_code rc = PX_OK;

    for (unsigned i = 0; i < QUEUED && !rc; i++) rc = comm_reduce_views_all(t->c, i % 2, bytes, &views, &n, e);
    return rc;
}

static px_code record_all(const trial *t, size_t bytes, px_err *e)
{
    const comm_device *on = t->c->dev.on;
    px_code rc, ended;

    if ((rc = on->record(on->ctx, e))) return rc;
    rc = queue_all(t, bytes, e);
    ended = on->end(on->ctx, rc ? NULL : e);
    return rc ? rc : ended;
}

/* By an empty one in its place: NCCL ends no communicator that a graph still holds. */
static px_code drop_graph(const comm *c, px_err *e)
{
    const comm_device *on = c->dev.on;
    px_code rc = on->record(on->ctx, e);

    return rc ? rc : on->end(on->ctx, e);
}

/* Between two barriers, the clock is on from the first sum's start to the last one's end. */
static px_code time_all(const trial *t, comm_algorithm how, size_t bytes, float *us, px_err *e)
{
    const comm_device *on = t->c->dev.on;
    const bool graph = by_graph(t->c, how);
    px_code rc;

    *us = INFINITY;
    if (graph && (rc = record_all(t, bytes, e))) return rc;
    for (unsigned k = 0; k <= REPEATS; k++) {              /* the first warms up */
        if ((rc = comm_barrier_all(t->c, e))) return rc;
        const px_time_us begun = px_now_us();
        if ((rc = graph ? on->replay(on->ctx, e) : queue_all(t, bytes, e)) || (rc = wait_for(t, comm_algorithm_name(how), e)))
            return rc;
        const float took = (float)(px_now_us() - begun) / QUEUED;
        if (k && took < *us) *us = took;
    }
    return PX_OK;
}

/* The slowest rank's time, and wrong if any rank has found it wrong. */
static px_code share_all(comm *c, float *us, bool *wrong, px_err *e)
{
    struct { float us; uint32_t wrong; } mine = { *us, *wrong }, all[COMM_MAX_WORLD];
    px_code rc = comm_gather_pieces_all(c, &mine, sizeof mine, all, e);

    for (uint32_t r = 0; r < c->world && !rc; r++) {
        if (all[r].us > *us) *us = all[r].us;
        if (all[r].wrong) *wrong = true;
    }
    return rc;
}

static px_code try_all(const trial *t, comm_algorithm how, comm_measured *m, px_err *wrong_e, px_err *e)
{
    px_code rc = comm_nccl_use_all(t->c, how, e);

    for (uint32_t i = 0; i < m->n && !rc && !m->wrong[how]; i++) {
        for (unsigned which = 0; which < 2 && !rc; which++) rc = check_all(t, how, m->at[i].bytes, which, &m->wrong[how], wrong_e, e);
        if (rc || (rc = time_all(t, how, m->at[i].bytes, &m->at[i].us[how], e))) break;
        rc = share_all(t->c, &m->at[i].us[how], &m->wrong[how], e);
    }
    return rc;
}

/* ---- the choice ---- */

static bool usable(const comm_measured *m, comm_algorithm a) { return m->there[a] && !m->wrong[a]; }

/* Every size counts as much as any other: a step of one token is as likely as one of thousands. */
static float cost(const comm_measured *m, comm_algorithm a, comm_algorithm other)
{
    float sum = 0;

    for (uint32_t i = 0; i < m->n; i++) sum += m->at[i].us[a] / fmaxf(fminf(m->at[i].us[a], m->at[i].us[other]), 1e-3f);
    return sum;
}

static bool fastest_everywhere(const comm_measured *m, comm_algorithm a, comm_algorithm other)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->at[i].us[a] >= m->at[i].us[other]) return false;
    return true;
}

/* false: nothing is right. */
static bool choose(comm_measured *m)
{
    bool any = false;

    for (comm_algorithm a = COMM_PLAIN; a <= COMM_SYMMETRIC; a++) {
        if (!usable(m, a)) continue;
        if (!any || cost(m, a, m->chosen) < cost(m, m->chosen, a)) m->chosen = a;
        any = true;
    }
    if (usable(m, COMM_STAGED) && (!any || fastest_everywhere(m, COMM_STAGED, m->chosen))) {
        m->chosen = COMM_STAGED;
        any = true;
    }
    return any;
}

static px_code sizes(const comm *c, size_t row_bytes, comm_measured *m, px_err *e)
{
    const size_t most = c->partial_bytes / sizeof(float) * sizeof(float);

    if (!row_bytes || row_bytes % sizeof(float) || row_bytes > most)
        return px_fail(e, PX_ERANGE, "row_bytes", "%zu bytes a row, the partial buffer has %zu", row_bytes, c->partial_bytes);
    for (size_t bytes = row_bytes; bytes < most; bytes *= 2) m->at[m->n++].bytes = bytes;
    m->at[m->n++].bytes = most;                            /* at most 2^40: 39 doublings */
    return PX_OK;
}

px_code comm_measure_all(comm *c, size_t row_bytes, comm_measured *out, px_err *e)
{
    trial t = { .c = c, .timeout_us = c->dev.timeout_us };
    px_err wrong_e = {0};
    px_code rc;

    *out = (comm_measured){ .chosen = COMM_STAGED };
    if (!c->dev.on || !c->dev.apart) return PX_OK;
    if ((rc = sizes(c, row_bytes, out, e))) return rc;
    if (!(t.room = px_new(c->a, float, 2 * PART))) rc = px_fail(e, PX_ENOMEM, "measure", "%zu bytes", 2 * PART * sizeof(float));
    else if (!(rc = comm_watch_open(&t.watch, c->a, c, e))) t.want = t.room + PART;
    if ((rc = comm_device_agree_all(c, rc, "the memory of comm_measure_all", e))) goto out;
    for (comm_algorithm a = COMM_PLAIN; a < COMM_N_ALGORITHMS && !rc; a++) {
        out->there[a] = comm_nccl_has(c, a);
        if (out->there[a]) rc = try_all(&t, a, out, &wrong_e, e);
    }
    out->graphs = c->nccl && by_graph(c, COMM_PLAIN);
    if (!rc && out->graphs) rc = drop_graph(c, e);
    if (!rc && !choose(out)) {
        rc = wrong_e.code ? wrong_e.code : px_fail(e, PX_ECORRUPT, "selftest", "sums are wrong on another rank");
        if (wrong_e.code && e && !e->code) *e = wrong_e;
    }
    if (!rc) rc = comm_nccl_use_all(c, out->chosen, e);

out:
    /* An abort that the watch has begun waits for this graph. */
    if (rc && c->nccl && by_graph(c, COMM_PLAIN)) drop_graph(c, NULL);
    comm_watch_close(t.watch);
    px_del(c->a, t.room, 2 * PART);
    if (rc) c->failed = true;
    return rc;
}
