/* Round trip: what a set holds, read back through the panels, is the source, bit for bit; and what the sharder refuses. */
#include "kernels/reblock.h"
#include "shard/plan/bytes.h"
#include "shard/store/digest.h"
#include "shard/store/pack.h"
#include "tests/shard/image.h"
#include "tests/shard/setlib.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static px_heap heap;

/* Row `row` of a tensor in Hugging Face order, straight from the source; where it lies there. */
static const uint8_t *source_row(const shard_source *s, uint64_t row, uint32_t head_dim, float *out)
{
    uint64_t bytes, at = row;

    if (s->qk_permuted) {                   /* written the other way round than in pack.c: search the row that lands here */
        for (at = row - row % head_dim;; at++) {
            uint64_t i = at % head_dim;
            if (i / 2 + i % 2 * (head_dim / 2) == row % head_dim) break;
        }
    }
    assert_true(kern_matrix_bytes(s->dtype, 1, s->cols, &bytes));
    kern_row_to_f32(s->dtype, s->data + at * bytes, s->cols, out);
    return s->data + at * bytes;
}

/* A row as the set should hold it: what the cut's columns are worth as type t.  The quantisers have tests of their own. */
static void as_stored(kern_dtype t, const shard_source *s, const uint8_t *from, float *row, uint64_t col0, uint64_t cols, float scale)
{
    uint8_t quants[4100];
    float step[128];

    if (t == s->dtype || t == KERN_F32) return;
    row += col0;
    for (uint64_t i = 0; i < cols; i += 32) step[i / 32] = kern_row_step(s->dtype, from, col0 + i);
    if (t == KERN_BF16) kern_row_from_f32(t, row, cols, quants);
    else if (t == KERN_FP8) kern_row_to_fp8(row, cols, scale, quants);
    else if (t == kern_reblock_to(s->dtype)) assert_true(kern_row_reblock(s->dtype, from, col0, cols, quants, (double[2]){ 0 }));
    else if (t == KERN_Q8_0 && kern_dtype_get(s->dtype)->block > 1) assert_true(kern_row_requantise(row, step, cols, quants));
    else assert_true(kern_row_quantise(t, row, cols, quants));
    kern_row_to_f32(t, quants, cols, row);
}

static void compare_tensor(const shard_checkpoint *c, const shard_file *f, const shard_manifest *m, uint32_t rank, shard_role r,
                           uint32_t layer)
{
    const shard_source *src = shard_checkpoint_tensor(c, r, layer);
    const void *data;
    kern_dtype t;
    uint64_t rows, cols;
    size_t bytes;
    shard_extent x;
    px_err e = { 0 };
    float *want = calloc(src->cols, sizeof *want), *found;

    assert_int_equal(shard_file_tensor(f, r, layer, &data, &t, &rows, &cols, &bytes, &e), PX_OK);
    assert_int_equal((uintptr_t)data % 64, 0);
    assert_int_equal(bytes % 64, 0);
    shard_split_extent(&m->split, &m->arch, r, rank, &x);
    assert_true(rows == x.rows && cols == x.cols);
    found = calloc((cols + 31) / 32 * 32, sizeof *found);
    if (shard_role_get(r)->vector) {
        assert_int_equal(t, KERN_F32);
        source_row(src, 0, 0, want);
        assert_memory_equal(data, want + x.col0, cols * sizeof(float));
        for (size_t i = cols * sizeof(float); i < bytes; i++) assert_int_equal(((const uint8_t *)data)[i], 0);
    } else {
        float largest = 0;                   /* of the cut */
        for (uint64_t i = 0; i < rows && x.row0 + i < src->rows; i++) {
            source_row(src, x.row0 + i, m->arch.head_dim, want);
            for (uint64_t k = x.col0; k < x.col0 + cols; k++) largest = fmaxf(largest, fabsf(want[k]));
        }
        for (uint64_t i = 0; i < rows; i++) {
            const uint8_t *panel = (const uint8_t *)data + i / KERN_PANEL_ROWS * kern_panel_stride(t, cols);
            kern_panel_row_to_f32(t, panel, i % KERN_PANEL_ROWS, cols, found);
            if (x.row0 + i < src->rows) {
                as_stored(t, src, source_row(src, x.row0 + i, m->arch.head_dim, want), want, x.col0, cols, largest / 448);
                assert_memory_equal(found, want + x.col0, cols * sizeof(float));
            } else {
                assert_int_equal(shard_role_get(r)->cut, SHARD_CUT_VOCAB_ROWS);
                for (uint64_t k = 0; k < cols; k++) assert_true(found[k] == 0);
            }
        }
    }
    free(want);
    free(found);
}

