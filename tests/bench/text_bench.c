/* text_bench.c - how fast text becomes ids, a megabyte of one thing at a time, as CSV.
 * usage: text_bench TOKENIZER...    (normal forms: the tokenizer.json of shard sets)
 * prose is words of the vocabulary; the other kinds are what matchers and merges may do badly on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/text/tokenizer.h"
#include "proto/base/io.h"

enum { BYTES = 1 << 20, REPEAT = 3 };

static const struct { const char *name, *unit; } kind[] = {
    { "prose", NULL }, { "one letter", "a" }, { "spaces", " " }, { "lines", "\n" }, { "digits", "7" }, { "two letters", "ab" },
    { "Chinese", "\xe6\x97\xa5\xe6\x9c\xac" }, { "emoji", "\xf0\x9f\x98\x80" }, { "marks", "\xcc\x81\xcc\xa3" }, { "controls", "<|im_end|>" },
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what, const px_err *e)
{
    char line[1024];
    fprintf(stderr, "text_bench: %s: %s\n", what, px_err_format(e, line, sizeof line));
    exit(1);
}

static size_t prose(const daemon_tokenizer *t, char *text)
{
    size_t n = 0, bytes;

    for (uint64_t x = 1; n < BYTES - 300; ) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const char *p = daemon_tokenizer_bytes(t, (uint32_t)((x >> 33) % daemon_tokenizer_n_vocab(t)), &bytes);
        bool plain = bytes && bytes < 100;
        for (size_t i = 0; i < bytes; i++) plain &= p[i] >= ' ' && p[i] < 0x7f;
        if (!plain) continue;
        memcpy(text + n, p, bytes);
        n += bytes;
    }
    return n;
}

static void measure(px_heap *h, const daemon_tokenizer *t, const char *file, size_t k, char *text)
{
    double best = 1e9;
    daemon_encode_args args = { .parse_special = true };
    size_t n = 0, ids = 0, peak = 0, each = kind[k].unit ? strlen(kind[k].unit) : 0;
    px_err e = {0};

    if (!each) n = prose(t, text);
    else for (; n + each <= BYTES; n += each) memcpy(text + n, kind[k].unit, each);
    for (int i = 0; i < REPEAT; i++) {
        daemon_ids v;
        size_t live = h->count.live;
        h->count.peak = live;
        daemon_ids_init(&v, &h->a);
        double began = now();
        if (daemon_tokenizer_encode(t, text, n, &args, &v, &e)) die(kind[k].name, &e);
        if (now() - began < best) best = now() - began;
        ids = v.n;
        peak = h->count.peak - live;
        daemon_ids_deinit(&v);
    }
    printf("%s,%s,%zu,%zu,%.4f,%.1f,%.1f\n", file, kind[k].name, n, ids, best, (double)n / best / 1e6, (double)peak / (double)n);
}

int main(int argc, char **argv)
{
    px_heap h;
    px_err e = {0};

    if (argc < 2) return fprintf(stderr, "usage: text_bench TOKENIZER...\n"), 2;
    px_heap_init(&h, "bench");
    char *text = malloc(BYTES);
    if (!text) return 1;
    puts("tokenizer,text,bytes,ids,seconds,MB_per_s,peak_bytes_per_byte");
    for (int i = 1; i < argc; i++) {
        char *json;
        size_t n;
        daemon_tokenizer *t;
        if (px_read_file(&h.a, argv[i], 256 << 20, &json, &n, &e) || daemon_tokenizer_open(&t, &h.a, json, n, &e)) die(argv[i], &e);
        px_alloc_put(&h.a, json, n + 1, 1);
        for (size_t k = 0; k < sizeof kind / sizeof *kind; k++) measure(&h, t, argv[i], k, text);
        daemon_tokenizer_close(t);
    }
    free(text);
    return 0;
}
