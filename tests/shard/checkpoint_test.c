#include "tests/testlib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/store/checkpoint.h"
#include "shard/store/gguf.h"
#include "tests/shard/image.h"

static px_heap heap;
static image m;

static shard_checkpoint *open_good(const char *path)
{
    px_err e = {0};
    shard_checkpoint *c;
    px_code rc = shard_checkpoint_open(&c, &heap.a, path, &e);
    if (rc) print_error("%s: %s: %s: %s\n", path, px_code_name(rc), e.field, e.text);
    assert_int_equal(rc, PX_OK);
    return c;
}

static px_err expect(const char *path, px_code code, const char *field)
{
    px_err e = {0};
    shard_checkpoint *c;
    px_code rc = shard_checkpoint_open(&c, &heap.a, path, &e);
    if (rc != code || strcmp(e.field, field)) print_error("%s: %s: %s: %s\n", path, px_code_name(rc), e.field, e.text);
    assert_int_equal(rc, code);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
    assert_true(e.file[0] || !path[0]);
    assert_null(c);
    return e;
}

/* Every role of every layer is bound, in bounds, of the shape of the architecture. */
static void check_whole(const shard_checkpoint *c)
{
    const shard_arch *a = shard_checkpoint_arch(c);
    uint64_t rows, cols, bytes = 0;

    for (shard_role r = 0; r < SHARD_N_ROLES; r++)
        for (uint32_t l = 0; l < (shard_role_get(r)->per_layer ? a->n_layer : 1); l++) {
            const shard_source *s = shard_checkpoint_tensor(c, r, l);
            assert_int_equal(s != NULL, shard_arch_has(a, r));
            if (!s) continue;
            shard_arch_shape(a, r, &rows, &cols);
            assert_true(s->rows == rows && s->cols == cols);
            assert_int_equal(shard_type_of(shard_checkpoint_types(c), r, l), s->dtype);
            assert_int_equal(s->qk_permuted, shard_checkpoint_gguf(c) && !strcmp(a->family, "llama") && (r == SHARD_ATTN_Q || r == SHARD_ATTN_K));
            bytes += s->bytes;
        }
    assert_int_equal(shard_checkpoint_bytes(c), bytes);
    assert_null(shard_checkpoint_tensor(c, SHARD_ATTN_Q, a->n_layer));
    assert_null(shard_checkpoint_tensor(c, SHARD_N_ROLES, 0));
}

static void opens_every_golden_folder(void **state)
{
    static const char *const names[] = { "llama", "llama3", "llama_linear", "smollm_like", "mqa", "mistral", "qwen2", "qwen3" };
    char path[64];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "tiny/arch/%s", names[i]);
        shard_checkpoint *c = open_good(test_golden(path));
        check_whole(c);
        assert_null(shard_checkpoint_gguf(c));
        assert_int_equal(shard_checkpoint_arch(c)->tied, i == 3 || i == 6);
        assert_int_equal(shard_checkpoint_arch(c)->sliding_window, i == 5 ? 8 : 0);
        assert_int_equal(shard_checkpoint_tensor(c, SHARD_ATTN_K_BIAS, 1) != NULL, i == 6);
        assert_int_equal(shard_checkpoint_tensor(c, SHARD_Q_NORM, 1) != NULL, i == 7);
        assert_int_equal(shard_checkpoint_tensor(c, SHARD_FFN_NORM, 2)->dtype, KERN_BF16);
        assert_string_equal(shard_checkpoint_revision(c), "");
        shard_checkpoint_close(c);
    }
    shard_checkpoint *c = open_good(test_golden("tiny/arch/mqa/model.safetensors"));      /* the file in the folder */
    check_whole(c);
    shard_checkpoint_close(c);
}

/* Not what is like a Llama's: biases, norms of heads that are not d_model / n_head wide; rows are as they are rotated. */
static void opens_the_golden_ggufs_of_qwen(void **state)
{
    static const char *const names[] = { "qwen2_q8_0/model.gguf", "qwen3_q4_0/model.gguf", "qwen3_q4_0/model.v2.gguf" };
    char path[64];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "tiny/gguf/%s", names[i]);
        shard_checkpoint *c = open_good(test_golden(path));
        const shard_arch *x = shard_checkpoint_arch(c);
        check_whole(c);
        assert_string_equal(x->family, i ? "qwen3" : "qwen2");
        assert_true(x->qkv_bias == !i && x->qk_norm == (i > 0) && x->tied == !i && !x->sliding_window && x->rope_theta == 1e6);
        assert_true(x->d_model == 96 && x->n_head == 6 && x->n_kv_head == 2 && x->head_dim == (i ? 32 : 16));
        assert_int_equal(shard_checkpoint_tensor(c, SHARD_ATTN_Q, 0)->dtype, i ? KERN_Q4_0 : KERN_Q8_0);
        assert_false(shard_checkpoint_tensor(c, SHARD_ATTN_Q, 0)->qk_permuted);
        shard_checkpoint_close(c);
    }
}

