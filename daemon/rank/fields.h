/* fields.h - every field for which a start can be refused: what it means and what to do.
 * Layer: daemon.  The one table: errors take their names from it, the log its advice, ops/runbook.md its rows (a test
 * compares), and the mutation test holds every refusal against it. */
#ifndef DAEMON_FIELDS_H
#define DAEMON_FIELDS_H

#include <stddef.h>

/* Those that coordinator and rank name themselves; the rest of the table is named by lower floors. */
typedef enum daemon_field {
    DAEMON_FIELD_HELLO, DAEMON_FIELD_HELLO_RANK, DAEMON_FIELD_HELLO_WORLD, DAEMON_FIELD_HELLO_PID, DAEMON_FIELD_GENERATION,
    DAEMON_FIELD_WIRE, DAEMON_FIELD_BUILD, DAEMON_FIELD_MPI_VERSION, DAEMON_FIELD_ARITHMETIC, DAEMON_FIELD_ROPE,
    DAEMON_FIELD_MANIFEST, DAEMON_FIELD_PLAN, DAEMON_FIELD_TOKENIZER, DAEMON_FIELD_CLOCK, DAEMON_FIELD_MEMORY,
    DAEMON_FIELD_KV_TOKENS, DAEMON_FIELD_RANKS, DAEMON_FIELD_LAUNCHER, DAEMON_FIELD_RANK_GONE, DAEMON_FIELD_DEADLINE,
    DAEMON_FIELD_ULIMIT_SPACE, DAEMON_FIELD_ULIMIT_FILES, DAEMON_FIELD_TMPDIR,
    DAEMON_FIELD_GPU_NAME, DAEMON_FIELD_GPU_ARCH, DAEMON_FIELD_GPU_DRIVER, DAEMON_FIELD_GPU_RUNTIME, DAEMON_FIELD_GPU_SHARED,
    DAEMON_FIELD_GPU_MEMORY, DAEMON_FIELD_NCCL, DAEMON_FIELD_NCCL_VERSION,
    DAEMON_N_FIELDS
} daemon_field;

typedef struct daemon_refusable {
    const char *field;          /* with <tensor>, <key> or <number> where a name stands in its place */
    const char *means;
    const char *action;
} daemon_refusable;

extern const daemon_refusable daemon_refusables[];
extern const size_t           daemon_n_refusables;

const char *daemon_field_name(daemon_field f);
/* The row of a field as an error names it; NULL: none. */
const daemon_refusable *daemon_refusable_find(const char *field);

#endif
