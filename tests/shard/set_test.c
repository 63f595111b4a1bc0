/* A table of mutations of a shard set, each refused with the right field; and the set's ordinary life. */
#include "tests/shard/setlib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CAP 64
static px_heap heap;
static px_err errs[CAP];
static size_t n_errs;
static const char *base2, *base3;            /* sets of 2 and 3 ranks of one model, never changed */

static const char *path_in(const char *dir, const char *name)
{
    static char buf[8][1024];
    static unsigned at;
    char *out = buf[at++ % 8];
    snprintf(out, sizeof buf[0], "%s/%s", dir, name);
    return out;
}

static const char *const SHARD_NAME[] = { "rank-000-of-002.safetensors", "rank-001-of-002.safetensors" };

static const char *fresh_copy(void)
{
    const char *dir = setlib_fresh("copy");
    setlib_copy_set(base2, dir);
    return dir;
}

static px_code check(const char *dir, shard_depth depth)
{
    return shard_set_check(&heap.a, dir, 2, &(shard_check_args){ .depth = depth }, errs, CAP, &n_errs);
}

static const px_err *find(const char *field)
{
    for (size_t i = 0; i < n_errs; i++)
        if (!strcmp(errs[i].field, field)) return &errs[i];
    for (size_t i = 0; i < n_errs; i++) print_message("  %s: %s\n", errs[i].field, errs[i].text);
    fail_msg("no error names \"%s\"", field);
    return NULL;
}

static void a_good_set_passes_at_every_depth(void **state)
{
    (void)state;
    for (shard_depth d = SHARD_CHECK_HEADER; d <= SHARD_CHECK_AUTO; d++) assert_int_equal(check(base2, d), PX_OK);
    assert_int_equal(n_errs, 0);
    assert_int_equal(shard_set_check(&heap.a, base2, 0, NULL, errs, CAP, &n_errs), PX_OK);
    assert_int_equal(shard_set_check(&heap.a, base3, 3, NULL, NULL, 0, &n_errs), PX_OK);
}

/* ---- one bit, anywhere ---- */

static void every_bit_of_the_manifest_counts(void **state)
{
    const char *dir = fresh_copy(), *path = path_in(dir, "manifest.json");
    (void)state;

    for (long i = 0, n = setlib_size(path); i < n; i++) {
        setlib_xor(path, i, (unsigned char)(1u << (i % 8)));
        if (!check(dir, SHARD_CHECK_HEADER)) fail_msg("bit %ld of byte %ld of the manifest goes unnoticed", i % 8, i);
        assert_true(n_errs >= 1 && errs[0].text[0] && errs[0].file[0]);
        setlib_xor(path, i, (unsigned char)(1u << (i % 8)));
    }
    assert_int_equal(check(dir, SHARD_CHECK_FULL), PX_OK);
}

static void every_bit_of_a_header_counts(void **state)
{
    const char *dir = fresh_copy();
    shard_manifest m;
    (void)state;

    assert_int_equal(shard_manifest_read(&m, &heap.a, dir, NULL), PX_OK);
    for (uint32_t r = 0; r < 2; r++) {
        const char *path = path_in(dir, SHARD_NAME[r]);
        for (long i = 0, n = setlib_size(path) - (long)m.rank[r].mapped_bytes; i < n; i++) {
            setlib_xor(path, i, (unsigned char)(1u << (i % 8)));
            if (!check(dir, SHARD_CHECK_HEADER)) fail_msg("bit %ld of byte %ld of a header goes unnoticed", i % 8, i);
            assert_true(errs[0].field[0]);
            assert_int_equal(errs[0].rank, r);
            setlib_xor(path, i, (unsigned char)(1u << (i % 8)));
        }
    }
    shard_manifest_deinit(&m);
    assert_int_equal(check(dir, SHARD_CHECK_FULL), PX_OK);
}