/* The same model as F16 GGUF and as safetensors: the numbers agree, k rows are permuted. */
static void opens_the_golden_gguf(void **state)
{
    shard_checkpoint *g = open_good(test_golden("tiny/gguf/smollm_like_f16/model.gguf"));
    shard_checkpoint *s = open_good(test_golden("tiny/arch/smollm_like"));
    const shard_arch *x = shard_checkpoint_arch(g), *y = shard_checkpoint_arch(s);

    (void)state;
    check_whole(g);
    assert_non_null(shard_checkpoint_gguf(g));
    assert_string_equal(x->name, "smollm_like_f16");
    assert_true(x->d_model == y->d_model && x->n_head == y->n_head && x->n_kv_head == y->n_kv_head && x->d_ff == y->d_ff);
    assert_true(x->head_dim == y->head_dim && x->rope_theta == y->rope_theta && x->rms_eps == y->rms_eps && x->tied);
    assert_true(x->bos == 1 && x->n_eos == 1 && x->eos[0] == 2 && x->rope_kind == KERN_ROPE_NONE && !x->n_rope_divisors);
    assert_int_equal(shard_checkpoint_tensor(g, SHARD_ATTN_K, 1)->dtype, KERN_F16);
    assert_int_equal(shard_checkpoint_tensor(g, SHARD_ATTN_NORM, 1)->dtype, KERN_F32);
    shard_checkpoint_close(g);
    shard_checkpoint_close(s);
}

static void opens_the_real_model(void **state)
{
    const char *path = test_shared("models/SmolLM2-135M-Instruct.Q4_1.gguf");

    (void)state;
    if (!path) skip();
    shard_checkpoint *c = open_good(path);
    const shard_arch *a = shard_checkpoint_arch(c);
    check_whole(c);
    assert_true(a->n_layer == 30 && a->d_model == 576 && a->n_head == 9 && a->n_kv_head == 3 && a->n_vocab == 49152 && a->tied);
    assert_true(a->n_ctx == 8192 && a->rope_theta == 1e5 && a->bos == 1 && a->eos[0] == 2);
    assert_int_equal(shard_checkpoint_types(c)->global[SHARD_TOKEN_EMBD], KERN_Q8_0);
    assert_int_equal(shard_checkpoint_types(c)->global[SHARD_OUTPUT], KERN_Q8_0);
    assert_int_equal(shard_type_of(shard_checkpoint_types(c), SHARD_FFN_DOWN, 29), KERN_Q4_1);
    shard_checkpoint_close(c);
}

static void refuses_other_families_by_name(void **state)
{
    static const char *const names[][2] = {
        { "later/mixtral", "mixtral" }, { "later/gemma3_text", "gemma3_text" }, { "later/qwen3_moe", "qwen3_moe" },
    };
    char path[64], text[8192], name[64];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *config;
        size_t n;
        snprintf(path, sizeof path, "tiny/arch/%s/config.json", names[i][0]);
        assert_int_equal(px_read_file(&heap.a, test_golden(path), sizeof text - 1, &config, &n, NULL), PX_OK);
        snprintf(text, sizeof text, "%s", config);
        px_alloc_put(&heap.a, config, n + 1, 1);
        snprintf(name, sizeof name, "%s/config.json", names[i][1]);
        text_write(text, name);
        snprintf(name, sizeof name, "%s/model.safetensors", names[i][1]);
        px_err e = expect(safetensors_write("{}", 0, name), PX_EUNSUP, "model_type");
        assert_string_equal(e.found, names[i][1]);
        assert_string_equal(e.expected, "llama, mistral, qwen2 or qwen3");
        assert_non_null(strstr(e.file, "config.json"));
    }
}

/* ---- a llama in GGUF, 1 layer: d 32, 2 heads of 16, ff 64, vocabulary 40 ---- */

static const struct { const char *name; uint64_t rows, cols; } llama[] = {
    { "token_embd.weight", 40, 32 },        { "output_norm.weight", 1, 32 },       { "output.weight", 40, 32 },
    { "blk.0.attn_norm.weight", 1, 32 },    { "blk.0.attn_q.weight", 32, 32 },     { "blk.0.attn_k.weight", 16, 32 },
    { "blk.0.attn_v.weight", 16, 32 },      { "blk.0.attn_output.weight", 32, 32 },{ "blk.0.ffn_norm.weight", 1, 32 },
    { "blk.0.ffn_gate.weight", 64, 32 },    { "blk.0.ffn_up.weight", 64, 32 },     { "blk.0.ffn_down.weight", 32, 64 },
};
enum { N_LLAMA = sizeof llama / sizeof *llama };

