/* What the launcher's environment says, and what is refused in it. */
#include "comm/comm.h"
#include "tests/testlib.h"

#include <stdlib.h>

static void set(const char *name, const char *value)
{
    if (value) setenv(name, value, 1);
    else unsetenv(name);
}

static px_code ask(const char *ompi, const char *pmix, const char *size, uint32_t *rank, uint32_t *world, px_err *e)
{
    set("OMPI_COMM_WORLD_RANK", ompi);
    set("PMIX_RANK", pmix);
    set("OMPI_COMM_WORLD_SIZE", size);
    px_err_clear(e);
    return comm_launcher_rank(rank, world, e);
}

static void the_rank_is_read(void **state)
{
    uint32_t r = 99, w = 99;
    px_err e = {0};
    (void)state;
    assert_int_equal(ask("2", NULL, "3", &r, &w, &e), PX_OK);
    assert_true(r == 2 && w == 3);
    assert_int_equal(ask(NULL, "63", "64", &r, &w, &e), PX_OK);
    assert_true(r == 63 && w == 64);
    assert_int_equal(ask("0", "1", "1", &r, &w, &e), PX_OK);     /* Open MPI's own name comes first */
    assert_true(r == 0 && w == 1);
}

static void nonsense_is_refused_by_name(void **state)
{
    static const struct { const char *ompi, *pmix, *size, *field; px_code code; } bad[] = {
        { NULL, NULL, NULL, "OMPI_COMM_WORLD_RANK", PX_ENOTFOUND },
        { "1", NULL, NULL, "OMPI_COMM_WORLD_SIZE", PX_EINVAL },
        { NULL, NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { "", NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { "-1", NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { " 1", NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { "1x", NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { NULL, "1x", "2", "PMIX_RANK", PX_EINVAL },
        { "4294967296", NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { "99999999999999999999", NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { "2", NULL, "2", "OMPI_COMM_WORLD_RANK", PX_EINVAL },
        { "0", NULL, "0", "OMPI_COMM_WORLD_SIZE", PX_EINVAL },
        { "0", NULL, "65", "OMPI_COMM_WORLD_SIZE", PX_EINVAL },
        { "0", NULL, "two", "OMPI_COMM_WORLD_SIZE", PX_EINVAL },
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint32_t r, w;
        px_err e = {0};
        assert_int_equal(ask(bad[i].ompi, bad[i].pmix, bad[i].size, &r, &w, &e), bad[i].code);
        assert_int_equal(e.code, bad[i].code);
        assert_string_equal(e.field, bad[i].field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rank_is_read),
        cmocka_unit_test(nonsense_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