static void round_trip(const char *path, uint32_t ranks, shard_policy policy, shard_digest_kind digest)
{
    const char *out = setlib_fresh("set");
    shard_checkpoint *c;
    shard_pack_result result;
    shard_manifest m;
    px_err e = { 0 }, errs[8];
    uint64_t mapped = 0;
    size_t n_errs;
    px_code rc = shard_checkpoint_open(&c, &heap.a, path, &e);

    if (rc) fail_msg("%s: %s: %s", path, e.field, e.text);
    shard_pack_args args = setlib_args(c, out, ranks);
    args.policy = policy;
    args.digest = digest;
    args.threads = ranks;
    if ((rc = shard_pack(&heap.a, &args, &result, &e))) fail_msg("%s: %s: %s", path, e.field, e.text);
    if ((rc = shard_manifest_read(&m, &heap.a, out, &e))) fail_msg("%s: %s: %s", path, e.field, e.text);
    assert_int_equal(m.world, ranks);
    assert_true(m.has_tokenizer && m.has_template);
    assert_int_equal(m.source_bytes, shard_checkpoint_bytes(c));
    assert_int_equal(result.source_bytes, m.source_bytes);
    for (uint32_t r = 0; r < ranks; r++) {
        shard_file *f;
        shard_weight_bytes w;
        assert_int_equal(shard_file_open(&f, &heap.a, out, &m, r, errs, 8, &n_errs), PX_OK);
        for (shard_role role = 0; role < SHARD_N_ROLES; role++)
            for (uint32_t i = 0; shard_arch_has(&m.arch, role) && i < (shard_role_get(role)->per_layer ? m.arch.n_layer : 1); i++)
                compare_tensor(c, f, &m, r, role, i);
        assert_int_equal(shard_weight_bytes_of(&m.arch, &m.types, &m.split, r, true, &w, NULL), PX_OK);
        assert_int_equal(result.rank_mapped[r], w.mapped);
        assert_true(shard_file_bytes(f) > w.mapped && shard_file_bytes(f) == m.rank[r].bytes);
        mapped += w.mapped;
        assert_int_equal(shard_file_check(f, &(shard_check_args){ .depth = SHARD_CHECK_FULL }, errs, 8, &n_errs), PX_OK);
        assert_int_equal(n_errs, 0);
        shard_file_close(f);
    }
    assert_int_equal(result.mapped_bytes, mapped);
    assert_int_equal(shard_set_check(&heap.a, out, ranks, NULL, errs, 8, &n_errs), PX_OK);
    {   /* the sizing function's stored bytes are the set's */
        shard_types stored;
        shard_weight_bytes w;
        uint64_t sum = 0;
        assert_int_equal(shard_types_stored(&stored, &heap.a, &m.arch, shard_checkpoint_types(c), policy, NULL), PX_OK);
        for (uint32_t r = 0; r < ranks; r++) {
            assert_int_equal(shard_weight_bytes_of(&m.arch, &stored, &m.split, r, true, &w, NULL), PX_OK);
            sum += w.stored;
        }
        assert_int_equal(sum, result.stored_bytes);
        shard_types_deinit(&stored);
    }
    shard_manifest_deinit(&m);
    shard_checkpoint_close(c);
}

static const char *const MODEL[] = { "tiny/arch/llama", "tiny/arch/smollm_like", "tiny/arch/mqa", "tiny/arch/llama3",
                                     "tiny/gguf/smollm_like_f16/model.gguf", "tiny/gguf/llama3_q5_1/model.gguf" };

static void round_trips(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof MODEL / sizeof *MODEL; i++)
        for (uint32_t ranks = 1; ranks <= 3; ranks++) round_trip(test_golden(MODEL[i]), ranks, SHARD_AS_FILE, SHARD_XXH3_128);
}