typedef struct variant {
    const char *skip_key, *skip_tensor;
    const char *add_tensor;  uint64_t add_rows, add_cols; uint32_t add_type;
    const char *reshape;     uint64_t rows, cols;           /* of an existing tensor */
    const char *retype;      uint32_t type;
    void      (*keys)(void); uint32_t n_keys;               /* further metadata */
} variant;

static void key_u32(const variant *v, const char *key, uint32_t value, uint32_t *n)
{
    if (v->skip_key && !strcmp(v->skip_key, key)) return;
    gguf_u32(&m, key, value);
    ++*n;
}

static void one_tensor(const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t *offset)
{
    const uint64_t dim[2] = { cols, rows };
    uint64_t bytes = 0;
    gguf_tensor(&m, name, rows == 1 ? 1 : 2, dim, type, *offset);
    assert_true(kern_matrix_bytes(kern_dtype_of_ggml(type), rows, cols, &bytes));
    *offset = (*offset + bytes + 31) / 32 * 32;
}

static const char *make_gguf(const variant *v)
{
    uint32_t n_kv = 0;
    uint64_t offset = 0, n_tensor = 0;

    gguf_head(&m, 3, 0, 0);
    if (!v->skip_key || strcmp(v->skip_key, "general.architecture")) { gguf_str(&m, "general.architecture", "llama"); n_kv++; }
    key_u32(v, "llama.block_count", 1, &n_kv);
    key_u32(v, "llama.embedding_length", 32, &n_kv);
    key_u32(v, "llama.feed_forward_length", 64, &n_kv);
    key_u32(v, "llama.attention.head_count", 2, &n_kv);
    key_u32(v, "llama.attention.head_count_kv", 1, &n_kv);
    key_u32(v, "llama.context_length", 128, &n_kv);
    if (!v->skip_key || strcmp(v->skip_key, "llama.attention.layer_norm_rms_epsilon")) {
        gguf_f32(&m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
        n_kv++;
    }
    if (v->keys) v->keys();
    n_kv += v->n_keys;
    for (size_t i = 0; i < N_LLAMA; i++) {
        bool is_new = v->reshape && !strcmp(v->reshape, llama[i].name);
        if (v->skip_tensor && !strcmp(v->skip_tensor, llama[i].name)) continue;
        one_tensor(llama[i].name, is_new ? v->rows : llama[i].rows, is_new ? v->cols : llama[i].cols,
                   v->retype && !strcmp(v->retype, llama[i].name) ? v->type : 0, &offset);
        n_tensor++;
    }
    if (v->add_tensor) {
        one_tensor(v->add_tensor, v->add_rows, v->add_cols, v->add_type, &offset);
        n_tensor++;
    }
    image_pad(&m, 32);
    if (v->add_tensor && !strcmp(v->add_tensor, "rope_freqs.weight")) {      /* ones, so that they can divide */
        image_zeros(&m, offset - (v->add_cols * 4 + 31) / 32 * 32);
        for (uint64_t i = 0; i < v->add_cols; i++) image_f32(&m, 1 + (float)i);
    }
    else image_zeros(&m, offset);
    memcpy(m.b + 8, &n_tensor, 8);
    memcpy(m.b + 16, &(uint64_t){ n_kv }, 8);
    return image_write(&m, "llama.gguf");
}

static void gguf_with(const variant *v, px_code code, const char *field) { expect(make_gguf(v), code, field); }

static void binds_a_gguf_exactly(void **state)
{
    px_err e;

    (void)state;
    shard_checkpoint *c = open_good(make_gguf(&(variant){0}));
    check_whole(c);
    assert_true(shard_checkpoint_arch(c)->bos == UINT32_MAX && shard_checkpoint_arch(c)->rope_theta == 1e4);
    assert_false(shard_checkpoint_arch(c)->tied);
    shard_checkpoint_close(c);

    c = open_good(make_gguf(&(variant){ .skip_tensor = "output.weight" }));
    assert_true(shard_checkpoint_arch(c)->tied);
    shard_checkpoint_close(c);

    c = open_good(make_gguf(&(variant){ .add_tensor = "rope_freqs.weight", .add_rows = 1, .add_cols = 8 }));
    assert_int_equal(shard_checkpoint_arch(c)->n_rope_divisors, 8);
    assert_true(shard_checkpoint_arch(c)->rope_divisor[7] == 8);
    check_whole(c);
    shard_checkpoint_close(c);

    for (size_t i = 0; i < N_LLAMA; i++)
        if (i != 2) gguf_with(&(variant){ .skip_tensor = llama[i].name }, PX_ENOTFOUND, llama[i].name);
    for (size_t i = 1; i < N_LLAMA; i++)
        gguf_with(&(variant){ .reshape = llama[i].name, .rows = 48, .cols = 32 }, PX_EMISMATCH, llama[i].name);
    e = expect(make_gguf(&(variant){ .reshape = "blk.0.ffn_down.weight", .rows = 64, .cols = 32 }), PX_EMISMATCH,
               "blk.0.ffn_down.weight");
    assert_string_equal(e.found, "[64,32]");
    assert_string_equal(e.expected, "[32,64]");
    e = expect(make_gguf(&(variant){ .reshape = "blk.0.ffn_norm.weight", .rows = 1, .cols = 64 }), PX_EMISMATCH,
               "blk.0.ffn_norm.weight");
    assert_string_equal(e.found, "[64]");
    assert_string_equal(e.expected, "[32]");
    /* The table's rows are the vocabulary: another count is found at the output. */
    gguf_with(&(variant){ .reshape = "token_embd.weight", .rows = 41, .cols = 32 }, PX_EMISMATCH, "output.weight");
    gguf_with(&(variant){ .reshape = "token_embd.weight", .rows = 40, .cols = 16 }, PX_EMISMATCH, "token_embd.weight");
    gguf_with(&(variant){ .add_tensor = "blk.0.attn_q.bias", .add_rows = 1, .add_cols = 32 }, PX_EUNSUP, "blk.0.attn_q.bias");
    gguf_with(&(variant){ .add_tensor = "blk.1.attn_q.weight", .add_rows = 32, .add_cols = 32 }, PX_EUNSUP, "blk.1.attn_q.weight");
    gguf_with(&(variant){ .add_tensor = "rope_freqs.weight", .add_rows = 1, .add_cols = 7 }, PX_EMISMATCH, "rope_freqs.weight");
    gguf_with(&(variant){ .add_tensor = "rope_freqs.weight", .add_rows = 1, .add_cols = 8, .add_type = 1 }, PX_EUNSUP,
              "rope_freqs.weight");
    gguf_with(&(variant){ .add_tensor = "rope_freqs.weight.x", .add_rows = 1, .add_cols = 8 }, PX_EUNSUP, "rope_freqs.weight.x");
}

static void refuses_types_by_name(void **state)
{
    static const uint32_t read[] = { 0, 1, 30, 8, 2, 3, 6, 7, 20 };
    px_err e;

    (void)state;
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        shard_checkpoint_close(open_good(make_gguf(&(variant){ .retype = "blk.0.attn_q.weight", .type = read[i] })));
    for (size_t i = 0; i < 3; i++)
        shard_checkpoint_close(open_good(make_gguf(&(variant){ .retype = "output_norm.weight", .type = read[i] })));
    e = expect(make_gguf(&(variant){ .retype = "blk.0.ffn_norm.weight", .type = 8 }), PX_EUNSUP, "blk.0.ffn_norm.weight");
    assert_string_equal(e.expected, "F32 F16 BF16");
}

static void k_heads_same(void)   { gguf_key(&m, "llama.attention.head_count_kv", GG_ARRAY); image_u32(&m, GG_U32); image_u64(&m, 2); image_u32(&m, 1); image_u32(&m, 1); }
static void k_heads_differ(void) { gguf_key(&m, "llama.attention.head_count_kv", GG_ARRAY); image_u32(&m, GG_U32); image_u64(&m, 2); image_u32(&m, 1); image_u32(&m, 2); }
static void k_heads_none(void)   { gguf_key(&m, "llama.attention.head_count_kv", GG_ARRAY); image_u32(&m, GG_U32); image_u64(&m, 0); }
static void k_heads_many(void)   { gguf_key(&m, "llama.attention.head_count_kv", GG_ARRAY); image_u32(&m, GG_U8); image_u64(&m, 65537); image_zeros(&m, 65537); }
static void k_heads_text(void)   { gguf_str(&m, "llama.attention.head_count_kv", "1"); }
static void k_layers(void)       { gguf_u32(&m, "llama.block_count", 60000); }
static void k_layers_wide(void)  { gguf_key(&m, "llama.block_count", GG_U64); image_u64(&m, UINT64_C(1) << 40); }
static void k_experts(void)      { gguf_u32(&m, "llama.expert_count", 8); gguf_u32(&m, "llama.expert_used_count", 2); }
static void k_no_experts(void)   { gguf_u32(&m, "llama.expert_count", 0); }
static void k_window(void)       { gguf_u32(&m, "llama.attention.sliding_window", 8); }
static void k_rotary(void)       { gguf_u32(&m, "llama.rope.dimension_count", 8); }
static void k_values(void)       { gguf_u32(&m, "llama.attention.value_length", 8); }
static void k_yarn(void)         { gguf_str(&m, "llama.rope.scaling.type", "yarn"); gguf_f32(&m, "llama.rope.scaling.factor", 4); }
static void k_linear(void)       { gguf_str(&m, "llama.rope.scaling.type", "linear"); gguf_f32(&m, "llama.rope.scaling.factor", 4); }
static void k_factor(void)       { gguf_f32(&m, "llama.rope.scaling.factor", 2); }
static void k_none(void)         { gguf_str(&m, "llama.rope.scaling.type", "none"); }
static void k_negative(void)     { gguf_f32(&m, "llama.rope.scaling.factor", -2); }
static void k_scale(void)        { gguf_f32(&m, "llama.attention.scale", 0.5f); }
static void k_causal(void)       { gguf_key(&m, "llama.attention.causal", GG_BOOL); image_u8(&m, 0); }
static void k_ids(void)          { gguf_u32(&m, "tokenizer.ggml.bos_token_id", 39); gguf_u32(&m, "tokenizer.ggml.eos_token_id", 0);
                                   gguf_u32(&m, "tokenizer.ggml.eot_token_id", 5); }
static void k_no_bos(void)       { gguf_u32(&m, "tokenizer.ggml.bos_token_id", UINT32_MAX); }
static void k_bos(void)          { gguf_u32(&m, "tokenizer.ggml.bos_token_id", 40); }
static void k_eos(void)          { gguf_key(&m, "tokenizer.ggml.eos_token_id", GG_I32); image_u32(&m, (uint32_t)-1); }
static void k_theta(void)        { gguf_f32(&m, "llama.rope.freq_base", 0); }
static void k_gemma(void)        { gguf_str(&m, "general.architecture", "gemma2"); }
static void k_llama_nul(void)    { gguf_key(&m, "general.architecture", GG_STR); image_u64(&m, 6); image_text(&m, "llama"); image_u8(&m, 0); }
static void k_moe(void)          { gguf_str(&m, "general.architecture", "qwen3moe"); }
static void k_adapter(void)      { gguf_str(&m, "general.type", "adapter"); }
static void k_behind(void)       { gguf_key(&m, "general.type", GG_STR); image_u64(&m, 6); image_text(&m, "model"); image_u8(&m, 0); }
static void k_model(void)        { gguf_str(&m, "general.type", "model"); }
static void k_parts(void)        { gguf_u32(&m, "split.count", 3); }
static void k_one_part(void)     { gguf_u32(&m, "split.count", 1); }
static void k_parts_text(void)   { gguf_str(&m, "split.count", "3"); }
static void k_type(void)         { gguf_u32(&m, "general.type", 1); }

static void reads_and_refuses_metadata(void **state)
{
    static const struct { const char *without; void (*keys)(void); uint32_t n; px_code code; const char *field; } cases[] = {
        { "llama.attention.head_count_kv", k_heads_same, 1, PX_OK, "" },
        { "llama.attention.head_count_kv", k_heads_differ, 1, PX_EUNSUP, "llama.attention.head_count_kv" },
        { "llama.attention.head_count_kv", k_heads_none, 1, PX_EINVAL, "llama.attention.head_count_kv" },
        { "llama.attention.head_count_kv", k_heads_many, 1, PX_ERANGE, "llama.attention.head_count_kv" },
        { "llama.attention.head_count_kv", k_heads_text, 1, PX_EMISMATCH, "llama.attention.head_count_kv" },
        { "llama.attention.head_count_kv", NULL, 0, PX_EMISMATCH, "blk.0.attn_k.weight" },       /* then as many as heads */
        { "llama.block_count", k_layers, 1, PX_EMISMATCH, "n_layer" },
        { "llama.block_count", k_layers_wide, 1, PX_ERANGE, "llama.block_count" },
        { "llama.block_count", NULL, 0, PX_ENOTFOUND, "llama.block_count" },
        { "llama.context_length", NULL, 0, PX_ENOTFOUND, "llama.context_length" },
        { "llama.attention.layer_norm_rms_epsilon", NULL, 0, PX_ENOTFOUND, "llama.attention.layer_norm_rms_epsilon" },
        { "general.architecture", NULL, 0, PX_ENOTFOUND, "general.architecture" },
        { "general.architecture", k_gemma, 1, PX_EUNSUP, "general.architecture" },
        { "general.architecture", k_moe, 1, PX_EUNSUP, "general.architecture" },
        { "general.architecture", k_llama_nul, 1, PX_EUNSUP, "general.architecture" },
        { NULL, k_adapter, 1, PX_EUNSUP, "general.type" },
        { NULL, k_model, 1, PX_OK, "" },
        { NULL, k_behind, 1, PX_EUNSUP, "general.type" },
        { NULL, k_type, 1, PX_EMISMATCH, "general.type" },
        { NULL, k_parts, 1, PX_EUNSUP, "split.count" },
        { NULL, k_one_part, 1, PX_OK, "" },
        { NULL, k_parts_text, 1, PX_EMISMATCH, "split.count" },
        { NULL, k_experts, 2, PX_EUNSUP, "n_expert" },
        { NULL, k_no_experts, 1, PX_OK, "" },
        { NULL, k_window, 1, PX_EUNSUP, "sliding_window" },
        { NULL, k_rotary, 1, PX_EUNSUP, "llama.rope.dimension_count" },
        { NULL, k_values, 1, PX_EUNSUP, "llama.attention.value_length" },
        { NULL, k_yarn, 2, PX_EUNSUP, "llama.rope.scaling.type" },
        { NULL, k_none, 1, PX_OK, "" },
        { NULL, k_negative, 1, PX_ERANGE, "rope_factor" },
        { NULL, k_scale, 1, PX_EUNSUP, "llama.attention.scale" },
        { NULL, k_causal, 1, PX_EUNSUP, "llama.attention.causal" },
        { NULL, k_bos, 1, PX_ERANGE, "tokenizer.ggml.bos_token_id" },
        { NULL, k_eos, 1, PX_ERANGE, "tokenizer.ggml.eos_token_id" },
        { NULL, k_theta, 1, PX_ERANGE, "rope_theta" },
    };
    shard_checkpoint *c;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        variant v = { .skip_key = cases[i].without, .keys = cases[i].keys, .n_keys = cases[i].n };
        if (cases[i].code) gguf_with(&v, cases[i].code, cases[i].field);
        else shard_checkpoint_close(open_good(make_gguf(&v)));
    }
    c = open_good(make_gguf(&(variant){ .keys = k_linear, .n_keys = 2 }));
    assert_true(shard_checkpoint_arch(c)->rope_kind == KERN_ROPE_LINEAR && shard_checkpoint_arch(c)->rope_factor == 4);
    shard_checkpoint_close(c);
    c = open_good(make_gguf(&(variant){ .keys = k_factor, .n_keys = 1 }));
    assert_true(shard_checkpoint_arch(c)->rope_kind == KERN_ROPE_LINEAR && shard_checkpoint_arch(c)->rope_factor == 2);
    shard_checkpoint_close(c);
    c = open_good(make_gguf(&(variant){ .keys = k_ids, .n_keys = 3 }));
    const shard_arch *a = shard_checkpoint_arch(c);
    assert_true(a->bos == 39 && a->n_eos == 2 && a->eos[0] == 0 && a->eos[1] == 5);
    shard_checkpoint_close(c);
    c = open_good(make_gguf(&(variant){ .keys = k_no_bos, .n_keys = 1 }));
    assert_int_equal(shard_checkpoint_arch(c)->bos, UINT32_MAX);
    shard_checkpoint_close(c);
}

