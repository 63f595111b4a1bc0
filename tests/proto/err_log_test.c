#include "tests/testlib.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/log.h"

/* ---- errors ---- */

static void the_first_cause_stays(void **state)
{
    px_err e = {0};
    (void)state;
    assert_int_equal(px_fail(&e, PX_ERANGE, "kv.tokens", "%d is too many", 7), PX_ERANGE);
    assert_int_equal(px_fail(&e, PX_EIO, "other", "later"), PX_EIO);            /* the code is the caller's own */
    assert_int_equal(px_mismatch(&e, "other", "a", "b"), PX_EMISMATCH);
    assert_int_equal(px_refuse(&e, PX_EINVAL, "other", "a", "b", "later"), PX_EINVAL);
    assert_int_equal(e.code, PX_ERANGE);
    assert_string_equal(e.field, "kv.tokens");
    assert_string_equal(e.text, "7 is too many");
    assert_string_equal(e.found, "");
    assert_int_equal(e.rank, -1);
    assert_non_null(strstr(e.src, "err_log_test.c"));
    assert_true(e.line > 0);

    px_err_set_file(&e, "a.yaml");
    px_err_set_file(&e, "b.yaml");
    px_err_set_rank(&e, 3, "gpu07");
    px_err_set_rank(&e, 4, "gpu08");
    assert_string_equal(e.file, "a.yaml");
    assert_int_equal(e.rank, 3);
    assert_string_equal(e.host, "gpu07");
    px_err_clear(&e);
    assert_int_equal(e.code, PX_OK);
    px_err_set_file(&e, "a.yaml");                      /* nothing to be about */
    assert_string_equal(e.file, "");
    assert_int_equal(px_fail(NULL, PX_EIO, "", "nobody listens"), PX_EIO);
    px_err_set_file(NULL, "x");
    px_err_set_rank(NULL, 1, "x");
    px_err_clear(NULL);
}

static void values_are_kept(void **state)
{
    px_err e = {0};
    char line[1024];
    (void)state;
    px_mismatch(&e, "kv.dtype", "f16", "int8");
    assert_string_equal(e.found, "f16");
    assert_string_equal(e.expected, "int8");
    assert_string_equal(e.text, "is f16, expected int8");
    px_err_set_file(&e, "70b.yaml");
    px_err_set_rank(&e, 3, "gpu07");
    assert_string_equal(px_err_format(&e, line, sizeof line),
                        "rank 3 on gpu07: 70b.yaml: kv.dtype: is f16, expected int8");
    px_err_clear(&e);
    px_refuse(&e, PX_ERANGE, "queue", "-1", "a number", "out of range");
    assert_string_equal(px_err_format(&e, line, sizeof line), "queue: out of range (found -1, expected a number)");
    char small[10];
    assert_string_equal(px_err_format(&e, small, sizeof small), "queue: ou");
    assert_ptr_equal(px_err_format(&e, small, 0), small);
    px_err_clear(&e);
    assert_string_equal(px_err_format(&e, line, sizeof line), "ok");
    px_fail(&e, PX_ENOMEM, "", "%s", "");
    assert_string_equal(px_err_format(&e, line, sizeof line), "ENOMEM");
}

static void hostile_strings_become_plain(void **state)
{
    px_err e = {0};
    char longer[1000], path[1000];
    (void)state;
    px_refuse(&e, PX_EINVAL, "a\nb", "\xff\x1b[31m", "\xc2\x9b", "line\r\nforged\x7f");
    assert_string_equal(e.field, "a?b");
    assert_string_equal(e.found, "??[31m");
    assert_string_equal(e.expected, "\?\?");
    assert_string_equal(e.text, "line??forged?");

    /* A cut falls between characters. */
    for (size_t shift = 0; shift < 4; shift++) {
        memset(longer, 'x', shift);
        for (size_t i = shift; i + 4 < sizeof longer; i += 3) memcpy(longer + i, "\xe2\x82\xac", 4);
        px_err_clear(&e);
        px_refuse(&e, PX_EINVAL, longer, longer, longer, "%s", longer);
        assert_true(px_utf8_valid(e.text, strlen(e.text)));
        assert_true(px_utf8_valid(e.found, strlen(e.found)));
        assert_null(strchr(e.text, '?'));
        assert_null(strchr(e.found, '?'));
        assert_in_range(strlen(e.text), sizeof e.text - 4, sizeof e.text - 1);
    }
    memset(path, 'p', sizeof path);
    memcpy(path + sizeof path - 10, "/the.gguf", 10);
    px_err_set_file(&e, path);
    assert_int_equal(strlen(e.file), sizeof e.file - 1);
    assert_memory_equal(e.file, "...ppp", 6);
    assert_string_equal(e.file + strlen(e.file) - 9, "/the.gguf");
}

