/* reflection.h - an index of the public interface's descriptors: which file has a symbol, which services there are.
 * Layer: daemon/coordinator (sees proto's embedded descriptors).  Immutable after init: share freely. */
#ifndef DAEMON_REFLECTION_H
#define DAEMON_REFLECTION_H

#include "proto/base/alloc.h"

typedef struct daemon_file { const char *name; const uint8_t *data; size_t bytes; } daemon_file;
typedef struct daemon_symbol { const char *name; uint32_t file; } daemon_symbol;    /* "phalanx.v1.Prompt.text" without a dot in front */

typedef struct daemon_reflection {
    px_arena arena;                          /* owns all below */
    daemon_file *file; size_t n_files;
    daemon_symbol *symbol; size_t n_symbols; /* sorted by name: messages, nested ones, fields, enums and values, services, methods */
    const char **service; size_t n_services;
    bool open;
} daemon_reflection;

/* set: a FileDescriptorSet.  Errors: PX_ECORRUPT (it is none), PX_ENOMEM. */
px_code daemon_reflection_init(daemon_reflection *r, px_alloc *a, const uint8_t *set, size_t bytes, px_err *e);
void    daemon_reflection_deinit(daemon_reflection *r);                          /* idempotent */
const daemon_file *daemon_reflection_file(const daemon_reflection *r, const char *name);       /* NULL: none */
const daemon_file *daemon_reflection_symbol(const daemon_reflection *r, const char *symbol);   /* a leading dot is allowed */

#endif