/* ---- a llama in safetensors, 1 layer: d 4, 2 heads of 2, ff 3, vocabulary 5; F32 ---- */

static const struct { const char *name; uint32_t rows, cols; } hf[] = {
    { "model.embed_tokens.weight", 5, 4 },                  { "model.norm.weight", 0, 4 },
    { "model.layers.0.input_layernorm.weight", 0, 4 },      { "model.layers.0.self_attn.q_proj.weight", 4, 4 },
    { "model.layers.0.self_attn.k_proj.weight", 4, 4 },     { "model.layers.0.self_attn.v_proj.weight", 4, 4 },
    { "model.layers.0.self_attn.o_proj.weight", 4, 4 },     { "model.layers.0.post_attention_layernorm.weight", 0, 4 },
    { "model.layers.0.mlp.gate_proj.weight", 3, 4 },        { "model.layers.0.mlp.up_proj.weight", 3, 4 },
    { "model.layers.0.mlp.down_proj.weight", 4, 3 },        { "lm_head.weight", 5, 4 },
};
enum { N_HF = sizeof hf / sizeof *hf };

static void append_tensor(char *text, size_t cap, const char *name, uint32_t rows, uint32_t cols, size_t *at)
{
    size_t n = strlen(text), bytes = (size_t)(rows ? rows : 1) * cols * 4;
    char shape[32];
    if (rows) snprintf(shape, sizeof shape, "[%u,%u]", rows, cols);
    else snprintf(shape, sizeof shape, "[%u]", cols);
    snprintf(text + n, cap - n, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", n > 1 ? "," : "", name,
             shape, *at, *at + bytes);
    *at += bytes;
}

