/* The split and the sizing function where golden values do not reach: refusals, hostile numbers, memory that ends. */
#include "shard/plan/bytes.h"
#include "tests/testlib.h"

#include <string.h>

/* 9 query heads in 3 groups, tied: the default model, smaller. */
static const shard_arch SMALL = { .family = "llama", .n_layer = 3, .d_model = 144, .d_ff = 160, .n_head = 9, .n_kv_head = 3,
                                  .head_dim = 16, .n_vocab = 321, .n_ctx = 256, .rms_eps = 1e-5f, .tied = true,
                                  .rope_theta = 1e5, .bos = UINT32_MAX };

static px_heap heap;

static px_code build_and_drop(px_alloc *a, px_err *e)
{
    shard_types t;
    shard_split s = { 0 };
    px_code rc = shard_types_format(&t, a, &SMALL, "bf16", e);
    if (!rc) rc = shard_split_init(&s, a, &SMALL, &t, 3, SHARD_SPLIT_BALANCED, SHARD_VOCAB_PADDED64, e);
    shard_split_deinit(&s);
    shard_split_deinit(&s);
    shard_types_deinit(&t);
    shard_types_deinit(&t);
    return rc;
}

static void survives_every_oom(void **state) { (void)state; test_oom_sweep(build_and_drop); }

