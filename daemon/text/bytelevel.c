#include "daemon/text/bytelevel.h"

#include <string.h>
#include <utf8proc.h>

#include "proto/base/io.h"

/* The byte of a character of the alphabet, or -1. */
static int byte_of(utf8proc_int32_t c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return c;
    if (c < 256 || c > 323) return -1;
    c -= 256;
    if (c < 33) return c;                   /* 0-32 */
    if (c < 67) return c - 33 + 127;        /* 127-160 */
    return 173;
}

bool daemon_bytelevel_decode(const char *s, size_t n, char *out, size_t *out_bytes)
{
    size_t at = 0, w = 0;

    while (at < n) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &c);
        if (used <= 0) return false;
        int byte = byte_of(c);
        if (byte < 0) return false;
        out[w++] = (char)byte;
        at += (size_t)used;
    }
    *out_bytes = w;
    return true;
}

size_t daemon_spaces_decode(const char *s, size_t n, char *out)
{
    static const char mark[3] = "\xe2\x96\x81";
    size_t w = 0;

    for (size_t i = 0; i < n; ) {
        const char *at = memmem(s + i, n - i, mark, sizeof mark);
        size_t plain = at ? (size_t)(at - (s + i)) : n - i;
        memcpy(out + w, s + i, plain);
        w += plain;
        i += plain;
        if (!at) break;
        out[w++] = ' ';
        i += sizeof mark;
    }
    return w;
}

size_t daemon_utf8_prefix(const char *s, size_t n)
{
    size_t at = 0;

    if (px_utf8_valid(s, n)) return n;
    while (at < n) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &c);
        if (used <= 0) break;
        at += (size_t)used;
    }
    return at;
}
