/* Steps that cannot be, memory, and numbers that are not finite. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/shard/cluster.h"
#include "tests/testlib.h"

static test_cluster *open_tiny(uint32_t world, shard_demand d)
{
    px_err e = {0};
    char line[512];
    test_cluster *c = test_cluster_open(
        &(test_cluster_args){ .set = test_set(test_golden("tiny/arch/llama"), SHARD_AS_FILE, world), .demand = d }, &e);

    if (!c) fail_msg("%s", px_err_format(&e, line, sizeof line));
    return c;
}

static void refused(test_cluster *c, const shard_step *in, px_code code, const char *field)
{
    shard_result r;
    px_err e = {0};

    assert_int_equal(test_cluster_step(c, in, &r, &e), code);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
    assert_int_equal(r.n_entries, 0);
}
static void op_refused(test_cluster *c, shard_slot_op op, px_code code, const char *field)
{
    refused(c, &(shard_step){ .op = &op, .n_ops = 1 }, code, field);
}
static void entry_refused(test_cluster *c, shard_entry en, px_code code, const char *field)
{
    refused(c, &(shard_step){ .entry = &en, .n_entries = 1 }, code, field);
}

static const shard_sampling greedy = { .top_p = 1 };

static void a_step_that_cannot_be_is_refused_by_field(void **state)
{
    test_cluster *c = open_tiny(2, (shard_demand){ .kv_tokens = 640, .max_sequences = 8, .token_budget = 40 });
    const uint32_t n_vocab = test_cluster_manifest(c)->arch.n_vocab, n_blocks = 40;
    uint32_t ids[300] = {0}, blocks[64] = {0}, bad = n_blocks, far = n_vocab;
    shard_slot_op op = { .op = SHARD_SLOT_OPEN, .slot = 8, .sampling = greedy };
    shard_result r;

    (void)state;
    op_refused(c, op, PX_ERANGE, "op.slot");
    op_refused(c, (shard_slot_op){ .op = 7 }, PX_EINVAL, "op.op");
    op_refused(c, (shard_slot_op){ .op = SHARD_SLOT_CLOSE }, PX_EINVAL, "op.slot");
    op_refused(c, (shard_slot_op){ .op = SHARD_SLOT_EXTEND }, PX_EINVAL, "op.slot");
    op_refused(c, (shard_slot_op){ .block = &bad, .n_blocks = 1, .sampling = greedy }, PX_ERANGE, "op.block");
    op_refused(c, (shard_slot_op){ .n_blocks = 1, .sampling = greedy }, PX_EINVAL, "op.block");
    op_refused(c, (shard_slot_op){ .block = blocks, .n_blocks = 17, .sampling = greedy }, PX_ERANGE, "op.n_blocks");
    const float nan = NAN;
    const struct { shard_sampling s; const char *field; } samplings[] = {
        { { .temperature = -1, .top_p = 1 }, "op.sampling.temperature" },
        { { .temperature = 101, .top_p = 1 }, "op.sampling.temperature" },
        { { .temperature = nan, .top_p = 1 }, "op.sampling.temperature" },
        { { .top_p = 0 }, "op.sampling.top_p" },
        { { .top_p = 1.01f }, "op.sampling.top_p" },
        { { .top_p = nan }, "op.sampling.top_p" },
        { { .top_p = 1, .min_p = -0.1f }, "op.sampling.min_p" },
        { { .top_p = 1, .min_p = nan }, "op.sampling.min_p" },
    };
    for (size_t i = 0; i < sizeof samplings / sizeof *samplings; i++)
        op_refused(c, (shard_slot_op){ .sampling = samplings[i].s }, PX_ERANGE, samplings[i].field);
    refused(c, &(shard_step){ .n_ops = 1 }, PX_EINVAL, "step");
    refused(c, &(shard_step){ .n_entries = 1 }, PX_EINVAL, "step");

    test_open_slot(c, 0, 32, NULL);
    test_open_slot(c, 1, 32, NULL);
    op_refused(c, (shard_slot_op){ .sampling = greedy }, PX_EINVAL, "op.slot");
    const shard_entry ok = { .n = 3, .id = ids, .rows = SHARD_ROWS_LAST, .sample = true };
    shard_entry en = ok;
    en.slot = 9;
    entry_refused(c, en, PX_ERANGE, "entry.slot");
    en.slot = 2;
    entry_refused(c, en, PX_EINVAL, "entry.slot");
    refused(c, &(shard_step){ .entry = (shard_entry[]){ ok, ok }, .n_entries = 2 }, PX_EINVAL, "entry.slot");
    en = ok, en.first_pos = 1;
    entry_refused(c, en, PX_EINVAL, "entry.first_pos");
    en = ok, en.n = 0;
    entry_refused(c, en, PX_EINVAL, "entry.n");
    en = ok, en.n = 33;
    entry_refused(c, en, PX_ERANGE, "entry.n");
    en = ok, en.n = UINT32_MAX;
    entry_refused(c, en, PX_ERANGE, "entry.n");
    en = ok, en.id = &far, en.n = 1;
    entry_refused(c, en, PX_ERANGE, "entry.id");
    en = ok, en.id = NULL;
    entry_refused(c, en, PX_EINVAL, "entry.id");
    en = ok, en.id = NULL, en.n = 1;
    entry_refused(c, en, PX_EINVAL, "entry.id");
    en = ok, en.rows = 3, en.sample = false;
    entry_refused(c, en, PX_EINVAL, "entry.rows");
    en = ok, en.rows = SHARD_ROWS_ALL;
    entry_refused(c, en, PX_EINVAL, "entry.sample");
    en = ok, en.rows = SHARD_ROWS_ALL, en.sample = false, en.n = 9;
    entry_refused(c, en, PX_ERANGE, "entry.rows");
    en = ok, en.top = SHARD_MAX_LOGPROBS + 1;
    entry_refused(c, en, PX_ERANGE, "entry.top");
    en = ok, en.target = ids;
    entry_refused(c, en, PX_EINVAL, "entry.target");
    en = ok, en.sample = false, en.rows = SHARD_ROWS_ALL, en.target = (uint32_t[3]){ 0, SHARD_NO_ID, n_vocab };
    entry_refused(c, en, PX_ERANGE, "entry.target");
    shard_entry many[2] = { ok, ok };
    many[0].n = many[1].n = 21, many[1].slot = 1;
    refused(c, &(shard_step){ .entry = many, .n_entries = 2 }, PX_ERANGE, "rows");
    refused(c, &(shard_step){ .entry = many, .n_entries = 9 }, PX_ERANGE, "entries");

    /* An op before a bad entry changes nothing either: slot 3 stays closed. */
    const shard_slot_op third = { .slot = 3, .block = blocks, .n_blocks = 1, .sampling = greedy };
    refused(c, &(shard_step){ .op = &third, .n_ops = 1, .entry = &en, .n_entries = 1 }, PX_ERANGE, "entry.target");
    op_refused(c, (shard_slot_op){ .op = SHARD_SLOT_CLOSE, .slot = 3 }, PX_EINVAL, "op.slot");

    /* And after all that the good entry runs; ids that were not sampled cannot be continued. */
    assert_int_equal(test_cluster_step(c, &(shard_step){ .number = 5, .entry = &ok, .n_entries = 1 }, &r, NULL), PX_OK);
    assert_true(r.step == 5 && r.n_entries == 1 && r.entry[0].n_rows == 1 && r.entry[0].row[0].position == 2);
    en = ok, en.first_pos = 2;
    entry_refused(c, en, PX_EINVAL, "entry.first_pos");
    en = (shard_entry){ .first_pos = 3, .n = 1, .rows = SHARD_ROWS_NONE };
    assert_int_equal(test_cluster_step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r, NULL), PX_OK);
    en.first_pos = 4;
    entry_refused(c, en, PX_EINVAL, "entry.id");
    test_cluster_close(c);
}

