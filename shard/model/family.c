#include "shard/model/family.h"

#include <stdio.h>
#include <string.h>

static const shard_family_sizes gemma3_sizes = { 26, 2304, 9216, 8, 262208 };

const shard_family shard_families[] = {
    { .name = "llama", .model_type = "llama", .architecture = "LlamaForCausalLM", .gguf = "llama", .served = true,
      .gguf_pairs = true, .n_ctx = 2048, .rope_theta = 1e4 },
    { .name = "mistral", .model_type = "mistral", .architecture = "MistralForCausalLM", .served = true,      /* as GGUF: llama */
      .slides = true, .n_kv_head = 8, .n_ctx = 131072, .rope_theta = 1e4, .window = 4096 },
    { .name = "qwen2", .model_type = "qwen2", .architecture = "Qwen2ForCausalLM", .gguf = "qwen2", .served = true,
      .qkv_bias = true, .slides = true, .asks_to_slide = true, .n_kv_head = 32, .n_ctx = 32768, .rope_theta = 1e4, .window = 4096 },
    { .name = "qwen3", .model_type = "qwen3", .architecture = "Qwen3ForCausalLM", .gguf = "qwen3", .served = true,
      .qk_norm = true, .slides = true, .asks_to_slide = true, .n_kv_head = 32, .head_dim = 128, .n_ctx = 32768, .rope_theta = 1e4,
      .window = 4096 },
    { .name = "mixtral", .model_type = "mixtral", .architecture = "MixtralForCausalLM",
      .experts = true, .n_kv_head = 8, .n_ctx = 131072, .rope_theta = 1e6 },
    { .name = "gemma2", .model_type = "gemma2", .architecture = "Gemma2ForCausalLM", .gguf = "gemma2",
      .sandwich_norms = true, .slides = true, .tied = true, .n_kv_head = 4, .head_dim = 256, .n_ctx = 8192, .rope_theta = 1e4,
      .window = 4096, .full_every = 2 },
    { .name = "gemma3", .model_type = "gemma3_text", .architecture = "Gemma3ForCausalLM", .gguf = "gemma3",
      .qk_norm = true, .sandwich_norms = true, .slides = true, .tied = true, .n_kv_head = 4, .head_dim = 256, .n_ctx = 131072,
      .rope_theta = 1e6, .window = 4096, .full_every = 6, .sizes = &gemma3_sizes },
    { .name = "gemma3", .model_type = "gemma3", .architecture = "Gemma3ForConditionalGeneration",
      .qk_norm = true, .sandwich_norms = true, .slides = true, .tied = true, .n_kv_head = 4, .head_dim = 256, .n_ctx = 131072,
      .rope_theta = 1e6, .window = 4096, .full_every = 6, .sizes = &gemma3_sizes },
};
const size_t shard_n_families = sizeof shard_families / sizeof *shard_families;

static const char *word_of(const shard_family *f, shard_family_word word)
{
    switch (word) {
    case SHARD_FAMILY_MODEL_TYPE:   return f->model_type;
    case SHARD_FAMILY_ARCHITECTURE: return f->architecture;
    case SHARD_FAMILY_GGUF:         return f->gguf;
    default:                        return f->name;
    }
}

const shard_family *shard_family_find(shard_family_word word, const char *s, bool served)
{
    for (size_t i = 0; i < shard_n_families; i++) {
        const char *w = word_of(&shard_families[i], word);
        if (w && !strcmp(w, s) && (shard_families[i].served || !served)) return &shard_families[i];
    }
    return NULL;
}

const char *shard_family_list(shard_family_word word, bool served, char *buf, size_t cap)
{
    const char *last = NULL;
    size_t at = 0;

    buf[0] = 0;
    for (size_t i = 0; i < shard_n_families; i++) {
        const char *w = word_of(&shard_families[i], word);
        if (!w || (served && !shard_families[i].served) || (last && !strcmp(last, w))) continue;
        if (last && at < cap) at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? ", " : "", last);
        last = w;
    }
    if (last && at < cap) snprintf(buf + at, cap - at, "%s%s", at ? " or " : "", last);
    return buf;
}
