/* blocks.h - a model of random weights in one of the block types of GGUF that have no kernels of their own.  Layer: tests. */
#ifndef TESTS_SHARD_BLOCKS_H
#define TESTS_SHARD_BLOCKS_H

#include "kernels/dtype.h"

enum { TEST_BLOCKS_VOCAB = 320 };

/* A GGUF of a llama of two layers, 8 heads of 32 over 4 KV heads; with three ranks cuts go through its blocks of 256.  Its path, in the
 * scratch folder (image_write). */
const char *test_blocks_model(kern_dtype t);

#endif
