/* pre.h - the known pre-tokenizers: what a name or an expression of a model's files stands for.
 * Layer: daemon/text, private to the room but for the names.  Static tables. */
#ifndef DAEMON_PRE_H
#define DAEMON_PRE_H

#include "daemon/text/split.h"

typedef struct daemon_pre {
    const char *name;
    const char *stage[DAEMON_SPLIT_STAGES + 1];      /* ends with NULL */
    bool        ignore_merges, add_bos, nfc;         /* what a GGUF means by the name; no other key of the file says it */
} daemon_pre;

/* As tokenizer.ggml.pre names it; NULL: not known. */
const daemon_pre *daemon_pre_by_name(const char *name, size_t bytes);
void daemon_pre_names(char *buf, size_t cap);

/* An expression of a tokenizer.json -> our stage for it: white space as the makers' engine counts it, numerals too where the
 * expression is known, else the expression itself.  NULL: it uses something that the makers' engine understands
 * otherwise; *what is then that. */
const char *daemon_pre_stage(const char *expression, const char **what);
/* Stages of the tokenizers library's own steps. */
extern const char *const daemon_pre_digit, *const daemon_pre_digits, *const daemon_pre_gpt2;
/* The name of a list of stages that ends with NULL; "custom" if it has none. */
const char *daemon_pre_name(const char *const *stage);

#endif