static void round_trips_of_other_policies(void **state)
{
    (void)state;
    round_trip(test_golden("tiny/arch/llama"), 2, SHARD_TO_F32, SHARD_SHA256);
    round_trip(test_golden("tiny/gguf/smollm_like_f16/model.gguf"), 2, SHARD_TO_BF16, SHARD_XXH3_128);
    round_trip(test_golden("tiny/gguf/smollm_like_f16/model.gguf"), 3, SHARD_TO_F32, SHARD_XXH3_128);
    round_trip(test_golden("tiny/gguf/smollm_like_f16/model.gguf"), 3, SHARD_TO_FP8, SHARD_XXH3_128);
    for (shard_policy p = SHARD_TO_FP8; p < SHARD_N_POLICIES; p++)
        for (uint32_t ranks = 1; ranks <= 2; ranks++) {
            bool groups = p == SHARD_TO_W8A16 || p == SHARD_TO_W4A16;         /* of 128: all six heads are one group */
            if (!groups || ranks == 1) round_trip(test_golden("tiny/arch/llama"), ranks, p, SHARD_XXH3_128);
            round_trip(test_golden("tiny/gguf/smollm_like_f16/model.gguf"), ranks, p, SHARD_XXH3_128);     /* 144 columns: F16 */
        }
}

/* ---- every type in one file ---- */

/* A llama of two layers, tied, 256 wide with two heads of 32 and an FFN of 64.  Quants of any bytes are quants; without the bits of
 * 0xc4 no half in them is infinite. */
static const struct { const char *name; uint64_t rows, cols; kern_dtype type; } mixed[] = {
    { "token_embd.weight", 64, 256, KERN_Q6_K },        { "output_norm.weight", 1, 256, KERN_F32 },
    { "blk.0.attn_norm.weight", 1, 256, KERN_F32 },     { "blk.0.ffn_norm.weight", 1, 256, KERN_F32 },
    { "blk.0.attn_q.weight", 64, 256, KERN_Q2_K },      { "blk.0.attn_k.weight", 32, 256, KERN_Q3_K },
    { "blk.0.attn_v.weight", 32, 256, KERN_Q4_K },      { "blk.0.attn_output.weight", 256, 64, KERN_Q5_0 },
    { "blk.0.ffn_gate.weight", 64, 256, KERN_Q5_K },    { "blk.0.ffn_up.weight", 64, 256, KERN_Q6_K },
    { "blk.0.ffn_down.weight", 256, 64, KERN_Q5_1 },    { "blk.1.attn_norm.weight", 1, 256, KERN_F32 },
    { "blk.1.ffn_norm.weight", 1, 256, KERN_F32 },      { "blk.1.attn_q.weight", 64, 256, KERN_IQ4_XS },
    { "blk.1.attn_k.weight", 32, 256, KERN_IQ2_XS },    { "blk.1.attn_v.weight", 32, 256, KERN_F16 },
    { "blk.1.attn_output.weight", 256, 64, KERN_IQ4_NL }, { "blk.1.ffn_gate.weight", 64, 256, KERN_BF16 },
    { "blk.1.ffn_up.weight", 64, 256, KERN_Q8_0 },      { "blk.1.ffn_down.weight", 256, 64, KERN_Q4_1 },
};
#define N_MIXED (sizeof mixed / sizeof *mixed)

static const char *mixed_gguf(void)
{
    static image m;
    uint64_t offset = 0, bytes, seed = 8;

    m.n = 0;
    gguf_head(&m, 3, N_MIXED, 9);
    gguf_str(&m, "general.architecture", "llama");
    gguf_u32(&m, "llama.block_count", 2);
    gguf_u32(&m, "llama.embedding_length", 256);
    gguf_u32(&m, "llama.feed_forward_length", 64);
    gguf_u32(&m, "llama.attention.head_count", 2);
    gguf_u32(&m, "llama.attention.head_count_kv", 1);
    gguf_u32(&m, "llama.attention.key_length", 32);
    gguf_u32(&m, "llama.context_length", 128);
    gguf_f32(&m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < N_MIXED; i++) {
        const uint64_t dim[2] = { mixed[i].cols, mixed[i].rows };
        gguf_tensor(&m, mixed[i].name, mixed[i].rows == 1 ? 1 : 2, dim, kern_dtype_get(mixed[i].type)->ggml, offset);
        assert_true(kern_matrix_bytes(mixed[i].type, mixed[i].rows, mixed[i].cols, &bytes));
        offset += (bytes + 31) / 32 * 32;
    }
    image_pad(&m, 32);
    for (size_t i = 0; i < N_MIXED; i++) {
        kern_matrix_bytes(mixed[i].type, mixed[i].rows, mixed[i].cols, &bytes);
        for (uint64_t k = 0; k < bytes; k++) image_u8(&m, (uint8_t)(test_rand(&seed) & 0x3b));
        image_pad(&m, 32);
    }
    return image_write(&m, "mixed.gguf");
}