static void refused(const shard_arch *m, const char *format, uint32_t world, const char *expected)
{
    px_debug d;
    px_err e = { 0 };
    shard_types t;
    shard_split s;

    px_debug_init(&d, "test", -1);
    assert_int_equal(shard_types_format(&t, &d.a, m, format, &e), PX_OK);
    assert_int_equal(shard_split_init(&s, &d.a, m, &t, world, SHARD_SPLIT_EVEN, SHARD_VOCAB_UNPADDED, &e), PX_ERANGE);
    assert_int_equal(e.code, PX_ERANGE);
    assert_string_equal(e.field, "ranks");
    assert_string_equal(e.expected, expected);
    assert_null(s.cut);
    shard_types_deinit(&t);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static void names_the_largest_world(void **state)
{
    shard_arch m = SMALL;
    (void)state;

    refused(&m, "bf16", 0, "1 to 5");          /* 9 heads, 5 units of 32 FFN columns */
    refused(&m, "bf16", 6, "1 to 5");
    refused(&m, "bf16", UINT32_MAX, "1 to 5");
    m.d_ff = 1600;
    refused(&m, "bf16", 10, "1 to 9");         /* query heads */
    m.n_vocab = 4;
    refused(&m, "bf16", 5, "1 to 4");
    m = SMALL;
    m.d_ff = 1600;
    m.n_head = 10;
    m.n_kv_head = 5;
    refused(&m, "q8_0", 6, "1 to 5");          /* pairs of heads of 16 make a block of 32 */
}

static void formats_are_known_by_name(void **state)
{
    px_err e = { 0 };
    shard_types t;
    (void)state;

    assert_int_equal(shard_types_format(&t, &heap.a, &SMALL, "q4_k_n", &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "format");
    assert_non_null(strstr(e.text, "q4_k_m"));
}

/* Eight leaves: at 1, 2, 4 and 8 ranks a rank holds the leaves that the ranks before it do not. */
static void aligned_ranks_hold_whole_leaves(void **state)
{
    static const uint32_t KV[] = { 1, 4, 8, 16 };
    shard_arch m = SMALL;
    shard_types t;
    shard_split s;
    px_err e = { 0 };
    (void)state;

    m.n_head = 16;
    m.d_ff = 8 * 32 * 3;
    for (size_t k = 0; k < sizeof KV / sizeof *KV; k++) {
        m.n_kv_head = KV[k];
        assert_int_equal(shard_types_format(&t, &heap.a, &m, "q8_0", NULL), PX_OK);
        for (uint32_t world = 1; world <= 8; world *= 2) {
            assert_int_equal(shard_split_init(&s, &heap.a, &m, &t, world, SHARD_SPLIT_ALIGNED, SHARD_VOCAB_PADDED64, NULL), PX_OK);
            assert_int_equal(s.kv_replicated, KV[k] < world);
            for (uint32_t r = 0; r < world; r++) {
                assert_int_equal(s.cut[r].q_head.begin, 16 / world * r);
                assert_int_equal(s.cut[r].q_head.end, 16 / world * (r + 1));
                assert_int_equal(s.cut[r].ffn.begin, m.d_ff / world * r);
                assert_int_equal(s.cut[r].ffn.end, m.d_ff / world * (r + 1));
                assert_int_equal(s.cut[r].kv_head.end - s.cut[r].kv_head.begin, KV[k] < world ? 1 : KV[k] / world);
            }
            shard_split_deinit(&s);
        }
        for (uint32_t world = 3; world <= 16; world += 13) {
            assert_int_equal(shard_split_init(&s, &heap.a, &m, &t, world, SHARD_SPLIT_ALIGNED, SHARD_VOCAB_PADDED64, &e), PX_ERANGE);
            assert_string_equal(e.field, "ranks");
            assert_string_equal(e.expected, "1, 2, 4 or 8");
            e = (px_err){ 0 };
        }
        shard_types_deinit(&t);
    }
    m.n_kv_head = 4;
    m.n_head = 12;                               /* heads, then columns, that eight does not divide */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(shard_types_format(&t, &heap.a, &m, "q8_0", NULL), PX_OK);
        assert_int_equal(shard_split_init(&s, &heap.a, &m, &t, 2, SHARD_SPLIT_ALIGNED, SHARD_VOCAB_PADDED64, &e), PX_EUNSUP);
        assert_string_equal(e.field, "split");
        assert_non_null(strstr(e.text, i ? "columns" : "heads"));
        e = (px_err){ 0 };
        shard_types_deinit(&t);
        m.n_head = 16;
        m.d_ff = 8 * 32 * 3 + 32;
    }
}

/* An even FFN deal and a balanced one of the same model; every column has one owner. */
static void balanced_evens_out_heads(void **state)
{
    shard_types t;
    shard_split even, fair;
    shard_weight_bytes w[2][2];
    uint64_t unit, apart;
    shard_arch m = SMALL;
    (void)state;

    m.d_ff = 1536;
    assert_int_equal(shard_types_format(&t, &heap.a, &m, "bf16", NULL), PX_OK);
    assert_int_equal(shard_split_init(&even, &heap.a, &m, &t, 2, SHARD_SPLIT_EVEN, SHARD_VOCAB_PADDED64, NULL), PX_OK);
    assert_int_equal(shard_split_init(&fair, &heap.a, &m, &t, 2, SHARD_SPLIT_BALANCED, SHARD_VOCAB_PADDED64, NULL), PX_OK);
    for (uint32_t r = 0; r < 2; r++) {
        assert_int_equal(shard_weight_bytes_of(&m, &t, &even, r, false, &w[0][r], NULL), PX_OK);
        assert_int_equal(shard_weight_bytes_of(&m, &t, &fair, r, true, &w[1][r], NULL), PX_OK);
        assert_int_equal(w[1][r].mapped % 64, 0);
        assert_true(w[1][r].mapped >= w[1][r].stored);
    }
    /* heads alone leave rank 0 heavier by more than a unit of the FFN; the deal leaves less than one between them */
    unit = 3ull * m.n_layer * fair.ffn_unit * m.d_model * 2;
    apart = w[1][0].stored > w[1][1].stored ? w[1][0].stored - w[1][1].stored : w[1][1].stored - w[1][0].stored;
    assert_true(w[0][0].stored - w[0][1].stored > unit);
    assert_true(apart < unit);
    assert_int_equal(fair.cut[0].ffn.end, fair.cut[1].ffn.begin);
    assert_int_equal(fair.cut[1].ffn.end, m.d_ff);
    shard_split_deinit(&even);
    shard_split_deinit(&fair);
    shard_types_deinit(&t);
}

/* Every element of every matrix is on exactly one rank, KV rows and replicated tensors on at least one; also where KV
 * heads are replicated and where the last rank holds padding only. */
static void extents_cover(void **state)
{
    static const struct { uint32_t kv, world, vocab; bool replicated; } CASE[] = {
        { 3, 1, 321, false }, { 3, 2, 321, false }, { 3, 3, 321, false }, { 3, 5, 321, true }, { 1, 2, 321, true },
        { 9, 4, 130, false },
    };
    (void)state;

    for (size_t k = 0; k < sizeof CASE / sizeof *CASE; k++) {
        shard_arch m = SMALL;
        shard_types t;
        shard_split s;
        m.n_kv_head = CASE[k].kv;
        m.n_vocab = CASE[k].vocab;
        assert_int_equal(shard_types_format(&t, &heap.a, &m, "f32", NULL), PX_OK);
        assert_int_equal(shard_split_init(&s, &heap.a, &m, &t, CASE[k].world, SHARD_SPLIT_BALANCED, SHARD_VOCAB_PADDED64, NULL),
                         PX_OK);
        assert_int_equal(s.kv_replicated, CASE[k].replicated);
        for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
            uint64_t rows, cols, sum = 0;
            if (!shard_arch_has(&m, r)) continue;
            shard_arch_shape(&m, r, &rows, &cols);
            for (uint32_t w = 0; w < s.world; w++) {
                shard_extent x;
                shard_split_extent(&s, &m, r, w, &x);
                assert_true(x.col0 + x.cols <= cols && x.rows && x.cols);
                if (shard_role_get(r)->cut != SHARD_CUT_VOCAB_ROWS) assert_true(x.row0 + x.rows <= rows);
                sum += x.rows * x.cols;
            }
            if (shard_role_get(r)->cut == SHARD_CUT_NONE) assert_int_equal(sum, s.world * rows * cols);
            else if (shard_role_get(r)->cut == SHARD_CUT_KV_ROWS) assert_true(sum >= rows * cols);
            else if (shard_role_get(r)->cut == SHARD_CUT_VOCAB_ROWS) assert_true(sum >= rows * cols && sum % 64 == 0);
            else assert_int_equal(sum, rows * cols);
        }
        shard_split_deinit(&s);
        shard_types_deinit(&t);
    }
}

