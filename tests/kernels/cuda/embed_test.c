/* embed_test.c - rows of the table and rows by index on CUDA: the very bits of the CPU's definition. */
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/cuda/row_bench.h"

static const kern_dtype types[] = { KERN_F32, KERN_F16, KERN_BF16, KERN_Q8_0, KERN_Q4_0, KERN_Q4_1, KERN_W8, KERN_W4, KERN_Q8_M, KERN_Q8_H, KERN_FP8,
                                    KERN_Q2_HM, KERN_Q4_HL };
enum { TYPES = sizeof types / sizeof *types };

/* Panels of any bytes: every quant, every scale that fp16 has, rubbish in the padding. */
static void run_embed(const row_bench *b, kern_dtype t, uint32_t rows, uint32_t cols, uint32_t max, uint32_t live, uint64_t *seed)
{
    const uint32_t begin = (uint32_t)(test_rand(seed) % 1000), end = begin + rows - (rows > 3 ? (uint32_t)(test_rand(seed) % 3) : 0);
    kern_embed_args cpu = { .table = { .dtype = t, .rows = rows, .cols = cols }, .vocab_begin = begin, .vocab_end = end }, cuda;
    row_live n = row_live_get(b, max, live);
    uint64_t bytes;
    px_err e = {0};

    assert_int_equal(kern_panel_bytes(t, rows, cols, &bytes, &e), PX_OK);
    row_pair panels = row_pair_get(b, bytes), ids = row_pair_get(b, (size_t)max * 4), out = row_pair_get(b, (size_t)max * cols * 4);
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)panels.host.h)[i] = (uint8_t)test_rand(seed);
    for (uint32_t i = 0; i < live; i++)                      /* some before, some behind the slice */
        ((uint32_t *)ids.host.h)[i] = i % 5 == 4 ? UINT32_MAX : begin - 2 + (uint32_t)(test_rand(seed) % (rows + 4));
    row_pair_upload(b, &panels);
    row_pair_upload(b, &ids);
    cuda = cpu;
    cpu.rows = n.host, cpu.table.panels = panels.host, cpu.ids = ids.host, cpu.out = out.host;
    cuda.rows = n.dev, cuda.table.panels = panels.dev, cuda.ids = ids.dev, cuda.out = out.dev;
    if (b->cpu->embed(b->cpu_d, &cpu, &e) || b->ops->embed(b->d, &cuda, &e)) fail_msg("%s: %s", e.field, e.text);
    row_pair_same(b, &out, kern_dtype_get(t)->name);
    row_pair *all[] = { &panels, &ids, &out, &n.count };
    for (size_t i = 0; i < 4; i++) row_pair_put(b, all[i]);
}

static void rows_of_the_table_have_the_bits_of_the_definition(void **state)
{
    row_bench b = row_bench_open();
    uint64_t seed = 41;
    (void)state;
    for (uint32_t i = 0; i < (EFFORT_TSAN ? 1 : 4) * TYPES; i++) {
        const kern_dtype t = types[i % TYPES];
        const uint32_t block = kern_dtype_get(t)->block, max = 1 + (uint32_t)(test_rand(&seed) % 7);
        /* Odd numbers of blocks, short last groups; rows that do not fill a panel; once more columns than a block takes. */
        uint32_t cols = 32 * (1 + (uint32_t)(test_rand(&seed) % 12));
        if (i / TYPES == 3) cols = 1024 + 32;
        if (block == 1 && t != KERN_W8 && t != KERN_W4 && i / TYPES != 2) cols -= (uint32_t)(test_rand(&seed) % 31);
        run_embed(&b, t, 1 + (uint32_t)(test_rand(&seed) % 50), cols, max, i == 5 ? 0 : max - (max > 1 && i % 2), &seed);
        cuda_ops_next_schedule();
    }
    row_bench_close(&b);
}

