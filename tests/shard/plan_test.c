/* The whole plan: lines that are carved, verdicts, single changes, the sweep, reports; free memory as the host tells it. */
#include "shard/plan/fit.h"
#include "shard/plan/measure.h"
#include "shard/plan/report.h"
#include "shard/store/models.h"
#include "shard/store/pack.h"
#include "tests/shard/image.h"
#include "tests/testlib.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define GIB (1ull << 30)

static px_heap heap;

typedef struct made { shard_arch m; shard_types file, stored; shard_plan_model model; } made;

static px_code make(made *x, px_alloc *a, const char *name, const char *format, px_err *e)
{
    const shard_model_text *text = shard_model_find(name);
    kern_dtype dtype;
    px_err none = { 0 };
    px_code rc;

    memset(x, 0, sizeof *x);
    if ((rc = shard_model_parse(&x->m, &dtype, text->name, text->text, text->bytes, e)) ||
        (rc = shard_types_format(&x->file, a, &x->m, format, e)))
        return rc;
    x->model = (shard_plan_model){ .m = &x->m, .file = &x->file, .format = format, .store = shard_types_served };
    if (!(rc = shard_types_served(&x->stored, a, &x->m, &x->file, &none))) x->model.stored = &x->stored;
    if (rc == PX_ENOMEM) {
        shard_types_deinit(&x->file);
        *e = none;
        return rc;
    }
    return PX_OK;
}

static void drop(made *x)
{
    shard_types_deinit(&x->stored);
    shard_types_deinit(&x->file);
}

static shard_deploy on_cuda(uint32_t ranks, uint64_t memory)
{
    shard_deploy d;
    shard_deploy_init(&d);
    d.ranks = ranks;
    d.backend = SHARD_ON_CUDA;
    d.memory = memory;
    return d;
}

static void a_carved_rank_is_what_the_sizing_function_says(void **state)
{
    shard_demand demand = { .kv_dtype = KERN_KV_F16, .kv_tokens = 5000, .kv_block = 32, .max_sequences = 8, .token_budget = 64, .threads = 2 };
    shard_deploy d;
    shard_plan p;
    made x;
    px_err e = { 0 };

    (void)state;
    shard_deploy_init(&d);
    d.ranks = 3;
    d.transport = 1;
    d.kv_tokens = 5000, d.page = 32, d.max_sequences = 8, d.token_budget = 64, d.threads = 2;
    assert_int_equal(make(&x, &heap.a, "smollm2-135m", "q8_0", &e), PX_OK);
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_true(p.carved && !p.known && p.fits && p.load == SHARD_LOAD_SHARD_MMAP);
    for (uint32_t r = 0; r < 3; r++) {
        shard_plan_rank *k = &p.rank[r];
        shard_rank_bytes b;
        uint64_t sum = 0;
        assert_int_equal(shard_rank_bytes_of(&x.m, &x.stored, &p.split, r, &demand, 1, &b, &e), PX_OK);
        for (shard_line l = 0; l < SHARD_LINE_CONTEXT; l++) sum += k->line[l];
        assert_int_equal(sum, b.total);
        assert_int_equal(k->need, b.total + k->line[SHARD_LINE_CONTEXT]);
        assert_int_equal(k->capacity.block_bytes, b.kv_block_bytes);
        assert_int_equal(k->line[SHARD_LINE_KV], b.kv_pool);
        assert_true(k->low < k->need && k->need < k->high);
    }
    assert_int_equal(p.stored_bytes, p.rank[0].stored.stored + p.rank[1].stored.stored + p.rank[2].stored.stored);
    assert_int_equal(p.host_need, p.rank[0].need + p.rank[1].need + p.rank[2].need);
    shard_plan_deinit(&p);
    /* what the CPU does not serve: said, and planned all the same */
    d.kv_dtype = "fp8";
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_false(p.carved);
    assert_string_equal(p.why_not.field, "kv.dtype");
    shard_plan_deinit(&p);
    drop(&x);
    d.kv_dtype = "f16";
    assert_int_equal(make(&x, &heap.a, "gemma-3-27b", "bf16", &e), PX_OK);
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_false(p.carved);
    assert_string_equal(p.why_not.field, "family");
    shard_plan_deinit(&p);
    drop(&x);
    assert_int_equal(make(&x, &heap.a, "qwen3-8b", "bf16", &e), PX_OK);           /* norms of heads are carved like any other */
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_true(p.carved);
    shard_plan_deinit(&p);
    drop(&x);
}