/* EXTEND gives the blocks that OPEN did not, and CLOSE with OPEN in one step begins anew. */
static void slots_open_extend_and_close(void **state)
{
    test_cluster *c = open_tiny(2, (shard_demand){0});
    uint32_t ids[40], a[40], b[40];
    const uint32_t first = 5, second[2] = { 9, 2 };
    const shard_slot_op ops[4] = {
        { .op = SHARD_SLOT_OPEN, .slot = 4, .block = &first, .n_blocks = 1, .sampling = greedy },
        { .op = SHARD_SLOT_EXTEND, .slot = 4, .block = second, .n_blocks = 2 },
        { .op = SHARD_SLOT_CLOSE, .slot = 4 },
        { .op = SHARD_SLOT_OPEN, .slot = 4, .block = second, .n_blocks = 2, .sampling = greedy },
    };
    shard_entry en = { .slot = 4, .n = 16, .id = ids, .rows = SHARD_ROWS_NONE };
    shard_result r;

    (void)state;
    for (uint32_t i = 0; i < 40; i++) ids[i] = (i * 37) % 321;
    test_generate(c, 0, NULL, ids, 40, 40, 1, a, NULL);
    assert_int_equal(test_cluster_step(c, &(shard_step){ .op = ops, .n_ops = 1, .entry = &en, .n_entries = 1 }, &r, NULL), 0);
    assert_int_equal(r.entry[0].n_rows, 0);
    en = (shard_entry){ .slot = 4, .first_pos = 16, .n = 24, .id = ids + 16, .rows = SHARD_ROWS_LAST, .sample = true };
    assert_int_equal(test_cluster_step(c, &(shard_step){ .op = ops + 1, .n_ops = 1, .entry = &en, .n_entries = 1 }, &r, NULL), 0);
    assert_int_equal(r.entry[0].row[0].id, a[0]);
    en = (shard_entry){ .slot = 4, .n = 30, .id = ids, .rows = SHARD_ROWS_LAST, .sample = true };
    assert_int_equal(test_cluster_step(c, &(shard_step){ .op = ops + 2, .n_ops = 2, .entry = &en, .n_entries = 1 }, &r, NULL), 0);
    b[0] = r.entry[0].row[0].id;
    test_generate(c, 1, NULL, ids, 30, 30, 1, a, NULL);
    assert_int_equal(b[0], a[0]);
    test_cluster_close(c);
}

