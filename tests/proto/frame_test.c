/* Frames: round trips, every refusal by field, truncation at every byte, garbage. */
#include "proto/wire/frame.h"
#include "tests/testlib.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static px_heap heap;

static void pair(int sv[2]) { assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0); }
static px_time_us soon(void) { return px_now_us() + 10 * 1000000; }
static void unpair(int sv[2]) { close(sv[0]); close(sv[1]); }

/* The bytes of one frame, as the socket carries them. */
static size_t frame_bytes(uint16_t type, uint32_t generation, const void *data, size_t n, uint8_t *out, size_t cap)
{
    int sv[2];
    px_err e = {0};
    pair(sv);
    assert_int_equal(proto_frame_send(sv[0], type, generation, data, n, soon(), &e), PX_OK);
    assert_true(PROTO_FRAME_HEADER + n <= cap);
    assert_int_equal(px_read_exact(sv[1], out, PROTO_FRAME_HEADER + n, soon(), &e), PX_OK);
    unpair(sv);
    return PROTO_FRAME_HEADER + n;
}

static void the_header_is_these_bytes(void **state)
{
    static const uint8_t expected[] = { 'P', 'H', 'X', '1', 1, 0, 0x34, 0x12, 0xef, 0xbe, 0xad, 0xde, 0, 0, 0, 0,
                                        3, 0, 0, 0, 'a', 'b', 'c' };
    uint8_t b[64];
    (void)state;
    assert_int_equal(frame_bytes(0x1234, 0xdeadbeef, "abc", 3, b, sizeof b), sizeof expected);
    assert_memory_equal(b, expected, sizeof expected);
}

static void frames_come_as_they_went(void **state)
{
    int sv[2];
    uint8_t buf[256], data[256];
    px_err e = {0};
    proto_frame f;
    (void)state;
    pair(sv);
    for (size_t n = 0; n <= 256; n++) {
        for (size_t i = 0; i < n; i++) data[i] = (uint8_t)(n + i);
        assert_int_equal(proto_frame_send(sv[0], (uint16_t)n, 7, n ? data : NULL, n, soon(), &e), PX_OK);
        assert_int_equal(proto_frame_recv(sv[1], buf, sizeof buf, &f, soon(), &e), PX_OK);
        assert_int_equal(f.type, n);
        assert_int_equal(f.generation, 7);
        assert_int_equal(f.n, n);
        assert_ptr_equal(f.data, buf);
        assert_memory_equal(buf, data, n);
    }
    unpair(sv);
}

typedef struct sender { int fd; const uint8_t *data; size_t n; px_code rc; } sender;
static void *send_large(void *arg)
{
    sender *s = arg;
    px_err e = {0};
    s->rc = proto_frame_send(s->fd, 9, 1, s->data, s->n, soon(), &e);
    return NULL;
}

/* Larger than a socket's buffer: the rest goes on where the first sendmsg stopped. */
static void a_large_frame_comes_whole(void **state)
{
    enum { N = 3000001 };
    int sv[2];
    uint8_t *data = malloc(N), *buf = malloc(N);
    uint64_t seed = 1;
    px_err e = {0};
    proto_frame f;
    pthread_t t;
    (void)state;
    for (size_t i = 0; i < N; i++) data[i] = (uint8_t)test_rand(&seed);
    pair(sv);
    sender s = { sv[0], data, N, PX_EINTERNAL };
    assert_int_equal(pthread_create(&t, NULL, send_large, &s), 0);
    assert_int_equal(proto_frame_recv(sv[1], buf, N, &f, soon(), &e), PX_OK);
    pthread_join(t, NULL);
    assert_int_equal(s.rc, PX_OK);
    assert_memory_equal(data, buf, N);

    proto_frame_reader r;                                  /* the same through the poll loop's reader */
    bool got = false;
    proto_frame_reader_init(&r, &heap.a, N);
    assert_int_equal(pthread_create(&t, NULL, send_large, &s), 0);
    while (!got) {
        assert_int_equal(proto_frame_reader_fill(&r, sv[1], &e), PX_OK);
        assert_int_equal(proto_frame_reader_next(&r, &f, &got, &e), PX_OK);
        assert_true(r.size <= N + PROTO_FRAME_HEADER);
        if (!got) usleep(100);
    }
    pthread_join(t, NULL);
    assert_int_equal(f.n, N);
    assert_memory_equal(data, f.data, N);
    proto_frame_reader_deinit(&r);
    proto_frame_reader_deinit(&r);
    unpair(sv);
    free(data);
    free(buf);
}