static void bad_kv_requests(void **state)
{
    uint64_t bytes;
    px_err e = { 0 };
    shard_arch m = SMALL;
    (void)state;

    assert_int_equal(shard_kv_vector_bytes("int4", 64, &bytes, &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "kv.dtype");
    px_err_clear(&e);
    assert_int_equal(shard_kv_vector_bytes("q8_0", 16, &bytes, &e), PX_ERANGE);
    assert_string_equal(e.field, "kv.dtype");
    px_err_clear(&e);
    assert_int_equal(shard_kv_sequence_bytes(&m, "f16", 3, 10, 0, 0, &bytes, &e), PX_ERANGE);
    assert_string_equal(e.field, "kv.block");
    px_err_clear(&e);
    assert_int_equal(shard_kv_sequence_bytes(&m, "f16", 3, UINT64_MAX, 16, 0, &bytes, &e), PX_ERANGE);
    assert_string_equal(e.field, "kv");
}

static void a_rank_outside_and_types_of_another_model(void **state)
{
    px_err e = { 0 };
    shard_types t;
    shard_split s;
    shard_weight_bytes w;
    shard_arch m = SMALL;
    (void)state;

    assert_int_equal(shard_types_format(&t, &heap.a, &m, "f32", NULL), PX_OK);
    assert_int_equal(shard_split_init(&s, &heap.a, &m, &t, 2, SHARD_SPLIT_EVEN, SHARD_VOCAB_PADDED64, NULL), PX_OK);
    assert_int_equal(shard_weight_bytes_of(&m, &t, &s, 2, false, &w, &e), PX_ERANGE);
    assert_string_equal(e.field, "rank");
    shard_split_deinit(&s);
    px_err_clear(&e);
    m.n_layer = 4;
    assert_int_equal(shard_split_init(&s, &heap.a, &m, &t, 2, SHARD_SPLIT_EVEN, SHARD_VOCAB_PADDED64, &e), PX_EINVAL);
    assert_string_equal(e.field, "n_layer");
    shard_types_deinit(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives_every_oom),       cmocka_unit_test(names_the_largest_world),
        cmocka_unit_test(formats_are_known_by_name), cmocka_unit_test(balanced_evens_out_heads), cmocka_unit_test(aligned_ranks_hold_whole_leaves),
        cmocka_unit_test(extents_cover),            cmocka_unit_test(bad_kv_requests),
        cmocka_unit_test(a_rank_outside_and_types_of_another_model),
    };
    px_heap_init(&heap, "test");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