static void errno_finds_the_nearest_code(void **state)
{
    static const struct { int no; px_code code; } rows[] = {
        { ENOMEM, PX_ENOMEM }, { ENOSPC, PX_EIO }, { EEXIST, PX_EEXIST }, { ENOENT, PX_ENOTFOUND }, { EACCES, PX_EIO },
        { EPIPE, PX_EPEER }, { ECONNRESET, PX_EPEER }, { ETIMEDOUT, PX_ETIMEOUT }, { EADDRINUSE, PX_EBUSY },
        { EWOULDBLOCK, PX_EBUSY }, { EOPNOTSUPP, PX_EUNSUP }, { ECANCELED, PX_ECANCELLED },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        px_err e = {0};
        errno = rows[i].no;
        assert_int_equal(px_fail_errno(&e, "set", "open"), rows[i].code);
        assert_int_equal(e.code, rows[i].code);
        assert_int_equal(errno, rows[i].no);
        assert_string_equal(e.field, "set");
        assert_memory_equal(e.text, "open: ", 6);
        assert_non_null(strstr(e.text, strerror(rows[i].no)));
    }
}

static void every_code_has_a_name(void **state)
{
    (void)state;
    for (int i = 0; i < PX_N_CODES; i++) {
        assert_true(strlen(px_code_name((px_code)i)) >= 2);
        for (int k = 0; k < i; k++) assert_string_not_equal(px_code_name((px_code)i), px_code_name((px_code)k));
    }
    assert_string_equal(px_code_name(PX_ENOMEM), "ENOMEM");
    assert_string_equal(px_code_name(PX_EINTERNAL), "EINTERNAL");
    assert_string_equal(px_code_name(PX_EDEVICE), "EDEVICE");
    assert_string_equal(px_code_name((px_code)999), "EUNKNOWN");
    assert_string_equal(px_code_name((px_code)-1), "EUNKNOWN");
}

/* ---- log ---- */

typedef struct rig { px_log_sink lg; int in; char text[65536]; } rig;

static int rig_up(void **state)
{
    static rig r;
    int p[2];
    if (pipe(p)) return -1;
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    px_log_init(&r.lg, p[1], PX_INFO, 3);
    snprintf(r.lg.host, sizeof r.lg.host, "gpu07");
    r.in = p[0];
    *state = &r;
    return 0;
}

static int rig_down(void **state)
{
    rig *r = *state;
    close(r->in);
    close(r->lg.fd);
    return 0;
}

static const char *drain(rig *r)
{
    ssize_t n = read(r->in, r->text, sizeof r->text - 1);
    r->text[n > 0 ? n : 0] = '\0';
    return r->text;
}

static size_t n_lines(const char *s)
{
    size_t n = 0;
    for (; *s; s++) n += *s == '\n';
    return n;
}

static void a_line_has_its_fields(void **state)
{
    rig *r = *state;
    regex_t form;
    errno = 77;
    px_log_line(&r->lg, PX_INFO, "kv_ready", "pages=%zu device=%d", (size_t)4096, 3);
    assert_int_equal(errno, 77);
    assert_int_equal(regcomp(&form, "^ts=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z level=info "
                             "rank=3 host=gpu07 event=kv_ready pages=4096 device=3\n$", REG_EXTENDED | REG_NOSUB), 0);
    const char *line = drain(r);
    int no = regexec(&form, line, 0, NULL, 0);
    if (no) print_error("%s", line);
    regfree(&form);
    assert_int_equal(no, 0);

    r->lg.rank = -1;
    px_log_line(&r->lg, PX_ERROR, "bare", NULL);
    line = drain(r);
    assert_null(strstr(line, "rank="));
    assert_non_null(strstr(line, "level=error host=gpu07 event=bare\n"));
    px_log_line(&r->lg, PX_DEBUG, "dropped", "x=%d", 1);
    assert_string_equal(drain(r), "");
    px_log_line(NULL, PX_ERROR, "nobody", "x=%d", 1);
}

