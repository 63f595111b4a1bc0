/* pb.h - protobuf-c on our allocators, with hostile bytes in mind.
 * Layer: proto/wire.  Unpacked messages live in an arena or fixed buffer and are dropped with it: never call
 * free_unpacked.  The arena's cap bounds amplification; the depth of the stack since init bounds recursion. */
#ifndef PROTO_PB_H
#define PROTO_PB_H

#include <protobuf-c/protobuf-c.h>

#include "proto/base/alloc.h"

#define PROTO_PB_STACK (128u << 10)      /* bytes of stack that one unpack may use */

typedef struct proto_pb {
    ProtobufCAllocator pb;               /* hand &x.pb to the unpack function */
    px_alloc *a;                         /* borrowed; its put must be a no-op: px_arena or px_fixed */
    const char *top;
    bool refused;                        /* why unpack returned NULL: memory or depth, not syntax */
} proto_pb;

void proto_pb_init(proto_pb *x, px_alloc *a);
/* Unpack with the checks above.  Errors: PX_EINVAL (not such a message), PX_ERANGE (too large when unpacked, or nested
 * too deep); field is the message's name. */
px_code proto_pb_unpack(const ProtobufCMessageDescriptor *d, px_alloc *a, size_t n, const uint8_t *data,
                        ProtobufCMessage **out, px_err *e);

#endif