/* Tensors [from, to) of hf, without one, and one more. */
static void write_part(const char *file, size_t from, size_t to, const char *without, const char *more, uint32_t rows,
                       uint32_t cols)
{
    static char text[8192];
    size_t at = 0;

    snprintf(text, sizeof text, "{");
    for (size_t i = from; i < to; i++)
        if (!without || strcmp(without, hf[i].name)) append_tensor(text, sizeof text, hf[i].name, hf[i].rows, hf[i].cols, &at);
    if (more) append_tensor(text, sizeof text, more, rows, cols, &at);
    strcat(text, "}");
    safetensors_write(text, at, file);
}

static void write_config(const char *file, bool tied)
{
    text_write(tied ? "{\"model_type\":\"llama\",\"hidden_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
                      "\"intermediate_size\":3,\"vocab_size\":5,\"tie_word_embeddings\":true}"
                    : "{\"model_type\":\"llama\",\"hidden_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
                      "\"intermediate_size\":3,\"vocab_size\":5}", file);
}

static const char *folder(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), name);
    return path;
}

static void binds_a_folder_exactly(void **state)
{
    shard_checkpoint *c;

    (void)state;
    write_config("hf/config.json", false);
    write_part("hf/model.safetensors", 0, N_HF, NULL, NULL, 0, 0);
    c = open_good(folder("hf"));
    check_whole(c);
    shard_checkpoint_close(c);
    write_part("hf/model.safetensors", 0, N_HF, NULL, "model.layers.0.self_attn.rotary_emb.inv_freq", 0, 1);   /* harmless */
    shard_checkpoint_close(open_good(folder("hf")));
    for (size_t i = 0; i < N_HF; i++) {
        write_part("hf/model.safetensors", 0, N_HF, hf[i].name, NULL, 0, 0);
        expect(folder("hf"), PX_ENOTFOUND, hf[i].name);
        write_part("hf/model.safetensors", 0, N_HF, hf[i].name, hf[i].name, 7, 9);
        expect(folder("hf"), PX_EMISMATCH, hf[i].name);
    }
    write_part("hf/model.safetensors", 0, N_HF, NULL, "model.layers.0.self_attn.q_proj.bias", 0, 4);
    expect(folder("hf"), PX_EUNSUP, "model.layers.0.self_attn.q_proj.bias");
    write_part("hf/model.safetensors", 0, N_HF, NULL, "model.layers.1.mlp.up_proj.weight", 3, 4);
    expect(folder("hf"), PX_EUNSUP, "model.layers.1.mlp.up_proj.weight");
}