/* First, middle and last byte of every tensor: padding is covered too.  The header alone cannot see it. */
static void every_tensor_counts(void **state)
{
    const char *dir = fresh_copy();
    shard_manifest m;
    (void)state;

    assert_int_equal(shard_manifest_read(&m, &heap.a, dir, NULL), PX_OK);
    for (uint32_t r = 0; r < 2; r++)
        for (shard_role role = 0; role < SHARD_N_ROLES; role++)
            for (uint32_t i = 0; shard_arch_has(&m.arch, role) && i < (shard_role_get(role)->per_layer ? m.arch.n_layer : 1); i++)
                for (int where = 0; where < 3; where++) {
                    const void *data, *map;
                    shard_file *f;
                    kern_dtype t;
                    uint64_t rows, cols;
                    size_t bytes, whole;
                    long at;
                    char name[64];
                    assert_int_equal(shard_file_open(&f, &heap.a, dir, &m, r, errs, CAP, &n_errs), PX_OK);
                    map = shard_file_map(f, &whole);
                    assert_int_equal(shard_file_tensor(f, role, i, &data, &t, &rows, &cols, &bytes, NULL), PX_OK);
                    at = (const char *)data - (const char *)map + (long)(where == 0 ? 0 : where == 1 ? bytes / 2 : bytes - 1);
                    assert_true(at < (long)whole);
                    shard_file_close(f);
                    setlib_xor(path_in(dir, SHARD_NAME[r]), at, 0x10);
                    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_OK);
                    assert_int_equal(check(dir, SHARD_CHECK_FULL), PX_ECORRUPT);
                    assert_int_equal(n_errs, 1);
                    assert_string_equal(errs[0].field, shard_tensor_name(role, i, name, sizeof name));
                    assert_int_equal(errs[0].rank, r);
                    setlib_xor(path_in(dir, SHARD_NAME[r]), at, 0x10);
                }
    shard_manifest_deinit(&m);
}

static void every_byte_of_an_asset_counts(void **state)
{
    const char *dir = fresh_copy(), *path = path_in(dir, "tokenizer.json");
    (void)state;
    for (long i = 0, n = setlib_size(path); i < n; i++) {
        setlib_xor(path, i, 1);
        assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_ECORRUPT);
        find("tokenizer.json");
        setlib_xor(path, i, 1);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_ENOTFOUND);
}

static void a_sample_finds_what_it_reads(void **state)
{
    const char *dir = fresh_copy(), *path = path_in(dir, SHARD_NAME[1]);
    unsigned seen = 0;
    (void)state;

    setlib_xor(path, setlib_size(path) - 5, 4);
    for (uint64_t seed = 0; seed < 64; seed++) {
        shard_check_args args = { .depth = SHARD_CHECK_SAMPLE, .seed = seed, .n_sample = 4 };
        seen += shard_set_check(&heap.a, dir, 2, &args, errs, CAP, &n_errs) == PX_ECORRUPT;
    }
    print_message("4 of 30 tensors found 1 bad one in %u of 64 samples\n", seen);
    assert_true(seen >= 1 && seen < 32);
    assert_int_equal(shard_set_check(&heap.a, dir, 2, &(shard_check_args){ .depth = SHARD_CHECK_SAMPLE, .n_sample = 1000 }, errs,
                                     CAP, &n_errs), PX_ECORRUPT);
    assert_int_equal(check(dir, SHARD_CHECK_AUTO), PX_ECORRUPT);
}

/* ---- files that are not what they should be ---- */

static void truncated_shards(void **state)
{
    static const double PART[] = { 0, 0.00001, 0.001, 0.5, 0.99999 };
    (void)state;
    for (size_t i = 0; i <= sizeof PART / sizeof *PART; i++) {
        const char *dir = fresh_copy(), *path = path_in(dir, SHARD_NAME[0]);
        long size = setlib_size(path), cut = i < sizeof PART / sizeof *PART ? (long)(PART[i] * (double)size) : size + 64;
        char want[64];
        const px_err *e;
        assert_int_equal(truncate(path, cut), 0);
        assert_int_equal(check(dir, SHARD_CHECK_FULL), PX_EMISMATCH);
        e = find("bytes");
        snprintf(want, sizeof want, "%ld bytes", cut);
        assert_string_equal(e->found, want);
        snprintf(want, sizeof want, "%ld bytes", size);
        assert_string_equal(e->expected, want);
        assert_non_null(strstr(e->file, SHARD_NAME[0]));
        assert_int_equal(e->rank, 0);
        assert_int_equal(n_errs, 1);
    }
}

static void missing_files(void **state)
{
    const char *dir = fresh_copy();
    const px_err *e;
    (void)state;

    assert_int_equal(unlink(path_in(dir, SHARD_NAME[1])), 0);
    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_ENOTFOUND);
    e = find("file");
    assert_int_equal(e->rank, 1);
    assert_non_null(strstr(e->file, SHARD_NAME[1]));
    assert_int_equal(unlink(path_in(dir, "manifest.json")), 0);
    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_ENOTFOUND);
    assert_non_null(strstr(errs[0].file, "manifest.json"));
    assert_int_equal(check("/nowhere", SHARD_CHECK_HEADER), PX_ENOTFOUND);
}

