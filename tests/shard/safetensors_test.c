#include "tests/testlib.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shard/store/safetensors.h"
#include "tests/shard/image.h"

static px_heap heap;

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void expect(const char *header, size_t n_data, px_code code, const char *field)
{
    px_err e = {0};
    shard_safetensors s;
    px_code rc = shard_safetensors_open(&s, &heap.a, safetensors_write(header, n_data, "x.safetensors"), &e);

    if (rc != code || strcmp(e.field, field)) print_error("%.80s: %s: %s: %s\n", header, px_code_name(rc), e.field, e.text);
    assert_int_equal(rc, code);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
    if (code) assert_non_null(strstr(e.file, "x.safetensors"));
    shard_safetensors_close(&s);
}

static void reads_a_file(void **state)
{
    px_err e = {0};
    shard_safetensors s;

    (void)state;
    /* Names in another order than data; spaces behind the header; an address that no float likes. */
    const char *path = safetensors_write("{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2,3]", 6, 30) ","
                                         T("a", "BF16", "[3]", 0, 6) "}  ", 30, "good.safetensors");
    assert_int_equal(shard_safetensors_open(&s, &heap.a, path, &e), PX_OK);
    assert_int_equal(s.n, 2);
    for (size_t i = 0; i < 2; i++) {
        const shard_st_tensor *t = &s.tensor[i];
        if (t->name[0] == 'a') assert_true(t->dtype == KERN_BF16 && t->rows == 1 && t->cols == 3 && t->bytes == 6);
        else assert_true(t->dtype == KERN_F32 && t->rows == 2 && t->cols == 3 && t->bytes == 24);
    }
    shard_safetensors_close(&s);
    shard_safetensors_close(&s);
}

static void refuses_bad_headers(void **state)
{
    static image m;
    px_err e = {0};
    shard_safetensors s;
    static const uint64_t lengths[] = { 0, 1, 100, 100000001, UINT64_C(1) << 60, UINT64_MAX };

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        m.n = 0;
        image_u64(&m, lengths[i]);
        image_text(&m, "{}");
        px_err_clear(&e);
        assert_int_equal(shard_safetensors_open(&s, &heap.a, image_write(&m, "l.safetensors"), &e), PX_ECORRUPT);
        assert_string_equal(e.field, "header");
    }
    m.n = 7;
    px_err_clear(&e);
    assert_int_equal(shard_safetensors_open(&s, &heap.a, image_write(&m, "l.safetensors"), &e), PX_ECORRUPT);
    assert_string_equal(e.field, "header");
    expect("{}", 0, PX_ECORRUPT, "header");
    expect("[]", 0, PX_ECORRUPT, "header");
    expect(" {}", 0, PX_ECORRUPT, "header");
    expect("{\"a\":", 0, PX_ECORRUPT, "header");
    expect("{} x", 0, PX_ECORRUPT, "header");
    expect("{\"a\xFF\":1}", 0, PX_ECORRUPT, "header");
    expect("{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, PX_ECORRUPT, "header");   /* twice */
    expect("{\"__metadata__\":{\"format\":1}," T("a", "F32", "[1]", 0, 4) "}", 4, PX_ECORRUPT, "format");
    expect("{\"__metadata__\":[]," T("a", "F32", "[1]", 0, 4) "}", 4, PX_ECORRUPT, "__metadata__");

    m.n = 0;                                             /* deep nesting: jansson's limit, no stack overflow */
    image_u64(&m, 60005);
    image_text(&m, "{\"a\":");
    for (int i = 0; i < 60000; i++) image_u8(&m, '[');
    px_err_clear(&e);
    assert_int_equal(shard_safetensors_open(&s, &heap.a, image_write(&m, "d.safetensors"), &e), PX_ECORRUPT);
    assert_string_equal(e.field, "header");
}

static void refuses_bad_tensors(void **state)
{
    (void)state;
    expect("{" T("a", "F32", "[1]", 0, 4) "}", 4, PX_OK, "");
    expect("{\"a\":3}", 4, PX_ECORRUPT, "a");
    expect("{\"a\":{}}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F64", "[1]", 0, 8) "}", 8, PX_EUNSUP, "a");
    expect("{" T("a", "F8_E4M3", "[4]", 0, 4) "}", 4, PX_EUNSUP, "a");
    expect("{" T("a", "Q4_0", "[32]", 0, 18) "}", 18, PX_EUNSUP, "a");
    expect("{" T("a", "F32", "1", 0, 4) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[]", 0, 4) "}", 4, PX_EUNSUP, "a");
    expect("{" T("a", "F32", "[1,1,1]", 0, 4) "}", 4, PX_EUNSUP, "a");
    expect("{" T("a", "F32", "[0]", 0, 0) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[-1]", 0, 4) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[1.0]", 0, 4) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[2]", 0, 4) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[4294967296,4294967296]", 0, 4) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[9223372036854775807,4]", 0, 4) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[99999999999999999999]", 0, 4) "}", 4, PX_ECORRUPT, "header");
    expect("{" T("a", "F32", "[1]", 4, 0) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[1]", -4, 0) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[1]", 4, 8) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[1]", 0, 9223372036854775807) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[1]", 0.0, 4) "}", 4, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 2, 6) "}", 6, PX_ECORRUPT, "b");      /* overlap */
    expect("{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 0, 4) "}", 4, PX_ECORRUPT, "b");
    expect("{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 8, 12) "}", 12, PX_ECORRUPT, "b");    /* hole */
    expect("{" T("a", "F32", "[1]", 4, 8) "}", 8, PX_ECORRUPT, "a");
    expect("{" T("a", "F32", "[1]", 0, 4) "}", 5, PX_ECORRUPT, "header");                                /* behind */
}

/* ---- index ---- */

