#include "shard/store/digest.h"

#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

px_code shard_hash_init(shard_hash *h, shard_digest_kind kind, px_err *e)
{
    memset(h, 0, sizeof *h);
    h->kind = kind;
    if (kind == SHARD_SHA256 && !(h->sha = EVP_MD_CTX_new())) return px_fail(e, PX_ENOMEM, "digest", "sha256 context");
    shard_hash_reset(h);
    return PX_OK;
}

void shard_hash_deinit(shard_hash *h)
{
    if (h->sha) EVP_MD_CTX_free(h->sha);
    h->sha = NULL;
}

void shard_hash_reset(shard_hash *h)
{
    if (h->kind == SHARD_SHA256) EVP_DigestInit_ex(h->sha, EVP_sha256(), NULL);
    else XXH3_128bits_reset(&h->xxh);
}

void shard_hash_update(shard_hash *h, const void *data, size_t n)
{
    if (n == 0) return;
    if (h->kind == SHARD_SHA256) EVP_DigestUpdate(h->sha, data, n);
    else XXH3_128bits_update(&h->xxh, data, n);
}

void shard_hash_text(shard_hash *h, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    shard_hash_update(h, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

void shard_hash_final(shard_hash *h, shard_digest *out)
{
    *out = (shard_digest){ .n = shard_digest_size(h->kind) };
    if (h->kind == SHARD_SHA256) {
        EVP_DigestFinal_ex(h->sha, out->b, NULL);
    } else {
        XXH128_canonical_t c;
        XXH128_canonicalFromHash(&c, XXH3_128bits_digest(&h->xxh));
        memcpy(out->b, c.digest, sizeof c.digest);
    }
}

uint32_t shard_digest_size(shard_digest_kind kind) { return kind == SHARD_SHA256 ? 32 : 16; }

const char *shard_digest_name(shard_digest_kind kind) { return kind == SHARD_SHA256 ? "sha256" : "xxh3-128"; }

bool shard_digest_kind_parse(const char *name, shard_digest_kind *out)
{
    for (shard_digest_kind k = SHARD_XXH3_128; k <= SHARD_SHA256; k++)
        if (!strcmp(name, shard_digest_name(k))) {
            *out = k;
            return true;
        }
    return false;
}

bool shard_digest_equal(const shard_digest *x, const shard_digest *y)
{
    return x->n == y->n && !memcmp(x->b, y->b, x->n);
}

void shard_digest_hex(const shard_digest *d, char out[65])
{
    static const char HEX[] = "0123456789abcdef";
    uint32_t n = d->n < 32 ? d->n : 32;

    for (uint32_t i = 0; i < n; i++) {
        out[2 * i] = HEX[d->b[i] >> 4];
        out[2 * i + 1] = HEX[d->b[i] & 15];
    }
    out[2 * n] = 0;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool shard_digest_parse(shard_digest_kind kind, const char *hex, shard_digest *out)
{
    *out = (shard_digest){ .n = shard_digest_size(kind) };
    if (strlen(hex) != 2 * (size_t)out->n) return false;
    for (uint32_t i = 0; i < out->n; i++) {
        int hi = nibble(hex[2 * i]), lo = nibble(hex[2 * i + 1]);
        if (hi < 0 || lo < 0) return false;
        out->b[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

px_code shard_digest_mismatch(px_err *e, px_code code, const char *field, const shard_digest *found,
                              const shard_digest *expected)
{
    char f[65], x[65];

    shard_digest_hex(found, f);
    shard_digest_hex(expected, x);
    return px_err_set_mismatch(e, code, __FILE__, __LINE__, field, f[0] ? f : "none", x[0] ? x : "none");
}