static void the_largest_pool_is_exact(void **state)
{
    made x;
    shard_plan p;
    shard_deploy d = on_cuda(3, 24 * GIB);
    px_err e = { 0 };

    (void)state;
    assert_int_equal(make(&x, &heap.a, "qwen2.5-7b", "q4_k_m", &e), PX_OK);      /* K-quants: 8, 8, 6 and 6 heads on 4 ranks, uneven on 3 */
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_true(p.fits && p.known);
    d.kv_tokens = (uint32_t)p.kv_tokens_fit;
    shard_plan_deinit(&p);
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_true(p.fits && p.kv_tokens_fit == d.kv_tokens);
    shard_plan_deinit(&p);
    d.kv_tokens += d.page;
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_false(p.fits);
    assert_true(p.kv_tokens_fit == d.kv_tokens - d.page);
    shard_plan_deinit(&p);
    /* the same on a host that its ranks share */
    d.backend = SHARD_ON_CPU;
    d.transport = 1;
    d.kv_tokens = 4096;
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_true(p.fits && p.ranks_per_host == 3);
    d.kv_tokens = (uint32_t)p.kv_tokens_fit + d.page;
    shard_plan_deinit(&p);
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_false(p.fits);
    shard_plan_deinit(&p);
    drop(&x);
}

static void names_the_change_that_makes_it_fit(void **state)
{
    shard_change c[SHARD_N_LEVERS];
    shard_deploy d = on_cuda(8, 80 * GIB);
    shard_plan p;
    made x;
    px_err e = { 0 };

    (void)state;
    assert_int_equal(make(&x, &heap.a, "llama-3-70b", "bf16", &e), PX_OK);
    assert_int_equal(shard_class_parse("chat:48:1500+400:3000+800", &d.cls[0], &e), PX_OK);
    d.n_classes = 1;
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_true(p.memory_fits && !p.p95_fits && !p.fits);              /* the pool is the default's 16384 tokens */
    assert_int_equal(shard_fit_changes(&p, c, &e), PX_OK);
    assert_true(c[SHARD_LEVER_CONTEXT].found);
    assert_int_equal(c[SHARD_LEVER_CONTEXT].number, 48 * 119 * 16);
    assert_true(c[SHARD_LEVER_CONCURRENCY].found && c[SHARD_LEVER_CONCURRENCY].number < 16);
    assert_false(c[SHARD_LEVER_RANKS].found || c[SHARD_LEVER_FORMAT].found);
    shard_plan_deinit(&p);
    d = on_cuda(1, 80 * GIB);
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_OK);
    assert_false(p.memory_fits);
    assert_int_equal(shard_fit_changes(&p, c, &e), PX_OK);
    assert_true(c[SHARD_LEVER_RANKS].found && c[SHARD_LEVER_RANKS].number == 2);
    assert_true(c[SHARD_LEVER_FORMAT].found);
    assert_string_equal(c[SHARD_LEVER_FORMAT].word, "q6_k");           /* the widest that leaves room on one device */
    assert_false(c[SHARD_LEVER_KV_DTYPE].found || c[SHARD_LEVER_CONTEXT].found || c[SHARD_LEVER_CONCURRENCY].found);
    shard_plan_deinit(&p);
    drop(&x);
}