static void swapped_shards(void **state)
{
    const char *dir = fresh_copy();
    (void)state;

    setlib_copy_file(path_in(base2, SHARD_NAME[0]), path_in(dir, SHARD_NAME[1]));
    setlib_copy_file(path_in(base2, SHARD_NAME[1]), path_in(dir, SHARD_NAME[0]));
    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_EMISMATCH);
    assert_int_equal(n_errs, 2);
    for (int r = 0; r < 2; r++) {
        assert_string_equal(errs[r].field, "rank");
        assert_string_equal(errs[r].found, r ? "0" : "1");
        assert_string_equal(errs[r].expected, r ? "1" : "0");
        assert_int_equal(errs[r].rank, r);
    }
}

static void shards_of_another_set(void **state)
{
    const char *dir = fresh_copy(), *other = setlib_make(&heap.a, "tiny/arch/llama", 2, "second");
    const px_err *e;
    (void)state;

    /* every mismatch, not only the first */
    setlib_copy_file(path_in(base3, "rank-001-of-003.safetensors"), path_in(dir, SHARD_NAME[0]));
    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_EMISMATCH);
    e = find("world");
    assert_string_equal(e->found, "3");
    assert_string_equal(e->expected, "2");
    find("rank");
    find("plan");
    dir = fresh_copy();
    setlib_copy_file(path_in(other, SHARD_NAME[1]), path_in(dir, SHARD_NAME[1]));
    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_EMISMATCH);
    e = find("revision");
    assert_string_equal(e->found, "second");
    assert_string_equal(e->expected, "first");
    assert_int_equal(n_errs, 1);
    other = setlib_make(&heap.a, "tiny/arch/llama_linear", 2, "first");
    setlib_copy_file(path_in(other, SHARD_NAME[1]), path_in(dir, SHARD_NAME[1]));
    assert_int_equal(check(dir, SHARD_CHECK_HEADER), PX_EMISMATCH);
    find("source");
    find("plan");
}

static void another_rank_count(void **state)
{
    const px_err *e;
    (void)state;
    assert_int_equal(shard_set_check(&heap.a, base2, 3, NULL, errs, CAP, &n_errs), PX_EMISMATCH);
    e = find("ranks");
    assert_string_equal(e->found, "2");
    assert_string_equal(e->expected, "3");
}

/* ---- a manifest that somebody wrote ---- */

static const struct { const char *was, *is, *field; } EDIT[] = {
    { "\"format\": 1", "\"format\": 2", "format" },
    { "\"format\": 1", "\"format\": \"1\"", "format" },
    { "\"world\": 2", "\"world\": 3", "plan" },
    { "\"world\": 2", "\"world\": 0", "world" },
    { "\"world\": 2", "\"world\": 1000000", "world" },
    { "\"world\": 2", "\"world\": -1", "world" },
    { "\"layout\": \"cpu-panel16-v1\"", "\"layout\": \"cpu-panel16-v2\"", "layout" },
    { "\"policy\": \"as_file\"", "\"policy\": \"Q3\"", "policy" },
    { "\"split\": \"balanced\"", "\"split\": \"odd\"", "split" },
    { "\"digest\": \"xxh3-128\"", "\"digest\": \"md5\"", "digest" },
    { "\"n_layer\": 3", "\"n_layer\": 4000000000", "arch.n_layer" },
    { "\"n_layer\": 3", "\"n_layer\": 4", "types.blk.*.attn_q" },
    { "\"n_head\": 6", "\"n_head\": 0", "arch.n_head" },
    { "\"n_head\": 6", "\"n_head\": 7", "arch.n_kv_head" },
    { "\"head_dim\": 16", "\"head_dim\": 17", "arch.head_dim" },
    { "\"d_ff\": 160", "\"d_ff\": 192", "plan" },
    { "\"n_vocab\": 321", "\"n_vocab\": 99999999999", "arch.n_vocab" },
    { "\"qkv_bias\": false", "\"qkv_bias\": true", "arch.qkv_bias" },
    { "\"tied\": false", "\"tied\": 0", "arch.tied" },
    { "\"rope_theta\": 10000.0", "\"rope_theta\": 10001.0", "plan" },
    { "\"rope_kind\": \"none\"", "\"rope_kind\": \"yarn\"", "arch.rope_kind" },
    { "\"BF16\",", "\"Q9_0\",", "types.blk.*.attn_k" },
    { "rank-000-of-002", "../../../../etc", "ranks.0.file" },
    { "rank-000-of-002", "rank-001-of-002", "ranks.0.file" },
    { "\"name\": \"tokenizer.json\"", "\"name\": \"../tokenizer.json\"", "assets.0" },
    { "\"stored_bytes\": ", "\"stored_bytes\": 1", "stored_bytes" },
    { "\"revision\": \"first\"", "\"revision\": \"third\"", "manifest" },
    { "\"temperature\": null", "\"temperature\": 0.5", "manifest" },
    { "\"temperature\": null", "\"temperature\": -3", "generation.temperature" },
    { "\"builder\": ", "\"builder\":  ", "manifest" },
    { "\"builder\": ", "\"bilder\": ", "builder" },
    { "\"assets\": [", "\"assets\": [5, ", "assets.0" },
    { "{", "{{", "manifest.json" },
};

