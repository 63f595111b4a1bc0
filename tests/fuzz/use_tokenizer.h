/* use_tokenizer.h - a tokenizer that could be opened, used.  Layer: tests. */
#ifndef TESTS_FUZZ_USE_TOKENIZER_H
#define TESTS_FUZZ_USE_TOKENIZER_H

#include "daemon/text/tokenizer.h"

/* Encodes texts, among them the tail of the input, takes every id apart and back, and closes it. */
void fuzz_tokenizer(px_alloc *a, daemon_tokenizer *t, const uint8_t *data, size_t n);

#endif