static px_err open_index(const char *index)
{
    px_err e = {0};
    char dir[512];
    shard_safetensors_set s;
    const char *path = text_write(index, "set/model.safetensors.index.json");
    px_code rc;

    snprintf(dir, sizeof dir, "%s/set", test_tmpdir());
    rc = shard_safetensors_set_index(&s, &heap.a, dir, path, &e);
    assert_int_equal(rc, e.code);
    if (!rc) assert_int_equal(s.n, 2);
    if (rc) assert_non_null(strstr(e.file, "set/"));
    shard_safetensors_set_close(&s);
    return e;
}

static void expect_index(const char *index, px_code code, const char *field)
{
    px_err e = open_index(index);
    if (e.code != code || strcmp(e.field, field)) print_error("%s: %s: %s: %s\n", index, px_code_name(e.code), e.field, e.text);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
}

static void checks_an_index(void **state)
{
    static const char *const names[] = { "../1.safetensors", "/etc/1.safetensors", "a/1.safetensors", "..", ".safetensors",
                                         "", "1.bin", "a\\\\b.safetensors", ".hidden.safetensors" };
    char text[256];

    (void)state;
    safetensors_write("{" T("a", "F32", "[1]", 0, 4) "}", 4, "set/1.safetensors");
    safetensors_write("{" T("b", "F32", "[1]", 0, 4) "," T("c", "F32", "[1]", 4, 8) "}", 8, "set/2.safetensors");
    expect_index("{\"metadata\":{\"total_size\":12},\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\","
                 "\"c\":\"2.safetensors\"}}", PX_OK, "");
    expect_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\",\"c\":\"2.safetensors\"}}", PX_ENOTFOUND, "b");
    expect_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"d\":\"2.safetensors\"}}", PX_ENOTFOUND, "d");
    expect_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"3.safetensors\"}}", PX_ENOTFOUND, "3.safetensors");
    expect_index("{\"weight_map\":{\"a\":1}}", PX_ECORRUPT, "a");
    expect_index("{\"weight_map\":{}}", PX_ECORRUPT, "weight_map");
    expect_index("{\"weight_map\":[]}", PX_ECORRUPT, "weight_map");
    expect_index("[]", PX_ECORRUPT, "weight_map");
    expect_index("{\"weight_map\":", PX_ECORRUPT, "");
    expect_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"a\":\"2.safetensors\"}}", PX_ECORRUPT, "");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        expect_index(text, PX_ECORRUPT, "a");
    }
    safetensors_write("{" T("b", "F64", "[1]", 0, 8) "}", 8, "set/2.safetensors");          /* the file's own error */
    px_err e = open_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    assert_int_equal(e.code, PX_EUNSUP);
    assert_string_equal(e.field, "b");
    assert_non_null(strstr(e.file, "set/2.safetensors"));
    assert_string_equal(e.found, "F64");
}

/* ---- a real file, cut and changed ---- */

static const char *golden(void) { return test_golden("tiny/arch/mqa/model.safetensors"); }

static px_code open_and_drop(px_alloc *a, px_err *e)
{
    shard_safetensors s;
    px_code rc = shard_safetensors_open(&s, a, golden(), e);
    shard_safetensors_close(&s);
    return rc;
}

static void survives_every_oom(void **state) { (void)state; test_oom_sweep(open_and_drop); }

static bool opens(const char *path)
{
    px_err e = {0};
    shard_safetensors s;
    unsigned sum = 0;
    px_code rc = shard_safetensors_open(&s, &heap.a, path, &e);

    for (size_t i = 0; !rc && i < s.n; i++) sum += s.tensor[i].data[0] + s.tensor[i].data[s.tensor[i].bytes - 1];
    if (rc) assert_true(e.text[0] && e.file[0]);
    shard_safetensors_close(&s);
    return !rc && sum + 1;
}

static void survives_cuts_and_changes(void **state)
{
    static uint8_t head[8192];
    char path[512];
    uint64_t header, seed = 11;
    size_t n_opened = 0;
    int fd = open(golden(), O_RDONLY);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(read(fd, head, sizeof head), sizeof head);
    off_t bytes = lseek(fd, 0, SEEK_END);
    close(fd);
    memcpy(&header, head, 8);
    header += 8;
    assert_true(header < sizeof head);
    snprintf(path, sizeof path, "%s/copy.safetensors", test_tmpdir());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(ftruncate(fd, bytes), 0);
    assert_int_equal(pwrite(fd, head, (size_t)header, 0), (ssize_t)header);
    assert_true(opens(path));
    for (int k = 0; k < 6000; k++) {
        size_t at = test_rand(&seed) % (k % 8 ? header : 8);
        uint8_t c = k % 3 ? head[at] ^ (uint8_t)(1u << test_rand(&seed) % 8) : (uint8_t)test_rand(&seed);
        assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
        n_opened += opens(path);
        assert_int_equal(pwrite(fd, head + at, 1, (off_t)at), 1);
    }
    assert_true(n_opened > 0 && n_opened < 6000);
    assert_int_equal(ftruncate(fd, bytes + 1), 0);
    assert_false(opens(path));
    assert_int_equal(ftruncate(fd, bytes - 1), 0);
    assert_false(opens(path));
    for (off_t n = (off_t)header + 64; n-- > 0;) {
        assert_int_equal(ftruncate(fd, n), 0);
        assert_false(opens(path));
    }
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
        cmocka_unit_test(reads_a_file),
        cmocka_unit_test(refuses_bad_headers),
        cmocka_unit_test(refuses_bad_tensors),
        cmocka_unit_test(checks_an_index),
        cmocka_unit_test(survives_every_oom),
        cmocka_unit_test(survives_cuts_and_changes),
    };
    return cmocka_run_group_tests_name("shard_safetensors", tests, up, down);
}