static void edited_manifests(void **state)
{
    const char *dir = fresh_copy(), *path = path_in(dir, "manifest.json");
    char *text, *at, *made;
    size_t bytes;
    (void)state;

    assert_int_equal(px_read_file(&heap.a, path, 1 << 24, &text, &bytes, NULL), PX_OK);
    for (size_t i = 0; i < sizeof EDIT / sizeof *EDIT; i++) {
        shard_manifest m;
        px_err e = { 0 };
        if (!(at = strstr(text, EDIT[i].was))) fail_msg("%s is not in the manifest:\n%s", EDIT[i].was, text);
        assert_true(asprintf(&made, "%.*s%s%s", (int)(at - text), text, EDIT[i].is, at + strlen(EDIT[i].was)) > 0);
        assert_int_equal(px_write_file(path, made, strlen(made), false, NULL), PX_OK);
        free(made);
        if (!shard_manifest_read(&m, &heap.a, dir, &e)) fail_msg("%s goes unnoticed", EDIT[i].is);
        if (strcmp(e.field, EDIT[i].field)) fail_msg("%s: field \"%s\", expected \"%s\" (%s)", EDIT[i].is, e.field, EDIT[i].field, e.text);
        assert_true(e.file[0] && !m.rank);
        assert_int_not_equal(e.code, PX_ENOTFOUND);              /* the file is there, and damaged */
    }
    px_del(&heap.a, text, bytes + 1);
}

/* Nests deeper than a reader should follow; a file of another kind; an empty one. */
static void hostile_manifests(void **state)
{
    const char *dir = fresh_copy(), *path = path_in(dir, "manifest.json");
    size_t n = 1 << 20;
    char *deep = malloc(n);
    shard_manifest m;
    px_err e = { 0 };
    (void)state;

    memset(deep, '[', n);
    assert_int_equal(px_write_file(path, deep, n, false, NULL), PX_OK);
    assert_int_equal(shard_manifest_read(&m, &heap.a, dir, &e), PX_ECORRUPT);
    assert_int_equal(px_write_file(path, "", 0, false, NULL), PX_OK);
    px_err_clear(&e);
    assert_int_equal(shard_manifest_read(&m, &heap.a, dir, &e), PX_ECORRUPT);
    assert_int_equal(px_write_file(path, "[]", 2, false, NULL), PX_OK);
    px_err_clear(&e);
    assert_int_equal(shard_manifest_read(&m, &heap.a, dir, &e), PX_EINVAL);
    free(deep);
}

/* Many bytes of a header at once: no crash, always a refusal (under the sanitizers this is the point). */
static void random_headers(void **state)
{
    const char *dir = fresh_copy(), *path = path_in(dir, SHARD_NAME[0]);
    uint64_t seed = 7;
    char *good;
    size_t bytes;
    shard_manifest m;
    (void)state;

    assert_int_equal(shard_manifest_read(&m, &heap.a, dir, NULL), PX_OK);
    assert_int_equal(px_read_file(&heap.a, path, 1 << 24, &good, &bytes, NULL), PX_OK);
    for (int i = 0; i < 400; i++) {
        char *copy = malloc(bytes);
        size_t header = bytes - m.rank[0].mapped_bytes;
        shard_file *f;
        memcpy(copy, good, bytes);
        for (uint64_t k = 1 + test_rand(&seed) % 8; k; k--) {
            size_t at = 8 + test_rand(&seed) % (header - 8);
            copy[at] = "0123456789,:\"[]{}eF-"[test_rand(&seed) % 20];
        }
        if (i % 4 == 0) copy[test_rand(&seed) % 8] = (char)test_rand(&seed);
        if (memcmp(copy, good, bytes)) {
            assert_int_equal(px_write_file(path, copy, bytes, false, NULL), PX_OK);
            assert_true(shard_file_open(&f, &heap.a, dir, &m, 0, errs, CAP, &n_errs) != PX_OK && n_errs > 0 && !f);
        }
        free(copy);
    }
    px_del(&heap.a, good, bytes + 1);
    shard_manifest_deinit(&m);
}

