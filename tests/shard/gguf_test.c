#include "tests/testlib.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/store/checkpoint.h"
#include "shard/store/gguf.h"
#include "tests/shard/image.h"

static image m;
static px_heap heap;

/* Open what lies in m; the tests of bad files need only the error. */
static px_err open_image(void)
{
    px_err e = {0};
    shard_gguf *g;
    px_code rc = shard_gguf_open(&g, &heap.a, image_write(&m, "x.gguf"), &e);

    assert_int_equal(rc, e.code);
    if (!rc) shard_gguf_close(g);
    else {
        assert_null(g);
        assert_non_null(strstr(e.file, "x.gguf"));
        assert_true(e.text[0]);
    }
    return e;
}

static void expect(px_code code, const char *field)
{
    px_err e = open_image();
    if (e.code != code || strcmp(e.field, field)) print_error("%s: %s: %s\n", px_code_name(e.code), e.field, e.text);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
}

static const uint64_t D4[4] = { 32, 2, 1, 1 };

/* One tensor [2,32] F32 of 256 bytes behind the head and n_kv keys that the caller has put. */
static void finish(uint32_t type, const uint64_t *dim, uint32_t n_dims, uint64_t offset, size_t data)
{
    gguf_tensor(&m, "t.weight", n_dims, dim, type, offset);
    image_pad(&m, 32);
    image_zeros(&m, data);
}

static void reads_every_type(void **state)
{
    px_err e = {0};
    shard_gguf *g;
    uint64_t u;
    int64_t i;
    double f;
    bool b;
    const char *s;
    size_t n;

    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        gguf_head(&m, version, 2, 17);
        gguf_key(&m, "u8", GG_U8);   image_u8(&m, 200);
        gguf_key(&m, "i8", GG_I8);   image_u8(&m, 0xFF);
        gguf_key(&m, "u16", GG_U16); image_u8(&m, 1); image_u8(&m, 2);
        gguf_key(&m, "i16", GG_I16); image_u8(&m, 0xFE); image_u8(&m, 0xFF);
        gguf_key(&m, "u32", GG_U32); image_u32(&m, 0xFFFFFFFFu);
        gguf_key(&m, "i32", GG_I32); image_u32(&m, 7);
        gguf_key(&m, "f32", GG_F32); image_f32(&m, 0.5f);
        gguf_key(&m, "yes", GG_BOOL); image_u8(&m, 1);
        gguf_key(&m, "no", GG_BOOL); image_u8(&m, 0);
        gguf_str(&m, "str", "h\xC3\xA9");
        gguf_key(&m, "u64", GG_U64); image_u64(&m, UINT64_MAX);
        gguf_key(&m, "i64", GG_I64); image_u64(&m, (uint64_t)-5);
        gguf_key(&m, "f64", GG_F64); image_u64(&m, 0x3FF8000000000000u);       /* 1.5 */
        gguf_key(&m, "ints", GG_ARRAY); image_u32(&m, GG_I32); image_u64(&m, 2); image_u32(&m, 3); image_u32(&m, (uint32_t)-4);
        gguf_key(&m, "reals", GG_ARRAY); image_u32(&m, GG_F32); image_u64(&m, 1); image_f32(&m, -2.5f);
        gguf_key(&m, "strs", GG_ARRAY); image_u32(&m, GG_STR); image_u64(&m, 2); image_str(&m, "a"); image_str(&m, "");
        gguf_u32(&m, "general.alignment", 64);
        gguf_tensor(&m, "b", 1, D4, 0, 0);
        gguf_tensor(&m, "a", 4, D4, 8, 128);
        image_pad(&m, 64);
        size_t data = m.n;
        image_zeros(&m, 128 + 68);
        m.b[data + 128] = 9;

        assert_int_equal(shard_gguf_open(&g, &heap.a, image_write(&m, "good.gguf"), &e), PX_OK);
        assert_int_equal(shard_gguf_n_tensors(g), 2);
        const shard_gguf_tensor *t = shard_gguf_tensor_find(g, "a");
        assert_ptr_equal(t, shard_gguf_tensor_at(g, 1));
        assert_null(shard_gguf_tensor_at(g, 2));
        assert_null(shard_gguf_tensor_find(g, "c"));
        assert_true(t->rows == 2 && t->cols == 32 && t->dtype == KERN_Q8_0 && t->type == 8 && t->bytes == 68);
        assert_int_equal(t->data[0], 9);
        t = shard_gguf_tensor_at(g, 0);
        assert_true(t->rows == 1 && t->cols == 32 && t->dtype == KERN_F32 && t->bytes == 128);
        assert_true(t->name_bytes == 1 && t->name[0] == 'b');

        assert_true(shard_gguf_has(g, "str") && !shard_gguf_has(g, "st") && !shard_gguf_has(g, "strx"));
        assert_true(!shard_gguf_u64(g, "u8", &u, &e) && u == 200);
        assert_true(!shard_gguf_u64(g, "u16", &u, &e) && u == 0x201);
        assert_true(!shard_gguf_u64(g, "u32", &u, &e) && u == 0xFFFFFFFFu);
        assert_true(!shard_gguf_u64(g, "i32", &u, &e) && u == 7);
        assert_true(!shard_gguf_u64(g, "u64", &u, &e) && u == UINT64_MAX);
        assert_true(!shard_gguf_f64(g, "i8", &f, &e) && f == -1);
        assert_true(!shard_gguf_f64(g, "i16", &f, &e) && f == -2);
        assert_true(!shard_gguf_f64(g, "i64", &f, &e) && f == -5);
        assert_true(!shard_gguf_f64(g, "f32", &f, &e) && f == 0.5);
        assert_true(!shard_gguf_f64(g, "f64", &f, &e) && f == 1.5);
        assert_true(!shard_gguf_bool(g, "yes", &b, &e) && b);
        assert_true(!shard_gguf_bool(g, "no", &b, &e) && !b);
        assert_true(!shard_gguf_str(g, "str", &s, &n, &e) && n == 3 && !memcmp(s, "h\xC3\xA9", 3));
        assert_true(!shard_gguf_array_len(g, "strs", &n, &e) && n == 2);
        assert_true(!shard_gguf_array_i64(g, "ints", 1, &i, &e) && i == -4);
        assert_true(!shard_gguf_array_f64(g, "reals", 0, &f, &e) && f == -2.5);
        assert_true(!shard_gguf_array_f64(g, "ints", 0, &f, &e) && f == 3);
        assert_int_equal(e.code, PX_OK);
        shard_gguf_close(g);
    }
}