static void refuses_what_cannot_be(void **state)
{
    static const struct { size_t at; uint32_t v; const char *field; px_code code; } bad[] = {
        { offsetof(shard_deploy, ranks), 7, "ranks", PX_OK }, { offsetof(shard_deploy, ranks), 65, "ranks", PX_ERANGE },
        { offsetof(shard_deploy, hosts), 0, "hosts", PX_ERANGE }, { offsetof(shard_deploy, hosts), 9, "hosts", PX_ERANGE },
        { offsetof(shard_deploy, page), 0, "kv.block", PX_ERANGE }, { offsetof(shard_deploy, kv_tokens), 0, "kv.tokens", PX_ERANGE },
        { offsetof(shard_deploy, threads), 0, "threads", PX_ERANGE }, { offsetof(shard_deploy, token_budget), 0, "token_budget", PX_ERANGE },
        { offsetof(shard_deploy, max_sequences), 0, "max_sequences", PX_ERANGE },
        { offsetof(shard_deploy, headroom_percent), 91, "headroom", PX_ERANGE },
        { offsetof(shard_deploy, max_sequences), UINT32_MAX, "max_sequences", PX_ERANGE },
    };
    made x;
    px_err e = { 0 };

    (void)state;
    assert_int_equal(make(&x, &heap.a, "llama-2-70b", "bf16", &e), PX_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        shard_deploy d = on_cuda(8, 0);
        shard_plan p;
        memcpy((char *)&d + bad[i].at, &bad[i].v, 4);
        px_err_clear(&e);
        assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), bad[i].code);
        if (bad[i].code) assert_string_equal(e.field, bad[i].field);
        else shard_plan_deinit(&p);
    }
    shard_deploy d = on_cuda(8, 0);
    shard_plan p;
    d.kv_dtype = "f15";
    assert_int_equal(shard_plan_make(&p, &heap.a, &x.model, &d, &e), PX_ENOTFOUND);
    drop(&x);
}

/* Every built-in model, every report; and how long it takes. */
static void every_model_is_planned_and_told(void **state)
{
    char *text = NULL;
    size_t bytes = 0;
    double slowest = 0;

    (void)state;
    for (size_t i = 0; i < shard_n_models; i++) {
        struct timespec t0, t1;
        shard_change c[SHARD_N_LEVERS];
        shard_deploy d = on_cuda(4, 24 * GIB);
        json_t *doc;
        shard_plan p;
        made x;
        px_err e = { 0 };
        assert_int_equal(make(&x, &heap.a, shard_models[i].name, "q4_k_m", &e), PX_OK);
        if (x.m.n_head % 4 && x.m.n_head < 16) d.ranks = 2;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
        if (shard_plan_make(&p, &heap.a, &x.model, &d, &e)) fail_msg("%s: %s: %s", shard_models[i].name, e.field, e.text);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
        double s = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        if (s > slowest) slowest = s;
        assert_int_equal(shard_fit_changes(&p, c, &e), PX_OK);
        FILE *f = open_memstream(&text, &bytes);
        assert_int_equal(shard_report_table(&p, c, f, &e), PX_OK);
        shard_report_explain(&p, f);
        shard_report_svg(&p, f);
        fclose(f);
        assert_non_null(strstr(text, shard_models[i].name));
        assert_non_null(strstr(text, "verdict: "));
        assert_non_null(strstr(text, "</svg>"));
        free(text);
        assert_int_equal(shard_report_json(&p, c, false, &doc, &e), PX_OK);
        assert_int_equal(json_array_size(json_object_get(doc, "per_rank")), d.ranks);
        json_decref(doc);
        shard_plan_deinit(&p);
        drop(&x);
    }
    print_message("slowest plan: %.2f ms\n", slowest * 1e3);
    assert_true(slowest < 0.1);                    /* promised: 10 ms; busy and sanitized machines are slower */
}

