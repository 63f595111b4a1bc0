#include "proto/wire/frame.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define MAGIC 0x31584850u              /* "PHX1" */
#define FIRST_BYTES 4096u              /* a reader's first buffer: most frames fit */

/* ---- the header, byte by byte ---- */

static void put16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v; p[1] = (uint8_t)(v >> 8); }
static void put32(uint8_t *p, uint32_t v) { put16(p, (uint16_t)v); put16(p + 2, (uint16_t)(v >> 16)); }
static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t get32(const uint8_t *p) { return get16(p) | (uint32_t)get16(p + 2) << 16; }

static void header_write(uint8_t h[PROTO_FRAME_HEADER], uint16_t type, uint32_t generation, size_t n)
{
    put32(h, MAGIC);
    put16(h + 4, PROTO_WIRE_VERSION);
    put16(h + 6, type);
    put32(h + 8, generation);
    put32(h + 12, 0);
    put32(h + 16, (uint32_t)n);
}

static px_code differs(const char *field, uint32_t found, uint32_t expected, const char *fmt, px_err *e)
{
    char f[32], x[32];
    snprintf(f, sizeof f, fmt, found);
    snprintf(x, sizeof x, fmt, expected);
    return px_mismatch(e, field, f, x);
}

static px_code too_long(size_t n, size_t cap, px_err *e)
{
    px_code rc = px_fail(e, PX_ERANGE, "frame.length", "%zu bytes, at most %zu are taken", n, cap);
    if (e && !e->found[0]) {
        snprintf(e->found, sizeof e->found, "%zu", n);
        snprintf(e->expected, sizeof e->expected, "at most %zu", cap);
    }
    return rc;
}

/* The length is checked here, before anyone makes room for it. */
static px_code header_read(const uint8_t h[PROTO_FRAME_HEADER], size_t cap, proto_frame *out, px_err *e)
{
    *out = (proto_frame){ .type = get16(h + 6), .generation = get32(h + 8), .n = get32(h + 16) };
    if (get32(h) != MAGIC) return differs("frame.magic", get32(h), MAGIC, "0x%08x", e);
    if (get16(h + 4) != PROTO_WIRE_VERSION) return differs("frame.version", get16(h + 4), PROTO_WIRE_VERSION, "%u", e);
    if (get32(h + 12)) return differs("frame.zero", get32(h + 12), 0, "%u", e);
    if (cap > PROTO_FRAME_CAP) cap = PROTO_FRAME_CAP;
    if (out->n > cap) return too_long(out->n, cap, e);
    return PX_OK;
}

/* ---- whole frames ---- */

/* As much of header and payload as the socket takes at once. */
static px_code send_some(int fd, uint8_t *h, const void *data, size_t n, size_t *sent, px_err *e)
{
    struct iovec v[2] = { { h, PROTO_FRAME_HEADER }, { (void *)(uintptr_t)data, n } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = n ? 2 : 1 };
    ssize_t put;

    do put = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL); while (put < 0 && errno == EINTR);
    *sent = put > 0 ? (size_t)put : 0;
    if (put >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) return PX_OK;
    return px_fail_errno(e, "frame", "sendmsg");
}

px_code proto_frame_send(int fd, uint16_t type, uint32_t generation, const void *data, size_t n,
                         px_time_us deadline, px_err *e)
{
    uint8_t h[PROTO_FRAME_HEADER];
    size_t sent = 0;
    px_code rc;

    if (n > PROTO_FRAME_CAP) return too_long(n, PROTO_FRAME_CAP, e);
    header_write(h, type, generation, n);
    if ((rc = send_some(fd, h, data, n, &sent, e))) return rc;
    if (sent < sizeof h) {
        if ((rc = px_write_exact(fd, h + sent, sizeof h - sent, deadline, e))) return rc;
        sent = sizeof h;
    }
    size_t done = sent - sizeof h;
    return done < n ? px_write_exact(fd, (const uint8_t *)data + done, n - done, deadline, e) : PX_OK;
}

