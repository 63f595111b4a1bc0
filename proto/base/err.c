#include "proto/base/err.h"
#include "proto/base/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Every string of an error may end in a protobuf string, a log line or a terminal: what is not UTF-8 (also a
 * character that the end of the array cut) and what is a control character becomes '?'. */
static void make_plain(char *s)
{
    size_t n = strlen(s), i = 0;

    while (i < n) {
        uint32_t c;
        size_t step = px_utf8_next(s + i, n - i, &c);
        if (!step) {
            if (n - i < 4 && (unsigned char)s[i] >= 0xC2) {     /* cut at the end: drop rather than mark */
                bool tail = true;
                for (size_t k = i + 1; k < n; k++)
                    if (((unsigned char)s[k] & 0xC0) != 0x80) tail = false;
                if (tail) { s[i] = '\0'; return; }
            }
            s[i++] = '?';
        } else if (c < 0x20 || (c >= 0x7F && c < 0xA0)) {
            for (size_t k = 0; k < step; k++) s[i++] = '?';
        } else {
            i += step;
        }
    }
}

static void copy(char *out, size_t cap, const char *s)
{
    snprintf(out, cap, "%s", s ? s : "");
    make_plain(out);
}

static void fill(px_err *e, px_code code, const char *src, int line, const char *field, const char *found,
                 const char *expected)
{
    *e = (px_err){ .code = code, .rank = -1, .src = src, .line = line };
    copy(e->field, sizeof e->field, field);
    copy(e->found, sizeof e->found, found);
    copy(e->expected, sizeof e->expected, expected);
}

px_code px_err_set(px_err *e, px_code code, const char *src, int line, const char *field, const char *fmt, ...)
{
    if (!e || e->code != PX_OK) return code;
    fill(e, code, src, line, field, NULL, NULL);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    make_plain(e->text);
    return code;
}

px_code px_err_set_values(px_err *e, px_code code, const char *src, int line, const char *field, const char *found,
                          const char *expected, const char *fmt, ...)
{
    if (!e || e->code != PX_OK) return code;
    fill(e, code, src, line, field, found, expected);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    make_plain(e->text);
    return code;
}

px_code px_err_set_mismatch(px_err *e, px_code code, const char *src, int line, const char *field,
                            const char *found, const char *expected)
{
    if (!e || e->code != PX_OK) return code;
    fill(e, code, src, line, field, found, expected);
    snprintf(e->text, sizeof e->text, "is %.110s, expected %.110s", e->found, e->expected);
    make_plain(e->text);
    return code;
}

static px_code code_of_errno(int no)
{
    switch (no) {
    case ENOMEM: return PX_ENOMEM;
    case ENOENT: case ENOTDIR: case ENODEV: case ENXIO: return PX_ENOTFOUND;
    case EEXIST: case ENOTEMPTY: return PX_EEXIST;
    case EBUSY: case EAGAIN: case EADDRINUSE: case ETXTBSY: return PX_EBUSY;
    case ETIMEDOUT: return PX_ETIMEOUT;
    case EPIPE: case ECONNRESET: case ECONNREFUSED: case ECONNABORTED: case ENOTCONN: return PX_EPEER;
    case ENOSYS: case EOPNOTSUPP: return PX_EUNSUP;
    case ECANCELED: return PX_ECANCELLED;
    default: return PX_EIO;         /* ENOSPC, EACCES, EROFS, EISDIR ...: the text says which */
    }
}

px_code px_err_set_errno(px_err *e, const char *src, int line, const char *field, const char *what)
{
    int no = errno;
    char word[128];

    px_code code = code_of_errno(no);
    px_err_set(e, code, src, line, field, "%s: %s", what, strerror_r(no, word, sizeof word));
    errno = no;
    return code;
}

void px_err_set_file(px_err *e, const char *file)
{
    if (!e || e->code == PX_OK || e->file[0] || !file) return;
    size_t n = strlen(file), cap = sizeof e->file - 1;
    if (n <= cap) {
        copy(e->file, sizeof e->file, file);
        return;
    }
    const char *tail = file + n - (cap - 3);
    while (((unsigned char)*tail & 0xC0) == 0x80) tail++;      /* not in the middle of a character */
    snprintf(e->file, sizeof e->file, "...%s", tail);
    make_plain(e->file);
}

void px_err_set_rank(px_err *e, int rank, const char *host)
{
    if (!e || e->code == PX_OK) return;
    if (e->rank < 0) e->rank = rank;
    if (!e->host[0]) copy(e->host, sizeof e->host, host);
}

void px_err_clear(px_err *e)
{
    if (e) *e = (px_err){ .rank = -1 };
}

const char *px_code_name(px_code code)
{
    static const char *const names[PX_N_CODES] = {
        "OK", "ENOMEM", "EINVAL", "ERANGE", "EMISMATCH", "ECORRUPT", "ENOTFOUND", "EEXIST", "EIO", "EUNSUP",
        "ETIMEOUT", "EPEER", "EBUSY", "ECANCELLED", "EINTERNAL", "EDEVICE",
    };
    return (unsigned)code < PX_N_CODES ? names[code] : "EUNKNOWN";
}

char *px_err_format(const px_err *e, char *buf, size_t cap)
{
    if (!cap) return buf;
    if (!e || e->code == PX_OK) {
        snprintf(buf, cap, "ok");
        return buf;
    }
    char where[sizeof e->host + 32] = "", values[sizeof e->found + sizeof e->expected + 32] = "";
    if (e->rank >= 0) snprintf(where, sizeof where, "rank %d%s%s: ", e->rank, e->host[0] ? " on " : "", e->host);
    /* A mismatch's sentence already holds both values. */
    bool told = strstr(e->text, e->found) && strstr(e->text, e->expected);
    if (!told && e->found[0] && e->expected[0])
        snprintf(values, sizeof values, " (found %s, expected %s)", e->found, e->expected);
    else if (!told && e->found[0]) snprintf(values, sizeof values, " (found %s)", e->found);
    else if (!told && e->expected[0]) snprintf(values, sizeof values, " (expected %s)", e->expected);
    snprintf(buf, cap, "%s%s%s%s%s%s%s", where, e->file, e->file[0] ? ": " : "", e->field, e->field[0] ? ": " : "",
             e->text[0] ? e->text : px_code_name(e->code), values);
    make_plain(buf);
    return buf;
}
