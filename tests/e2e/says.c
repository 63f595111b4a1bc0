#include "tests/e2e/says.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool test_says_beside(const char *end, char out[TEST_SAYS_PATH])
{
    static const char inside;                      /* of the plugin that this is compiled into */
    Dl_info at;

    return dladdr(&inside, &at) && snprintf(out, TEST_SAYS_PATH, "%s%s", at.dli_fname, end) < TEST_SAYS_PATH;
}

int test_says_rank(void)
{
    const char *me = getenv("OMPI_COMM_WORLD_RANK");

    return me ? atoi(me) : 0;
}

bool test_says(const char *key, char value[TEST_SAYS_WORD])
{
    char path[TEST_SAYS_PATH], line[256], k[32], v[TEST_SAYS_WORD];
    bool found = false;
    FILE *f;
    int rank;

    if (!test_says_beside(".says", path) || !(f = fopen(path, "re"))) return false;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%d %31s %63[^\n]", &rank, k, v) == 3 && (rank < 0 || rank == test_says_rank()) && !strcmp(k, key)) {
            memcpy(value, v, sizeof v);
            found = true;
        }
    fclose(f);
    return found;
}

uint64_t test_says_number(const char *key, uint64_t otherwise)
{
    char value[TEST_SAYS_WORD];

    return test_says(key, value) ? strtoull(value, NULL, 10) : otherwise;
}
