#include "proto/base/utf8.h"

#include <utf8proc.h>

size_t px_utf8_next(const char *s, size_t n, uint32_t *c)
{
    utf8proc_int32_t code;
    utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)s, n < PTRDIFF_MAX ? (utf8proc_ssize_t)n : PTRDIFF_MAX, &code);

    if (step <= 0) return 0;
    *c = (uint32_t)code;
    return (size_t)step;
}
