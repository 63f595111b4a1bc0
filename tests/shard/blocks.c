#include "tests/shard/blocks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/shard/image.h"
#include "tests/testlib.h"

enum { D = 256, FF = 512, VOCAB = TEST_BLOCKS_VOCAB, LAYERS = 2 };

static void put(uint8_t *p, float x)
{
    uint16_t h = kern_f32_to_f16(x);
    p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8);
}

static float uniform(uint64_t *seed) { return (float)(test_rand(seed) >> 40) * 0x1p-24f; }

/* Random quants.  Scales make the values' root mean square about `rms`, and minima their mean about zero, as it is in models: of the
 * eight groups of Q4_K and Q5_K scale and minimum are the same number of 32 to 63, of the sixteen of Q2_K of 8 to 15. */
static void block(kern_dtype t, uint8_t *p, float rms, uint64_t *seed)
{
    uint32_t bytes = kern_dtype_get(t)->block_bytes;
    float mean = 0.9f + 0.2f * uniform(seed);
    uint8_t n[8];

    rms *= 0.7f + 0.6f * uniform(seed);                       /* else all blocks are rounded alike */
    for (uint32_t i = 0; i < bytes; i++) p[i] = (uint8_t)(test_rand(seed) >> 8);
    for (int g = 0; g < 8; g++) n[g] = (uint8_t)(32 | p[4 + g] % 32);
    switch (t) {
    case KERN_Q5_0: put(p, rms / 9.2f); break;
    case KERN_Q5_1: put(p, rms / 9.2f), put(p + 2, -15.5f * mean * rms / 9.2f); break;
    case KERN_IQ4_NL: put(p, rms / 70); break;
    case KERN_IQ4_XS: put(p, rms / 70 / 18); break;
    case KERN_Q4_K:
    case KERN_Q5_K:
        for (int g = 0; g < 4; g++) {
            p[4 + g] = p[8 + g] = (uint8_t)(n[g] | n[4 + g] >> 4 << 6);
            p[12 + g] = (uint8_t)((n[4 + g] & 15) | (n[4 + g] & 15) << 4);
        }
        put(p, rms / 48 / (t == KERN_Q4_K ? 4.6f : 9.2f));
        put(p + 2, rms / 48 / (t == KERN_Q4_K ? 4.6f : 9.2f) * (t == KERN_Q4_K ? 7.5f : 15.5f) * mean);
        break;
    case KERN_Q6_K: put(p + 208, rms / 18.5f / 74); break;
    case KERN_Q3_K: put(p + 108, rms / 2.3f / 18.5f); break;
    case KERN_Q2_K:
        for (int g = 0; g < 16; g++) p[g] = (uint8_t)(8 | (p[g] & 7)), p[g] = (uint8_t)(p[g] | p[g] << 4);
        put(p + 80, rms / 1.1f / 11.5f), put(p + 82, rms / 1.1f / 11.5f * 1.5f * mean);
        break;
    case KERN_IQ2_XS: put(p, rms / 25 * 4 / 9); break;
    default: fail_msg("no blocks of %s", kern_dtype_get(t)->name);
    }
}

static const struct { const char *name; uint64_t rows, cols; float gain; } PART[] = {      /* gain: of the values' size */
    { "attn_norm", 1, D, 0 },         { "ffn_norm", 1, D, 0 },    { "attn_q", D, D, 1.5f },  { "attn_k", D / 2, D, 1.5f }, { "attn_v", D / 2, D, 1 },
    { "attn_output", D, D, 1 },       { "ffn_gate", FF, D, 1 },   { "ffn_up", FF, D, 1 },    { "ffn_down", D, FF, 1 },
};
#define N_PARTS (sizeof PART / sizeof *PART)
typedef struct part { char name[48]; uint64_t rows, cols; float rms; } part;

static size_t parts(part *p)
{
    size_t n = 0;

    p[n++] = (part){ "token_embd.weight", VOCAB, D, 1 };
    p[n++] = (part){ "output_norm.weight", 1, D, 0 };
    p[n++] = (part){ "output.weight", VOCAB, D, 2.0f / 16 };               /* logits of some +-2 */
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < N_PARTS; i++, n++) {
            snprintf(p[n].name, sizeof p[n].name, "blk.%d.%s.weight", l, PART[i].name);
            p[n].rows = PART[i].rows, p[n].cols = PART[i].cols;
            p[n].rms = PART[i].gain / sqrtf((float)PART[i].cols);
        }
    return n;
}

static kern_dtype type_of(const part *p, kern_dtype t) { return p->rows == 1 ? KERN_F32 : t; }

const char *test_blocks_model(kern_dtype t)
{
    static image head;
    part p[3 + LAYERS * N_PARTS];
    size_t n = parts(p);
    uint64_t offset = 0, bytes, seed = 40 + t;
    const char *path;
    char name[32];
    FILE *f;

    head.n = 0;
    gguf_head(&head, 3, n, 9);
    gguf_str(&head, "general.architecture", "llama");
    gguf_u32(&head, "llama.block_count", LAYERS);
    gguf_u32(&head, "llama.embedding_length", D);
    gguf_u32(&head, "llama.feed_forward_length", FF);
    gguf_u32(&head, "llama.attention.head_count", 8);
    gguf_u32(&head, "llama.attention.head_count_kv", 4);
    gguf_u32(&head, "llama.attention.key_length", 32);
    gguf_u32(&head, "llama.context_length", 128);
    gguf_f32(&head, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < n; i++) {
        const uint64_t dim[2] = { p[i].cols, p[i].rows };
        gguf_tensor(&head, p[i].name, p[i].rows == 1 ? 1 : 2, dim, kern_dtype_get(type_of(&p[i], t))->ggml, offset);
        assert_true(kern_matrix_bytes(type_of(&p[i], t), p[i].rows, p[i].cols, &bytes));
        assert_int_equal(bytes % 32, 0);                                    /* nothing lies between tensors */
        offset += bytes;
    }
    image_pad(&head, 32);
    snprintf(name, sizeof name, "%s.gguf", kern_dtype_get(t)->name);
    assert_non_null(f = fopen(path = image_write(&head, name), "ab"));
    for (size_t i = 0; i < n; i++) {
        const kern_dtype_info *info = kern_dtype_get(type_of(&p[i], t));
        for (uint64_t k = 0; k < p[i].rows * p[i].cols; k += info->block) {
            uint8_t b[256];
            const float one = 1;
            if (p[i].rows == 1) memcpy(b, &one, sizeof one);
            else block(t, b, p[i].rms, &seed);
            assert_int_equal(fwrite(b, info->block_bytes, 1, f), 1);
        }
    }
    assert_int_equal(fclose(f), 0);
    return path;
}