static void a_folders_generation_config_is_read(void **state)
{
    (void)state;
    write_config("gen/config.json", false);
    write_part("gen/model.safetensors", 0, N_HF, NULL, NULL, 0, 0);
    text_write("{\"eos_token_id\":[4,1]}", "gen/generation_config.json");
    shard_checkpoint *c = open_good(folder("gen"));
    const shard_arch *arch = shard_checkpoint_arch(c);
    assert_true(arch->n_eos == 2 && arch->eos[0] == 4 && arch->eos[1] == 1);
    shard_checkpoint_close(c);
    text_write("{\"eos_token_id\":[4,5]}", "gen/generation_config.json");
    expect(folder("gen"), PX_ERANGE, "eos_token_id");
}

static void a_tied_head_must_be_the_table(void **state)
{
    char path[600];

    (void)state;
    write_config("tied/config.json", true);
    write_part("tied/model.safetensors", 0, N_HF - 1, NULL, NULL, 0, 0);
    shard_checkpoint_close(open_good(folder("tied")));
    write_part("tied/model.safetensors", 0, N_HF, NULL, NULL, 0, 0);            /* all zeros: the same */
    shard_checkpoint *c = open_good(folder("tied"));
    check_whole(c);
    shard_checkpoint_close(c);
    snprintf(path, sizeof path, "%s/model.safetensors", folder("tied"));
    FILE *f = fopen(path, "r+b");                                                /* its last byte: of lm_head */
    assert_non_null(f);
    fseek(f, -1, SEEK_END);
    fputc(1, f);
    fclose(f);
    expect(folder("tied"), PX_EMISMATCH, "lm_head.weight");
}