static void run_gather(const row_bench *b, uint32_t n_in, uint32_t cols, uint32_t max, uint32_t live, uint64_t *seed)
{
    row_live n = row_live_get(b, max, live);
    row_pair in = row_pair_normal(b, (size_t)n_in * cols, 1.0f, seed), index = row_pair_get(b, (size_t)max * 4);
    row_pair out = row_pair_get(b, (size_t)max * cols * 4);
    px_err e = {0};

    for (uint32_t i = 0; i < live; i++) ((uint32_t *)index.host.h)[i] = (uint32_t)(test_rand(seed) % n_in);
    row_pair_upload(b, &index);
    kern_gather_args cpu = { .rows = n.host, .cols = cols, .in = in.host, .index = index.host, .out = out.host };
    kern_gather_args cuda = { .rows = n.dev, .cols = cols, .in = in.dev, .index = index.dev, .out = out.dev };
    if (b->cpu->gather(b->cpu_d, &cpu, &e)) fail_msg("%s: %s", e.field, e.text);
    if (live > 1) {                                          /* the CPU refuses it; here the row is NaN */
        ((uint32_t *)index.host.h)[1] = n_in;
        row_pair_upload(b, &index);
        memset((float *)out.host.h + cols, 0xff, (size_t)cols * 4);
    }
    if (b->ops->gather(b->d, &cuda, &e)) fail_msg("%s: %s", e.field, e.text);
    row_pair_same(b, &out, "gather");
    row_pair *all[] = { &in, &index, &out, &n.count };
    for (size_t i = 0; i < 4; i++) row_pair_put(b, all[i]);
}

static void rows_by_index_are_copied(void **state)
{
    row_bench b = row_bench_open();
    uint64_t seed = 42;
    (void)state;
    for (uint32_t i = 0; i < 12; i += EFFORT_TSAN ? 4 : 1) {
        const uint32_t max = 1 + (uint32_t)(test_rand(&seed) % 6);
        run_gather(&b, 1 + (uint32_t)(test_rand(&seed) % 9), i < 3 ? 1025 + i : 1 + (uint32_t)(test_rand(&seed) % 200), max, max - (i % 3 == 1), &seed);
        cuda_ops_next_schedule();
    }
    row_bench_close(&b);
}

static void wrong_arguments_are_named(void **state)
{
    row_bench b = row_bench_open();
    row_live n = row_live_get(&b, 2, 2);
    row_pair panels = row_pair_get(&b, 2048), ids = row_pair_get(&b, 8), out = row_pair_get(&b, 2 * 32 * 4);
    const kern_embed_args embed = { .rows = n.dev, .table = { .dtype = KERN_F32, .rows = 16, .cols = 32, .panels = panels.dev },
                                    .vocab_end = 16, .ids = ids.dev, .out = out.dev };
    const kern_gather_args gather = { .rows = n.dev, .cols = 32, .in = panels.dev, .index = ids.dev, .out = out.dev };

    (void)state;
#define REFUSED(op, code, name, change) CUDA_REFUSED(b, op, op, code, name, change)
    REFUSED(embed, PX_EUNSUP, "embed.table", a.table.dtype = KERN_Q6_K);
    REFUSED(embed, PX_EUNSUP, "embed.table", a.table.dtype = KERN_W4Z);
    REFUSED(embed, PX_EINTERNAL, "embed.table", a.table.panels.bytes--);
    REFUSED(embed, PX_ERANGE, "cols", a.table.dtype = KERN_Q4_0; a.table.cols = 31);
    REFUSED(embed, PX_EINTERNAL, "embed.ids", a.ids.bytes = 4);
    REFUSED(embed, PX_EINTERNAL, "embed.out", a.out.bytes -= 4);
    REFUSED(embed, PX_EINTERNAL, "embed.rows", a.rows.live.bytes = 0);
    REFUSED(gather, PX_EINTERNAL, "gather.index", a.index.bytes = 4);
    REFUSED(gather, PX_EINTERNAL, "gather.out", a.out.bytes -= 4);
    REFUSED(gather, PX_EINTERNAL, "gather.rows", a.rows.live.h = NULL);
    REFUSED(gather, PX_EUNSUP, "gather.cols", a.cols = UINT32_MAX);
    row_pair *all[] = { &panels, &ids, &out, &n.count };
    for (size_t i = 0; i < 4; i++) row_pair_put(&b, all[i]);
    row_bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_the_table_have_the_bits_of_the_definition),
        cmocka_unit_test(rows_by_index_are_copied),
        cmocka_unit_test(wrong_arguments_are_named),
    };
    kern_ftz_set();                                          /* as in a rank; the CPU insists */
    return cuda_ops_main(tests, sizeof tests / sizeof *tests, NULL);
}
