#include "proto/wire/pb.h"

static void *pb_get(void *ctx, size_t bytes)
{
    proto_pb *x = ctx;
    const char *here = __builtin_frame_address(0);
    size_t depth = here < x->top ? (size_t)(x->top - here) : 0;     /* the stack grows downward */
    void *p = depth > PROTO_PB_STACK ? NULL : x->a->get(x->a, bytes, _Alignof(max_align_t));
    if (!p) x->refused = true;
    return p;
}

static void pb_put(void *ctx, void *p)
{
    (void)ctx, (void)p;                  /* dropped with the arena */
}

void proto_pb_init(proto_pb *x, px_alloc *a)
{
    *x = (proto_pb){ .pb = { pb_get, pb_put, x }, .a = a, .top = __builtin_frame_address(0) };
}

px_code proto_pb_unpack(const ProtobufCMessageDescriptor *d, px_alloc *a, size_t n, const uint8_t *data,
                        ProtobufCMessage **out, px_err *e)
{
    proto_pb x;

    proto_pb_init(&x, a);
    *out = protobuf_c_message_unpack(d, &x.pb, n, data);
    if (*out) return PX_OK;
    if (x.refused) return px_fail(e, PX_ERANGE, d->name, "the message is too large when unpacked, or nested too deep");
    return px_fail(e, PX_EINVAL, d->name, "%zu bytes are no %s", n, d->short_name);
}