/* ---- the rest of the interface ---- */

static uint64_t last_done, last_total;
static volatile int cancel_now;
static void watch(void *ctx, uint64_t done, uint64_t total)
{
    assert_ptr_equal(ctx, &last_done);
    assert_true(done > last_done && done <= total);
    last_done = done;
    last_total = total;
    if (done > 100000) cancel_now = 1;
}

static void progress_and_cancel(void **state)
{
    shard_check_args args = { .depth = SHARD_CHECK_FULL, .progress = watch, .ctx = &last_done };
    shard_manifest m;
    (void)state;

    last_done = 0;
    assert_int_equal(shard_set_check(&heap.a, base2, 2, &args, errs, CAP, &n_errs), PX_OK);
    assert_int_equal(shard_manifest_read(&m, &heap.a, base2, NULL), PX_OK);
    assert_int_equal(last_done, m.rank[0].mapped_bytes + m.rank[1].mapped_bytes);
    assert_int_equal(last_total, last_done);
    shard_manifest_deinit(&m);
    cancel_now = 0;
    last_done = 0;
    args.cancel = &cancel_now;
    assert_int_equal(shard_set_check(&heap.a, base2, 2, &args, errs, CAP, &n_errs), PX_ECANCELLED);
}

static void assets_and_fields(void **state)
{
    shard_manifest m;
    char *data, hex[65];
    size_t bytes;
    px_err e = { 0 };
    (void)state;

    assert_int_equal(shard_manifest_read(&m, &heap.a, base2, &e), PX_OK);
    assert_string_equal(m.revision, "first");
    assert_string_equal(m.layout, "cpu-panel16-v1");
    assert_string_equal(m.arith, "bf16-f16-tree-1");
    assert_true(isnan(m.default_temperature) && m.default_top_k == UINT32_MAX);
    assert_int_equal(m.digest_kind, SHARD_XXH3_128);
    shard_digest_hex(&m.manifest, hex);
    assert_int_equal(strlen(hex), 32);
    assert_true(m.has_tokenizer && m.has_template);
    assert_int_equal(shard_manifest_asset(&m, &heap.a, base2, "tokenizer.json", &data, &bytes, &e), PX_OK);
    assert_string_equal(data, "{\"ids\": 3}");
    px_del(&heap.a, data, bytes + 1);
    assert_int_equal(shard_manifest_asset(&m, &heap.a, base2, "other.json", &data, &bytes, &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "other.json");
    shard_manifest_deinit(&m);
    shard_manifest_deinit(&m);
}

static void tensors_by_role(void **state)
{
    const char *dir = setlib_make(&heap.a, "tiny/arch/smollm_like", 2, NULL);
    shard_manifest m;
    shard_file *f;
    const void *x, *y;
    kern_dtype t;
    uint64_t rows, cols;
    size_t bytes;
    px_err e = { 0 };
    (void)state;

    assert_int_equal(shard_manifest_read(&m, &heap.a, dir, &e), PX_OK);
    assert_int_equal(shard_file_open(&f, &heap.a, dir, &m, 2, errs, CAP, &n_errs), PX_ERANGE);
    assert_string_equal(errs[0].field, "rank");
    assert_int_equal(shard_file_open(&f, &heap.a, dir, &m, 1, errs, CAP, &n_errs), PX_OK);
    assert_int_equal(shard_file_tensor(f, SHARD_TOKEN_EMBD, 0, &x, &t, &rows, &cols, &bytes, &e), PX_OK);
    assert_int_equal(rows, 192);
    assert_int_equal(shard_file_tensor(f, SHARD_OUTPUT, 0, &y, &t, &rows, &cols, &bytes, &e), PX_OK);
    assert_ptr_equal(x, y);                  /* tied: one table */
    assert_int_equal(shard_file_tensor(f, SHARD_ATTN_Q, 3, &x, &t, &rows, &cols, &bytes, &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "blk.3.attn_q.weight");
    px_err_clear(&e);
    assert_int_equal(shard_file_tensor(f, SHARD_ROUTER, 0, &x, &t, &rows, &cols, &bytes, &e), PX_ENOTFOUND);
    shard_file_close(f);
    shard_file_close(NULL);
    shard_manifest_deinit(&m);
}

static void depths_by_name(void **state)
{
    shard_depth d;
    px_err e = { 0 };
    (void)state;
    assert_int_equal(shard_depth_parse("full", &d, &e), PX_OK);
    assert_int_equal(d, SHARD_CHECK_FULL);
    assert_int_equal(shard_depth_parse("ful", &d, &e), PX_EINVAL);
    assert_string_equal(e.field, "depth");
}

static px_code check_and_drop(px_alloc *a, px_err *e)
{
    px_err list[4] = { { 0 } };
    size_t n;
    px_code rc = shard_set_check(a, base2, 2, NULL, list, 4, &n);
    if (rc) *e = list[0];
    return rc;
}

static void survives_every_oom(void **state) { (void)state; test_oom_sweep(check_and_drop); }

/* The default model: how long sharding takes, and that memory does not follow its size. */
static void the_real_model(void **state)
{
    const char *gguf = test_shared("models/SmolLM2-135M-Instruct.Q4_1.gguf"), *out = setlib_fresh("real");
    shard_checkpoint *c;
    shard_pack_result result;
    struct rusage use;
    px_err e = { 0 };
    px_time_us t0, t1;
    (void)state;

    if (!gguf) return;
    assert_int_equal(shard_checkpoint_open(&c, &heap.a, gguf, &e), PX_OK);
    shard_pack_args args = setlib_args(c, out, 2);
    t0 = px_now_us();
    if (shard_pack(&heap.a, &args, &result, &e)) fail_msg("%s: %s", e.field, e.text);
    t1 = px_now_us();
    getrusage(RUSAGE_SELF, &use);           /* before the check, which touches all that it maps */
    assert_int_equal(shard_set_check(&heap.a, out, 2, &(shard_check_args){ .depth = SHARD_CHECK_FULL }, errs, CAP, &n_errs), PX_OK);
    print_message("2 ranks: %.1f MB of source, %.1f MB stored, %.1f MB mapped in %.2f s (%.0f MB/s with fsync); full check %.0f ms; "
                  "peak %zu KB of heap, %ld MB resident\n",
                  (double)result.source_bytes / 1e6, (double)result.stored_bytes / 1e6, (double)result.mapped_bytes / 1e6,
                  (double)(t1 - t0) / 1e6, (double)result.mapped_bytes / (double)(t1 - t0), (double)(px_now_us() - t1) / 1e3,
                  (size_t)heap.count.peak / 1024, use.ru_maxrss / 1024);
    assert_int_equal(result.source_bytes, 96576768);
    shard_checkpoint_close(c);
    px_remove_tree(out, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_set_passes_at_every_depth),
        cmocka_unit_test(every_bit_of_the_manifest_counts),
        cmocka_unit_test(every_bit_of_a_header_counts),
        cmocka_unit_test(every_tensor_counts),
        cmocka_unit_test(every_byte_of_an_asset_counts),
        cmocka_unit_test(a_sample_finds_what_it_reads),
        cmocka_unit_test(truncated_shards),
        cmocka_unit_test(missing_files),
        cmocka_unit_test(swapped_shards),
        cmocka_unit_test(shards_of_another_set),
        cmocka_unit_test(another_rank_count),
        cmocka_unit_test(edited_manifests),
        cmocka_unit_test(hostile_manifests),
        cmocka_unit_test(random_headers),
        cmocka_unit_test(progress_and_cancel),
        cmocka_unit_test(assets_and_fields),
        cmocka_unit_test(tensors_by_role),
        cmocka_unit_test(depths_by_name),
        cmocka_unit_test(survives_every_oom),
        cmocka_unit_test(the_real_model),
    };
    int rc;

    px_heap_init(&heap, "test");
    base2 = strdup(setlib_make(&heap.a, "tiny/arch/llama", 2, "first"));
    base3 = strdup(setlib_make(&heap.a, "tiny/arch/llama", 3, "first"));
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    free((char *)base2);
    free((char *)base3);
    px_heap_deinit(&heap);
    return rc;
}
