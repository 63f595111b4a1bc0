/* split.h - the pre-tokenizer: stages of regular expressions that cut a text into pieces for the merges.
 * Layer: daemon/text.  A stage cuts its input at every match: matches and the text between them are parts, and each
 * part is the whole text of the next stage (a look-ahead sees the part's end as the end of the text).
 * The compiled stages are immutable: share freely; a walk belongs to one call. */
#ifndef DAEMON_SPLIT_H
#define DAEMON_SPLIT_H

#include "proto/base/alloc.h"

enum { DAEMON_SPLIT_STAGES = 8, DAEMON_SPLIT_PATTERN = 4096 };       /* most stages; most bytes of a pattern */

/* White space as Unicode has it, inside a class; the library's \s counts U+180E too, which is none since Unicode 6.3. */
#define DAEMON_SPLIT_SPACE "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

typedef struct daemon_split {
    px_alloc *a;                                /* borrowed */
    void     *code[DAEMON_SPLIT_STAGES];        /* pcre2_code, owned */
    size_t    n;
} daemon_split;

px_code daemon_split_init(daemon_split *s, px_alloc *a);
/* Add a stage; white space in it is DAEMON_SPLIT_SPACE, but for \S inside a class.  Errors: PX_ECORRUPT (pattern; e->text has
 * the library's words and the offset), PX_ERANGE (too many, too long), PX_ENOMEM; e->field "pre.stages[i]". */
px_code daemon_split_add(daemon_split *s, const char *pattern, size_t bytes, px_err *e);
void    daemon_split_deinit(daemon_split *s);

typedef px_code daemon_split_fn(void *ctx, const char *p, size_t n, px_err *e);
typedef struct daemon_walk {
    const daemon_split *s;
    px_alloc *a;
    void     *general, *match, *data[DAEMON_SPLIT_STAGES];     /* pcre2 contexts and match data, owned */
    daemon_split_fn *fn;
    void     *ctx;
} daemon_walk;

/* For texts of up to `bytes` bytes: the bound on the matcher's steps grows with it. */
px_code daemon_walk_init(daemon_walk *w, const daemon_split *s, px_alloc *a, size_t bytes, daemon_split_fn *fn,
                         void *ctx, px_err *e);
/* Hand the pieces of p (valid UTF-8) to fn in order; what fn fails with is returned.
 * Errors: PX_ERANGE (a limit of the matcher was hit; e->field "text"), PX_ECORRUPT (a pattern that moves its match's
 * start), PX_ENOMEM. */
px_code daemon_walk_run(daemon_walk *w, const char *p, size_t n, px_err *e);
void    daemon_walk_deinit(daemon_walk *w);

#endif