static void a_frame_over_the_cap_is_not_sent(void **state)
{
    int sv[2];
    uint8_t byte = 0;
    px_err e = {0};
    (void)state;
    pair(sv);
    assert_int_equal(proto_frame_send(sv[0], 1, 1, &byte, (size_t)PROTO_FRAME_CAP + 1, soon(), &e), PX_ERANGE);
    assert_string_equal(e.field, "frame.length");
    assert_int_equal(recv(sv[1], &byte, 1, MSG_DONTWAIT), -1);
    unpair(sv);
}

static void a_send_to_nobody_and_a_full_socket_end(void **state)
{
    int sv[2];
    px_err e = {0};
    uint8_t *data = calloc(1, 4 << 20);
    (void)state;
    pair(sv);
    assert_int_equal(proto_frame_send(sv[0], 1, 1, data, 4 << 20, px_now_us() + 20000, &e), PX_ETIMEOUT);
    px_err_clear(&e);
    close(sv[1]);
    assert_int_equal(proto_frame_send(sv[0], 1, 1, data, 10, soon(), &e), PX_EPEER);
    close(sv[0]);
    free(data);
}

/* What recv and the reader say about some bytes, after which the socket closes. */
static px_code recv_of(const uint8_t *b, size_t n, size_t cap, px_err *e)
{
    int sv[2];
    uint8_t buf[512];
    proto_frame f;
    assert_true(cap <= sizeof buf);
    pair(sv);
    assert_int_equal(px_write_exact(sv[0], b, n, soon(), NULL), PX_OK);
    close(sv[0]);
    px_code rc = proto_frame_recv(sv[1], buf, cap, &f, soon(), e);
    close(sv[1]);
    return rc;
}

static px_code reader_of(const uint8_t *b, size_t n, size_t cap, px_err *e)
{
    int sv[2];
    proto_frame_reader r;
    proto_frame f;
    bool got;
    px_code rc;
    pair(sv);
    assert_int_equal(px_write_exact(sv[0], b, n, soon(), NULL), PX_OK);
    close(sv[0]);
    proto_frame_reader_init(&r, &heap.a, cap);
    do {
        if ((rc = proto_frame_reader_fill(&r, sv[1], e))) break;
        do rc = proto_frame_reader_next(&r, &f, &got, e); while (!rc && got);
    } while (!rc);
    proto_frame_reader_deinit(&r);
    close(sv[1]);
    return rc;
}

static void both_refuse(const uint8_t *b, size_t n, size_t cap, px_code code, const char *field, const char *found,
                        const char *expected)
{
    px_err e = {0};
    assert_int_equal(recv_of(b, n, cap, &e), code);
    assert_string_equal(e.field, field);
    assert_string_equal(e.found, found);
    assert_string_equal(e.expected, expected);
    px_err_clear(&e);
    assert_int_equal(reader_of(b, n, cap, &e), code);
    assert_string_equal(e.field, field);
    assert_string_equal(e.found, found);
    assert_string_equal(e.expected, expected);
}