static void targets_tops_and_whole_rows_agree(void **state)
{
    test_cluster *c = open_tiny(3, (shard_demand){0});
    const uint32_t n_vocab = test_cluster_manifest(c)->arch.n_vocab, n = 20;
    float *lp = malloc(n * n_vocab * sizeof *lp);
    uint32_t ids[20], target[20];
    shard_result r;

    (void)state;
    for (uint32_t i = 0; i < n; i++) ids[i] = (i * 101 + 3) % n_vocab, target[i] = i % 5 ? (i * 53) % n_vocab : SHARD_NO_ID;
    test_score(c, 0, ids, n, 7, lp);
    for (uint32_t top = 1; top <= 300; top = top * 2 + 17) {
        const shard_entry en = { .slot = 1, .n = n, .id = ids, .rows = SHARD_ROWS_ALL, .logprob = true, .top = top,
                                 .target = target };
        test_open_slot(c, 1, n, NULL);
        assert_int_equal(test_cluster_step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r, NULL), PX_OK);
        assert_int_equal(r.full_gathers, 0);            /* asked for, not forced by a limit */
        for (uint32_t i = 0; i < n; i++) {
            const shard_row_result *row = &r.entry[0].row[i];

            assert_int_equal(row->id, target[i]);
            if (target[i] != SHARD_NO_ID) assert_memory_equal(&row->logprob, &lp[i * n_vocab + target[i]], sizeof(float));
            assert_int_equal(row->n_top, top);
            for (uint32_t k = 0; k < top; k++) {
                assert_memory_equal(&row->top[k].logprob, &lp[i * n_vocab + row->top[k].id], sizeof(float));
                assert_true(k == 0 || row->top[k].logprob <= row->top[k - 1].logprob);
            }
            uint32_t better = 0;                        /* nothing better was left out */
            for (uint32_t v = 0; v < n_vocab; v++) better += lp[i * n_vocab + v] > row->top[top - 1].logprob;
            assert_true(better < top);
        }
        test_close_slot(c, 1);
    }
    free(lp);
    test_cluster_close(c);
}

