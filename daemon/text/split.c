#include "daemon/text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

/* The library frees without telling the size, so each block carries its own in front. */
enum { HEAD = 16 };
_Static_assert(HEAD >= sizeof(size_t) && HEAD % _Alignof(max_align_t) == 0, "blocks stay aligned behind their size");

static void *pcre_get(size_t n, void *a)
{
    size_t all;
    if (px_add(n, HEAD, &all)) return NULL;
    char *p = px_alloc_zero(a, all, 1, _Alignof(max_align_t));
    if (!p) return NULL;
    memcpy(p, &all, sizeof all);
    return p + HEAD;
}

static void pcre_put(void *p, void *a)
{
    size_t all;
    if (!p) return;
    memcpy(&all, (char *)p - HEAD, sizeof all);
    px_alloc_put(a, (char *)p - HEAD, all, 1);
}

px_code daemon_split_init(daemon_split *s, px_alloc *a)
{
    *s = (daemon_split){ .a = a };
    return PX_OK;
}

/* What stands for the part of a pattern at p, and its bytes; in_class: inside [ ], kept from part to part. */
static const char *part_of(const char *p, size_t n, bool *in_class, size_t *part, size_t *bytes)
{
    static const char space[] = "[" DAEMON_SPLIT_SPACE "]", other[] = "[^" DAEMON_SPLIT_SPACE "]";
    const char *end = NULL, *out = p;

    *part = *bytes = n > 1 && *p == '\\' ? 2 : 1;
    if (*part == 2 && p[1] == 's') {
        out = *in_class ? DAEMON_SPLIT_SPACE : space;
        *bytes = strlen(out);
    } else if (*part == 2 && p[1] == 'S' && !*in_class) {
        out = other;
        *bytes = sizeof other - 1;
    } else if (*part == 2 && p[1] == 'Q') {
        end = memmem(p, n, "\\E", 2);
        *part = *bytes = end ? (size_t)(end - p) + 2 : n;
    } else if (*in_class && n > 1 && *p == '[' && p[1] == ':' && (end = memmem(p, n, ":]", 2))) {
        *part = *bytes = (size_t)(end - p) + 2;
    } else if (!*in_class && *p == '[') {
        size_t i = 1 + (n > 1 && p[1] == '^');
        *in_class = true;
        *part = *bytes = i + (i < n && p[i] == ']');             /* the first of a class is one of it */
    } else if (*in_class && *p == ']') {
        *in_class = false;
    }
    return out;
}

/* The pattern with white space spelled out, in out (NULL: only counted); its bytes.  *from, in bytes of the result, becomes the place
 * in the pattern. */
static size_t spelled_out(const char *pattern, size_t bytes, char *out, size_t *from)
{
    size_t at = 0, n, part, place = bytes;
    bool in_class = false;

    for (size_t i = 0; i < bytes; i += part) {
        const char *p = part_of(pattern + i, bytes - i, &in_class, &part, &n);
        if (out) memcpy(out + at, p, n);
        if (*from >= at && *from < at + n) place = p == pattern + i ? i + (*from - at) : i;
        at += n;
    }
    *from = place;
    return at;
}

px_code daemon_split_add(daemon_split *s, const char *pattern, size_t bytes, px_err *e)
{
    px_code rc = PX_OK;
    pcre2_general_context *general = NULL;
    pcre2_compile_context *compile = NULL;
    int why = PCRE2_ERROR_NOMEMORY;
    PCRE2_SIZE at = 0;
    char *text = NULL;
    size_t n = 0, ignored = 0;
    PCRE2_UCHAR words[128];
    char field[40];

    snprintf(field, sizeof field, "pre.stages[%zu]", s->n);
    if (s->n == DAEMON_SPLIT_STAGES)
        return px_fail(e, PX_ERANGE, field, "at most %d stages", DAEMON_SPLIT_STAGES);
    if (bytes == 0 || bytes > DAEMON_SPLIT_PATTERN)
        return px_fail(e, PX_ERANGE, field, "a pattern of %zu bytes; 1 to %d", bytes, DAEMON_SPLIT_PATTERN);

    n = spelled_out(pattern, bytes, NULL, &ignored);
    if ((text = px_new(s->a, char, n)) && (general = pcre2_general_context_create(pcre_get, pcre_put, s->a)) &&
        (compile = pcre2_compile_context_create(general))) {
        spelled_out(pattern, bytes, text, &ignored);
        s->code[s->n] = pcre2_compile((PCRE2_SPTR)text, n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &why,
                                      &at, compile);
    }
    if (s->code[s->n]) {
        pcre2_jit_compile(s->code[s->n], PCRE2_JIT_COMPLETE);     /* no executable memory: the interpreter serves */
        s->n++;
    } else if (why == PCRE2_ERROR_NOMEMORY || why == PCRE2_ERROR_HEAP_FAILED) {
        rc = px_fail(e, PX_ENOMEM, field, "compiling the pattern");
    } else {
        pcre2_get_error_message(why, words, sizeof words);
        spelled_out(pattern, bytes, NULL, &at);
        rc = px_fail(e, PX_ECORRUPT, field, "%s at byte %zu of the pattern", (char *)words, (size_t)at);
    }
    pcre2_compile_context_free(compile);
    pcre2_general_context_free(general);
    if (text) px_del(s->a, text, n);
    return rc;
}

