#include "daemon/text/chat_table.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "proto/base/log.h"

const char *const daemon_role_name[DAEMON_N_ROLES] = { "system", "user", "assistant" };
const char *const daemon_system_in_name[DAEMON_N_SYSTEM_IN] = { "own", "first_user", "last_user", "none" };

enum { CHATML, SMOLLM2, LLAMA2, LLAMA3, LLAMA31, MISTRAL_V1, MISTRAL_V1_SYSTEM, MISTRAL_V3, ZEPHYR, QWEN2, QWEN25, QWEN3, N_TEMPLATES };

#define IM(role) { "<|im_start|>" role "\n", "<|im_end|>\n", false }
#define IM_TURNS { IM("system"), IM("user"), IM("assistant") }
#define IM_CONTROL { "<|im_start|>", "<|im_end|>" }
#define IM_BEGIN "<|im_start|>assistant\n"
#define HEAD(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define HEAD_CONTROL { "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" }
#define S_CONTROL { "<s>", "</s>" }

static const daemon_template template[N_TEMPLATES] = {
    [CHATML]  = { .name = "chatml", .control = IM_CONTROL, .begin = "", .turn = IM_TURNS, .generation = IM_BEGIN },
    [SMOLLM2] = { .name = "smollm2", .control = IM_CONTROL, .begin = "", .turn = IM_TURNS, .generation = IM_BEGIN,
                  .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face" },
    [QWEN2]   = { .name = "qwen2", .control = IM_CONTROL, .begin = "", .turn = IM_TURNS, .generation = IM_BEGIN,
                  .default_system = "You are a helpful assistant." },
    [QWEN25]  = { .name = "qwen2.5", .control = IM_CONTROL, .begin = "", .turn = IM_TURNS, .generation = IM_BEGIN,
                  .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." },
    [QWEN3]   = { .name = "qwen3", .control = IM_CONTROL, .begin = "", .turn = IM_TURNS, .generation = IM_BEGIN,
                  .user_last = true, .drop_thinking = true },
    [LLAMA2]  = { .name = "llama2", .control = S_CONTROL, .begin = "", .generation = "", .alternate = true,
                  .system_in = DAEMON_IN_FIRST_USER,
                  .turn = { { "<<SYS>>\n", "\n<</SYS>>\n\n", false }, { "<s>[INST] ", " [/INST]", true }, { " ", " </s>", true } } },
    [LLAMA3]  = { .name = "llama3", .control = HEAD_CONTROL, .begin = "<|begin_of_text|>", .generation = HEAD("assistant"),
                  .turn = { { HEAD("system"), "<|eot_id|>", true }, { HEAD("user"), "<|eot_id|>", true },
                            { HEAD("assistant"), "<|eot_id|>", true } } },
    [LLAMA31] = { .name = "llama3.1", .control = HEAD_CONTROL, .begin = "<|begin_of_text|>", .generation = HEAD("assistant"),
                  .default_system = "",
                  .turn = { { HEAD("system") "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", "<|eot_id|>", true },
                            { HEAD("user"), "<|eot_id|>", true }, { HEAD("assistant"), "<|eot_id|>", true } } },
    [MISTRAL_V1] = { .name = "mistral-v1", .control = S_CONTROL, .begin = "<s>", .generation = "", .alternate = true,
                  .system_in = DAEMON_IN_NONE,
                  .turn = { { "", "", false }, { "[INST] ", " [/INST]", false }, { "", "</s>", false } } },
    [MISTRAL_V1_SYSTEM] = { .name = "mistral-v1-system", .control = S_CONTROL, .begin = "<s>", .generation = "", .alternate = true,
                  .system_in = DAEMON_IN_FIRST_USER,
                  .turn = { { "", "\n\n", false }, { " [INST] ", " [/INST]", false }, { " ", "</s>", false } } },
    [MISTRAL_V3] = { .name = "mistral-v3", .control = { "<s>", "</s>", "[INST]", "[/INST]" }, .begin = "<s>", .generation = "",
                  .alternate = true, .user_last = true, .system_in = DAEMON_IN_LAST_USER,
                  .turn = { { "", "\n\n", false }, { "[INST] ", "[/INST]", false }, { " ", "</s>", true } } },
    [ZEPHYR]  = { .name = "zephyr", .control = { "</s>" }, .begin = "", .generation = "<|assistant|>\n",
                  .turn = { { "<|system|>\n", "</s>\n", false }, { "<|user|>\n", "</s>\n", false },
                            { "<|assistant|>\n", "</s>\n", false } } },
};

/* XXH3-128 of template texts in circulation.  tests/daemon/text/templates has the texts that are named as files; those named as
 * models are their makers' own, and rendered 1,500 random conversations as the form's text does. */
static const struct { const char *digest; int of; } known[] = {
    { "a344e8c84fb0282dda206a9e46a4ac01", CHATML },            /* chatml-2.jinja */
    { "7a128e0473e4be90846f9032c2079ea2", CHATML },            /* chatml-2-esc.jinja */
    { "f0a6a8278439fdb056191e205a440263", CHATML },            /* chatml.jinja */
    { "577a7fce73f72e1ee2be9fd6966bb5eb", CHATML },            /* chatml-esc.jinja */
    { "78386cb469cd9eb7a74aa2617afe5384", LLAMA2 },            /* llama2-2.jinja */
    { "4adb1f81f5c508ea24f6d97f87d647f5", LLAMA2 },            /* llama2.jinja */
    { "97aac26c37e4a675cb7c5112dfc4a3b0", LLAMA2 },            /* llama2-raw.jinja */
    { "8f20b9eda669ce10b97891b7adc1beb8", LLAMA3 },            /* llama3-2.jinja */
    { "0debe51b618cd79280e4830e93c6d9f7", LLAMA3 },            /* llama3-2-esc.jinja */
    { "0c2fe941e01674f5a8344fceb19d98ce", LLAMA31 },           /* llama3.1.jinja */
    { "9ddcd6cd71f96dd76ca7779b7730196a", LLAMA31 },           /* llama3.1.jinja, its last newline left out */
    { "09facc0e4aa943189799ad6e2dea0594", LLAMA3 },            /* llama3.jinja */
    { "11cc8d79e9815d5c866fc8fa50da12fe", LLAMA3 },            /* llama3-esc.jinja */
    { "41483b6734ed0021d40f466f5b2860c8", MISTRAL_V1_SYSTEM }, /* mistral-v1-system.jinja */
    { "6aef58edf0d62df9f89cfc57f651ff3d", MISTRAL_V1_SYSTEM }, /* mistral-v1-system.jinja, its last newline left out */
    { "f395fc5daa794129a5d004210ebce758", MISTRAL_V1 },        /* mistral-v1.jinja */
    { "1e718fcfded5a60027a26dbe0f7fa896", MISTRAL_V3 },        /* mistral-v3.jinja */
    { "df3ebcd92fa9a63fc6614466504d495b", MISTRAL_V3 },        /* mistral-v3.jinja, its last newline left out */
    { "b814c46bce72e39a4b314006a433de3f", QWEN2 },             /* qwen2-2.jinja */
    { "0fe61c920a9d3925c31e98db8c19d1d3", QWEN2 },             /* qwen2-2.jinja, its last newline left out */
    { "c63bde148c12b98b639547fe4d33fa67", QWEN25 },            /* qwen2.5.jinja */
    { "e392aa06018503fd2469c9508f79506e", QWEN25 },            /* qwen2.5.jinja, its last newline left out */
    { "e580c2da83415028d5d943bd0bd9082f", QWEN2 },             /* qwen2.jinja */
    { "7c4c17cbc95b1d56c79034a9d5f0ae58", QWEN2 },             /* qwen2-esc.jinja */
    { "4457e3d12b367a860283f874ff58d644", QWEN3 },             /* qwen3.jinja */
    { "90cd99f4ba971c30daa4075515d013cf", QWEN3 },             /* qwen3.jinja, a newline behind it */
    { "0fab82ce8f4d5175c9e0155c80737cf2", QWEN3 },             /* Qwen3, the later text: contents that are not text are left out */
    { "cc9ddd5a40bc1c0c8fb5d937b1e8f5d0", CHATML },            /* Qwen3 Instruct 2507 */
    { "0f755a597d4eb9dd41032903ea170582", LLAMA31 },           /* Llama 3.2 Instruct, with the date that it has without a clock */
    { "573e1bcc8c56f178c3d57e38f5ff0756", LLAMA31 },           /* Llama 3.2 Instruct, its last newline left out */
    { "98f63cc3d421d28f99ab995e9629dacd", SMOLLM2 },           /* smollm2.jinja */
    { "f0323af61a5d6e2383059ddcb62b07a0", SMOLLM2 },           /* smollm2-esc.jinja */
    { "5ae4edc1a6c08aa61db34e9fc60441d8", ZEPHYR },            /* zephyr.jinja */
    { "5c929235d1675dbfd9fe74edcb57aa82", ZEPHYR },            /* zephyr-esc.jinja */
};

const daemon_template *daemon_template_by_text(const char *text, size_t bytes)
{
    XXH128_canonical_t c;
    char hex[2 * sizeof c.digest + 1];

    XXH128_canonicalFromHash(&c, XXH3_128bits(text, bytes));
    for (size_t i = 0; i < sizeof c.digest; i++) snprintf(hex + 2 * i, 3, "%02x", c.digest[i]);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(hex, known[i].digest)) return &template[known[i].of];
    return NULL;
}

const daemon_template *daemon_template_by_name(const char *name, px_err *e)
{
    char names[160], quoted[96];

    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (!strcmp(name, template[i].name)) return &template[i];
    daemon_template_names(names, sizeof names);
    px_err_set_mismatch(e, PX_EUNSUP, __FILE__, __LINE__, "chat_template",
                        px_log_quote(name, -1, quoted, sizeof quoted), names);
    return NULL;
}

const char *daemon_template_name(const daemon_template *t)
{
    return t->name;
}

void daemon_template_names(char *buf, size_t cap)
{
    size_t at = 0;

    if (cap) *buf = 0;
    for (size_t i = 0; i < N_TEMPLATES && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? ", " : "", template[i].name);
}