px_code proto_frame_recv(int fd, void *buf, size_t cap, proto_frame *out, px_time_us deadline, px_err *e)
{
    uint8_t h[PROTO_FRAME_HEADER];
    px_code rc;

    *out = (proto_frame){0};
    if ((rc = px_read_exact(fd, h, sizeof h, deadline, e))) return rc;
    if ((rc = header_read(h, cap, out, e))) return rc;
    if (out->n && (rc = px_read_exact(fd, buf, out->n, deadline, e))) return rc;
    out->data = buf;
    return PX_OK;
}

/* ---- the incremental reader ---- */

void proto_frame_reader_init(proto_frame_reader *r, px_alloc *a, size_t cap)
{
    *r = (proto_frame_reader){ .a = a, .cap = cap < PROTO_FRAME_CAP ? cap : PROTO_FRAME_CAP };
}

void proto_frame_reader_deinit(proto_frame_reader *r)
{
    if (r->buf) px_del(r->a, r->buf, r->size);
    *r = (proto_frame_reader){0};
}

/* The buffer doubles as bytes really come: a header that promises 64 MiB gets no 64 MiB for it. */
static px_code make_room(proto_frame_reader *r, px_err *e)
{
    size_t most = r->cap + PROTO_FRAME_HEADER;
    size_t size = r->size ? r->size * 2 : FIRST_BYTES;
    if (size > most) size = most;
    if (size == r->size) return PX_OK;
    uint8_t *buf = px_alloc_grow(r->a, r->buf, r->size, size, 1, 1);
    if (!buf) return px_fail(e, PX_ENOMEM, "frame", "%zu bytes for a frame", size);
    r->buf = buf;
    r->size = size;
    return PX_OK;
}

/* A frame, or bytes that are none: the caller's next look at them brings it on. */
static bool first_is_decided(const proto_frame_reader *r)
{
    proto_frame f;
    if (r->held < PROTO_FRAME_HEADER) return false;
    return header_read(r->buf, r->cap, &f, NULL) || r->held - PROTO_FRAME_HEADER >= f.n;
}

px_code proto_frame_reader_fill(proto_frame_reader *r, int fd, px_err *e)
{
    bool some = false;
    px_code rc;

    if (r->consumed) {
        memmove(r->buf, r->buf + r->consumed, r->held - r->consumed);
        r->held -= r->consumed;
        r->consumed = 0;
    }
    for (;;) {
        if (r->held == r->size) {
            if (first_is_decided(r)) return PX_OK;       /* one fast sender must not fill memory up to the cap */
            if ((rc = make_room(r, e))) return rc;
        }
        ssize_t got = recv(fd, r->buf + r->held, r->size - r->held, MSG_DONTWAIT);
        if (got > 0) {
            r->held += (size_t)got;
            some = true;
        } else if (got == 0) {
            if (some) return PX_OK;                      /* what came first is served first; the end comes again */
            rc = px_fail(e, PX_EPEER, "frame", r->held ? "closed inside a frame" : "closed");
            if (e && !e->found[0]) snprintf(e->found, sizeof e->found, "%zu bytes", r->held);
            return rc;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return PX_OK;
        } else if (errno != EINTR) {
            return some ? PX_OK : px_fail_errno(e, "frame", "recv");
        }
    }
}

px_code proto_frame_reader_next(proto_frame_reader *r, proto_frame *out, bool *got, px_err *e)
{
    size_t there = r->held - r->consumed;
    px_code rc;

    *got = false;
    *out = (proto_frame){0};
    if (there < PROTO_FRAME_HEADER) return PX_OK;
    uint8_t *h = r->buf + r->consumed;
    if ((rc = header_read(h, r->cap, out, e))) return rc;
    if (there - PROTO_FRAME_HEADER < out->n) return PX_OK;
    out->data = h + PROTO_FRAME_HEADER;
    r->consumed += PROTO_FRAME_HEADER + out->n;
    *got = true;
    return PX_OK;
}