static void a_file_of_every_type(void **state)
{
    const char *path = mixed_gguf();
    static shard_pack_result result, one;             /* static: no byte between fields differs */
    static shard_manifest m[2];
    shard_checkpoint *c;
    px_err e = { 0 };
    (void)state;

    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        round_trip(path, ranks, SHARD_AS_FILE, SHARD_XXH3_128);
        round_trip(path, ranks, SHARD_TO_F32, SHARD_XXH3_128);
        round_trip(path, ranks, SHARD_TO_BF16, SHARD_XXH3_128);
    }
    /* any number of threads makes the same set and finds the same rounding; what it adds is told by class */
    assert_int_equal(shard_checkpoint_open(&c, &heap.a, path, &e), PX_OK);
    for (uint32_t threads = 1; threads <= 5; threads += 4) {
        shard_pack_args args = setlib_args(c, setlib_fresh("mixed"), 2);
        args.threads = threads;
        assert_int_equal(shard_pack(&heap.a, &args, &result, &e), PX_OK);
        assert_int_equal(shard_manifest_read(&m[threads > 1], &heap.a, args.out, &e), PX_OK);
        if (threads == 1) one = result;
    }
    assert_memory_equal(&one, &result, sizeof one);
    assert_true(shard_digest_equal(&m[0].manifest, &m[1].manifest));
    for (int i = 0; i < 2; i++) shard_manifest_deinit(&m[i]);
    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        const shard_conversion *x = &result.converted[r];
        uint64_t was = 0, is = 0, n = 0, bytes;
        bool rounded = false;                            /* Q5_0, Q5_1 and IQ4_NL keep all values */
        kern_dtype first = KERN_N_DTYPES;
        for (size_t i = 0; i < N_MIXED; i++) {
            char name[64];
            bool layer1 = mixed[i].name[4] == '1';
            if (strcmp(shard_tensor_name(r, layer1, name, sizeof name), mixed[i].name) || kern_dtype_get(mixed[i].type)->weight) continue;
            kern_matrix_bytes(mixed[i].type, mixed[i].rows, mixed[i].cols, &bytes);
            was += bytes;
            kern_dtype to = shard_type_kept(mixed[i].type, mixed[i].cols);
            kern_matrix_bytes(to, mixed[i].rows, mixed[i].cols, &bytes);
            if (!n) first = to;
            is += bytes * (r == SHARD_ATTN_K || r == SHARD_ATTN_V ? 2 : 1);          /* one KV head, on both ranks */
            rounded |= mixed[i].type != KERN_Q5_0 && mixed[i].type != KERN_IQ4_NL && mixed[i].type != KERN_Q5_1;
            n++;
        }
        assert_true(x->n == n && x->source_bytes == was && x->stored_bytes == is);
        if (!n) continue;
        assert_int_equal(x->to, first);
        assert_true((x->error > 0) == rounded && x->size > 0 && x->error < x->size * 1e-4);
    }
    shard_checkpoint_close(c);
}