static void the_sweep_knows_what_nothing_beats(void **state)
{
    static const uint32_t ranks[] = { 1, 2, 4, 0 };
    static const char *const formats[] = { "bf16", "q8_0", "q4_k_m", NULL }, *const kv[] = { "f16", "fp8", NULL };
    shard_deploy d = on_cuda(1, 40 * GIB);
    shard_sweep s;
    made x;
    px_err e = { 0 };
    size_t n = 0, fits = 0;

    (void)state;
    assert_int_equal(make(&x, &heap.a, "llama-2-13b", "bf16", &e), PX_OK);
    assert_int_equal(shard_sweep_make(&s, &heap.a, &x.model, &d, ranks, formats, kv, &e), PX_OK);
    assert_int_equal(s.n, 3 * 3 * 2);
    for (size_t i = 0; i < s.n; i++) {
        fits += s.row[i].fits;
        n += s.row[i].pareto;
        assert_true(s.row[i].fits || !s.row[i].pareto);
        if (s.row[i].fits) assert_true(s.row[i].max_context == 4096 || s.row[i].max_sequences == 0);
    }
    assert_true(n > 2 && fits >= n);
    /* more ranks of the same hold more */
    assert_true(s.row[0].ranks == 1 && s.row[2].ranks == 2 && s.row[2].kv_tokens > s.row[0].kv_tokens);
    assert_true(s.row[1].kv_tokens / 2 >= s.row[0].kv_tokens - 16 && s.row[1].kv_tokens / 2 <= s.row[0].kv_tokens + 16);
    shard_sweep_deinit(&s);
    drop(&x);
}

static const char *under(const char *root, const char *name, const char *text)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s%s", root, name);
    for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0755);
        *p = '/';
    }
    assert_int_equal(px_write_file(path, text, strlen(text), false, NULL), PX_OK);
    return path;
}

static void measures_what_is_resident(void **state)
{
    char root[512];
    shard_resident x;
    px_err e = { 0 };

    (void)state;
    snprintf(root, sizeof root, "%s/process", test_tmpdir());
    mkdir(root, 0755);
    assert_int_equal(shard_measure_resident(root, &x, &e), PX_ENOTFOUND);
    px_err_clear(&e);
    under(root, "/proc/self/status", "Name:\tRssAnon\nVmRSS:\t  9 kB\nRssAnon:\t     100 kB\nRssFile:\t      20 kB\n");
    assert_int_equal(shard_measure_resident(root, &x, &e), PX_ECORRUPT);
    assert_string_equal(e.field, "RssShmem");
    assert_true(x.anonymous == 0 && x.files == 0);                     /* all, or nothing */
    under(root, "/proc/self/status", "Name:\tRssAnon\nVmRSS:\t123 kB\nRssAnon:\t     100 kB\nRssFile:\t      20 kB\nRssShmem:\t 3 kB\n");
    assert_int_equal(shard_measure_resident(root, &x, &e), PX_OK);
    assert_true(x.anonymous == 102400 && x.files == 20480 && x.shared == 3072);
    assert_int_equal(shard_measure_resident("", &x, &e), PX_OK);       /* of this very process */
    assert_true(x.anonymous > 0 && x.files > 0);
}

