/* grpc_inside.h - what grpc.c (queues, the server) and grpc_call.c (calls) share; nobody else looks in here.
 * Layer: daemon/coordinator. */
#ifndef DAEMON_GRPC_INSIDE_H
#define DAEMON_GRPC_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/coordinator/grpc.h"

typedef struct daemon_tag { void (*fn)(void *owner, bool ok); void *owner; } daemon_tag;

typedef struct daemon_queue {
    daemon_rpc *r;
    grpc_completion_queue *cq;
    pthread_t   thread; bool started;
    grpc_call  *wake_call;                   /* on the lame channel: an empty batch on it posts `wake` */
    daemon_tag  wake;
    _Atomic bool waking;                     /* the tag is under way */
    pthread_mutex_t lock;                    /* guards mailbox and list */
    struct daemon_call_inside *mail_first, *mail_last;
    struct daemon_call_inside *alive;        /* doubly linked */
    px_arena    scratch;
    uint32_t    n_sending;
    px_time_us  next_look;
    uint32_t    owed;                        /* requests to post, for those that came; of the queue's thread */
} daemon_queue;

struct daemon_rpc {
    px_alloc    *a;
    px_heap      heap;                       /* calls and what they unpack */
    daemon_rpc_args args;
    bool         core;                       /* grpc_init was called */
    grpc_server *server;
    grpc_channel *lame;
    daemon_queue queue[DAEMON_MAX_POLLERS];
    daemon_tag   shutdown;
    pthread_mutex_t lock; pthread_cond_t cond;
    bool         done;                       /* the core has shut the server down */
    bool         serving, drained;
    _Atomic bool draining, forced;
    _Atomic uint32_t n_calls;
};

struct daemon_call_inside {
    daemon_call  c;
    daemon_queue *q;
    _Atomic uint32_t refs;
    _Atomic bool over;
    grpc_call   *call;
    grpc_call_details   details;
    grpc_metadata_array meta;
    daemon_tag   on_new, on_close, on_recv, on_send;
    int          cancelled;
    grpc_byte_buffer *recv, *sent;
    px_arena     arena; bool has_arena;
    bool         reading, sending, begun;
    bool         closing;                    /* the status waits for the send slot */
    grpc_status_code code;
    grpc_slice   text; bool has_text;
    grpc_metadata trailer[2]; size_t n_trailer;
    px_time_us   send_began;
    struct daemon_call_inside *mail_next; bool mailed;
    struct daemon_call_inside *prev, *next; bool listed;
};

/* Be ready to hear of one more call on this queue.  PX_ENOMEM, PX_EINTERNAL. */
px_code daemon_call_expect(daemon_queue *q);

#endif
