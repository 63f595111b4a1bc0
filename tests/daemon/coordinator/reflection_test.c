/* The index over the embedded descriptors, and descriptors that are none. */
#include <string.h>

#include "daemon/coordinator/reflection.h"
#include "proto/phalanx/descriptors.h"
#include "tests/testlib.h"

static px_code open_and_drop(px_alloc *a, px_err *e)
{
    daemon_reflection r;
    px_code rc = daemon_reflection_init(&r, a, proto_api_descriptors, proto_api_descriptors_bytes, e);
    daemon_reflection_deinit(&r);
    daemon_reflection_deinit(&r);
    return rc;
}

/* The arena's cap turns no memory into "too large"; both are clean refusals, so only what stays behind is looked at. */
static void every_failing_get_leaves_nothing(void **state)
{
    (void)state;
    for (int64_t at = 0;; at++) {
        px_debug d = {0};
        px_err e = {0};
        px_debug_init(&d, "test", at);
        px_code rc = open_and_drop(&d.a, &e);
        assert_int_equal(px_debug_deinit(&d), 0);
        if (!rc) return;
        assert_true(rc == PX_ENOMEM || rc == PX_ERANGE);
        assert_true(at < 1000);
    }
}

static void symbols(void **state)
{
    static const struct { const char *symbol, *file; } want[] = {
        { "phalanx.v1.Inference", "phalanx/v1/inference.proto" },
        { "phalanx.v1.Inference.Generate", "phalanx/v1/inference.proto" },
        { ".phalanx.v1.Inference.Generate", "phalanx/v1/inference.proto" },
        { "phalanx.v1.GenerateRequest", "phalanx/v1/inference.proto" },
        { "phalanx.v1.GenerateRequest.prompt", "phalanx/v1/inference.proto" },
        { "phalanx.v1.Decoding.LogitBiasEntry", "phalanx/v1/inference.proto" },
        { "phalanx.v1.FinishReason", "phalanx/v1/inference.proto" },
        { "phalanx.v1.LENGTH", "phalanx/v1/inference.proto" },
        { "phalanx.v1.Control.Abort", "phalanx/v1/control.proto" },
        { "grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health.proto" },
        { "grpc.reflection.v1.ServerReflection", "grpc/reflection_v1.proto" },
        { "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo", "grpc/reflection_v1alpha.proto" },
    };
    static const char *const none[] = { "", ".", "phalanx", "phalanx.v1", "phalanx.v1.", "phalanx.v1.Inferenc",
                                        "phalanx.v1.Inference.generate", "..phalanx.v1.Inference" };
    px_heap h = {0};
    daemon_reflection r;
    px_err e = {0};
    (void)state;

    px_heap_init(&h, "test");
    assert_int_equal(daemon_reflection_init(&r, &h.a, proto_api_descriptors, proto_api_descriptors_bytes, &e), PX_OK);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const daemon_file *f = daemon_reflection_symbol(&r, want[i].symbol);
        if (!f) fail_msg("%s is not found", want[i].symbol);
        assert_string_equal(f->name, want[i].file);
        assert_ptr_equal(f, daemon_reflection_file(&r, want[i].file));
        assert_true(f->bytes > 100 && f->data[0] == 0x0a && f->data[1] == strlen(f->name));   /* field 1: the name */
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) assert_null(daemon_reflection_symbol(&r, none[i]));
    assert_null(daemon_reflection_file(&r, "inference.proto"));
    assert_int_equal(r.n_services, 5);
    assert_int_equal(r.n_files, 5);
    daemon_reflection_deinit(&r);
    assert_true(h.count.live == 0);
    px_heap_deinit(&h);
}

static void what_is_no_set_is_refused(void **state)
{
    static const uint8_t garbage[] = { 0x0a, 0xff, 0x01, 2, 3 }, no_name[] = { 0x0a, 0x00 }, no_file[] = { 0x0a, 0x02, 0xff, 0xff };
    static const struct { const uint8_t *data; size_t n; } bad[] = { { garbage, sizeof garbage }, { no_name, sizeof no_name },
                                                                     { no_file, sizeof no_file } };
    px_heap h = {0};
    daemon_reflection r;
    (void)state;

    px_heap_init(&h, "test");
    for (size_t i = 0; i < 3; i++) {
        px_err e = {0};
        assert_int_equal(daemon_reflection_init(&r, &h.a, bad[i].data, bad[i].n, &e), PX_ECORRUPT);
        assert_int_equal(e.code, PX_ECORRUPT);
        assert_true(e.field[0] != 0);
        assert_true(h.count.live == 0);
    }
    px_heap_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(symbols), cmocka_unit_test(what_is_no_set_is_refused),
                                        cmocka_unit_test(every_failing_get_leaves_nothing) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
