/* The scheduler against ranks that check every step they are given. */
#include <stdio.h>
#include <string.h>

#include "daemon/coordinator/scheduler.h"
#include "tests/testlib.h"

#define MAX_SEQUENCES 8u
#define N_BLOCKS      40u
#define BLOCK         16u

/* ---- ranks that compute nothing and believe nothing ---- */

typedef struct fake_slot { bool open; uint32_t n_block, n_done; bool sampled; uint32_t block[N_BLOCKS]; } fake_slot;
typedef struct fake {
    fake_slot slot[MAX_SEQUENCES];
    int       owner[N_BLOCKS];               /* slot, or -1 */
    uint32_t  key[N_BLOCKS][BLOCK];          /* the position of the token that lies there */
    uint32_t  budget, window;
    shard_entry_result entry[MAX_SEQUENCES];
    shard_row_result   row[4096];
    uint64_t  state;
    uint32_t  stop_id;                       /* now and then sampled */
} fake;

static void fake_init(fake *f, uint32_t budget, uint32_t window)
{
    memset(f, 0, sizeof *f);
    for (uint32_t i = 0; i < N_BLOCKS; i++) f->owner[i] = -1;
    f->budget = budget;
    f->window = window;
    f->stop_id = 7;
}

static void fake_ops(fake *f, const shard_step *s)
{
    for (uint32_t i = 0; i < s->n_ops; i++) {
        const shard_slot_op *op = &s->op[i];
        assert_true(op->slot < MAX_SEQUENCES);
        fake_slot *k = &f->slot[op->slot];
        if (op->op == SHARD_SLOT_CLOSE) {
            assert_true(k->open);
            for (uint32_t b = 0; b < k->n_block; b++) f->owner[k->block[b]] = -1;
            memset(k, 0, sizeof *k);
            continue;
        }
        assert_int_equal(op->op, SHARD_SLOT_OPEN);
        assert_false(k->open);
        k->open = true;
        k->n_block = op->n_blocks;
        for (uint32_t b = 0; b < op->n_blocks; b++) {
            assert_true(op->block[b] < N_BLOCKS);
            /* nobody else's, and with a window the slot's own again in their turn */
            assert_int_equal(f->owner[op->block[b]], f->window && b && f->owner[op->block[0]] == (int)op->slot
                             && f->owner[op->block[b]] == (int)op->slot ? (int)op->slot : -1);
            f->owner[op->block[b]] = (int)op->slot;
            k->block[b] = op->block[b];
        }
    }
}

static void fake_step(fake *f, const shard_step *s, shard_result *out)
{
    uint32_t tokens = 0, rows = 0;

    fake_ops(f, s);
    assert_true(s->n_entries > 0 && s->n_entries <= MAX_SEQUENCES);
    for (uint32_t i = 0; i < s->n_entries; i++) {
        const shard_entry *x = &s->entry[i];
        fake_slot *k = &f->slot[x->slot];
        assert_true(k->open);
        assert_int_equal(x->first_pos, k->n_done);
        assert_true(x->n > 0);
        assert_true(x->first_pos + x->n <= k->n_block * BLOCK);
        if (!x->id) assert_true(x->n == 1 && k->sampled);
        for (uint32_t p = x->first_pos; p < x->first_pos + x->n; p++) f->key[k->block[p / BLOCK]][p % BLOCK] = p;
        for (uint32_t p = x->first_pos; p < x->first_pos + x->n; p++)            /* every key that a row sees is still there */
            for (uint32_t j = f->window && p >= f->window ? p - f->window + 1 : 0; j <= p; j++)
                assert_int_equal(f->key[k->block[j / BLOCK]][j % BLOCK], j);
        k->n_done += x->n;
        tokens += x->n;
        uint32_t n_rows = x->rows == SHARD_ROWS_ALL ? x->n : x->rows == SHARD_ROWS_LAST;
        f->entry[i] = (shard_entry_result){ .slot = x->slot, .row = f->row + rows, .n_rows = n_rows };
        for (uint32_t r = 0; r < n_rows; r++) {
            uint32_t id = x->sample ? (uint32_t)(test_rand(&f->state) % 50) : x->target ? x->target[r] : SHARD_NO_ID;
            f->row[rows++] = (shard_row_result){ .position = x->first_pos + x->n - n_rows + r, .id = id, .logprob = -1.0f };
        }
        k->sampled = x->sample;
    }
    assert_true(tokens <= f->budget);
    assert_true(rows <= MAX_SEQUENCES);
    *out = (shard_result){ .step = s->number, .entry = f->entry, .n_entries = s->n_entries };
}