static void no_value_forges_a_line(void **state)
{
    rig *r = *state;
    const char *evil = "x\nts=2026-01-01T00:00:00.000Z level=info event=forged\r\x1b[2J\x7f\xc2\x9b\xff\xe2\x80\xa8";
    char quoted[512];

    px_log_line(&r->lg, PX_INFO, "request", "id=%s", evil);          /* a caller that forgot to quote */
    const char *line = drain(r);
    assert_int_equal(n_lines(line), 1);
    assert_true(px_utf8_valid(line, strlen(line)));
    for (const char *p = line; *p; p++) assert_true((unsigned char)*p >= 0x20 || (*p == '\n' && !p[1]));
    assert_non_null(strstr(line, "\\r\\x1b[2J\\x7f\\xc2\\x9b\\xff\\xe2\\x80\\xa8\n"));

    px_log_line(&r->lg, PX_INFO, "request", "id=%s", px_log_quote(evil, -1, quoted, sizeof quoted));
    line = drain(r);
    assert_int_equal(n_lines(line), 1);
    assert_non_null(strstr(line, " id=\"x\\nts=2026"));
    assert_string_equal(line + strlen(line) - 2, "\"\n");

    /* The event's value can hold spaces and quotes without ending. */
    assert_string_equal(px_log_quote("a b=\"c\" \\", -1, quoted, sizeof quoted), "\"a b=\\\"c\\\" \\\\\"");
    assert_string_equal(px_log_quote("plain/path.yaml:3", -1, quoted, sizeof quoted), "plain/path.yaml:3");
    assert_string_equal(px_log_quote("\xc3\xa4", -1, quoted, sizeof quoted), "\xc3\xa4");
    assert_string_equal(px_log_quote("", -1, quoted, sizeof quoted), "\"\"");
    assert_string_equal(px_log_quote(NULL, -1, quoted, sizeof quoted), "\"\"");
    assert_string_equal(px_log_quote("a\0b", 3, quoted, sizeof quoted), "\"a\\x00b\"");
    assert_string_equal(px_log_quote("abcdef", 3, quoted, sizeof quoted), "abc");
}

static void a_cut_value_is_still_a_value(void **state)
{
    uint64_t seed = 9;
    char in[200], out[200];
    (void)state;
    for (int round = 0; round < 20000; round++) {
        size_t n = test_rand(&seed) % sizeof in, cap = test_rand(&seed) % 64;
        for (size_t i = 0; i < n; i++) in[i] = (char)(test_rand(&seed) % 3 ? test_rand(&seed) : 'a');
        memset(out, 'Z', sizeof out);
        px_log_quote(in, (long)n, out, cap);
        if (!cap) { assert_int_equal(out[0], 'Z'); continue; }
        size_t len = strnlen(out, sizeof out);
        assert_true(len < cap);
        for (size_t i = cap; i < sizeof out; i++) assert_int_equal(out[i], 'Z');
        assert_true(px_utf8_valid(out, len));
        if (out[0] == '"') {                        /* one closing quote, at the end */
            assert_true(len >= 2);
            size_t i = 1;
            while (i < len && out[i] != '"') i += out[i] == '\\' ? 2 : 1;
            assert_int_equal(i, len - 1);
        } else {
            assert_null(strpbrk(out, " =\"\\\n"));
        }
    }
    assert_string_equal(px_log_quote("abcdefghijklmnop", -1, out, 10), "\"abcd...\"");
}

static void a_long_line_is_cut_into_one_write(void **state)
{
    rig *r = *state;
    static char big[20000];
    memset(big, '\n', sizeof big - 1);
    px_log_line(&r->lg, PX_INFO, "big", "v=%s", big);
    const char *line = drain(r);
    assert_int_equal(n_lines(line), 1);
    assert_in_range(strlen(line), PIPE_BUF - 8, PIPE_BUF);
    assert_string_equal(line + strlen(line) - 4, "...\n");
    memset(big, 'e', sizeof big - 1);
    px_log_line(&r->lg, PX_INFO, big, "v=%s", big);
    line = drain(r);
    assert_int_equal(n_lines(line), 1);
    assert_in_range(strlen(line), PIPE_BUF - 8, PIPE_BUF);
}