static px_code second_is_enough(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    (void)e;
    assert_true(i == 0 ? bytes == 2 && !memcmp(s, "ab", 2) : bytes == 0);
    ++*(int *)ctx;
    return i == 1 ? PX_ECANCELLED : PX_OK;
}

static void getters_say_what_is_wrong(void **state)
{
    shard_gguf *g;
    uint64_t u;
    int64_t i;
    double f;
    bool b;
    const char *s;
    size_t n;
    int calls = 0;

    (void)state;
    gguf_head(&m, 3, 0, 5);
    gguf_u32(&m, "n", 1);
    gguf_key(&m, "minus", GG_I32); image_u32(&m, (uint32_t)-1);
    gguf_str(&m, "s", "x");
    gguf_key(&m, "big", GG_ARRAY); image_u32(&m, GG_U64); image_u64(&m, 1); image_u64(&m, UINT64_MAX);
    gguf_key(&m, "strs", GG_ARRAY); image_u32(&m, GG_STR); image_u64(&m, 3); image_str(&m, "ab"); image_str(&m, ""); image_str(&m, "c");
    assert_int_equal(shard_gguf_open(&g, &heap.a, image_write(&m, "g.gguf"), NULL), PX_OK);

#define WRONG(call, want, key) do { px_err e = {0}; assert_int_equal(call, want); assert_int_equal(e.code, want); \
        assert_string_equal(e.field, key); assert_non_null(strstr(e.file, "g.gguf")); } while (0)
    WRONG(shard_gguf_u64(g, "none", &u, &e), PX_ENOTFOUND, "none");
    WRONG(shard_gguf_f64(g, "none", &f, &e), PX_ENOTFOUND, "none");
    WRONG(shard_gguf_bool(g, "none", &b, &e), PX_ENOTFOUND, "none");
    WRONG(shard_gguf_str(g, "none", &s, &n, &e), PX_ENOTFOUND, "none");
    WRONG(shard_gguf_array_len(g, "none", &n, &e), PX_ENOTFOUND, "none");
    WRONG(shard_gguf_u64(g, "minus", &u, &e), PX_ERANGE, "minus");
    WRONG(shard_gguf_u64(g, "s", &u, &e), PX_EMISMATCH, "s");
    WRONG(shard_gguf_f64(g, "s", &f, &e), PX_EMISMATCH, "s");
    WRONG(shard_gguf_bool(g, "n", &b, &e), PX_EMISMATCH, "n");
    WRONG(shard_gguf_str(g, "n", &s, &n, &e), PX_EMISMATCH, "n");
    WRONG(shard_gguf_array_len(g, "n", &n, &e), PX_EMISMATCH, "n");
    WRONG(shard_gguf_array_i64(g, "big", 0, &i, &e), PX_ERANGE, "big");
    WRONG(shard_gguf_array_i64(g, "big", 1, &i, &e), PX_ERANGE, "big");
    WRONG(shard_gguf_array_i64(g, "strs", 0, &i, &e), PX_EMISMATCH, "strs");
    WRONG(shard_gguf_array_f64(g, "strs", 0, &f, &e), PX_EMISMATCH, "strs");
    WRONG(shard_gguf_array_str(g, "big", second_is_enough, &calls, &e), PX_EMISMATCH, "big");
    assert_int_equal(shard_gguf_array_str(g, "strs", second_is_enough, &calls, NULL), PX_ECANCELLED);
    assert_int_equal(calls, 2);
    shard_gguf_close(g);
}