static void a_wrong_header_is_refused_by_field(void **state)
{
    uint8_t good[64], b[64];
    size_t n = frame_bytes(5, 6, "0123456789", 10, good, sizeof good);
    (void)state;
    memcpy(b, good, n); b[0] = 'Q';
    both_refuse(b, n, 100, PX_EMISMATCH, "frame.magic", "0x31584851", "0x31584850");
    memcpy(b, good, n); b[5] = 1;
    both_refuse(b, n, 100, PX_EMISMATCH, "frame.version", "257", "1");
    memcpy(b, good, n); b[12] = 9;
    both_refuse(b, n, 100, PX_EMISMATCH, "frame.zero", "9", "0");
    memcpy(b, good, n);
    both_refuse(b, n, 9, PX_ERANGE, "frame.length", "10", "at most 9");
    memset(b + 16, 0xff, 4);                               /* 4 GiB are promised: nobody tries to hold them */
    both_refuse(b, PROTO_FRAME_HEADER, 100, PX_ERANGE, "frame.length", "4294967295", "at most 100");
}

static void the_end_is_told_at_every_byte(void **state)
{
    uint8_t b[64];
    char found[64];
    size_t n = frame_bytes(5, 6, "0123456789", 10, b, sizeof b);
    (void)state;
    for (size_t cut = 0; cut < n; cut++) {
        px_err e = {0};
        assert_int_equal(recv_of(b, cut, 100, &e), PX_EPEER);
        if (cut < PROTO_FRAME_HEADER) snprintf(found, sizeof found, "%zu of %u bytes", cut, PROTO_FRAME_HEADER);
        else snprintf(found, sizeof found, "%zu of 10 bytes", cut - PROTO_FRAME_HEADER);
        assert_string_equal(e.found, found);
        px_err_clear(&e);
        assert_int_equal(reader_of(b, cut, 100, &e), PX_EPEER);
        assert_string_equal(e.field, "frame");
        snprintf(found, sizeof found, "%zu bytes", cut);
        assert_string_equal(e.found, found);
    }
    px_err e = {0};
    assert_int_equal(recv_of(b, n, 100, &e), PX_OK);
    assert_int_equal(reader_of(b, n, 100, &e), PX_EPEER);  /* after the frame, at a border */
}

static void a_silent_peer_ends_by_the_deadline(void **state)
{
    int sv[2];
    uint8_t b[64], buf[64];
    proto_frame f;
    px_err e = {0};
    (void)state;
    size_t n = frame_bytes(5, 6, "0123456789", 10, b, sizeof b);
    pair(sv);
    assert_int_equal(px_write_exact(sv[0], b, n - 1, soon(), NULL), PX_OK);
    assert_int_equal(proto_frame_recv(sv[1], buf, sizeof buf, &f, px_now_us() + 20000, &e), PX_ETIMEOUT);
    assert_string_equal(e.found, "9 of 10 bytes");
    unpair(sv);
}

/* Frames cut into random pieces come out whole, in order, and nothing is invented. */
static void pieces_become_frames(void **state)
{
    enum { FRAMES = 400, CAP = 9000 };
    uint64_t seed = 42;
    uint8_t *stream = malloc((size_t)FRAMES * (CAP + PROTO_FRAME_HEADER));
    uint8_t *data = malloc(CAP);
    size_t total = 0, at = 0, size[FRAMES];
    unsigned seen = 0;
    proto_frame_reader r;
    proto_frame f;
    px_err e = {0};
    bool got;
    int sv[2];
    (void)state;
    for (unsigned k = 0; k < FRAMES; k++) {
        size[k] = test_rand(&seed) % (k % 3 ? 300 : CAP + 1);
        memset(data, (int)k, CAP);
        total += frame_bytes((uint16_t)k, k, data, size[k], stream + total, CAP + PROTO_FRAME_HEADER);
    }
    pair(sv);
    proto_frame_reader_init(&r, &heap.a, CAP);
    assert_int_equal(proto_frame_reader_fill(&r, sv[1], &e), PX_OK);      /* nothing there yet */
    assert_int_equal(proto_frame_reader_next(&r, &f, &got, &e), PX_OK);
    assert_false(got);
    while (seen < FRAMES) {
        size_t piece = 1 + test_rand(&seed) % 20000;
        if (piece > total - at) piece = total - at;
        assert_int_equal(px_write_exact(sv[0], stream + at, piece, soon(), NULL), PX_OK);
        at += piece;
        for (unsigned before = UINT32_MAX; before != seen;) {             /* until a fill brings no frame */
            before = seen;
            assert_int_equal(proto_frame_reader_fill(&r, sv[1], &e), PX_OK);
            while (proto_frame_reader_next(&r, &f, &got, &e) == PX_OK && got) {
                assert_int_equal(f.type, seen);
                assert_int_equal(f.generation, seen);
                assert_int_equal(f.n, size[seen]);
                for (size_t i = 0; i < f.n; i++) assert_int_equal(f.data[i], (uint8_t)seen);
                seen++;
            }
        }
        assert_true(r.size <= CAP + PROTO_FRAME_HEADER);
    }
    proto_frame_reader_deinit(&r);
    unpair(sv);
    free(stream);
    free(data);
}

