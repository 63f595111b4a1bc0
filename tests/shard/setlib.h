/* setlib.h - sets of the tiny golden models for the tests of this room.
 * Layer: tests. */
#ifndef TESTS_SHARD_SETLIB_H
#define TESTS_SHARD_SETLIB_H

#include "shard/store/set.h"
#include "tests/testlib.h"

/* A path in the scratch folder that nothing has yet (rotating static buffers). */
const char *setlib_fresh(const char *stem);
/* The arguments of a plain pack: as_file, balanced, padded64, XXH3. */
shard_pack_args setlib_args(const shard_checkpoint *c, const char *out, uint32_t ranks);
/* Shard a golden model ("tiny/arch/llama") into a fresh folder with a tokenizer and a template; returns the folder. */
const char *setlib_make(px_alloc *a, const char *golden, uint32_t ranks, const char *revision);
bool setlib_exists(const char *path);
void setlib_copy_file(const char *from, const char *to);
void setlib_copy_set(const char *from, const char *to);
long setlib_size(const char *path);
void setlib_xor(const char *path, long at, unsigned char bits);     /* flips bits of one byte in place */

#endif
