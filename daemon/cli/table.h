/* table.h - rows of text in columns as wide as their widest cell.
 * Layer: daemon/cli. */
#ifndef DAEMON_TABLE_H
#define DAEMON_TABLE_H

#include <stdio.h>

#include "proto/base/alloc.h"

#define DAEMON_CELL_BYTES 48u

typedef struct daemon_table {
    px_alloc *a;
    size_t    n_columns, n_rows, cap_rows;
    char    (*cell)[DAEMON_CELL_BYTES];   /* (n_rows x n_columns) owned */
    size_t    at;                         /* cells filled of the last row */
    bool      full;                       /* no memory: nothing more is taken */
} daemon_table;

void    daemon_table_init(daemon_table *t, px_alloc *a, size_t n_columns);
/* The next cell, row by row; longer texts are cut. */
void    daemon_table_put(daemon_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void    daemon_table_bytes(daemon_table *t, uint64_t n);              /* 12,345,678 */
/* The first column to the left, the others to the right.  PX_ENOMEM. */
px_code daemon_table_print(const daemon_table *t, FILE *out, px_err *e);
void    daemon_table_deinit(daemon_table *t);

#endif