/* An end id that would win is never drawn while it is banned, by any way of drawing. */
static void banned_end_ids_are_not_sampled(void **state)
{
    test_cluster *c = open_tiny(2, (shard_demand){0});
    const shard_manifest *m = test_cluster_manifest(c);
    static const shard_sampling how[] = { { .top_p = 1 }, { .temperature = 100, .top_p = 1, .seed = 1 },
                                          { .temperature = 100, .top_p = 0.999f, .seed = 2 },
                                          { .temperature = 100, .top_p = 1, .top_k = 250, .seed = 3 } };
    uint32_t id = 7, whole = 0, plain = 0;
    shard_result r;

    (void)state;
    assert_true(m->n_eos > 0);
    for (unsigned ban = 0; ban < 2; ban++)
        for (size_t k = 0; k < sizeof how / sizeof *how; k++)
            for (uint32_t seed = 0; seed < 400; seed++) {
                shard_sampling s = how[k];
                const shard_entry en = { .slot = 0, .n = 1, .id = &id, .rows = SHARD_ROWS_LAST, .sample = true,
                                         .logprob = true, .ban_eos = ban };
                s.seed += 1000ull * seed;
                test_open_slot(c, 0, 16, &s);
                assert_int_equal(test_cluster_step(c, &(shard_step){ .entry = &en, .n_entries = 1 }, &r, NULL), PX_OK);
                whole += r.full_gathers;
                for (uint32_t i = 0; i < m->n_eos; i++) {
                    if (ban) assert_int_not_equal(r.entry[0].row[0].id, m->eos[i]);
                    else plain += r.entry[0].row[0].id == m->eos[i];
                }
                test_close_slot(c, 0);
                if (how[k].temperature == 0) break;
            }
    assert_true(plain > 0 && whole > 0);                /* at T = 100 end ids are drawn, unless banned */
    test_cluster_close(c);
}

/* ---- memory ---- */

static void nothing_is_allocated_after_open(void **state)
{
    px_debug d;
    px_err e = {0};
    test_cluster *c;
    uint32_t ids[64] = {0}, out[8];
    float *lp = malloc(20 * 321 * sizeof *lp);
    const shard_sampling limits = { .temperature = 90, .top_p = 0.99f, .min_p = 0.001f, .seed = 3 };
    int64_t gets;

    (void)state;
    px_debug_init(&d, "test", -1);
    c = test_cluster_open(&(test_cluster_args){ .a = &d.a, .set = test_set(test_golden("tiny/arch/mqa"), SHARD_AS_FILE, 2) }, &e);
    assert_non_null(c);
    gets = d.n_gets;
    test_score(c, 0, ids, 20, 7, lp);
    test_generate(c, 1, &limits, ids, 60, 64, 8, out, NULL);
    test_generate(c, 2, NULL, ids, 3, 64, 8, out, NULL);
    assert_int_equal(d.n_gets, gets);
    test_cluster_close(c);
    assert_int_equal(px_debug_deinit(&d), 0);
    free(lp);
}

typedef struct warm { px_code rc[3]; px_err e[3]; } warm;
static void warm_up(void *ctx, uint32_t rank, shard_executor *x)
{
    warm *w = ctx;
    w->rc[rank] = shard_executor_warm_up_all(x, &w->e[rank]);
}

