/* err.h - the one error object of every process.
 * Layer: proto (sees nothing).  Plain values: copy freely, owns nothing.
 * Whoever first knows the cause fills it, once; callers add only what they alone know (file, rank, host). */
#ifndef PROTO_ERR_H
#define PROTO_ERR_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum px_code {
    PX_OK = 0,
    PX_ENOMEM,      /* an allocator said no */
    PX_EINVAL,      /* a value that is wrong by itself: syntax, type */
    PX_ERANGE,      /* a value outside its range */
    PX_EMISMATCH,   /* two places disagree: found, expected */
    PX_ECORRUPT,    /* bytes that cannot be what they claim to be; a digest that differs */
    PX_ENOTFOUND,
    PX_EEXIST,
    PX_EIO,         /* the operating system said no; text holds strerror */
    PX_EUNSUP,      /* valid, but not served yet; text says what is */
    PX_ETIMEOUT,    /* a deadline passed */
    PX_EPEER,       /* the other side of a socket or a collective is gone */
    PX_EBUSY,       /* full, locked, in use */
    PX_ECANCELLED,
    PX_EINTERNAL,   /* a bug, or a non-finite number in the model */
    PX_EDEVICE,     /* a GPU or its driver said no; text holds the runtime's name of the error */
    PX_N_CODES
} px_code;

typedef struct px_err {
    px_code  code;
    int      rank;            /* -1: not of a rank */
    int      line;            /* in src */
    const char *src;          /* __FILE__ of whoever filled it; static storage */
    char     host[64];
    char     file[256];       /* data file that the error is about, "" if none; with :line:column where known */
    char     field[96];       /* configuration key, tensor, metadata key, message field */
    char     found[128];
    char     expected[128];
    char     text[256];       /* one sentence, no newline */
} px_err;

/* Fill *e (if e is not NULL and still empty: e->code PX_OK) and return code.  Strings are cut on a character; what is
 * not UTF-8 and control characters become '?'. */
px_code px_err_set(px_err *e, px_code code, const char *src, int line, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
px_code px_err_set_mismatch(px_err *e, px_code code, const char *src, int line, const char *field,
                            const char *found, const char *expected);

/* px_err_set with both values ("" or NULL: not known). */
px_code px_err_set_values(px_err *e, px_code code, const char *src, int line, const char *field, const char *found,
                          const char *expected, const char *fmt, ...) __attribute__((format(printf, 8, 9)));

#define px_fail(e, code, field, ...) px_err_set((e), (code), __FILE__, __LINE__, (field), __VA_ARGS__)
#define px_refuse(e, code, field, found, expected, ...) \
    px_err_set_values((e), (code), __FILE__, __LINE__, (field), (found), (expected), __VA_ARGS__)
/* found and expected are strings; the sentence is made from them. */
#define px_mismatch(e, field, found, expected) \
    px_err_set_mismatch((e), PX_EMISMATCH, __FILE__, __LINE__, (field), (found), (expected))
/* errno of a failed system call -> code (ENOMEM, ENOSPC, EEXIST, ... -> the nearest) and text "what: strerror". */
#define px_fail_errno(e, field, what) px_err_set_errno((e), __FILE__, __LINE__, (field), (what))
px_code px_err_set_errno(px_err *e, const char *src, int line, const char *field, const char *what);

void px_err_set_file(px_err *e, const char *file);               /* only if e holds an error without one; keeps the tail of a long path */
void px_err_set_rank(px_err *e, int rank, const char *host);     /* likewise; a fresh error has rank -1 */
void px_err_clear(px_err *e);

/* A static word for a code: "ENOMEM" ... */
const char *px_code_name(px_code code);
/* One line for people: "file: field: text (found X, expected Y)"; always terminated.  Returns buf. */
char *px_err_format(const px_err *e, char *buf, size_t cap);

#ifdef __cplusplus
}
#endif

#endif
