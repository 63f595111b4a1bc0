/* open_test.c - what is missing is named: the plugin's file, a library that it needs, another ABI, driver, device. */
#include "tests/testlib.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/open.h"

static px_err e;

static px_code open_plugin(const char *name)
{
    static char path[600];
    const kern_ops *ops = (const kern_ops *)&e;

    px_err_clear(&e);
    if (name) snprintf(path, sizeof path, "%s/%s", TEST_PLUGINS, name);
    px_code rc = kern_cuda_ops(&ops, name ? path : NULL, &e);
    assert_int_equal(rc, e.code);
    if (rc) assert_null(ops);
    else assert_non_null(ops);
    return rc;
}

static void without_a_file_the_plugin_is_missing(void **state)
{
    (void)state;
    assert_int_equal(open_plugin(NULL), PX_ENOTFOUND);       /* nothing lies beside a test */
    assert_string_equal(e.field, "plugin");
    assert_string_equal(e.expected, KERN_CUDA_PLUGIN_FILE);
    assert_int_equal(open_plugin("no-such-plugin.so"), PX_ENOTFOUND);
    assert_string_equal(e.field, "plugin");
    assert_non_null(strstr(e.found, "no-such-plugin.so"));   /* the loader's words */
    assert_non_null(strstr(e.file, "no-such-plugin.so"));
}

/* As where the toolkit's libraries are not installed. */
static void a_library_that_the_plugin_needs_counts_as_missing(void **state)
{
    (void)state;
    assert_int_equal(open_plugin("libplugin_needs.so"), PX_ENOTFOUND);
    assert_string_equal(e.field, "plugin");
    assert_non_null(strstr(e.found, "libplugin_needed.so"));
    assert_non_null(strstr(e.text, "a library of the CUDA toolkit that is missing"));
    assert_non_null(strstr(e.file, "libplugin_needs.so"));
}

static void a_file_that_is_no_library_is_told(void **state)
{
    char path[600];
    const kern_ops *ops;

    (void)state;
    snprintf(path, sizeof path, "%s/text.so", test_tmpdir());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("not a library, but long enough to hold the head of one, if somebody should look for a head in it\n", f);
    fclose(f);
    px_err_clear(&e);
    assert_int_equal(kern_cuda_ops(&ops, path, &e), PX_ENOTFOUND);
    assert_string_equal(e.field, "plugin");
    assert_non_null(strstr(e.found, "text.so"));
    assert_non_null(strstr(e.text, "the CUDA plugin cannot be opened"));
}

static void another_abi_or_size_is_a_mismatch(void **state)
{
    char expected[64];

    (void)state;
    snprintf(expected, sizeof expected, "abi %u, %zu bytes", KERN_ABI, sizeof(kern_ops));
    assert_int_equal(open_plugin("libplugin_abi.so"), PX_EMISMATCH);
    assert_string_equal(e.field, "plugin");
    assert_string_equal(e.expected, expected);
    assert_memory_equal(e.found, "abi 1,", 6);
    assert_int_equal(open_plugin("libplugin_size.so"), PX_EMISMATCH);
    assert_string_equal(e.field, "plugin");
    assert_non_null(strstr(e.found, ", 8 bytes"));
    assert_non_null(strstr(e.file, "libplugin_size.so"));
}

static void what_is_no_cuda_plugin_is_refused(void **state)
{
    (void)state;
    assert_int_equal(open_plugin("libplugin_bare.so"), PX_EUNSUP);
    assert_string_equal(e.field, "plugin");
    assert_non_null(strstr(e.text, "phalanx_kern_plugin"));
    assert_int_equal(open_plugin("libplugin_noprobe.so"), PX_EUNSUP);
    assert_non_null(strstr(e.text, "phalanx_kern_probe"));
    assert_int_equal(open_plugin("libplugin_refuses.so"), PX_EUNSUP);
    assert_int_equal(open_plugin("libplugin_cpu.so"), PX_EUNSUP);
    assert_string_equal(e.field, "plugin");
}

static void a_good_plugin_is_opened_and_its_probe_is_heard(void **state)
{
    (void)state;
    assert_int_equal(open_plugin("libplugin_good.so"), PX_OK);
    assert_int_equal(open_plugin("libplugin_good.so"), PX_OK);      /* again: the same */
    assert_int_equal(open_plugin("libplugin_nodevice.so"), PX_ENOTFOUND);
    assert_string_equal(e.field, "device");
    assert_string_equal(e.file, "");                                /* nothing is wrong with the file */
}

/* The real one, where this build has it. */
static void the_plugin_says_whether_driver_and_device_are_there(void **state)
{
    (void)state;
#ifdef TEST_CUDA_PLUGIN
    const kern_ops *ops;
    px_code rc;

    px_err_clear(&e);
    rc = kern_cuda_ops(&ops, TEST_CUDA_PLUGIN, &e);
    if (access("/dev/nvidiactl", F_OK)) {
        assert_int_equal(rc, PX_ENOTFOUND);
        if (strcmp(e.field, "driver")) assert_string_equal(e.field, "device");
        assert_null(ops);
        return;
    }
    if (rc) fail_msg("there is a GPU, and yet: %s: %s", e.field, e.text);
    assert_string_equal(ops->name, "cuda");
#else
    print_message("SKIP: the CUDA plugin is not part of this build\n");
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_file_the_plugin_is_missing),
        cmocka_unit_test(a_library_that_the_plugin_needs_counts_as_missing),
        cmocka_unit_test(a_file_that_is_no_library_is_told),
        cmocka_unit_test(another_abi_or_size_is_a_mismatch),
        cmocka_unit_test(what_is_no_cuda_plugin_is_refused),
        cmocka_unit_test(a_good_plugin_is_opened_and_its_probe_is_heard),
        cmocka_unit_test(the_plugin_says_whether_driver_and_device_are_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
