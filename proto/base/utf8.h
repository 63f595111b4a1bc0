/* utf8.h - the next character of a text.  Layer: proto (sees nothing).  Pure. */
#ifndef PROTO_UTF8_H
#define PROTO_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character that begins at s (1 to 4, at most n), its code in *c.  0: it is not UTF-8: a stray or missing
 * continuation, more bytes than needed, a surrogate, beyond U+10FFFF, cut off by n. */
size_t px_utf8_next(const char *s, size_t n, uint32_t *c);

#endif
