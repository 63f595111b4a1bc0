#include "proto/base/log.h"
#include "proto/base/utf8.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One write of at most PIPE_BUF bytes is whole on a pipe, too. */
#define LINE_MAX_BYTES PIPE_BUF

static const char *const level_words[] = { "debug", "info", "warn", "error" };

void px_log_init(px_log_sink *lg, int fd, px_level level, int rank)
{
    *lg = (px_log_sink){ .fd = fd, .level = level, .rank = rank };
    if (gethostname(lg->host, sizeof lg->host)) snprintf(lg->host, sizeof lg->host, "unknown");
    lg->host[sizeof lg->host - 1] = '\0';
    for (char *p = lg->host; *p; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7F || *p == '"' || *p == '=' || *p == '\\') *p = '_';
}

px_code px_level_parse(const char *word, px_level *out, px_err *e)
{
    for (size_t i = 0; i < sizeof level_words / sizeof *level_words; i++)
        if (!strcmp(word, level_words[i])) { *out = (px_level)i; return PX_OK; }
    return px_refuse(e, PX_ERANGE, "log.level", word, "debug, info, warn or error", "not a level");
}

/* Bytes of a character that may stand in a line as it is; 0: escape the first byte (control characters, also those
 * of 0x80 to 0x9f that terminals obey, line separators, what is not UTF-8). */
static size_t plain_bytes(const char *s, size_t n)
{
    uint32_t c;
    size_t step = px_utf8_next(s, n, &c);

    if (!step || c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029) return 0;
    return step;
}

static size_t escape_byte(unsigned char c, char out[5])
{
    const char *named = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '"' ? "\\\""
                      : c == '\\' ? "\\\\" : NULL;
    if (named) snprintf(out, 5, "%s", named);
    else snprintf(out, 5, "\\x%02x", c);
    return strlen(out);
}

char *px_log_quote(const char *s, long len, char *buf, size_t cap)
{
    size_t n = !s ? 0 : len < 0 ? strlen(s) : (size_t)len, used = 0, i = 0;
    bool bare = n > 0 && n < cap;

    if (!cap) return buf;
    for (size_t k = 0; bare && k < n;) {
        size_t step = plain_bytes(s + k, n - k);
        if (!step || s[k] == ' ' || s[k] == '"' || s[k] == '=' || s[k] == '\\') bare = false;
        k += step;
    }
    if (bare) {
        memcpy(buf, s, n);
        buf[n] = '\0';
        return buf;
    }
    if (cap < 6) {                              /* no room for "..." in quotes */
        snprintf(buf, cap, "%s", cap > 2 ? "\"\"" : "");
        return buf;
    }
    buf[used++] = '"';
    size_t cut = used;                          /* where "..." may still begin */
    while (i < n) {
        char out[5];
        size_t step = plain_bytes(s + i, n - i), bytes;
        const char *from = s + i;
        if (!step || s[i] == '"' || s[i] == '\\') {
            bytes = escape_byte((unsigned char)s[i], out);
            from = out;
            step = 1;
        } else {
            bytes = step;
        }
        if (used + bytes + 2 > cap) {           /* quote and NUL */
            used = cut;
            memcpy(buf + used, "...", 3);
            used += 3;
            break;
        }
        memcpy(buf + used, from, bytes);
        used += bytes;
        i += step;
        if (used + 5 <= cap) cut = used;
    }
    buf[used++] = '"';
    buf[used] = '\0';
    return buf;
}

/* Start of a line, up to and with the event. */
static size_t head(const px_log_sink *lg, px_level level, int rank, const char *host, const char *event,
                   char *line, size_t cap)
{
    struct timespec now;
    struct tm utc;
    char ts[32], who[24] = "";

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(ts, sizeof ts, "%Y-%m-%dT%H:%M:%S", &utc);
    if (rank >= 0) snprintf(who, sizeof who, " rank=%d", rank);
    int n = snprintf(line, cap, "ts=%s.%03ldZ level=%s%s host=%s event=%s", ts, now.tv_nsec / 1000000,
                     level_words[(unsigned)level > PX_ERROR ? PX_ERROR : level], who, host[0] ? host : lg->host,
                     event);
    return n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1;
}

/* Append text to the line; what could end the line or command a terminal is escaped.  Leaves room for "\n". */
static size_t append(char *line, size_t used, const char *text, size_t n)
{
    const size_t most = LINE_MAX_BYTES - 4;     /* "...\n" */

    for (size_t i = 0; i < n;) {
        char out[5];
        size_t step = plain_bytes(text + i, n - i), bytes = step;
        const char *from = text + i;
        if (!step) {
            bytes = escape_byte((unsigned char)text[i], out);
            from = out;
            step = 1;
        }
        if (used + bytes > most) {
            memcpy(line + used, "...", 3);
            return used + 3;
        }
        memcpy(line + used, from, bytes);
        used += bytes;
        i += step;
    }
    return used;
}

/* A log that cannot be written must not stop the service: the line is dropped. */
static void emit(int fd, char *line, size_t used)
{
    line[used++] = '\n';
    while (write(fd, line, used) < 0 && errno == EINTR) { }
}

void px_log_line(const px_log_sink *lg, px_level level, const char *event, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES], text[LINE_MAX_BYTES];
    int no = errno;

    if (!lg || level < lg->level) return;
    size_t used = head(lg, level, lg->rank, "", event, line, sizeof line / 2);
    if (fmt && fmt[0]) {
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        if (n > 0) {
            used = append(line, used, " ", 1);
            used = append(line, used, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
        }
    }
    emit(lg->fd, line, used);
    errno = no;
}

void px_log_err(const px_log_sink *lg, px_level level, const char *event, const px_err *e)
{
    char line[LINE_MAX_BYTES], value[640], field[768], host[160];
    int no = errno;

    if (!lg || level < lg->level || !e) return;
    /* The error's rank and host stand in the place of the writer's. */
    px_log_quote(e->host, -1, host, sizeof host);
    size_t used = head(lg, level, e->rank >= 0 ? e->rank : lg->rank, e->host[0] ? host : "", event, line,
                       sizeof line / 2);
    int n = snprintf(field, sizeof field, " code=%s", px_code_name(e->code));
    used = append(line, used, field, (size_t)n);
    const struct { const char *key, *value; } rows[] = {
        { "file", e->file }, { "field", e->field }, { "found", e->found }, { "expected", e->expected },
        { "text", e->text },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!rows[i].value[0]) continue;
        n = snprintf(field, sizeof field, " %s=%s", rows[i].key, px_log_quote(rows[i].value, -1, value, sizeof value));
        used = append(line, used, field, (size_t)n);
    }
    if (e->src) {
        n = snprintf(field, sizeof field, " src=%s:%d", e->src, e->line);
        used = append(line, used, field, (size_t)n < sizeof field ? (size_t)n : sizeof field - 1);
    }
    emit(lg->fd, line, used);
    errno = no;
}
