#include "tests/daemon/text/fixture.h"

#include <string.h>
#include <utf8proc.h>

#include "shard/store/gguf.h"

px_alloc *fixture_heap(void)
{
    static px_heap heap;
    if (!heap.a.get) px_heap_init(&heap, "test");
    return &heap.a;
}

static px_code import(const char *path, char **json, size_t *bytes, px_err *e)
{
    const char *dot = strrchr(path, '.');
    shard_gguf *g;
    char *data;
    size_t n;
    px_code rc;

    if (!strcmp(dot, ".gguf")) {
        if ((rc = shard_gguf_open(&g, fixture_heap(), path, e))) return rc;
        rc = daemon_tokenizer_from_gguf(fixture_heap(), g, json, bytes, e);
        shard_gguf_close(g);
        return rc;
    }
    if ((rc = px_read_file(fixture_heap(), path, 64 << 20, &data, &n, e))) return rc;
    rc = !strcmp(dot, ".json") ? daemon_tokenizer_from_json(fixture_heap(), data, n, NULL, json, bytes, e)
                               : daemon_tokenizer_from_model(fixture_heap(), data, n, NULL, json, bytes, e);
    px_del(fixture_heap(), data, n + 1);
    return rc;
}

char *fixture_json(const char *path, size_t *bytes)
{
    px_err e = {0};
    char *json;

    if (import(path, &json, bytes, &e)) fail_msg("%s: %s: %s (found %s)", path, e.field, e.text, e.found);
    return json;
}

daemon_tokenizer *fixture_open(const char *path)
{
    px_err e = {0};
    size_t bytes;
    char *json = fixture_json(path, &bytes);
    daemon_tokenizer *t;

    if (daemon_tokenizer_open(&t, fixture_heap(), json, bytes, &e)) fail_msg("%s: %s: %s", path, e.field, e.text);
    px_del(fixture_heap(), json, bytes + 1);
    return t;
}

size_t fixture_each_line(const char *path, void (*fn)(void *ctx, const json_t *line), void *ctx)
{
    px_err e = {0};
    char *data;
    size_t bytes, lines = 0;

    if (px_read_file(fixture_heap(), path, 256 << 20, &data, &bytes, &e)) fail_msg("%s: %s", path, e.text);
    for (size_t at = 0; at < bytes; ) {
        const char *end = memchr(data + at, '\n', bytes - at);
        size_t n = end ? (size_t)(end - data) - at : bytes - at;
        json_t *line = json_loadb(data + at, n, JSON_ALLOW_NUL, NULL);
        assert_non_null(line);
        fn(ctx, line);
        json_decref(line);
        at += n + 1;
        lines++;
    }
    px_del(fixture_heap(), data, bytes + 1);
    return lines;
}

void fixture_assert_ids(const daemon_ids *ids, const json_t *want, const char *text)
{
    if (ids->n != json_array_size(want)) fail_msg("%zu ids, not %zu, for: %s", ids->n, json_array_size(want), text);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->id[i] != (uint32_t)json_integer_value(json_array_get(want, i)))
            fail_msg("id %zu is %u, not %lld, for: %s", i, ids->id[i],
                     (long long)json_integer_value(json_array_get(want, i)), text);
}

size_t fixture_random_text(uint64_t *state, char *buf, size_t cap)
{
    static const utf8proc_int32_t edge[] = { ' ', ' ', ' ', '\n', '\r', '\t', '\'', 's', 'l', '0', '9', 0x0, 0x1c, 0x7f, 0x80,
        0x85, 0xa0, 0xad, 0xdf, 0x17f, 0x301, 0x663, 0x7ff, 0x800, 0x180e, 0x2028, 0x200d, 0x2163, 0x3000, 0xd7ff, 0xe000,
        0xfeff, 0xfffd, 0xffff, 0x10000, 0x1f1e6, 0x1f468, 0x3ffff, 0x10ffff };
    size_t n = 0;

    while (n + 4 <= cap) {
        uint64_t r = test_rand(state);
        utf8proc_int32_t c = r % 8 < 4 ? (utf8proc_int32_t)((r >> 8) % 95 + 32)
                           : r % 8 < 6 ? edge[(r >> 8) % (sizeof edge / sizeof *edge)]
                           : r % 8 < 7 ? (utf8proc_int32_t)((r >> 8) % 0xd800) : (utf8proc_int32_t)(0xe000 + (r >> 8) % 0x100000);
        n += (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)buf + n);
    }
    return n;
}
