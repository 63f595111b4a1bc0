/* grid.h - rows of text in columns as wide as their widest cell.
 * Layer: shard/plan. */
#ifndef SHARD_GRID_H
#define SHARD_GRID_H

#include <stdio.h>

#include "proto/base/alloc.h"

#define SHARD_GRID_CELL 32u
#define SHARD_GRID_COLS 32u

typedef struct shard_grid { px_alloc *a; size_t rows, cols, at; char (*cell)[SHARD_GRID_CELL]; /* owned */ } shard_grid;

px_code shard_grid_init(shard_grid *g, px_alloc *a, size_t rows, size_t cols /* at most SHARD_GRID_COLS */, px_err *e);
/* The next cell, row by row; longer texts are cut, cells beyond the last are not taken. */
void    shard_grid_put(shard_grid *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void    shard_grid_bytes(shard_grid *g, uint64_t n);           /* 12,345,678 */
/* The first column to the left, the others to the right; then the memory is given back. */
void    shard_grid_print(shard_grid *g, FILE *out);

#endif