/* A scale times its group's is beyond fp16: the tensor and the row are named, and nothing is left; as F32 it is what it is. */
static void a_scale_that_no_type_holds(void **state)
{
    const char *path = mixed_gguf();
    shard_checkpoint *c;
    shard_pack_result result;
    px_err e = { 0 };
    size_t at = 0;
    long from_end = 0;
    uint64_t bytes;
    FILE *f;
    (void)state;

    while (strcmp(mixed[at].name, "blk.0.ffn_gate.weight")) at++;
    for (size_t i = at; i < N_MIXED; i++) {
        kern_matrix_bytes(mixed[i].type, mixed[i].rows, mixed[i].cols, &bytes);
        from_end += (long)(bytes + 31) / 32 * 32;
    }
    assert_non_null(f = fopen(path, "r+b"));
    assert_int_equal(fseek(f, 5 * 176 - from_end, SEEK_END), 0);               /* row 5: d and the scale of the first group */
    assert_int_equal(fwrite("\x00\x7b\x00\x20\x3f", 5, 1, f), 1);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(shard_checkpoint_open(&c, &heap.a, path, &e), PX_OK);
    shard_pack_args args = setlib_args(c, setlib_fresh("scale"), 2);
    assert_int_equal(shard_pack(&heap.a, &args, &result, &e), PX_ERANGE);
    assert_string_equal(e.field, "blk.0.ffn_gate.weight");
    assert_non_null(strstr(e.text, "row 5 has a value that Q8_M does not hold"));
    assert_false(setlib_exists(args.out));
    args.policy = SHARD_TO_F32;
    px_err_clear(&e);
    assert_int_equal(shard_pack(&heap.a, &args, &result, &e), PX_OK);
    shard_checkpoint_close(c);
}

/* The GGUF was converted from the same checkpoint: its interleaved q and k rows come back in Hugging Face order. */
static void gguf_and_safetensors_hold_the_same_q_and_k(void **state)
{
    const char *dir[2];
    shard_manifest m[2];
    shard_file *f[2];
    px_err errs[4];
    size_t n;
    (void)state;

    dir[0] = setlib_make(&heap.a, "tiny/arch/smollm_like", 2, "a");
    dir[1] = setlib_make(&heap.a, "tiny/gguf/smollm_like_f16/model.gguf", 2, "a");
    for (int i = 0; i < 2; i++) assert_int_equal(shard_manifest_read(&m[i], &heap.a, dir[i], NULL), PX_OK);
    for (uint32_t r = 0; r < 2; r++) {
        for (int i = 0; i < 2; i++) assert_int_equal(shard_file_open(&f[i], &heap.a, dir[i], &m[i], r, errs, 4, &n), PX_OK);
        for (uint32_t layer = 0; layer < 3; layer++)
            for (shard_role role = SHARD_ATTN_Q; role <= SHARD_ATTN_K; role++) {
                const void *data[2];
                kern_dtype t[2];
                uint64_t rows, cols;
                size_t bytes;
                float a[144], b[144];
                for (int i = 0; i < 2; i++)
                    assert_int_equal(shard_file_tensor(f[i], role, layer, &data[i], &t[i], &rows, &cols, &bytes, NULL), PX_OK);
                assert_int_equal(cols, 144);
                for (uint64_t k = 0; k < rows; k++) {
                    kern_panel_row_to_f32(t[0], (const uint8_t *)data[0] + k / 16 * kern_panel_stride(t[0], cols), k % 16, cols, a);
                    kern_panel_row_to_f32(t[1], (const uint8_t *)data[1] + k / 16 * kern_panel_stride(t[1], cols), k % 16, cols, b);
                    for (int j = 0; j < 144; j++) assert_true(fabsf(a[j] - b[j]) <= 1e-6f);
                }
            }
        for (int i = 0; i < 2; i++) shard_file_close(f[i]);
    }
    for (int i = 0; i < 2; i++) shard_manifest_deinit(&m[i]);
}

