/* value.h - what the two ways of writing a value (YAML, flags) share: one field's text into the config.
 * Layer: proto.  Used by schema.c and yaml.c only. */
#ifndef PROTO_VALUE_H
#define PROTO_VALUE_H

#include "proto/config/config.h"

typedef enum proto_style {
    PROTO_STYLE_FLAG,       /* a flag's text: everything is a word */
    PROTO_STYLE_PLAIN,      /* YAML without quotes: null, true, 12 have types of their own */
    PROTO_STYLE_QUOTED,     /* YAML in quotes or as a block: text, never a number */
} proto_style;

/* Checks text (n bytes) against f and stores it.  On failure *c is as before; e->field, found, expected are set.
 * Errors: PX_EINVAL (wrong type, empty, control characters), PX_ERANGE (outside the range or the list, too long). */
px_code proto_value_set(proto_config *c, const proto_field *f, proto_style style, const char *text, size_t n,
                        px_err *e);
/* PX_ENOTFOUND for a key that no field has; e->text names the nearest valid key. */
px_code proto_key_unknown(const char *key, px_err *e);
/* "an unsigned number from 1 to 4096", "one of auto, shm, mpi" ...; returns buf. */
const char *proto_field_expects(const proto_field *f, char *buf, size_t cap);

#endif
