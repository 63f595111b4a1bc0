/* scheduler.h - requests in, a step out: first come, first served, continuous batching, chunked prefill under a token
 * budget.  Layer: daemon/coordinator.  Engine's thread.  Pure: no sockets, no clock but the one it is handed.
 * Law 4: a request is admitted when blocks for prompt + max_new and a slot are free; from then on it is finished.  Where all
 * layers keep a window, no more are needed than the window and a step span: later tokens go where those are that nobody sees. */
#ifndef DAEMON_SCHEDULER_H
#define DAEMON_SCHEDULER_H

#include "daemon/coordinator/blocks.h"
#include "daemon/coordinator/request.h"

typedef struct daemon_scheduler_args {
    uint32_t n_blocks, block;            /* KV pool */
    uint32_t max_sequences;              /* slots, and rows with logits in a step */
    uint32_t token_budget;
    uint32_t window;                     /* keys that a token sees, its own among them; 0: all before it */
    uint32_t max_result_tops;            /* [id, logprob] pairs that one step may answer with */
} daemon_scheduler_args;

typedef struct daemon_list { daemon_request *first, *last; uint32_t n; } daemon_list;

typedef struct daemon_scheduler {
    px_alloc *a;
    daemon_scheduler_args args;
    daemon_blocks blocks;
    daemon_list waiting, running;        /* each holds a reference */
    uint32_t *free_slot, n_free_slot;    /* (max_sequences) owned */
    /* the step that is being composed; arrays of max_sequences (ops: twice that) */
    shard_slot_op *op; uint32_t n_ops;
    shard_entry *entry; daemon_request **who; uint32_t n_entries;
    uint32_t *targets;                   /* (token_budget) */
    uint32_t *closing, n_closing;        /* slots that the ranks must still be told to close */
} daemon_scheduler;

px_code daemon_scheduler_init(daemon_scheduler *s, px_alloc *a, const daemon_scheduler_args *args, px_err *e);
void    daemon_scheduler_deinit(daemon_scheduler *s);       /* drops its references */

void    daemon_scheduler_add(daemon_scheduler *s, daemon_request *r);          /* takes a reference of its own */
/* End what its client has cancelled and what is past its deadline, give back blocks and slots at once. */
void    daemon_scheduler_reap(daemon_scheduler *s, px_time_us now);
/* Admit from the queue, in order.  Admitted requests are marked accepted.  PX_ENOMEM ends that request alone. */
void    daemon_scheduler_admit(daemon_scheduler *s);
/* End those that wait beyond `queue` places, the youngest first. */
void    daemon_scheduler_trim(daemon_scheduler *s, uint32_t queue);
/* Compose a step; false: nothing to do.  The arrays live until the next compose. */
bool    daemon_scheduler_compose(daemon_scheduler *s, uint64_t number, shard_step *out);
/* Take a step's results: entries in the order of the composed step.  PX_EMISMATCH: the answer is not to that step. */
px_code daemon_scheduler_apply(daemon_scheduler *s, const shard_result *res, px_err *e);
/* End everything (a rank's death, the end of the grace time): e tells why. */
void    daemon_scheduler_end_all(daemon_scheduler *s, const px_err *e, bool retryable);
/* The ranks were restarted: they know no slots. */
void    daemon_scheduler_forget_slots(daemon_scheduler *s);

#endif
