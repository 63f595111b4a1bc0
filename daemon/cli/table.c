#include "daemon/cli/table.h"

#include <stdarg.h>
#include <string.h>

#include "daemon/cli/cli.h"

void daemon_table_init(daemon_table *t, px_alloc *a, size_t n_columns)
{
    *t = (daemon_table){ .a = a, .n_columns = n_columns, .at = n_columns };
}

void daemon_table_put(daemon_table *t, const char *fmt, ...)
{
    va_list ap;

    if (t->full) return;
    if (t->at == t->n_columns) {
        if (t->n_rows == t->cap_rows) {
            size_t cap = t->cap_rows ? 2 * t->cap_rows : 16;
            void *more = px_alloc_grow(t->a, t->cell, t->cap_rows * t->n_columns, cap * t->n_columns, sizeof *t->cell, 1);
            if (!more) {
                t->full = true;
                return;
            }
            t->cell = more;
            t->cap_rows = cap;
        }
        t->n_rows++;
        t->at = 0;
    }
    va_start(ap, fmt);
    vsnprintf(t->cell[(t->n_rows - 1) * t->n_columns + t->at++], DAEMON_CELL_BYTES, fmt, ap);
    va_end(ap);
}

void daemon_table_bytes(daemon_table *t, uint64_t n)
{
    char buf[32];
    daemon_table_put(t, "%s", daemon_cli_grouped(n, buf));
}

static size_t width_of(const daemon_table *t, size_t column)
{
    size_t widest = 0;

    for (size_t r = 0; r < t->n_rows; r++) {
        size_t n = strlen(t->cell[r * t->n_columns + column]);
        if (n > widest) widest = n;
    }
    return widest;
}

px_code daemon_table_print(const daemon_table *t, FILE *out, px_err *e)
{
    size_t width[32];

    if (t->full || t->n_columns > 32) return px_fail(e, PX_ENOMEM, "table", "no memory for the table");
    for (size_t c = 0; c < t->n_columns; c++) width[c] = width_of(t, c);
    for (size_t r = 0; r < t->n_rows; r++)
        for (size_t c = 0; c < t->n_columns; c++) {
            int w = (int)width[c];
            fprintf(out, "%s%*s%s", c ? "  " : "", c ? w : -w, t->cell[r * t->n_columns + c],
                    c + 1 == t->n_columns ? "\n" : "");
        }
    return PX_OK;
}

void daemon_table_deinit(daemon_table *t)
{
    if (t->cell) px_del(t->a, t->cell, t->cap_rows * t->n_columns);
    *t = (daemon_table){0};
}