static void binds_the_files_of_an_index(void **state)
{
    char text[4096] = "{\"weight_map\":{";
    px_err e;

    (void)state;
    write_config("many/config.json", false);
    write_part("many/a.safetensors", 0, 5, NULL, NULL, 0, 0);
    write_part("many/b.safetensors", 5, N_HF, NULL, NULL, 0, 0);
    for (size_t i = 0; i < N_HF; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s\"%s\":\"%s.safetensors\"", i ? "," : "", hf[i].name,
                 i < 5 ? "a" : "b");
    strcat(text, "}}");
    text_write(text, "many/model.safetensors.index.json");
    shard_checkpoint *c = open_good(folder("many"));
    check_whole(c);
    assert_non_null(strstr(shard_checkpoint_tensor(c, SHARD_TOKEN_EMBD, 0)->file, "a.safetensors"));
    assert_non_null(strstr(shard_checkpoint_tensor(c, SHARD_OUTPUT, 0)->file, "b.safetensors"));
    shard_checkpoint_close(c);

    write_part("many/b.safetensors", 5, N_HF, NULL, hf[0].name, 5, 4);
    e = expect(folder("many"), PX_ECORRUPT, hf[0].name);                         /* in two files */
    assert_non_null(strstr(e.text, ".safetensors"));
    char path[600];
    snprintf(path, sizeof path, "%s/b.safetensors", folder("many"));
    assert_int_equal(unlink(path), 0);
    e = expect(folder("many"), PX_ENOTFOUND, "b.safetensors");
    assert_non_null(strstr(e.file, "index.json"));
}