static void refuses_bad_heads(void **state)
{
    px_err e = {0};
    shard_gguf *g;

    (void)state;
    m.n = 0; image_text(&m, "GGM"); expect(PX_ECORRUPT, "magic");
    m.n = 0; image_text(&m, "GGML"); image_zeros(&m, 64); expect(PX_ECORRUPT, "magic");
    gguf_head(&m, 1, 0, 0); expect(PX_EUNSUP, "version");
    gguf_head(&m, 4, 0, 0); expect(PX_EUNSUP, "version");
    gguf_head(&m, 0, 0, 0); expect(PX_EUNSUP, "version");
    gguf_head(&m, 3u << 24, 0, 0);
    assert_non_null(strstr(open_image().text, "big-endian"));
    gguf_head(&m, 3, UINT64_C(1) << 60, 0); image_zeros(&m, 4096); expect(PX_ECORRUPT, "tensor_count");
    gguf_head(&m, 3, 0, UINT64_C(1) << 60); image_zeros(&m, 4096); expect(PX_ECORRUPT, "metadata_kv_count");
    gguf_head(&m, 3, UINT64_MAX, UINT64_MAX); expect(PX_ECORRUPT, "tensor_count");
    gguf_head(&m, 3, 0, 0); expect(PX_OK, "");
    m.n = 0; expect(PX_ECORRUPT, "");                                                  /* an empty file */
    assert_int_equal(shard_gguf_open(&g, &heap.a, "/nonexistent/x.gguf", &e), PX_ENOTFOUND);
    assert_string_equal(e.file, "/nonexistent/x.gguf");
    px_err_clear(&e);
    assert_int_equal(shard_gguf_open(&g, &heap.a, test_tmpdir(), &e), PX_EINVAL);      /* a folder */
}

