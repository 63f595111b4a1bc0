/* A safetensors file, alone and as the weights beside a config.json of a tiny model. */
#include "shard/store/safetensors.h"

#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/readers.h"

static const char config[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 8, \"intermediate_size\": 32,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"vocab_size\": 4,"
    " \"max_position_embeddings\": 16, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    px_alloc *a = fuzz_begin(n);
    shard_safetensors s;
    px_err e = { 0 };
    px_code rc;

    fuzz_file("config.json", config, sizeof config - 1);
    rc = shard_safetensors_open(&s, a, fuzz_file("model.safetensors", data, n), &e);
    fuzz_refused(rc, &e);
    for (size_t i = 0; !rc && i < s.n; i++) {
        fuzz_touch(s.tensor[i].name, strlen(s.tensor[i].name));
        fuzz_touch(s.tensor[i].data, s.tensor[i].bytes);
    }
    shard_safetensors_close(&s);
    fuzz_checkpoint(a, fuzz_dir());
    fuzz_end();
    return 0;
}
