#include "daemon/text/nfc.h"

#include <string.h>
#include <utf8proc.h>

enum { MOST = 4 };                       /* characters that one becomes when it is taken apart */
static const utf8proc_option_t OPTIONS = UTF8PROC_STABLE | UTF8PROC_COMPOSE;

void daemon_nfc_init(daemon_nfc *s, px_alloc *a)
{
    *s = (daemon_nfc){ .a = a };
}

void daemon_nfc_deinit(daemon_nfc *s)
{
    if (s->c) px_del(s->a, s->c, s->cap);
    *s = (daemon_nfc){ .a = s->a };
}

bool daemon_nfc_is_plain(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)p[i] >= 0xcc) return false;      /* U+0300 begins with it */
    return true;
}

static uint32_t class_of(int32_t c)
{
    return (uint32_t)utf8proc_get_property(c)->combining_class & 0xff;
}

/* A run of combining marks by class, marks of one class in their order: counted, not compared. */
static void sort_marks(int32_t *c, size_t n, int32_t *scratch)
{
    size_t at[257] = {0};

    for (size_t i = 0; i < n; i++) at[class_of(c[i]) + 1]++;
    for (size_t k = 1; k < 257; k++) at[k] += at[k - 1];
    for (size_t i = 0; i < n; i++) scratch[at[class_of(c[i])]++] = c[i];
    memcpy(c, scratch, n * sizeof *c);
}

static void order(int32_t *c, size_t n, int32_t *scratch)
{
    for (size_t i = 0, end; i < n; i = end) {
        bool sorted = true;
        for (end = i; end < n && class_of(c[end]); end++)
            if (end > i && class_of(c[end]) < class_of(c[end - 1])) sorted = false;
        if (!sorted) sort_marks(c + i, end - i, scratch);
        if (end == i) end++;                           /* a character that begins anew */
    }
}

static px_code compose(daemon_nfc *s, const char *p, size_t n, daemon_bytes *out, px_err *e)
{
    size_t k = 0, want = 2 * MOST * n;                 /* n bytes are n characters at most; twice, to sort */
    utf8proc_int32_t c;
    utf8proc_uint8_t text[4];
    int unused = 0;
    px_code rc;

    if (want > s->cap) {
        daemon_nfc_deinit(s);
        if (!(s->c = px_new(s->a, int32_t, want))) return px_fail(e, PX_ENOMEM, "text", "composing %zu bytes", n);
        s->cap = want;
    }
    for (size_t i = 0; i < n; ) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        utf8proc_ssize_t made = used > 0 ? utf8proc_decompose_char(c, s->c + k, MOST, OPTIONS, &unused) : -1;
        if (made < 0 || made > MOST) return px_fail(e, PX_EINTERNAL, "text", "byte %zu cannot be taken apart", i);
        k += (size_t)made;
        i += (size_t)used;
    }
    order(s->c, k, s->c + MOST * n);
    utf8proc_ssize_t left = utf8proc_normalize_utf32(s->c, (utf8proc_ssize_t)k, OPTIONS);
    if (left < 0) return px_fail(e, PX_EINTERNAL, "text", "composing %zu bytes", n);
    for (utf8proc_ssize_t i = 0; i < left; i++)
        if ((rc = daemon_bytes_put(out, (const char *)text, (size_t)utf8proc_encode_char(s->c[i], text), e))) return rc;
    return PX_OK;
}

px_code daemon_nfc_put(daemon_nfc *s, const char *p, size_t n, daemon_bytes *out, px_err *e)
{
    px_code rc;

    /* No ASCII character is composed with what stands before it: parts from one to the next are worked on alone, and
     * what needs no work is copied. */
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && (uint8_t)p[end] >= 0x80; ) end++;
        bool plain = daemon_nfc_is_plain(p + i, end - i);
        for (size_t next = end; plain && next < n; end = next) {
            for (next = end + 1; next < n && (uint8_t)p[next] >= 0x80; ) next++;
            if (!daemon_nfc_is_plain(p + end, next - end)) break;
        }
        rc = plain ? daemon_bytes_put(out, p + i, end - i, e) : compose(s, p + i, end - i, out, e);
        if (rc) return rc;
    }
    return PX_OK;
}
