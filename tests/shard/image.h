/* image.h - files made byte by byte, for the readers' tests.
 * Layer: tests. */
#ifndef TESTS_SHARD_IMAGE_H
#define TESTS_SHARD_IMAGE_H

#include <stddef.h>
#include <stdint.h>

typedef struct image { size_t n; uint8_t b[1u << 18]; } image;

void image_u8(image *m, uint8_t v);
void image_u32(image *m, uint32_t v);
void image_u64(image *m, uint64_t v);
void image_f32(image *m, float v);
void image_text(image *m, const char *s);                      /* without a length */
void image_str(image *m, const char *s);                       /* GGUF: u64 length, bytes */
void image_pad(image *m, size_t to);                           /* zeros up to a multiple */
void image_zeros(image *m, size_t n);

enum { GG_U8, GG_I8, GG_U16, GG_I16, GG_U32, GG_I32, GG_F32, GG_BOOL, GG_STR, GG_ARRAY, GG_U64, GG_I64, GG_F64 };
void gguf_head(image *m, uint32_t version, uint64_t n_tensor, uint64_t n_kv);
void gguf_key(image *m, const char *key, uint32_t type);       /* the value follows */
void gguf_u32(image *m, const char *key, uint32_t v);
void gguf_f32(image *m, const char *key, float v);
void gguf_str(image *m, const char *key, const char *v);
void gguf_tensor(image *m, const char *name, uint32_t n_dims, const uint64_t *dim, uint32_t type, uint64_t offset);

/* Write the image into the scratch folder; returns the path (rotating buffers). */
const char *image_write(const image *m, const char *name);
const char *text_write(const char *text, const char *name);
/* A safetensors file: header text, then n zero bytes of data. */
const char *safetensors_write(const char *header, size_t n_data, const char *name);

#endif