static void refuses_bad_metadata(void **state)
{
    static const struct { uint32_t item; uint64_t n; px_code code; } array[] = {
        { GG_U8, UINT64_C(1) << 60, PX_ECORRUPT }, { GG_U64, UINT64_C(1) << 61, PX_ECORRUPT },
        { GG_U64, UINT64_MAX, PX_ECORRUPT }, { GG_STR, UINT64_C(1) << 61, PX_ECORRUPT }, { GG_STR, 2, PX_ECORRUPT },
        { GG_ARRAY, 1, PX_EUNSUP }, { 13, 1, PX_ECORRUPT }, { UINT32_MAX, 0, PX_ECORRUPT },
    };
    (void)state;
    gguf_head(&m, 3, 0, 1); image_u64(&m, UINT64_MAX - 7); image_zeros(&m, 64); expect(PX_ECORRUPT, "metadata key");
    gguf_head(&m, 3, 0, 1); gguf_key(&m, "", GG_U8); image_zeros(&m, 64); expect(PX_ECORRUPT, "metadata key");
    gguf_head(&m, 3, 0, 1); image_u64(&m, 65536); image_zeros(&m, 70000); expect(PX_ECORRUPT, "metadata key");
    gguf_head(&m, 3, 0, 1); gguf_u32(&m, "k\xFF", 1); expect(PX_ECORRUPT, "metadata key");
    gguf_head(&m, 3, 0, 1); gguf_key(&m, "key", 13); image_zeros(&m, 64); expect(PX_ECORRUPT, "key");
    gguf_head(&m, 3, 0, 1); gguf_key(&m, "flag", GG_BOOL); image_u8(&m, 2); expect(PX_ECORRUPT, "flag");
    gguf_head(&m, 3, 0, 1); gguf_key(&m, "flags", GG_ARRAY); image_u32(&m, GG_BOOL); image_u64(&m, 2); image_u8(&m, 1);
    image_u8(&m, 3); expect(PX_ECORRUPT, "flags");
    gguf_head(&m, 3, 0, 1); gguf_key(&m, "str", GG_STR); image_u64(&m, UINT64_C(1) << 63); image_zeros(&m, 64);
    expect(PX_ECORRUPT, "str");
    gguf_head(&m, 3, 0, 2); gguf_u32(&m, "key", 1); gguf_str(&m, "key", "again"); expect(PX_ECORRUPT, "key");
    gguf_head(&m, 3, 0, 1); gguf_key(&m, "real", GG_F64); image_u32(&m, 0); expect(PX_ECORRUPT, "real");
    for (size_t i = 0; i < sizeof array / sizeof *array; i++) {
        gguf_head(&m, 3, 0, 1);
        gguf_key(&m, "list", GG_ARRAY); image_u32(&m, array[i].item); image_u64(&m, array[i].n);
        for (int k = 0; k < 5; k++) image_u64(&m, UINT64_C(1) << 40);              /* lengths that lie, for strings */
        expect(array[i].code, "list");
    }
}

/* Zeros that take no place on a disk are as many empty strings, or numbers that are all the same, as one likes. */
static void refuses_a_hole_full_of_elements(void **state)
{
    static const uint32_t items[] = { GG_U8, GG_BOOL, GG_STR };
    px_err e;
    const char *path;
    shard_gguf *g;

    (void)state;
    for (size_t i = 0; i < sizeof items / sizeof *items; i++)
        for (uint32_t more = 0; more < 2; more++) {
            gguf_head(&m, 3, 0, 1);
            gguf_key(&m, "list", GG_ARRAY); image_u32(&m, items[i]); image_u64(&m, (1u << 24) + more);
            path = image_write(&m, "hole.gguf");
            assert_int_equal(truncate(path, 256 << 20), 0);
            px_err_clear(&e);
            assert_int_equal(shard_gguf_open(&g, &heap.a, path, &e), more ? PX_ERANGE : PX_OK);
            if (!more) {
                shard_gguf_close(g);
                continue;
            }
            assert_string_equal(e.field, "list");
            assert_non_null(strstr(e.text, "16777217 elements; at most 16777216"));
        }
}

