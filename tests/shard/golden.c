#include "tests/shard/golden.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/testlib.h"

static uint32_t ids_of(const json_t *a, uint32_t *out, uint32_t cap)
{
    const uint32_t n = (uint32_t)json_array_size(a);

    assert_true(n > 0 && n <= cap);
    for (uint32_t i = 0; i < n; i++) out[i] = (uint32_t)json_integer_value(json_array_get(a, i));
    return n;
}

void test_tiny_read(test_tiny *t, const char *name)
{
    char path[128];
    json_error_t err;
    json_t *j;
    FILE *f;
    size_t n;

    *t = (test_tiny){0};
    snprintf(path, sizeof path, "tiny/%s/expected.json", name);
    j = json_load_file(test_golden(path), 0, &err);
    if (!j) fail_msg("%s: %s", path, err.text);
    t->n_prompt = ids_of(json_object_get(j, "prompt"), t->prompt, 64);
    t->n_greedy = ids_of(json_object_get(json_object_get(j, "greedy"), "ids"), t->greedy, 64);
    t->n_vocab = (uint32_t)json_integer_value(json_array_get(json_object_get(j, "logits_shape"), 1));
    json_decref(j);
    n = (size_t)t->n_prompt * t->n_vocab;
    t->logits = malloc(n * sizeof *t->logits);
    snprintf(path, sizeof path, "tiny/%s/logits.f32", name);
    f = fopen(test_golden(path), "rb");
    assert_true(t->logits && f);
    assert_int_equal(fread(t->logits, sizeof *t->logits, n, f), n);
    fclose(f);
}
