#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/io.h"

static void finding(const char *what)
{
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

/* ---- files ---- */

static char dir[512], path[640];

static void remove_dir(void)
{
    px_remove_tree(dir, NULL);
}

const char *fuzz_dir(void)
{
    const char *base = getenv("TMPDIR");            /* run.py removes it, whatever happens here */

    if (*dir) return dir;
    snprintf(dir, sizeof dir, "%s/fuzz-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir)) finding("no folder for the input");
    atexit(remove_dir);
    return dir;
}

const char *fuzz_file(const char *name, const void *data, size_t n)
{
    int fd;

    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    if ((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600)) < 0 || write(fd, data, n) != (ssize_t)n) finding("the input could not be written");
    close(fd);
    return path;
}

void fuzz_lengthen(size_t bytes)
{
    if (truncate(path, (off_t)bytes)) finding("the input could not be lengthened");
}

/* ---- memory ---- */

static px_heap heap;
static px_alloc bounded;
static size_t live, limit;

static void *get(px_alloc *a, size_t bytes, size_t align)
{
    void *p;
    (void)a;
    if (bytes > limit - live) finding("more memory than a small multiple of the input");
    p = heap.a.get(&heap.a, bytes + 64, align < 64 ? 64 : align);
    if (!p) return NULL;
    live += bytes;
    memset((char *)p + bytes, 0x5a, 64);
    memcpy((char *)p + bytes, &bytes, sizeof bytes);
    return p;
}

static void put(px_alloc *a, void *p, size_t bytes)
{
    size_t was;
    (void)a;
    if (!p) return;
    memcpy(&was, (char *)p + bytes, sizeof was);
    if (was != bytes) finding("put of another size than the get's");
    live -= bytes;
    heap.a.put(&heap.a, p, bytes + 64);
}

/* What the JSON library takes, with its own size in front. */
static size_t json_live, json_limit;

static void *json_get(size_t bytes)
{
    size_t *p = malloc(bytes + 16);

    if (!p) return NULL;
    if ((json_live += bytes) > json_limit) finding("more JSON than a small multiple of the input");
    *p = bytes;
    return p + 2;
}

static void json_put(void *p)
{
    if (!p) return;
    json_live -= ((size_t *)p)[-2];
    free((size_t *)p - 2);
}

px_alloc *fuzz_begin(size_t n)
{
    static bool up;

    if (!up) px_heap_init(&heap, "fuzz");
    if (!up) json_set_alloc_funcs(json_get, json_put);
    up = true;
    json_limit = FUZZ_ROOM + FUZZ_JSON_MULTIPLE * n;
    bounded = (px_alloc){ .get = get, .put = put };
    live = 0;
    limit = FUZZ_ROOM + FUZZ_MULTIPLE * n;
    return &bounded;
}

void fuzz_end(void)
{
    if (live || json_live) finding("memory that was not given back");
}

/* ---- judging ---- */

void fuzz_refused(px_code rc, const px_err *e)
{
    if (!rc) return;
    if (e->code != rc) finding("a refusal whose error has another code");
    if (!e->field[0] && !e->text[0]) finding("a refusal that names nothing");
}

void fuzz_touch(const void *p, size_t n)
{
    static volatile uint8_t sink;
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i += i + 64 < n ? 64 : 1) sink ^= b[i];
}