/* Any safetensors tool can list a shard: extents without holes or overlaps, strings in the metadata, aligned data. */
static void a_shard_is_valid_safetensors(void **state)
{
    const char *dir = setlib_make(&heap.a, "tiny/arch/llama", 2, "r1"), *key;
    char path[1024], *text;
    size_t bytes;
    json_t *o, *v;
    json_int_t sum = 0, end = 0;
    uint64_t n = 0;
    (void)state;

    snprintf(path, sizeof path, "%s/rank-001-of-002.safetensors", dir);
    assert_int_equal(px_read_file(&heap.a, path, 1 << 30, &text, &bytes, NULL), PX_OK);
    memcpy(&n, text, 8);
    assert_true(n < bytes && (n + 8) % 64 == 0 && text[8] == '{');
    assert_non_null(o = json_loadb(text + 8, n, 0, NULL));
    json_object_foreach(o, key, v) {
        json_t *at = json_object_get(v, "data_offsets");
        json_int_t begin = json_integer_value(json_array_get(at, 0)), size = 1;
        size_t i;
        json_t *d;
        if (!strcmp(key, "__metadata__")) {
            const char *k;
            json_object_foreach(v, k, d) assert_true(json_is_string(d));
            assert_string_equal(json_string_value(json_object_get(v, "revision")), "r1");
            assert_string_equal(json_string_value(json_object_get(v, "rank")), "1");
            continue;
        }
        json_array_foreach(json_object_get(v, "shape"), i, d) size *= json_integer_value(d);
        size *= strcmp(json_string_value(json_object_get(v, "dtype")), "F32") ? 1 : 4;
        assert_int_equal(begin % 64, 0);
        assert_int_equal(json_integer_value(json_array_get(at, 1)) - begin, size);
        sum += size;
        if (begin + size > end) end = begin + size;
    }
    assert_int_equal(sum, end);
    assert_int_equal((size_t)end, bytes - 8 - n);
    json_decref(o);
    px_del(&heap.a, text, bytes + 1);
}

/* The same source gives the same set. */
static void sets_are_reproducible(void **state)
{
    const char *x = setlib_make(&heap.a, "tiny/arch/mqa", 2, "a"), *y = setlib_make(&heap.a, "tiny/arch/mqa", 2, "a");
    static const char *const FILE_NAME[] = { "manifest.json", "rank-000-of-002.safetensors", "rank-001-of-002.safetensors" };
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char a[1024], b[1024], *p, *q;
        size_t n, k;
        snprintf(a, sizeof a, "%s/%s", x, FILE_NAME[i]);
        snprintf(b, sizeof b, "%s/%s", y, FILE_NAME[i]);
        assert_int_equal(px_read_file(&heap.a, a, 1 << 30, &p, &n, NULL), PX_OK);
        assert_int_equal(px_read_file(&heap.a, b, 1 << 30, &q, &k, NULL), PX_OK);
        assert_int_equal(n, k);
        assert_memory_equal(p, q, n);
        px_del(&heap.a, p, n + 1);
        px_del(&heap.a, q, k + 1);
    }
}

/* ---- what is refused, and that nothing is left ---- */

static shard_checkpoint *open_llama(void)
{
    shard_checkpoint *c;
    assert_int_equal(shard_checkpoint_open(&c, &heap.a, test_golden("tiny/arch/llama"), NULL), PX_OK);
    return c;
}

static void expect(const shard_pack_args *args, px_code code, const char *field)
{
    shard_pack_result result;
    px_err e = { 0 };
    char partial[600];

    assert_int_equal(shard_pack(&heap.a, args, &result, &e), code);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
    snprintf(partial, sizeof partial, "%s.partial", args->out);
    if (code != PX_EEXIST) assert_false(setlib_exists(args->out));
    if (code != PX_EBUSY) assert_false(setlib_exists(partial));
}

static void bad_requests(void **state)
{
    shard_checkpoint *c = open_llama();
    shard_asset bad = { "../evil", "x", 1 };
    (void)state;

    shard_pack_args args = setlib_args(c, setlib_fresh("bad"), 0);
    expect(&args, PX_ERANGE, "ranks");
    args.ranks = 65;
    expect(&args, PX_ERANGE, "ranks");
    args.ranks = 7;                         /* 6 heads, 5 units of the FFN */
    expect(&args, PX_ERANGE, "ranks");
    args.ranks = 2;
    args.asset = &bad;
    args.n_assets = 1;
    expect(&args, PX_EINVAL, "assets");
    bad.name = "manifest.json";
    expect(&args, PX_EINVAL, "assets");
    args = setlib_args(c, test_tmpdir(), 2);
    expect(&args, PX_EEXIST, "out");
    args = setlib_args(c, "", 2);
    expect(&args, PX_EINVAL, "out");
    args = setlib_args(c, "/proc/no/such/folder", 2);
    expect(&args, PX_ENOTFOUND, "out");
    shard_checkpoint_close(c);
}

