/* options.h - the command line of a subcommand as a table: parsing, --help and messages come from it.
 * Layer: daemon/cli.  `--name VALUE` and `--name=VALUE`; `--` ends the options; names are never abbreviated. */
#ifndef DAEMON_OPTIONS_H
#define DAEMON_OPTIONS_H

#include "daemon/cli/cli.h"
#include "proto/config/config.h"

typedef enum daemon_option_kind {
    DAEMON_OPT_FLAG,       /* bool */
    DAEMON_OPT_TEXT,       /* const char * */
    DAEMON_OPT_U32,        /* uint32_t */
    DAEMON_OPT_U64,        /* uint64_t */
    DAEMON_OPT_I32,        /* int32_t */
    DAEMON_OPT_F32,        /* float; finite */
    DAEMON_OPT_SECONDS,    /* px_time_us-like int64_t: seconds with fractions, as microseconds; more than 0 */
    DAEMON_OPT_ADDRESS,    /* const char *: HOST:PORT */
    DAEMON_OPT_TEXTS       /* daemon_texts: may come several times */
} daemon_option_kind;

#define DAEMON_MAX_TEXTS 64u
typedef struct daemon_texts { const char *v[DAEMON_MAX_TEXTS]; size_t n; } daemon_texts;

typedef struct daemon_option {
    const char        *name;      /* without dashes */
    daemon_option_kind kind;
    const char        *value;     /* how help writes the value; NULL for a flag */
    const char        *doc;
    void              *to;        /* what kind says */
    bool              *given;     /* set when it comes; may be NULL */
} daemon_option;

typedef struct daemon_command {
    const char *name;             /* "plan" */
    const char *line;             /* what follows the name in the usage line */
    const char *about;            /* paragraphs for --help */
    const daemon_option *option; size_t n_options;
    proto_config *config;         /* configuration keys that are options too; NULL: none */
    const char *const *key;       /* NULL-terminated list of them */
    size_t least, most;           /* number of other arguments */
    const char **arg;             /* (most) they go here */
    size_t n_args;                /* out */
} daemon_command;

/* -1: go on; else the exit code (0: help was asked for and printed). */
int daemon_options_parse(daemon_command *c, int argc, char **argv);
/* "phalanx NAME: ..." and a hint to --help on standard error; returns DAEMON_EXIT_USAGE. */
int daemon_options_complain(const daemon_command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One whole number, nothing around it. */
bool daemon_parse_u64(const char *s, uint64_t max, uint64_t *out);
bool daemon_parse_f32(const char *s, float *out);
/* Ids as "1,2,3", separated by commas and white space, or as JSON: [1, 2] or {"ids": [1, 2]}.  Put with px_del, n.
 * Errors: PX_EINVAL (e->field is `field`, the text says where), PX_ENOMEM. */
px_code daemon_parse_ids(px_alloc *a, const char *field, const char *text, size_t bytes, uint32_t **ids, size_t *n,
                         px_err *e);

#endif