/* ---- requests ---- */

static daemon_request *make(px_alloc *a, daemon_kind kind, uint32_t n_prompt, uint32_t max_new, uint32_t n)
{
    daemon_request *r;
    px_err e = {0};
    daemon_request_in in = { .kind = kind, .n_prompt = n_prompt, .max_new = kind == DAEMON_SCORE ? 0 : max_new,
                             .deadline = PX_NEVER, .prompt = px_new(a, uint32_t, n_prompt), .logprobs = true };

    for (uint32_t i = 0; i < n_prompt; i++) in.prompt[i] = i;
    snprintf(in.id, sizeof in.id, "r%u", n);
    in.stop_id[0] = 7;
    in.n_stop_id = 1;
    assert_int_equal(daemon_request_open(&r, a, &in, NULL, NULL, NULL, 0, false, &e), PX_OK);
    return r;
}

static px_code run_random(uint64_t seed, uint32_t budget, uint32_t window)
{
    enum { N = 120 };
    px_debug d;
    px_err e = {0};
    daemon_scheduler s;
    fake f;
    shard_step step;
    shard_result res;
    daemon_request *all[N];
    uint32_t made = 0, next_accept = 0;
    daemon_scheduler_args args = { N_BLOCKS, BLOCK, MAX_SEQUENCES, budget, window, 100000 };

    px_debug_init(&d, "test", -1);
    fake_init(&f, budget, window);
    f.state = seed;
    assert_int_equal(daemon_scheduler_init(&s, &d.a, &args, &e), PX_OK);
    uint64_t number = 0, idle = 0;
    while (made < N || s.running.n || s.waiting.n) {
        if (made < N && test_rand(&seed) % 3 == 0) {
            daemon_kind kind = test_rand(&seed) % 4 ? DAEMON_GENERATE : DAEMON_SCORE;
            all[made] = make(&d.a, kind, 1 + (uint32_t)(test_rand(&seed) % 100), 1 + (uint32_t)(test_rand(&seed) % 60), made);
            daemon_scheduler_add(&s, all[made]);
            made++;
        }
        if (made && test_rand(&seed) % 20 == 0)
            atomic_store(&all[test_rand(&seed) % made]->cancelled, true);
        daemon_scheduler_reap(&s, 1);
        daemon_scheduler_admit(&s);
        /* First come, first served: nobody is accepted before an earlier one that still waits. */
        for (; next_accept < made && (all[next_accept]->out.accepted || all[next_accept]->ended); next_accept++) continue;
        for (uint32_t i = next_accept; i < made; i++) assert_false(all[i]->out.accepted);
        if (!daemon_scheduler_compose(&s, ++number, &step)) {
            assert_true(++idle < 100000);
            continue;
        }
        fake_step(&f, &step, &res);
        assert_int_equal(daemon_scheduler_apply(&s, &res, &e), PX_OK);
    }
    assert_int_equal(s.blocks.n_free, N_BLOCKS);
    assert_int_equal(s.n_free_slot, MAX_SEQUENCES);
    for (uint32_t i = 0; i < made; i++) {
        daemon_request *r = all[i];
        assert_true(r->ended);
        if (r->out.finish == DAEMON_LENGTH) assert_int_equal(r->n_token, r->in.max_new);
        if (r->out.finish == DAEMON_STOP && r->in.kind == DAEMON_GENERATE) assert_int_equal(r->token[r->n_token - 1], 7);
        if (r->out.finish == DAEMON_STOP && r->in.kind == DAEMON_SCORE) {
            assert_int_equal(r->out.n_row, r->in.n_prompt);
            for (uint32_t k = 0; k < r->in.n_prompt; k++) assert_int_equal(r->out.row[k].position, k);
        }
        if (r->out.finish != DAEMON_LENGTH && r->out.finish != DAEMON_STOP) assert_int_equal(r->out.finish, DAEMON_CANCELLED);
        daemon_request_unref(r);
    }
    daemon_scheduler_deinit(&s);
    assert_int_equal(px_debug_deinit(&d), 0);
    return PX_OK;
}