void daemon_split_deinit(daemon_split *s)
{
    for (size_t i = 0; i < s->n; i++) pcre2_code_free(s->code[i]);
    *s = (daemon_split){0};
}

px_code daemon_walk_init(daemon_walk *w, const daemon_split *s, px_alloc *a, size_t bytes, daemon_split_fn *fn,
                         void *ctx, px_err *e)
{
    px_code rc;

    *w = (daemon_walk){ .s = s, .a = a, .fn = fn, .ctx = ctx };
    if (!(w->general = pcre2_general_context_create(pcre_get, pcre_put, a)) ||
        !(w->match = pcre2_match_context_create(w->general)))
        goto no_memory;
    for (size_t i = 0; i < s->n; i++)
        if (!(w->data[i] = pcre2_match_data_create(1, w->general))) goto no_memory;
    /* A run of white space is gone back over once at most: a few steps a byte.  Anything beyond is a bad pattern. */
    uint64_t steps = 1000000 + 16 * (uint64_t)bytes;
    pcre2_set_match_limit(w->match, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    pcre2_set_depth_limit(w->match, 10000);
    pcre2_set_heap_limit(w->match, 65536);           /* KiB */
    return PX_OK;

no_memory:
    rc = px_fail(e, PX_ENOMEM, "text", "matching %zu bytes", bytes);
    daemon_walk_deinit(w);
    return rc;
}

/* One match at or after `from`: PX_ENOTFOUND (e untouched) if there is none. */
static px_code next_match(daemon_walk *w, size_t stage, const char *p, size_t n, size_t from, size_t *begin,
                          size_t *end, px_err *e)
{
    PCRE2_UCHAR words[128];
    /* NO_UTF_CHECK: the text was checked as a whole; checking it again at each match would make this quadratic. */
    int rc = pcre2_match(w->s->code[stage], (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, w->data[stage],
                         w->match);
    if (rc == PCRE2_ERROR_NOMATCH) return PX_ENOTFOUND;
    if (rc == PCRE2_ERROR_NOMEMORY) return px_fail(e, PX_ENOMEM, "text", "matching at byte %zu", from);
    if (rc < 0) {
        pcre2_get_error_message(rc, words, sizeof words);
        return px_fail(e, PX_ERANGE, "text", "stage %zu of the pre-tokenizer gave up at byte %zu of a part: %s", stage,
                       from, (char *)words);
    }
    const PCRE2_SIZE *where = pcre2_get_ovector_pointer(w->data[stage]);
    if (where[0] < from || where[1] <= where[0] || where[1] > n)     /* \K within a look-around can do that */
        return px_fail(e, PX_ECORRUPT, "pre.stages", "stage %zu matches outside of what it was given", stage);
    *begin = where[0];
    *end = where[1];
    return PX_OK;
}

/* Depth: the number of stages. */
static px_code run_stage(daemon_walk *w, size_t stage, const char *p, size_t n, px_err *e)
{
    px_code rc;
    size_t at = 0, begin, end;

    if (n == 0) return PX_OK;
    if (stage == w->s->n) return w->fn(w->ctx, p, n, e);
    while (at < n) {
        rc = next_match(w, stage, p, n, at, &begin, &end, e);
        if (rc == PX_ENOTFOUND) break;
        if (rc || (rc = run_stage(w, stage + 1, p + at, begin - at, e)) ||
            (rc = run_stage(w, stage + 1, p + begin, end - begin, e)))
            return rc;
        at = end;
    }
    return run_stage(w, stage + 1, p + at, n - at, e);
}

px_code daemon_walk_run(daemon_walk *w, const char *p, size_t n, px_err *e)
{
    return run_stage(w, 0, p, n, e);
}

void daemon_walk_deinit(daemon_walk *w)
{
    for (size_t i = DAEMON_SPLIT_STAGES; i-- > 0; ) pcre2_match_data_free(w->data[i]);
    pcre2_match_context_free(w->match);
    pcre2_general_context_free(w->general);
    *w = (daemon_walk){0};
}
