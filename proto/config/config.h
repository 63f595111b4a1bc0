/* config.h - what a deployment says, and the one field table from which parsing, defaults, flags, --help, the hello
 * and the documentation are made.
 * Layer: proto.  A config is a plain value after parsing; strings lie in it. */
#ifndef PROTO_CONFIG_H
#define PROTO_CONFIG_H

#include "proto/base/alloc.h"

typedef enum proto_transport { PROTO_TRANSPORT_AUTO, PROTO_TRANSPORT_SHM, PROTO_TRANSPORT_MPI } proto_transport;
typedef enum proto_cpu { PROTO_CPU_AUTO, PROTO_CPU_SCALAR, PROTO_CPU_AVX2, PROTO_CPU_AVX512 } proto_cpu;
typedef enum proto_device { PROTO_DEVICE_CPU, PROTO_DEVICE_CUDA } proto_device;
typedef enum proto_reduce { PROTO_REDUCE_AUTO, PROTO_REDUCE_NCCL, PROTO_REDUCE_ORDERED } proto_reduce;
/* Named as `phalanx plan` names them; on CPU the first two. */
typedef enum proto_kv_dtype { PROTO_KV_F16, PROTO_KV_F32, PROTO_KV_BF16, PROTO_KV_INT8, PROTO_KV_FP8 } proto_kv_dtype;

typedef struct proto_config {
    char     set[1024];          /* folder of the shard set; required */
    char     listen[256];        /* HOST:PORT; default 127.0.0.1:50051; port 0: the kernel picks */
    bool     insecure;           /* allow an address that is not loopback without TLS */
    uint32_t ranks;              /* 1..1024; default 0: what the set was cut for */
    uint32_t threads;            /* a rank; 0: cores / ranks, at least 1 */
    proto_transport transport;
    proto_cpu cpu;
    proto_device device;
    char     devices[256];       /* "": a rank's number on its host; else ordinals by that number, "0,1,4,5" */
    bool     deterministic;
    bool     fp8_activations;    /* of device: cuda: products of many rows with FP8 weights take FP8 activations */
    proto_reduce reduce;         /* of device: cuda */
    bool     check_sequence;     /* debug: the ranks compare what they have done in each step */
    proto_kv_dtype kv_dtype;     /* kv.dtype */
    uint32_t kv_tokens;          /* kv.tokens, default 16384; a multiple of kv.block is made of it by rounding up */
    uint32_t kv_block;           /* kv.block: 16, 32, 64, 128 */
    uint32_t max_sequences;      /* default 64 */
    uint32_t token_budget;       /* tokens a step, default 256 */
    uint32_t queue;              /* requests that may wait, default 256 */
    uint32_t default_max_new_tokens;   /* 512 */
    uint32_t restart_max;        /* restart.max 3 */
    uint32_t restart_window_s;   /* restart.window_s 60 */
    uint32_t grace_s;            /* 5 */
    uint32_t hello_s;            /* 10 */
    uint32_t coldstart_s;        /* 0: as long as each step's own default */
    uint32_t step_s;             /* 60 */
    uint32_t max_clock_skew_s;   /* 5 */
    char     log_level[8];       /* log.level: debug info warn error */
    char     chat_template[64];  /* "": by the digest of the set's template; else the name of a known one */
    uint32_t verify_full_mib;    /* 4096 */
    char     verify[8];          /* auto header sample full: depth of the cold start's check */
} proto_config;

typedef enum proto_type { PROTO_STRING, PROTO_BOOL, PROTO_UINT, PROTO_ENUM } proto_type;
typedef enum proto_scope { PROTO_GLOBAL, PROTO_HOST } proto_scope;  /* global: must agree on all ranks */

typedef struct proto_field {
    const char  *key;            /* "kv.tokens"; the flag is --kv.tokens */
    proto_type   type;
    proto_scope  scope;
    size_t       offset, bytes;  /* in proto_config */
    uint64_t     min, max;       /* PROTO_UINT */
    const char *const *words;    /* PROTO_ENUM (and PROTO_STRING with a closed list): NULL-terminated; index = value */
    const uint32_t *only;        /* PROTO_UINT with a closed list: 0-terminated, else NULL */
    const char  *fallback;       /* the default, as it would be written */
    const char  *doc;            /* one line */
} proto_field;

/* A map of this name is of `phalanx plan`, which reads it as its options: here it must be plain YAML and is passed over. */
#define PROTO_CONFIG_PLAN "plan"

extern const proto_field proto_fields[];
extern const size_t      proto_n_fields;
#define PROTO_MAX_FIELDS 64               /* for what has a place for each */

void    proto_config_init(proto_config *c);                       /* every default */
/* Parse YAML text (at most 1 MiB); name stands in errors as file "name:line:column".  *n_errs starts at 0; every error
 * found is listed in errs, up to cap; the first one's code is returned.  Maps ("kv: {dtype: f16}") and dotted keys
 * ("kv.dtype: f16") mean the same.  On failure *c holds the keys that were good.
 * Errors, each with e->field the key ("document" where there is none), found, expected: PX_ENOTFOUND (unknown key;
 * e->text names the nearest valid one), PX_EINVAL (wrong type, empty; anchors, aliases, tags, more than one document;
 * no YAML), PX_ERANGE (outside range or list, too large, too deep), PX_EEXIST (a key twice), PX_ENOMEM.
 * libyaml takes its own memory from malloc and gives it back before the return. */
px_code proto_config_parse(proto_config *c, px_alloc *a, const char *name, const char *text, size_t bytes,
                           px_err *errs, size_t cap, size_t *n_errs);
/* The same for a file; errors of px_read_file have e->file without a line. */
px_code proto_config_read(proto_config *c, px_alloc *a, const char *path, px_err *errs, size_t cap, size_t *n_errs);
/* Set one key from a flag; errors name the key in e->field and "--key" in e->file: PX_ENOTFOUND, PX_EINVAL, PX_ERANGE. */
px_code proto_config_set(proto_config *c, const char *key, const char *value, px_err *e);
/* What stands in the file for a field's current value ("f16", "true", "256"; a text without quotes), as
 * proto_config_set takes it; returns buf. */
const char *proto_config_show(const proto_config *c, const proto_field *f, char *buf, size_t cap);
/* Entry n % entries of `devices` ("0,1,4,5"), *listed false where the list is empty.  PX_EINVAL, field "devices": no such list. */
px_code proto_config_device(const proto_config *c, uint32_t n, uint32_t *ordinal, bool *listed, px_err *e);
const proto_field *proto_config_find(const char *key);
/* What concerns fp8_activations, of plans, too: PX_EUNSUP without device: cuda, PX_EINVAL with deterministic. */
px_code proto_config_check_activations(const proto_config *c, px_err *e);
/* What serve needs beside good values: `set` is given, `listen` is an address, and loopback (127.0.0.0/8, ::1,
 * localhost) unless insecure.  Errors: PX_EINVAL; e->field names the key. */
px_code proto_config_check(const proto_config *c, px_err *e);
/* "HOST:PORT", "[v6]:PORT" -> parts (host without the brackets).  Errors: PX_EINVAL, e->field "listen". */
px_code proto_split_address(const char *s, char *host, size_t cap, uint16_t *port, px_err *e);

#endif