static void every_accepted_request_is_finished(void **state)
{
    (void)state;
    static const uint32_t budgets[] = { 3, 8, 17, 64, 256 };
    for (uint64_t seed = 1; seed <= 20; seed++)
        for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
            run_random(seed * 977 + b, budgets[b], 0);
            run_random(seed * 977 + b, budgets[b], (const uint32_t[]){ 1, 8, 16, 17, 90 }[(seed + b) % 5]);
        }
}

static void the_youngest_beyond_the_queue_are_refused(void **state)
{
    (void)state;
    px_debug d;
    px_err e = {0};
    daemon_scheduler s;
    daemon_request *r[12];
    daemon_scheduler_args args = { N_BLOCKS, BLOCK, 2, 8, 0, 1000 };

    px_debug_init(&d, "test", -1);
    assert_int_equal(daemon_scheduler_init(&s, &d.a, &args, &e), PX_OK);
    for (uint32_t i = 0; i < 12; i++) {
        r[i] = make(&d.a, DAEMON_GENERATE, 4, 4, i);
        daemon_scheduler_add(&s, r[i]);
    }
    daemon_scheduler_admit(&s);
    daemon_scheduler_trim(&s, 5);
    for (uint32_t i = 0; i < 12; i++) {
        assert_int_equal(r[i]->out.accepted, i < 2);
        assert_int_equal(r[i]->ended, i >= 7);
        if (i >= 7) {
            assert_int_equal(r[i]->out.error.code, PX_EBUSY);
            assert_string_equal(r[i]->out.error.field, "queue");
            assert_true(r[i]->out.retryable);
        }
        daemon_request_unref(r[i]);
    }
    daemon_scheduler_deinit(&s);
    assert_int_equal(px_debug_deinit(&d), 0);
}