static void the_plan_is_what_is_carved(void **state)
{
    uint32_t ids[5] = { 1, 2, 3, 4, 5 }, a[6], b[6];

    (void)state;
    for (uint32_t world = 1; world <= 3; world++) {
        test_cluster *c = open_tiny(world, (shard_demand){ .kv_tokens = 48 });
        warm w = {0};

        for (uint32_t k = 0; k < world; k++) {
            const shard_executor *x = test_cluster_executor(c, k);
            const shard_rank_bytes *plan = shard_executor_plan(x);
            const shard_executor_held held = shard_executor_holds(x);
            assert_int_equal(held.weights, plan->weights.mapped);
            assert_int_equal(held.kv, plan->kv_pool);
            assert_int_equal(held.arenas, plan->activations.bytes + plan->rope_tables + plan->host.bytes);
        }
        test_generate(c, 0, NULL, ids, 5, 5, 6, a, NULL);
        test_cluster_run(c, warm_up, &w);               /* every slot is closed, nothing of it stays */
        for (uint32_t k = 0; k < world; k++) assert_int_equal(w.rc[k], PX_OK);
        test_generate(c, 0, NULL, ids, 5, 5, 6, b, NULL);
        assert_memory_equal(a, b, sizeof a);
        test_cluster_close(c);
    }
}

/* The executor alone, under an allocator that fails. */
static struct { shard_manifest m; shard_file *file; comm *comm; const kern_ops *ops; shard_demand d; uint32_t n_blocks; } one;

static px_code open_and_close(px_alloc *a, px_err *e)
{
    shard_executor *x;
    const shard_executor_args args = { .ops = one.ops, .manifest = &one.m, .file = one.file, .comm = one.comm,
                                       .demand = &one.d, .n_blocks = one.n_blocks };
    px_code rc = shard_executor_open(&x, a, &args, e);
    shard_executor_close(x);
    return rc;
}