static void refuses_bad_alignment(void **state)
{
    static const uint32_t bad[] = { 0, 1, 4, 24, 33, 131072, UINT32_MAX };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        gguf_head(&m, 3, 1, 1);
        gguf_u32(&m, "general.alignment", bad[i]);
        finish(0, D4, 2, 0, 256);
        expect(PX_ERANGE, "general.alignment");
    }
    gguf_head(&m, 3, 1, 1);
    gguf_str(&m, "general.alignment", "32");
    finish(0, D4, 2, 0, 256);
    expect(PX_EMISMATCH, "general.alignment");
}

static void refuses_bad_tensors(void **state)
{
    static const struct { uint64_t d[4]; uint32_t n_dims, type; uint64_t offset; px_code code; } bad[] = {
        { { 32, 2 }, 0, 0, 0, PX_ECORRUPT },
        { { 32, 2, 1, 1 }, 5, 0, 0, PX_ECORRUPT },
        { { 32, 2 }, UINT32_MAX, 0, 0, PX_ECORRUPT },
        { { 0, 2 }, 2, 0, 0, PX_ECORRUPT },
        { { 32, 0 }, 2, 0, 0, PX_ECORRUPT },
        { { 32, 1, 3 }, 3, 0, 0, PX_ECORRUPT },            /* three matrices where there is room for two */
        { { 32, 2, UINT64_MAX / 2 }, 3, 0, 0, PX_ECORRUPT },
        { { 8, 2, 2, 2 }, 4, 0, 0, PX_EUNSUP },
        { { 8, 1, 1, 2 }, 4, 0, 0, PX_EUNSUP },
        { { UINT64_C(1) << 32, UINT64_C(1) << 32 }, 2, 0, 0, PX_ECORRUPT },
        { { UINT64_C(1) << 62, 1 }, 1, 0, 0, PX_ECORRUPT },
        { { UINT64_MAX, UINT64_MAX }, 2, 0, 0, PX_ECORRUPT },
        { { 33, 1 }, 2, 8, 0, PX_ECORRUPT },               /* Q8_0 has blocks of 32 */
        { { 32, 2 }, 2, 4, 0, PX_EUNSUP },                 /* a number that was taken back */
        { { 32, 2 }, 2, 16, 0, PX_EUNSUP },
        { { 32, 2 }, 2, 999, 0, PX_EUNSUP },
        { { 32, 2 }, 2, UINT32_MAX, 0, PX_EUNSUP },
        { { 32, 2 }, 2, 0, 16, PX_ECORRUPT },              /* not aligned */
        { { 32, 2 }, 2, 0, 32, PX_ECORRUPT },              /* ends 32 bytes too late */
        { { 32, 2 }, 2, 0, UINT64_C(1) << 63, PX_ECORRUPT },
        { { 32, 2 }, 2, 0, UINT64_MAX - 31, PX_ECORRUPT }, /* wraps */
    };
    (void)state;
    gguf_head(&m, 3, 1, 0); finish(0, D4, 2, 0, 256); expect(PX_OK, "");
    gguf_head(&m, 3, 1, 0); finish(0, D4, 2, 0, 255); expect(PX_ECORRUPT, "t.weight");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        gguf_head(&m, 3, 1, 0);
        finish(bad[i].type, bad[i].d, bad[i].n_dims, bad[i].offset, 256);
        expect(bad[i].code, "t.weight");
    }
    gguf_head(&m, 3, 1, 0); finish(999, D4, 2, 0, 256);
    assert_non_null(strstr(open_image().text, "999"));
    gguf_head(&m, 3, 1, 0); finish(21, D4, 2, 0, 256);
    assert_non_null(strstr(open_image().text, "21 (IQ3_S)"));

    gguf_head(&m, 3, 2, 0); gguf_tensor(&m, "t.weight", 2, D4, 0, 256); finish(0, D4, 2, 0, 512); expect(PX_ECORRUPT, "t.weight");
    assert_non_null(strstr(open_image().text, "twice"));
    gguf_head(&m, 3, 2, 0); gguf_tensor(&m, "u.weight", 2, D4, 0, 32); finish(0, D4, 2, 0, 512); expect(PX_ECORRUPT, "u.weight");
    assert_non_null(strstr(open_image().text, "overlaps tensor t.weight"));
    gguf_head(&m, 3, 2, 0); gguf_tensor(&m, "u.weight", 2, D4, 0, 0); finish(0, D4, 2, 0, 512);
    assert_non_null(strstr(open_image().text, "overlaps"));
    gguf_head(&m, 3, 1, 0); image_u64(&m, 256); image_zeros(&m, 1024); expect(PX_ECORRUPT, "tensor name");
    gguf_head(&m, 3, 1, 0); gguf_tensor(&m, "", 2, D4, 0, 0); image_zeros(&m, 1024); expect(PX_ECORRUPT, "tensor name");
    gguf_head(&m, 3, 1, 0); gguf_tensor(&m, "\xC0\x80", 2, D4, 0, 0); image_zeros(&m, 1024); expect(PX_ECORRUPT, "tensor name");
}

