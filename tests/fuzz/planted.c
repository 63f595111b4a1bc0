/* A fault that is there: one byte beyond the input, behind three comparisons.  A fuzzer that does not find it finds nothing. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);

    if (!copy) return 0;
    memcpy(copy, data, n);
    if (n > 2 && copy[0] == 'b' && copy[1] == 'u' && copy[2] == 'g') fuzz_touch(copy, n + 1);
    free(copy);
    return 0;
}
