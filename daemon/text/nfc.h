/* nfc.h - Unicode's composed normal form (NFC) in linear time.
 * Layer: daemon/text, private to the room.  What characters are is utf8proc's knowledge; only the order of combining marks
 * is made here, because utf8proc sorts them by insertion: a megabyte of marks would take hours. */
#ifndef DAEMON_NFC_H
#define DAEMON_NFC_H

#include "daemon/text/detok.h"

/* Scratch of many calls; one thread. */
typedef struct daemon_nfc { px_alloc *a; int32_t *c; size_t cap; } daemon_nfc;

void    daemon_nfc_init(daemon_nfc *s, px_alloc *a);
/* True if p is surely in the form already: it has no character from U+0300 on. */
bool    daemon_nfc_is_plain(const char *p, size_t n);
/* Append p (valid UTF-8) to out in NFC.  Errors: PX_ENOMEM. */
px_code daemon_nfc_put(daemon_nfc *s, const char *p, size_t n, daemon_bytes *out, px_err *e);
void    daemon_nfc_deinit(daemon_nfc *s);

#endif