static char noted[4400];
static void note(void *ctx, const char *line) { (void)ctx; snprintf(noted, sizeof noted, "%s", line); }

static void a_lock_is_respected_and_a_stale_folder_removed(void **state)
{
    shard_checkpoint *c = open_llama();
    const char *out = setlib_fresh("locked");
    char partial[600], junk[700];
    shard_pack_args args = setlib_args(c, out, 2);
    shard_pack_result result;
    px_err e = { 0 };
    int fd;
    (void)state;

    snprintf(partial, sizeof partial, "%s.partial", out);
    snprintf(junk, sizeof junk, "%s/rank-000-of-002.safetensors", partial);
    assert_int_equal(mkdir(partial, 0777), 0);
    assert_int_equal(px_write_file(junk, "half", 4, false, NULL), PX_OK);
    assert_true((fd = open(partial, O_RDONLY | O_DIRECTORY)) >= 0);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    args.note = note;
    expect(&args, PX_EBUSY, "out");
    assert_true(setlib_exists(junk) && !noted[0]);
    close(fd);
    assert_int_equal(shard_pack(&heap.a, &args, &result, &e), PX_OK);
    assert_non_null(strstr(noted, partial));
    assert_true(setlib_exists(out) && !setlib_exists(partial));
    shard_checkpoint_close(c);
}

/* A disk that is full: the limit on a file's size stands in for it (EFBIG where a full disk says ENOSPC). */
static void a_full_disk_leaves_nothing(void **state)
{
    shard_checkpoint *c = open_llama();
    struct rlimit was, now;
    char shard[1024];
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    (void)state;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    now = was;
    snprintf(shard, sizeof shard, "%s/rank-000-of-002.safetensors", setlib_make(&heap.a, "tiny/arch/llama", 2, NULL));
    for (rlim_t limit = 1000, whole = (rlim_t)setlib_size(shard); limit < whole; limit += whole / 3) {
        shard_pack_args args = setlib_args(c, setlib_fresh("full"), 2);
        now.rlim_cur = limit;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
        expect(&args, PX_EIO, "out");
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    }
    signal(SIGXFSZ, handler);
    shard_checkpoint_close(c);
}

static volatile int cancel_now;
static uint64_t cancel_after;
static void watch(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    assert_true(done <= total);
    if (done >= cancel_after) cancel_now = 1;
}

static void cancel_leaves_nothing(void **state)
{
    shard_checkpoint *c = open_llama();
    (void)state;

    for (cancel_after = 0; cancel_after < 600000; cancel_after += 150000) {
        shard_pack_args args = setlib_args(c, setlib_fresh("cancel"), 2);
        cancel_now = 0;
        args.cancel = &cancel_now;
        args.progress = watch;
        expect(&args, PX_ECANCELLED, "");
    }
    shard_checkpoint_close(c);
}

static px_code pack_and_drop(px_alloc *a, px_err *e)
{
    static const char *out;
    shard_checkpoint *c = open_llama();
    shard_pack_result result;
    shard_pack_args args;
    px_code rc;

    if (!out) out = setlib_fresh("oom");
    args = setlib_args(c, out, 2);
    rc = shard_pack(a, &args, &result, e);
    assert_int_equal(setlib_exists(out), rc == PX_OK);
    px_remove_tree(out, NULL);
    shard_checkpoint_close(c);
    return rc;
}

static void survives_every_oom(void **state) { (void)state; test_oom_sweep(pack_and_drop); }