static void garbage_never_passes(void **state)
{
    uint64_t seed = 7;
    uint8_t b[200], good[64];
    size_t n = frame_bytes(5, 6, "0123456789", 10, good, sizeof good);
    (void)state;
    for (unsigned k = 0; k < 3000; k++) {
        size_t len = test_rand(&seed) % sizeof b;
        for (size_t i = 0; i < len; i++) b[i] = (uint8_t)test_rand(&seed);
        px_err e = {0};
        assert_int_not_equal(recv_of(b, len, 100, &e), PX_OK);
        assert_int_not_equal(e.code, PX_OK);
        px_err_clear(&e);
        assert_int_not_equal(reader_of(b, len, 100, &e), PX_OK);
    }
    for (unsigned bit = 0; bit < PROTO_FRAME_HEADER * 8; bit++) {         /* one bit of a good header */
        px_err e = {0};
        memcpy(b, good, n);
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        px_code rc = recv_of(b, n, 100, &e);
        bool harmless = bit / 8 >= 6 && bit / 8 < 12;                     /* type and generation: the reader's business */
        bool shorter = bit / 8 == 16 && (good[16] >> bit % 8 & 1);
        if (harmless || shorter) assert_int_equal(rc, PX_OK);
        else assert_int_not_equal(rc, PX_OK);
    }
}

static px_code build_and_drop(px_alloc *a, px_err *e)
{
    int sv[2];
    uint8_t data[10000] = {0};
    proto_frame_reader r;
    proto_frame f;
    bool got = false;
    px_code rc;
    pair(sv);
    assert_int_equal(proto_frame_send(sv[0], 1, 1, data, sizeof data, soon(), NULL), PX_OK);
    proto_frame_reader_init(&r, a, sizeof data);
    if (!(rc = proto_frame_reader_fill(&r, sv[1], e))) {
        assert_int_equal(proto_frame_reader_next(&r, &f, &got, e), PX_OK);
        assert_true(got);
    }
    proto_frame_reader_deinit(&r);
    unpair(sv);
    return rc;
}
static void the_reader_survives_every_oom(void **state) { (void)state; test_oom_sweep(build_and_drop); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_is_these_bytes),
        cmocka_unit_test(frames_come_as_they_went),
        cmocka_unit_test(a_large_frame_comes_whole),
        cmocka_unit_test(a_frame_over_the_cap_is_not_sent),
        cmocka_unit_test(a_send_to_nobody_and_a_full_socket_end),
        cmocka_unit_test(a_wrong_header_is_refused_by_field),
        cmocka_unit_test(the_end_is_told_at_every_byte),
        cmocka_unit_test(a_silent_peer_ends_by_the_deadline),
        cmocka_unit_test(pieces_become_frames),
        cmocka_unit_test(garbage_never_passes),
        cmocka_unit_test(the_reader_survives_every_oom),
    };
    px_heap_init(&heap, "test");
    return test_heap_end(&heap, cmocka_run_group_tests(tests, NULL, NULL));
}