static void measures_what_is_free(void **state)
{
    char root[512];
    shard_free_memory f;
    px_err e = { 0 };

    (void)state;
    snprintf(root, sizeof root, "%s/root", test_tmpdir());
    mkdir(root, 0755);
    assert_int_equal(shard_measure_free(root, &f, &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "MemAvailable");
    under(root, "/proc/meminfo", "MemTotal: 99 kB\nMemFree: 7 kB\n");
    px_err_clear(&e);
    assert_int_equal(shard_measure_free(root, &f, &e), PX_ECORRUPT);
    under(root, "/proc/meminfo", "MemTotal:  4000 kB\nMemAvailable:    1000 kB\n");
    assert_int_equal(shard_measure_free(root, &f, &e), PX_OK);
    assert_true(f.bytes == 1024000 && f.cgroup == UINT64_MAX);
    /* the limit of a group around ours is the tighter one; file pages can be dropped */
    under(root, "/proc/self/cgroup", "0::/a/b\n");
    under(root, "/sys/fs/cgroup/a/memory.max", "900000\n");
    under(root, "/sys/fs/cgroup/a/memory.current", "700000\n");
    under(root, "/sys/fs/cgroup/a/memory.stat", "anon 1\nfile 9\ninactive_file 100000\nactive_file 50000\nslab 5\n");
    under(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    under(root, "/sys/fs/cgroup/a/b/memory.current", "600000\n");
    assert_int_equal(shard_measure_free(root, &f, &e), PX_OK);
    assert_int_equal(f.bytes, 900000 - 700000 + 150000);
    under(root, "/sys/fs/cgroup/a/b/memory.max", "500000\n");          /* full, and nothing to drop */
    assert_int_equal(shard_measure_free(root, &f, &e), PX_OK);
    assert_int_equal(f.bytes, 0);
    under(root, "/proc/self/cgroup", "5:cpu:/\n9:memory:/c\n");        /* version 1 */
    under(root, "/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "800000\n");
    under(root, "/sys/fs/cgroup/memory/c/memory.usage_in_bytes", "300000\n");
    assert_int_equal(shard_measure_free(root, &f, &e), PX_OK);
    assert_int_equal(f.bytes, 500000);
    under(root, "/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(shard_measure_free(root, &f, &e), PX_OK);
    assert_int_equal(f.bytes, 1024000);
    under(root, "/proc/self/cgroup", "0::/../../x\n");
    assert_int_equal(shard_measure_free(root, &f, &e), PX_OK);
    assert_int_equal(shard_measure_free("", &f, &e), PX_OK);            /* this very host */
    assert_true(f.bytes > 0 && f.bytes <= f.available);
}

static px_code plan_and_drop(px_alloc *a, px_err *e)
{
    shard_change c[SHARD_N_LEVERS];
    shard_deploy d = on_cuda(4, 2 * GIB);
    shard_plan p;
    made x;
    px_code rc;

    if ((rc = make(&x, a, "tinyllama-1.1b", "bf16", e))) return rc;
    if (!(rc = shard_plan_make(&p, a, &x.model, &d, e))) {
        FILE *f = fopen("/dev/null", "w");
        if (!(rc = shard_fit_changes(&p, c, e))) rc = shard_report_table(&p, c, f, e);
        fclose(f);
        shard_plan_deinit(&p);
    }
    drop(&x);
    return rc;
}

static px_code sweep_and_drop(px_alloc *a, px_err *e)
{
    static const uint32_t ranks[] = { 1, 2, 0 };
    static const char *const formats[] = { "bf16", "q8_0", NULL }, *const kv[] = { "f16", NULL };
    shard_deploy d = on_cuda(1, 0);
    shard_sweep s;
    made x;
    px_code rc;

    if ((rc = make(&x, a, "tinyllama-1.1b", "bf16", e))) return rc;
    if (!(rc = shard_sweep_make(&s, a, &x.model, &d, ranks, formats, kv, e))) {
        FILE *f = fopen("/dev/null", "w");
        rc = shard_report_sweep(&s, &d, f, e);
        fclose(f);
        shard_sweep_deinit(&s);
    }
    drop(&x);
    return rc;
}

static void survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(plan_and_drop);
    test_oom_sweep(sweep_and_drop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_carved_rank_is_what_the_sizing_function_says), cmocka_unit_test(the_largest_pool_is_exact),
        cmocka_unit_test(names_the_change_that_makes_it_fit), cmocka_unit_test(refuses_what_cannot_be),
        cmocka_unit_test(every_model_is_planned_and_told), cmocka_unit_test(the_sweep_knows_what_nothing_beats),
        cmocka_unit_test(measures_what_is_resident),
        cmocka_unit_test(measures_what_is_free), cmocka_unit_test(survives_every_oom),
    };
    px_heap_init(&heap, "test");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
