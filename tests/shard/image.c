#include "tests/shard/image.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/testlib.h"

static void put(image *m, const void *p, size_t n)
{
    assert_true(n <= sizeof m->b - m->n);
    memcpy(m->b + m->n, p, n);
    m->n += n;
}

void image_u8(image *m, uint8_t v) { put(m, &v, 1); }
void image_u32(image *m, uint32_t v) { put(m, &v, 4); }
void image_u64(image *m, uint64_t v) { put(m, &v, 8); }
void image_f32(image *m, float v) { put(m, &v, 4); }
void image_text(image *m, const char *s) { put(m, s, strlen(s)); }
void image_zeros(image *m, size_t n) { while (n--) image_u8(m, 0); }
void image_pad(image *m, size_t to) { while (m->n % to) image_u8(m, 0); }

void image_str(image *m, const char *s)
{
    image_u64(m, strlen(s));
    image_text(m, s);
}

void gguf_head(image *m, uint32_t version, uint64_t n_tensor, uint64_t n_kv)
{
    m->n = 0;
    image_text(m, "GGUF");
    image_u32(m, version);
    image_u64(m, n_tensor);
    image_u64(m, n_kv);
}

void gguf_key(image *m, const char *key, uint32_t type)
{
    image_str(m, key);
    image_u32(m, type);
}

void gguf_u32(image *m, const char *key, uint32_t v) { gguf_key(m, key, GG_U32); image_u32(m, v); }
void gguf_f32(image *m, const char *key, float v) { gguf_key(m, key, GG_F32); image_f32(m, v); }
void gguf_str(image *m, const char *key, const char *v) { gguf_key(m, key, GG_STR); image_str(m, v); }

void gguf_tensor(image *m, const char *name, uint32_t n_dims, const uint64_t *dim, uint32_t type, uint64_t offset)
{
    image_str(m, name);
    image_u32(m, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 8; i++) image_u64(m, dim[i]);
    image_u32(m, type);
    image_u64(m, offset);
}

static const char *scratch(const char *name)
{
    static char path[8][512];
    static unsigned at;
    char *out = path[at++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", test_tmpdir(), name);
    for (char *s = out + strlen(test_tmpdir()) + 1; (s = strchr(s, '/')); s++) {        /* folders on the way */
        *s = 0;
        mkdir(out, 0700);
        *s = '/';
    }
    return out;
}

const char *image_write(const image *m, const char *name)
{
    const char *path = scratch(name);
    assert_int_equal(px_write_file(path, m->b, m->n, false, NULL), PX_OK);
    return path;
}

const char *text_write(const char *text, const char *name)
{
    const char *path = scratch(name);
    assert_int_equal(px_write_file(path, text, strlen(text), false, NULL), PX_OK);
    return path;
}

const char *safetensors_write(const char *header, size_t n_data, const char *name)
{
    static image m;
    m.n = 0;
    image_u64(&m, strlen(header));
    image_text(&m, header);
    image_zeros(&m, n_data);
    return image_write(&m, name);
}
