/* says.h - what a test tells a plugin that it put beside a program of its own (stage() in device_test.py): the file
 * PLUGIN.says has lines "RANK KEY VALUE"; RANK -1: all.  A later line counts.  Compiled into each plugin.
 * Layer: tests. */
#ifndef TESTS_E2E_SAYS_H
#define TESTS_E2E_SAYS_H

#include <stdbool.h>
#include <stdint.h>

#define TEST_SAYS_PATH 4096
#define TEST_SAYS_WORD 64

/* The plugin's own path and `end`; false: it is unknown or too long. */
bool test_says_beside(const char *end, char out[TEST_SAYS_PATH]);
int test_says_rank(void);                          /* the launcher's word; 0 without one */
bool test_says(const char *key, char value[TEST_SAYS_WORD]);       /* false: not a word about it, and value is as it was */
uint64_t test_says_number(const char *key, uint64_t otherwise);

#endif
