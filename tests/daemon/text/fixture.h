/* fixture.h - golden tokenizers and golden lines for the tests of daemon/text.  Layer: tests. */
#ifndef TESTS_TEXT_FIXTURE_H
#define TESTS_TEXT_FIXTURE_H

#include <jansson.h>

#include "daemon/text/detok.h"
#include "daemon/text/tokenizer.h"
#include "tests/testlib.h"

#define SMOLLM "tiny/tokenizers/smollm/vocab.gguf"
#define LLAMA3 "tiny/tokenizers/llama3/vocab.gguf"
#define QWEN2  "tiny/tokenizers/qwen2/vocab.gguf"
#define LLAMA2 "tiny/tokenizers/llama2/model.gguf"
#define REAL_MODEL "models/SmolLM2-135M-Instruct.Q4_1.gguf"

/* The process's heap: tests that count memory take a debug allocator of their own. */
px_alloc *fixture_heap(void);
/* The normal form of the tokenizer in a .gguf, .json or .model file; put with px_del(heap, json, bytes + 1).  Fails the test on an error. */
char *fixture_json(const char *path, size_t *bytes);
daemon_tokenizer *fixture_open(const char *path);           /* likewise, opened; close with daemon_tokenizer_close */

/* fn for every line of a .jsonl file; returns how many there were. */
size_t fixture_each_line(const char *path, void (*fn)(void *ctx, const json_t *line), void *ctx);
/* ids must be the array of the line. */
void fixture_assert_ids(const daemon_ids *ids, const json_t *want, const char *text);

/* n random characters: mostly ASCII, some of every length of UTF-8, white space and digits often; returns the bytes. */
size_t fixture_random_text(uint64_t *state, char *buf, size_t cap);

#endif