/* Counts that lie cost no memory: what is taken follows what was read. */
static void takes_memory_for_what_is_there(void **state)
{
    px_debug d;
    shard_gguf *g;

    (void)state;
    gguf_head(&m, 3, 3000, 7000);          /* both could be true of 100,000 bytes */
    image_zeros(&m, 100000);
    px_debug_init(&d, "test", -1);
    assert_int_equal(shard_gguf_open(&g, &d.a, image_write(&m, "lie.gguf"), NULL), PX_ECORRUPT);
    assert_true(d.count.peak < 16384);
    assert_int_equal(px_debug_deinit(&d), 0);
}

static const char *golden(void) { return test_golden("tiny/gguf/smollm_like_f16/model.gguf"); }

static px_code open_and_drop(px_alloc *a, px_err *e)
{
    shard_gguf *g;
    px_code rc = shard_gguf_open(&g, a, golden(), e);
    shard_gguf_close(g);
    return rc;
}

static void survives_every_oom(void **state) { (void)state; test_oom_sweep(open_and_drop); }

/* ---- a real file, cut and changed ---- */

enum { N_MUTATIONS = 20000 };
static uint8_t head[1 << 16];
static size_t  head_bytes;          /* of the golden file, before its first tensor */

static px_code touch_string(void *ctx, size_t i, const char *s, size_t bytes, px_err *e)
{
    (void)i; (void)e;
    if (bytes) *(unsigned *)ctx += (unsigned char)s[0] + (unsigned char)s[bytes - 1];
    return PX_OK;
}

/* Everything that an opened file promises is read. */
static unsigned touch(const char *path, bool *opened)
{
    static const char *const strings[] = { "tokenizer.ggml.tokens", "tokenizer.ggml.merges" };
    unsigned sum = 0;
    px_err e = {0};
    shard_gguf *g;
    shard_checkpoint *c;

    *opened = false;
    if (!shard_gguf_open(&g, &heap.a, path, &e)) {
        *opened = true;
        for (size_t i = 0; i < shard_gguf_n_tensors(g); i++) {
            const shard_gguf_tensor *t = shard_gguf_tensor_at(g, i);
            sum += t->data[0] + t->data[t->bytes - 1];
        }
        for (size_t i = 0; i < 2; i++) shard_gguf_array_str(g, strings[i], touch_string, &sum, NULL);
        shard_gguf_close(g);
    } else {
        assert_true(e.code != PX_EINTERNAL && e.text[0]);
    }
    px_err_clear(&e);
    if (!shard_checkpoint_open(&c, &heap.a, path, &e)) {
        for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
            const shard_source *s = shard_checkpoint_tensor(c, r, 0);
            if (s) sum += s->data[0] + s->data[s->bytes - 1];
        }
        shard_checkpoint_close(c);
    } else {
        assert_true(e.text[0] && e.file[0]);
    }
    return sum;
}

