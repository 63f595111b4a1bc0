/* link.h - a socket a rank, and everything else that the engine's thread waits for, in one poll.
 * Layer: daemon/coordinator.  Engine's thread. */
#ifndef DAEMON_LINK_H
#define DAEMON_LINK_H

#include <poll.h>
#include <sys/types.h>

#include "proto/base/alloc.h"
#include "proto/wire/frame.h"

typedef struct daemon_link {
    int   fd;                        /* -1: not connected */
    int   pidfd;
    pid_t pid;                       /* from the kernel (SO_PEERCRED), not from the hello */
    proto_frame_reader reader;
} daemon_link;

typedef struct daemon_links {
    px_alloc *a;
    uint32_t  world, generation;
    int       listen_fd;
    char      path[108];
    daemon_link *rank;               /* (world) owned */
    daemon_link *fresh; uint32_t n_fresh, cap_fresh;   /* connected, no hello yet */
    struct pollfd *poll;             /* owned */
    int       job_fd, signal_fd, wake_fd;              /* borrowed; -1: none */
    /* The last one that was turned away, for whoever misses a rank: why, and which process. */
    px_err    turned_away; pid_t turned_away_pid;
} daemon_links;

typedef enum daemon_event_kind { DAEMON_EV_TIMEOUT, DAEMON_EV_FRAME, DAEMON_EV_FRESH, DAEMON_EV_LOST, DAEMON_EV_JOB,
                                 DAEMON_EV_SIGNAL, DAEMON_EV_WAKE } daemon_event_kind;
typedef struct daemon_event {
    daemon_event_kind kind;
    uint32_t    rank;                /* FRAME, LOST; FRESH: index into fresh */
    proto_frame frame;               /* FRAME, FRESH: valid until the next call */
    px_err      why;                 /* LOST */
} daemon_event;

/* Listens on dir/s.  Errors: PX_EIO, PX_ERANGE (path), PX_ENOMEM. */
px_code daemon_links_open(daemon_links *l, px_alloc *a, const char *dir, uint32_t world, uint32_t generation, px_err *e);
void    daemon_links_close(daemon_links *l);
/* The next event before the deadline.  Frames of other generations are dropped.  A JOB event is reported as long as the
 * job's descriptor is readable: take it off (job_fd = -1). */
px_code daemon_links_next(daemon_links *l, px_time_us deadline, daemon_event *ev, px_err *e);
/* A fresh connection has said which rank it is.  PX_ERANGE, PX_EEXIST (that rank has a link already). */
px_code daemon_links_adopt(daemon_links *l, uint32_t fresh, uint32_t rank, px_err *e);
void    daemon_links_reject(daemon_links *l, uint32_t fresh, const px_err *why);    /* why may be NULL */
/* Bytes of an unfinished frame that some connection without a hello has sent; 0: there is none. */
size_t  daemon_links_unfinished(const daemon_links *l, pid_t *pid);
px_code daemon_links_send(daemon_links *l, uint32_t rank, uint16_t type, const void *data, size_t n, px_time_us deadline, px_err *e);
void    daemon_links_kill(daemon_links *l);          /* SIGKILL to every connected rank of this host */

#endif
