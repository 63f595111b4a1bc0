#include "shard/plan/grid.h"

#include <stdarg.h>
#include <string.h>

#include "shard/plan/advice.h"

px_code shard_grid_init(shard_grid *g, px_alloc *a, size_t rows, size_t cols, px_err *e)
{
    size_t n;

    *g = (shard_grid){ .a = a, .rows = rows, .cols = cols };
    if (cols && cols <= SHARD_GRID_COLS && !px_mul(rows, cols, &n) && (g->cell = px_alloc_zero(a, n, SHARD_GRID_CELL, 1))) return PX_OK;
    return px_fail(e, PX_ENOMEM, "table", "no memory for %zu rows of %zu", rows, cols);
}

void shard_grid_put(shard_grid *g, const char *fmt, ...)
{
    va_list ap;

    if (g->at == g->rows * g->cols) return;
    va_start(ap, fmt);
    vsnprintf(g->cell[g->at++], SHARD_GRID_CELL, fmt, ap);
    va_end(ap);
}

void shard_grid_bytes(shard_grid *g, uint64_t n)
{
    char buf[32];
    shard_grid_put(g, "%s", shard_grouped(n, buf));
}

void shard_grid_print(shard_grid *g, FILE *out)
{
    size_t width[SHARD_GRID_COLS] = { 0 };

    for (size_t i = 0; i < g->at; i++) {
        size_t n = strlen(g->cell[i]);
        if (n > width[i % g->cols]) width[i % g->cols] = n;
    }
    for (size_t i = 0; i < g->at; i++) {
        size_t c = i % g->cols;
        fprintf(out, c ? "  %*s" : "%-*s", (int)width[c], g->cell[i]);
        if (c + 1 == g->cols) fputc('\n', out);
    }
    px_alloc_put(g->a, g->cell, g->rows * g->cols, SHARD_GRID_CELL);
    *g = (shard_grid){ 0 };
}
