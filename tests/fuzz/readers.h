/* readers.h - a checkpoint or set that could be opened, used in every way in which the programs use it.
 * Layer: tests. */
#ifndef TESTS_FUZZ_READERS_H
#define TESTS_FUZZ_READERS_H

#include "shard/store/checkpoint.h"

/* Opens it, reads every tensor's bytes, and packs small models for one and two ranks, as stored and as Q8_0. */
void fuzz_checkpoint(px_alloc *a, const char *path);

#endif