static void *chatter(void *ctx)
{
    rig *r = ctx;
    for (int i = 0; i < 100; i++) px_log_line(&r->lg, PX_INFO, "chat", "i=%d rest=%s", i, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    return NULL;
}

static void lines_of_threads_do_not_mix(void **state)
{
    rig *r = *state;
    pthread_t t[4];
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, chatter, r);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    const char *all = drain(r);
    assert_int_equal(n_lines(all), 400);
    for (const char *p = all; *p; p = strchr(p, '\n') + 1) {
        assert_memory_equal(p, "ts=", 3);
        const char *tail = strchr(p, '\n') - 8;
        assert_memory_equal(tail, "aaaaaaaa\n", 9);
    }
}

static void an_error_is_one_line(void **state)
{
    rig *r = *state;
    px_err e = {0};
    px_refuse(&e, PX_EMISMATCH, "kv.dtype", "f16", "a \"b\"", "does not match");
    px_err_set_file(&e, "/etc/phalanx/70b.yaml");
    e.src = "coordinator/coldstart.c";
    e.line = 128;
    px_log_err(&r->lg, PX_ERROR, "coldstart_refused", &e);
    const char *line = drain(r);
    assert_non_null(strstr(line, "level=error rank=3 host=gpu07 event=coldstart_refused code=EMISMATCH "
                           "file=/etc/phalanx/70b.yaml field=kv.dtype found=f16 expected=\"a \\\"b\\\"\" "
                           "text=\"does not match\" src=coordinator/coldstart.c:128\n"));
    px_err_set_rank(&e, 5, "gpu\n09");              /* the error's rank stands for the sink's */
    px_log_err(&r->lg, PX_ERROR, "coldstart_refused", &e);
    line = drain(r);
    assert_non_null(strstr(line, "rank=5 host=gpu?09 event="));
    assert_int_equal(n_lines(line), 1);
    px_log_err(&r->lg, PX_DEBUG, "dropped", &e);
    assert_string_equal(drain(r), "");

    memset(&e, 'x', sizeof e);                      /* every array full: still one bounded line */
    e.code = PX_EIO;
    e.host[sizeof e.host - 1] = e.file[sizeof e.file - 1] = e.field[sizeof e.field - 1] = '\0';
    e.found[sizeof e.found - 1] = e.expected[sizeof e.expected - 1] = e.text[sizeof e.text - 1] = '\0';
    e.src = "s.c";
    px_log_err(&r->lg, PX_ERROR, "full", &e);
    line = drain(r);
    assert_int_equal(n_lines(line), 1);
    assert_non_null(strstr(line, " src=s.c:"));
}

static void a_closed_log_is_no_failure(void **state)
{
    px_log_sink lg;
    (void)state;
    px_log_init(&lg, -1, PX_INFO, 0);
    assert_true(lg.host[0] != '\0');
    px_log_line(&lg, PX_INFO, "nowhere", "x=%d", 1);
}

static void levels_are_words(void **state)
{
    static const char *const words[] = { "debug", "info", "warn", "error" };
    px_level v = PX_DEBUG;
    px_err e = {0};
    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(px_level_parse(words[i], &v, &e), PX_OK);
        assert_int_equal(v, i);
    }
    assert_int_equal(px_level_parse("INFO", &v, &e), PX_ERANGE);
    assert_string_equal(e.field, "log.level");
    assert_string_equal(e.found, "INFO");
    assert_int_equal(v, PX_ERROR);
}

#define LOG(test) cmocka_unit_test_setup_teardown(test, rig_up, rig_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_cause_stays),
        cmocka_unit_test(values_are_kept),
        cmocka_unit_test(hostile_strings_become_plain),
        cmocka_unit_test(errno_finds_the_nearest_code),
        cmocka_unit_test(every_code_has_a_name),
        LOG(a_line_has_its_fields),
        LOG(no_value_forges_a_line),
        cmocka_unit_test(a_cut_value_is_still_a_value),
        LOG(a_long_line_is_cut_into_one_write),
        LOG(lines_of_threads_do_not_mix),
        LOG(an_error_is_one_line),
        cmocka_unit_test(a_closed_log_is_no_failure),
        cmocka_unit_test(levels_are_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
