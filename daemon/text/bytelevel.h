/* bytelevel.h - how vocabularies write text: byte-level BPE writes each of the 256 bytes as one printable character.
 * Layer: daemon/text.  Pure functions.
 * Bytes 33-126, 161-172 and 174-255 stand for themselves; the other 68 are, in order, U+0100 to U+0143. */
#ifndef DAEMON_BYTELEVEL_H
#define DAEMON_BYTELEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The text s (n bytes of UTF-8) back to bytes; out has room for n.  False if a character is not of the alphabet. */
bool daemon_bytelevel_decode(const char *s, size_t n, char *out, size_t *out_bytes);

/* SentencePiece's way of writing: U+2581 stands for a space.  out has room for n; returns the bytes. */
size_t daemon_spaces_decode(const char *s, size_t n, char *out);

/* Bytes of the longest valid UTF-8 prefix of s: n if all of it is valid. */
size_t daemon_utf8_prefix(const char *s, size_t n);

#endif