static void policies_and_types_that_do_not_go_together(void **state)
{
    shard_checkpoint *c = open_llama();
    const shard_arch *m = shard_checkpoint_arch(c);
    shard_types t, stored;
    px_err e = { 0 };
    shard_policy p;
    (void)state;

    assert_int_equal(shard_types_format(&t, &heap.a, m, "f32", NULL), PX_OK);
    t.layer[SHARD_N_ROLES + SHARD_FFN_UP] = KERN_W4Z;
    assert_int_equal(shard_types_stored(&stored, &heap.a, m, &t, SHARD_AS_FILE, &e), PX_EUNSUP);
    assert_string_equal(e.field, "blk.1.ffn_up.weight");
    px_err_clear(&e);
    /* what is quantised becomes Q8_0 or the type that has its levels, nothing else that has steps; a plan of the format itself has no set */
    t.layer[SHARD_N_ROLES + SHARD_FFN_UP] = KERN_IQ2_XS;
    for (p = SHARD_AS_FILE; p < SHARD_N_POLICIES; p++) {
        bool can = p == SHARD_AS_FILE || p == SHARD_TO_F32 || p == SHARD_TO_BF16 || p == SHARD_TO_Q8_0;
        assert_int_equal(shard_types_stored(&stored, &heap.a, m, &t, p, &e), can ? PX_OK : PX_EUNSUP);
        if (can) {
            kern_dtype is = shard_type_of(&stored, SHARD_FFN_UP, 1);
            assert_int_equal(is, p == SHARD_TO_F32 ? KERN_F32 : p == SHARD_TO_BF16 ? KERN_BF16 : p == SHARD_AS_FILE ? KERN_Q4_HL : KERN_Q8_0);
            shard_types_deinit(&stored);
        } else assert_string_equal(e.field, "blk.1.ffn_up.weight");
        px_err_clear(&e);
    }
    {
        static const struct { kern_dtype file, kept; shard_policy also; } kind[] = {
            { KERN_Q5_1, KERN_Q8_M, SHARD_TO_Q8_0 }, { KERN_Q5_K, KERN_Q8_M, SHARD_TO_Q8_0 }, { KERN_Q4_K, KERN_Q4_1, SHARD_TO_Q4_1 },
            { KERN_Q5_0, KERN_Q8_0, SHARD_TO_Q8_0 }, { KERN_Q6_K, KERN_Q8_H, SHARD_TO_Q8_0 }, { KERN_IQ2_XS, KERN_Q4_HL, SHARD_TO_Q8_0 },
            { KERN_Q3_K, KERN_Q4_HL, SHARD_TO_Q8_0 }, { KERN_Q2_K, KERN_Q2_HM, SHARD_TO_Q8_0 }, { KERN_Q4_0, KERN_Q4_0, SHARD_TO_Q4_0 },
        };
        for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
            for (p = SHARD_AS_FILE; p < SHARD_N_POLICIES; p++) {
                bool can = p == SHARD_AS_FILE || p == SHARD_TO_F32 || p == SHARD_TO_BF16 || p == kind[i].also
                           || (p == SHARD_TO_Q8_0 && kind[i].file != KERN_Q4_0);
                t.layer[SHARD_N_ROLES + SHARD_FFN_UP] = kind[i].file;
                assert_int_equal(shard_types_stored(&stored, &heap.a, m, &t, p, &e), can ? PX_OK : PX_EUNSUP);
                if (p == SHARD_AS_FILE) assert_int_equal(shard_type_of(&stored, SHARD_FFN_UP, 1), kind[i].kept);
                if (can) shard_types_deinit(&stored);
                px_err_clear(&e);
            }
    }
    t.layer[SHARD_N_ROLES + SHARD_FFN_UP] = KERN_IQ2_XS;
    assert_int_equal(shard_types_served(&stored, &heap.a, m, &t, &e), PX_EUNSUP);
    assert_string_equal(e.field, "format");
    shard_types_deinit(&t);
    px_err_clear(&e);
    assert_int_equal(shard_policy_parse("q4_9", &p, &e), PX_EINVAL);
    assert_string_equal(e.field, "format");
    assert_int_equal(shard_policy_parse("bf16", &p, &e), PX_OK);
    assert_int_equal(p, SHARD_TO_BF16);
    shard_checkpoint_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(round_trips_of_other_policies),
        cmocka_unit_test(a_file_of_every_type),
        cmocka_unit_test(a_scale_that_no_type_holds),
        cmocka_unit_test(gguf_and_safetensors_hold_the_same_q_and_k),
        cmocka_unit_test(a_shard_is_valid_safetensors),
        cmocka_unit_test(sets_are_reproducible),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(a_lock_is_respected_and_a_stale_folder_removed),
        cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(cancel_leaves_nothing),
        cmocka_unit_test(survives_every_oom),
        cmocka_unit_test(policies_and_types_that_do_not_go_together),
    };
    int rc;

    px_heap_init(&heap, "test");
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    px_heap_deinit(&heap);
    return rc;
}
