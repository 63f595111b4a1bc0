#include "tests/shard/setlib.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *setlib_fresh(const char *stem)
{
    static char buf[16][512];
    static unsigned at, serial;
    char *out = buf[at++ % 16];
    snprintf(out, sizeof buf[0], "%s/%s-%u", test_tmpdir(), stem, serial++);
    return out;
}

shard_pack_args setlib_args(const shard_checkpoint *c, const char *out, uint32_t ranks)
{
    static const shard_asset ASSET[] = { { "tokenizer.json", "{\"ids\": 3}", 10 }, { "chat_template.txt", "", 0 } };
    return (shard_pack_args){ .source = c, .out = out, .ranks = ranks, .policy = SHARD_AS_FILE, .split = SHARD_SPLIT_BALANCED,
                              .vocab = SHARD_VOCAB_PADDED64, .digest = SHARD_XXH3_128, .asset = ASSET, .n_assets = 2 };
}

const char *setlib_make(px_alloc *a, const char *golden, uint32_t ranks, const char *revision)
{
    const char *out = setlib_fresh("set");
    shard_checkpoint *c;
    shard_pack_result result;
    px_err e = { 0 };

    if (shard_checkpoint_open(&c, a, test_golden(golden), &e)) fail_msg("%s: %s", golden, e.text);
    shard_pack_args args = setlib_args(c, out, ranks);
    args.revision = revision;
    if (shard_pack(a, &args, &result, &e)) fail_msg("%s: %s: %s", golden, e.field, e.text);
    shard_checkpoint_close(c);
    return out;
}

bool setlib_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

void setlib_copy_file(const char *from, const char *to)
{
    static char buf[1 << 16];
    FILE *f = fopen(from, "rb"), *t = fopen(to, "wb");
    size_t n;
    assert_non_null(f);
    assert_non_null(t);
    while ((n = fread(buf, 1, sizeof buf, f))) assert_int_equal(fwrite(buf, 1, n, t), n);
    fclose(f);
    assert_int_equal(fclose(t), 0);
}

void setlib_copy_set(const char *from, const char *to)
{
    DIR *d = opendir(from);
    struct dirent *x;
    assert_non_null(d);
    assert_int_equal(mkdir(to, 0777), 0);
    while ((x = readdir(d))) {
        char a[1024], b[1024];
        if (x->d_name[0] == '.') continue;
        snprintf(a, sizeof a, "%s/%s", from, x->d_name);
        snprintf(b, sizeof b, "%s/%s", to, x->d_name);
        setlib_copy_file(a, b);
    }
    closedir(d);
}

long setlib_size(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (long)st.st_size;
}

void setlib_xor(const char *path, long at, unsigned char bits)
{
    FILE *f = fopen(path, "r+b");
    int c;
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    c = fgetc(f);
    assert_true(c != EOF);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    fputc(c ^ bits, f);
    assert_int_equal(fclose(f), 0);
}