static void find_header(void)
{
    const uint8_t *first = NULL, *last = NULL;
    px_err e = {0};
    shard_gguf *g;
    struct stat st;

    assert_int_equal(shard_gguf_open(&g, &heap.a, golden(), &e), PX_OK);
    for (size_t i = 0; i < shard_gguf_n_tensors(g); i++) {
        const shard_gguf_tensor *t = shard_gguf_tensor_at(g, i);
        if (!first || t->data < first) first = t->data;
        if (t->data + t->bytes > last) last = t->data + t->bytes;
    }
    assert_int_equal(stat(golden(), &st), 0);
    head_bytes = (size_t)st.st_size - (size_t)(last - first);
    assert_in_range(head_bytes, 4096, sizeof head);
    shard_gguf_close(g);
}

/* The header of the golden file before as many bytes as it has, which are a hole. */
static int make_copy(char *path, size_t cap, size_t *bytes)
{
    int fd = open(golden(), O_RDONLY);
    assert_true(fd >= 0);
    find_header();
    assert_int_equal(read(fd, head, head_bytes), head_bytes);
    *bytes = (size_t)lseek(fd, 0, SEEK_END);
    close(fd);
    snprintf(path, cap, "%s/copy.gguf", test_tmpdir());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)*bytes), 0);
    assert_int_equal(pwrite(fd, head, head_bytes, 0), head_bytes);
    return fd;
}

static void survives_every_truncation(void **state)
{
    char path[512];
    size_t bytes;
    bool opened;
    int fd = make_copy(path, sizeof path, &bytes);

    (void)state;
    touch(path, &opened);
    assert_true(opened);
    assert_int_equal(ftruncate(fd, (off_t)bytes - 1), 0);
    touch(path, &opened);
    assert_false(opened);
    for (size_t n = head_bytes + 100; n-- > 0;) {
        assert_int_equal(ftruncate(fd, (off_t)n), 0);
        touch(path, &opened);
        assert_false(opened);
    }
    close(fd);
}

static void survives_random_changes(void **state)
{
    char path[512];
    size_t bytes, n_opened = 0;
    uint64_t seed = 7;
    unsigned sum = 0;
    bool opened;
    int fd = make_copy(path, sizeof path, &bytes);

    (void)state;
    for (int k = 0; k < N_MUTATIONS; k++) {
        uint8_t change[8];
        size_t n = 1 + test_rand(&seed) % 8, at = test_rand(&seed) % (head_bytes - n);
        /* Half of them in the head and the tensor infos, where numbers are. */
        if (k & 1) at = test_rand(&seed) % 2 ? test_rand(&seed) % 1200 : head_bytes - 1700 + test_rand(&seed) % (1700 - n);
        memcpy(change, head + at, n);
        switch (test_rand(&seed) % 4) {
        case 0: change[0] ^= (uint8_t)(1u << test_rand(&seed) % 8); break;
        case 1: for (size_t i = 0; i < n; i++) change[i] = (uint8_t)test_rand(&seed); break;
        case 2: memset(change, 0xFF, n); break;
        default: memset(change, 0, n); break;
        }
        assert_int_equal(pwrite(fd, change, n, (off_t)at), n);
        sum += touch(path, &opened);
        n_opened += opened;
        assert_int_equal(pwrite(fd, head + at, n, (off_t)at), n);
    }
    print_message("%d changed files, %zu of them still readable (%u)\n", N_MUTATIONS, n_opened, sum & 1);
    assert_true(n_opened > 0 && n_opened < N_MUTATIONS);
    close(fd);
}

static int up(void **state) { (void)state; px_heap_init(&heap, "test"); return 0; }
static int down(void **state)
{
    (void)state;
    return test_heap_end(&heap, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_type),
        cmocka_unit_test(getters_say_what_is_wrong),
        cmocka_unit_test(refuses_bad_heads),
        cmocka_unit_test(refuses_bad_metadata),
        cmocka_unit_test(refuses_a_hole_full_of_elements),
        cmocka_unit_test(refuses_bad_alignment),
        cmocka_unit_test(refuses_bad_tensors),
        cmocka_unit_test(takes_memory_for_what_is_there),
        cmocka_unit_test(survives_every_oom),
        cmocka_unit_test(survives_every_truncation),
        cmocka_unit_test(survives_random_changes),
    };
    return cmocka_run_group_tests_name("shard_gguf", tests, up, down);
}
