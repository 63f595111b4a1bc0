#include "proto/base/utf8.h"

size_t px_utf8_next(const char *s, size_t n, uint32_t *c)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };      /* what needs so many bytes */
    const unsigned char *u = (const unsigned char *)s;
    size_t bytes;

    if (!n) return 0;
    if (u[0] < 0x80) {
        *c = u[0];
        return 1;
    }
    bytes = u[0] < 0xC2 ? 0 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : u[0] < 0xF5 ? 4 : 0;
    if (!bytes || bytes > n) return 0;
    *c = u[0] & (0x7Fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((u[i] & 0xC0) != 0x80) return 0;
        *c = *c << 6 | (u[i] & 0x3Fu);
    }
    return *c < least[bytes] || *c > 0x10FFFF || (*c >= 0xD800 && *c < 0xE000) ? 0 : bytes;
}
