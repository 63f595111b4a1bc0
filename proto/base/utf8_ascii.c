/* utf8_ascii.c - for machines without utf8proc, which only test kernels: every other character is one that cannot be read. */
#include "proto/base/utf8.h"

size_t px_utf8_next(const char *s, size_t n, uint32_t *c)
{
    if (!n || (unsigned char)*s >= 0x80) return 0;
    *c = (unsigned char)*s;
    return 1;
}