static void the_executor_survives_every_oom_and_names_what_is_wrong(void **state)
{
    const char *set = test_set(test_golden("tiny/arch/llama"), SHARD_AS_FILE, 1);
    shard_rank_bytes plan;
    shard_executor *x;
    px_err e = {0};
    px_heap h;
    size_t n_errs;
    uint8_t *memory;

    (void)state;
    px_heap_init(&h, "test");
    one.d = (shard_demand){ .kv_dtype = KERN_KV_F16, .kv_tokens = 64, .kv_block = 16, .max_sequences = 2, .token_budget = 4, .threads = 1 };
    assert_int_equal(kern_cpu_ops(KERN_PATH_AUTO, &one.ops, &e), PX_OK);
    assert_int_equal(shard_manifest_read(&one.m, &h.a, set, &e), PX_OK);
    assert_int_equal(shard_file_open(&one.file, &h.a, set, &one.m, 0, &e, 1, &n_errs), PX_OK);
    assert_int_equal(shard_rank_bytes_of(&one.m.arch, &one.m.types, &one.m.split, 0, &one.d, COMM_LOCAL, &plan, &e), PX_OK);
    const comm_args ca = { .kind = COMM_LOCAL, .world = 1, .partial_bytes = plan.partial_bytes, .gather_bytes = plan.gather_bytes };
    assert_int_equal(comm_open(&one.comm, &h.a, &ca, &e), PX_OK);
    one.n_blocks = plan.n_blocks;
    assert_int_equal(plan.n_blocks, 4);
    assert_int_equal(plan.n_ctx, 64);
    test_oom_sweep(open_and_close);

    shard_executor_args args = { .ops = one.ops, .manifest = &one.m, .file = one.file, .comm = one.comm, .demand = &one.d };
    const struct { uint32_t n_blocks, rank; size_t kv_bytes; px_code code; const char *field; } bad[] = {
        { 0, 0, 0, PX_ERANGE, "kv.blocks" }, { 5, 0, 0, PX_ERANGE, "kv.blocks" },
        { 4, 1, 0, PX_ERANGE, "rank" }, { 4, 0, 63, PX_ERANGE, "kv.memory" },
    };
    memory = aligned_alloc(64, plan.kv_pool);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        args.n_blocks = bad[i].n_blocks, args.rank = bad[i].rank;
        args.kv_memory = bad[i].kv_bytes ? memory : NULL, args.kv_bytes = bad[i].kv_bytes;
        px_err_clear(&e);
        assert_int_equal(shard_executor_open(&x, &h.a, &args, &e), bad[i].code);
        assert_string_equal(e.field, bad[i].field);
        assert_null(x);
    }
    const struct { shard_demand d; const char *field; } demand[] = {
        { { .kv_tokens = 64, .kv_block = 24, .max_sequences = 2, .token_budget = 4, .threads = 1 }, "kv.block" },
        { { .kv_tokens = 0, .kv_block = 16, .max_sequences = 2, .token_budget = 4, .threads = 1 }, "kv.tokens" },
        { { .kv_tokens = 64, .kv_block = 16, .max_sequences = 0, .token_budget = 4, .threads = 1 }, "max_sequences" },
        { { .kv_tokens = 64, .kv_block = 16, .max_sequences = 2, .token_budget = 0, .threads = 1 }, "token_budget" },
        { { .kv_tokens = 64, .kv_block = 16, .max_sequences = 2, .token_budget = 4, .threads = 0 }, "threads" },
        { { .kv_dtype = 9, .kv_tokens = 64, .kv_block = 16, .max_sequences = 2, .token_budget = 4, .threads = 1 }, "kv.dtype" },
    };
    for (size_t i = 0; i < sizeof demand / sizeof *demand; i++) {
        px_err_clear(&e);
        assert_int_equal(shard_rank_bytes_of(&one.m.arch, &one.m.types, &one.m.split, 0, &demand[i].d, COMM_SHM, &plan, &e), PX_ERANGE);
        assert_string_equal(e.field, demand[i].field);
    }
    /* a pool that was handed in, and fewer blocks than planned */
    args = (shard_executor_args){ .ops = one.ops, .manifest = &one.m, .file = one.file, .comm = one.comm, .demand = &one.d,
                                  .n_blocks = 3, .kv_memory = memory, .kv_bytes = 3 * plan.kv_block_bytes };
    assert_int_equal(shard_rank_bytes_of(&one.m.arch, &one.m.types, &one.m.split, 0, &one.d, COMM_LOCAL, &plan, &e), PX_OK);
    args.kv_bytes = 3 * plan.kv_block_bytes;
    assert_int_equal(shard_executor_open(&x, &h.a, &args, &e), PX_OK);
    assert_int_equal(shard_executor_holds(x).kv, plan.kv_pool - plan.kv_block_bytes);
    assert_int_equal(shard_executor_warm_up_all(x, &e), PX_OK);
    shard_executor_close(x);
    free(memory);
    comm_close(one.comm);
    shard_file_close(one.file);
    shard_manifest_deinit(&one.m);
    px_heap_deinit(&h);
}

static void the_rope_digest_follows_the_tables(void **state)
{
    shard_arch m = { .head_dim = 16, .rope_theta = 10000 };
    const uint64_t d = shard_rope_digest(&m, 64);

    (void)state;
    assert_true(d != 0 && d == shard_rope_digest(&m, 64) && d != shard_rope_digest(&m, 65));
    m.rope_theta = 10001;
    assert_true(d != shard_rope_digest(&m, 64));
}

/* ---- numbers that are not finite ---- */

/* A copy of tiny/arch/llama whose row of the table for token 5 is NaN, and whose last element of token 6's is infinite. */
static const char *poisoned(void)
{
    static char dir[512];
    char path[600];
    char *data, *config;
    size_t bytes, n_config;
    px_heap h;
    px_err e = {0};
    uint64_t n_header;
    json_t *j;

    px_heap_init(&h, "test");
    snprintf(dir, sizeof dir, "%s/poisoned", test_tmpdir());
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(px_read_file(&h.a, test_golden("tiny/arch/llama/config.json"), 1 << 20, &config, &n_config, &e), PX_OK);
    assert_int_equal(px_read_file(&h.a, test_golden("tiny/arch/llama/model.safetensors"), 1 << 24, &data, &bytes, &e), PX_OK);
    memcpy(&n_header, data, 8);
    j = json_loadb(data + 8, n_header, 0, NULL);
    const json_t *t = json_object_get(j, "model.embed_tokens.weight");
    const size_t at = 8 + n_header + (size_t)json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0));
    const size_t d = (size_t)json_integer_value(json_array_get(json_object_get(t, "shape"), 1));
    const uint16_t nan = 0x7fc0, inf = 0x7f80;
    for (size_t i = 0; i < d; i++) memcpy(data + at + (5 * d + i) * 2, &nan, 2);
    memcpy(data + at + (7 * d - 1) * 2, &inf, 2);
    json_decref(j);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(px_write_file(path, data, bytes, false, &e), PX_OK);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(px_write_file(path, config, n_config, false, &e), PX_OK);
    h.a.put(&h.a, data, bytes + 1);
    h.a.put(&h.a, config, n_config + 1);
    px_heap_deinit(&h);
    return dir;
}

