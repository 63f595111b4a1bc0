/* frame.h - bounded length-prefixed frames on a stream socket.
 * Layer: proto/wire.  Header, little-endian, 20 bytes: magic u32, version u16, type u16, generation u32, zero u32,
 * length u32.  The generation is the MPI job's: a frame of an earlier job is recognised and dropped by its reader. */
#ifndef PROTO_FRAME_H
#define PROTO_FRAME_H

#include "proto/base/io.h"

#define PROTO_WIRE_VERSION 1u
#define PROTO_FRAME_HEADER 20u
#define PROTO_FRAME_CAP    (64u << 20)     /* no frame is larger: PX_ERANGE on both sides */

typedef struct proto_frame {
    uint16_t type;
    uint32_t generation;
    uint8_t *data;                          /* n bytes */
    size_t   n;
} proto_frame;

/* One frame, header and payload in one sendmsg where the socket takes it.  deadline is absolute. */
px_code proto_frame_send(int fd, uint16_t type, uint32_t generation, const void *data, size_t n,
                         px_time_us deadline, px_err *e);
/* Blocking read of one frame into buf (cap bytes): out->data == buf.  Errors: PX_EPEER (end of file at a border; inside
 * a frame e->found says how much had come), PX_EMISMATCH (magic, version), PX_ERANGE (longer than cap), PX_ETIMEOUT. */
px_code proto_frame_recv(int fd, void *buf, size_t cap, proto_frame *out, px_time_us deadline, px_err *e);

/* Incremental reader for a poll loop; owns one growing buffer bounded by cap. */
typedef struct proto_frame_reader {
    px_alloc *a; uint8_t *buf; size_t held, size, cap; size_t consumed;
} proto_frame_reader;
void    proto_frame_reader_init(proto_frame_reader *r, px_alloc *a, size_t cap);
/* Reads what is there without blocking.  PX_OK also when nothing came; PX_EPEER at end of file. */
px_code proto_frame_reader_fill(proto_frame_reader *r, int fd, px_err *e);
/* *got: a whole frame; its data are valid until the next call on r. */
px_code proto_frame_reader_next(proto_frame_reader *r, proto_frame *out, bool *got, px_err *e);
void    proto_frame_reader_deinit(proto_frame_reader *r);

#endif
