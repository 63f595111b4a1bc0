/* golden.h - reference logits and continuations, and how far a distribution is from them.
 * Layer: tests. */
#ifndef TESTS_SHARD_GOLDEN_H
#define TESTS_SHARD_GOLDEN_H

#include <stddef.h>
#include <stdint.h>

/* A tiny model's reference: tests/golden/tiny/`name`. */
typedef struct test_tiny {
    uint32_t prompt[64], n_prompt;
    uint32_t greedy[64], n_greedy;
    float   *logits;                       /* (n_prompt, n_vocab) owned: free() */
    uint32_t n_vocab;
} test_tiny;
void test_tiny_read(test_tiny *t, const char *name);

/* Compares log-probabilities (rows, n) with reference logits. */
typedef struct test_distance {
    double   worst;                        /* largest difference of any log-probability */
    double   kl;                           /* mean over rows, of the whole distribution */
    double   flipped;                      /* largest reference margin of a row whose best id differs; 0 if none does */
} test_distance;
test_distance test_compare(const float *lp, const float *logits, uint32_t rows, uint32_t n);


#endif