static void a_sequence_that_is_not_finite_ends_alone(void **state)
{
    const char *dir = poisoned();

    (void)state;
    for (uint32_t world = 1; world <= 3; world++)
        for (int policy = SHARD_AS_FILE; policy <= SHARD_TO_F32; policy++) {
            px_err e = {0};
            test_cluster *c = test_cluster_open(&(test_cluster_args){ .set = test_set(dir, (shard_policy)policy, world) }, &e);
            uint32_t good[4] = { 1, 2, 3, 4 }, nan[4] = { 1, 5, 3, 4 }, inf[3] = { 1, 2, 6 }, want[2];
            float lp[2];
            shard_result r;

            assert_non_null(c);
            test_generate(c, 0, NULL, good, 4, 4, 2, want, lp);
            for (uint32_t s = 0; s < 4; s++) test_open_slot(c, s, 16, NULL);
            const shard_entry en[4] = {
                { .slot = 0, .n = 4, .id = nan, .rows = SHARD_ROWS_LAST, .sample = true, .logprob = true, .top = 3 },
                { .slot = 1, .n = 4, .id = good, .rows = SHARD_ROWS_LAST, .sample = true, .logprob = true },
                { .slot = 2, .n = 3, .id = inf, .rows = SHARD_ROWS_NONE },
                { .slot = 3, .n = 3, .id = good, .rows = SHARD_ROWS_ALL, .top = 2 },
            };
            assert_int_equal(test_cluster_step(c, &(shard_step){ .entry = en, .n_entries = 4 }, &r, &e), PX_OK);
            assert_true(r.entry[0].nonfinite && !r.entry[1].nonfinite && r.entry[2].nonfinite && !r.entry[3].nonfinite);
            assert_int_equal(r.entry[0].row[0].id, SHARD_NO_ID);
            assert_int_equal(r.entry[0].row[0].n_top, 0);
            assert_int_equal(r.entry[1].row[0].id, want[0]);
            assert_memory_equal(&r.entry[1].row[0].logprob, &lp[0], sizeof lp[0]);
            entry_refused(c, (shard_entry){ .slot = 0, .first_pos = 4, .n = 1, .rows = SHARD_ROWS_LAST, .sample = true },
                          PX_EINVAL, "entry.id");
            /* Its blocks, used again, carry nothing over. */
            for (uint32_t s = 0; s < 4; s++) test_close_slot(c, s);
            uint32_t again[2];
            test_generate(c, 0, NULL, good, 4, 4, 2, again, NULL);
            assert_memory_equal(again, want, sizeof want);
            test_cluster_close(c);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_that_cannot_be_is_refused_by_field),
        cmocka_unit_test(slots_open_extend_and_close),
        cmocka_unit_test(targets_tops_and_whole_rows_agree),
        cmocka_unit_test(banned_end_ids_are_not_sampled),
        cmocka_unit_test(nothing_is_allocated_after_open),
        cmocka_unit_test(the_plan_is_what_is_carved),
        cmocka_unit_test(the_executor_survives_every_oom_and_names_what_is_wrong),
        cmocka_unit_test(the_rope_digest_follows_the_tables),
        cmocka_unit_test(a_sequence_that_is_not_finite_ends_alone),
    };
    kern_ftz_set();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