/* 420 tokens are 27 blocks; a window of 8 and steps of 8 tokens span 15 keys, which lie in 2 blocks at most. */
static void a_window_takes_no_more_than_it_spans(void **state)
{
    (void)state;
    px_debug d;
    px_err e = {0};
    daemon_scheduler s;
    shard_step step;
    daemon_scheduler_args args = { N_BLOCKS, BLOCK, 2, 8, 8, 1000 };

    px_debug_init(&d, "test", -1);
    assert_int_equal(daemon_scheduler_init(&s, &d.a, &args, &e), PX_OK);
    daemon_request *far = make(&d.a, DAEMON_GENERATE, 20, 400, 0), *near = make(&d.a, DAEMON_GENERATE, 4, 4, 1);
    daemon_scheduler_add(&s, far);
    daemon_scheduler_add(&s, near);
    daemon_scheduler_admit(&s);
    assert_true(far->n_block == 27 && far->n_taken == 2 && near->n_block == 1 && near->n_taken == 1);
    assert_int_equal(s.blocks.n_free, N_BLOCKS - 3);
    assert_true(daemon_scheduler_compose(&s, 1, &step));
    assert_int_equal(step.op[0].n_blocks, 27);
    for (uint32_t i = 2; i < 27; i++) assert_int_equal(step.op[0].block[i], step.op[0].block[i - 2]);
    px_fail(&e, PX_EPEER, "state", "over");
    daemon_scheduler_end_all(&s, &e, true);
    assert_int_equal(s.blocks.n_free, N_BLOCKS);
    daemon_request_unref(far);
    daemon_request_unref(near);
    daemon_scheduler_deinit(&s);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void deadlines_end_what_waits_and_what_runs(void **state)
{
    (void)state;
    px_debug d;
    px_err e = {0};
    daemon_scheduler s;
    daemon_scheduler_args args = { N_BLOCKS, BLOCK, 1, 8, 0, 1000 };

    px_debug_init(&d, "test", -1);
    assert_int_equal(daemon_scheduler_init(&s, &d.a, &args, &e), PX_OK);
    daemon_request *runs = make(&d.a, DAEMON_GENERATE, 4, 400, 0), *waits = make(&d.a, DAEMON_GENERATE, 4, 4, 1);
    runs->in.deadline = waits->in.deadline = 1000;
    daemon_scheduler_add(&s, runs);
    daemon_scheduler_add(&s, waits);
    daemon_scheduler_admit(&s);
    daemon_scheduler_reap(&s, 999);
    assert_false(runs->ended || waits->ended);
    daemon_scheduler_reap(&s, 1000);
    assert_true(runs->ended && waits->ended);
    assert_int_equal(runs->out.error.code, PX_ETIMEOUT);
    assert_int_equal(s.blocks.n_free, N_BLOCKS);
    daemon_request_unref(runs);
    daemon_request_unref(waits);
    daemon_scheduler_deinit(&s);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void an_answer_to_another_step_is_refused(void **state)
{
    (void)state;
    px_debug d;
    px_err e = {0};
    daemon_scheduler s;
    shard_step step;
    shard_entry_result entry = { .slot = 3 };
    shard_result res = { .entry = &entry, .n_entries = 2 };
    daemon_scheduler_args args = { N_BLOCKS, BLOCK, 2, 8, 0, 1000 };

    px_debug_init(&d, "test", -1);
    assert_int_equal(daemon_scheduler_init(&s, &d.a, &args, &e), PX_OK);
    daemon_request *r = make(&d.a, DAEMON_GENERATE, 4, 4, 0);
    daemon_scheduler_add(&s, r);
    daemon_scheduler_admit(&s);
    assert_true(daemon_scheduler_compose(&s, 1, &step));
    assert_int_equal(daemon_scheduler_apply(&s, &res, &e), PX_EMISMATCH);
    assert_string_equal(e.field, "result.entries");
    px_err_clear(&e);
    res.n_entries = 1;
    assert_int_equal(daemon_scheduler_apply(&s, &res, &e), PX_EMISMATCH);
    assert_string_equal(e.field, "result.entry");
    daemon_request_unref(r);
    daemon_scheduler_deinit(&s);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static px_code build_and_drop(px_alloc *a, px_err *e)
{
    daemon_scheduler s;
    daemon_scheduler_args args = { N_BLOCKS, BLOCK, 2, 8, 0, 1000 };
    px_code rc = daemon_scheduler_init(&s, a, &args, e);
    daemon_scheduler_deinit(&s);
    return rc;
}

static px_code open_and_drop(px_alloc *a, px_err *e)
{
    daemon_request *r;
    daemon_request_in in = { .kind = DAEMON_GENERATE, .max_new = 10 };
    px_code rc = daemon_request_open(&r, a, &in, NULL, NULL, NULL, 0, false, e);
    daemon_request_unref(r);
    return rc;
}

static void survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(build_and_drop);
    test_oom_sweep(open_and_drop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_accepted_request_is_finished),
        cmocka_unit_test(the_youngest_beyond_the_queue_are_refused),
        cmocka_unit_test(a_window_takes_no_more_than_it_spans),
        cmocka_unit_test(deadlines_end_what_waits_and_what_runs),
        cmocka_unit_test(an_answer_to_another_step_is_refused),
        cmocka_unit_test(survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