static void refuses_other_paths(void **state)
{
    (void)state;
    expect("/nonexistent/model", PX_ENOTFOUND, "");
    text_write("hello", "empty/readme.txt");
    expect(folder("empty"), PX_ENOTFOUND, "config.json");
    expect(folder("empty/readme.txt"), PX_EINVAL, "magic");
    write_config("bare/config.json", false);
    expect(folder("bare"), PX_ENOTFOUND, "model.safetensors");
    expect(folder("bare/config.json"), PX_ENOTFOUND, "model.safetensors");
    text_write("{\"peft_type\":\"LORA\"}", "lora/adapter_config.json");
    expect(folder("lora"), PX_EUNSUP, "adapter_config.json");
    write_config("lora/config.json", false);                             /* as some have it beside */
    expect(folder("lora"), PX_EUNSUP, "adapter_config.json");
    text_write("{}", "set/manifest.json");
    expect(folder("set"), PX_EINVAL, "manifest.json");
    expect("/dev/null", PX_EINVAL, "");
    expect("", PX_ENOTFOUND, "");
}

static px_code open_and_drop(px_alloc *a, px_err *e, const char *path)
{
    shard_checkpoint *c;
    px_code rc = shard_checkpoint_open(&c, a, path, e);
    shard_checkpoint_close(c);
    return rc;
}

static px_code open_folder(px_alloc *a, px_err *e) { return open_and_drop(a, e, test_golden("tiny/arch/llama")); }
static px_code open_file(px_alloc *a, px_err *e) { return open_and_drop(a, e, test_golden("tiny/gguf/smollm_like_f16/model.gguf")); }
static px_code open_misfit(px_alloc *a, px_err *e)      /* an error after the last allocation */
{
    static const char *path;
    px_err own = {0};
    if (!path) path = make_gguf(&(variant){ .skip_tensor = "blk.0.ffn_down.weight" });
    px_code rc = open_and_drop(a, &own, path);
    if (rc == PX_ENOTFOUND) return PX_OK;
    *e = own;
    return rc;
}

static void survives_every_oom(void **state)
{
    (void)state;
    test_oom_sweep(open_folder);
    test_oom_sweep(open_file);
    test_oom_sweep(open_misfit);
}

static int up(void **state) { (void)state; px_heap_init(&heap, "test"); return 0; }
static int down(void **state)
{
    (void)state;
    return test_heap_end(&heap, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_every_golden_folder),
        cmocka_unit_test(opens_the_golden_ggufs_of_qwen), cmocka_unit_test(opens_the_golden_gguf),
        cmocka_unit_test(opens_the_real_model),
        cmocka_unit_test(refuses_other_families_by_name),
        cmocka_unit_test(binds_a_gguf_exactly),
        cmocka_unit_test(refuses_types_by_name),
        cmocka_unit_test(reads_and_refuses_metadata),
        cmocka_unit_test(binds_a_folder_exactly),
        cmocka_unit_test(a_folders_generation_config_is_read),
        cmocka_unit_test(a_tied_head_must_be_the_table),
        cmocka_unit_test(binds_the_files_of_an_index),
        cmocka_unit_test(refuses_other_paths),
        cmocka_unit_test(survives_every_oom),
    };
    return cmocka_run_group_tests_name("shard_checkpoint", tests, up, down);
}
