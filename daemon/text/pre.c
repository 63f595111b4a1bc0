#include "daemon/text/pre.h"

#include <stdio.h>
#include <string.h>

#define WS DAEMON_SPLIT_SPACE
/* Numerals (Nd, Nl, No), with those of Unicode 15 to 17, which the library (14) may not know and the makers' does. */
#define NUMERAL "[\\p{N}\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11DE0}-\\x{11DE9}" \
                "\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{16FF4}-\\x{16FF6}\\x{1CCF0}-\\x{1CCF9}" \
                "\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}]"
/* The families' expressions: `s` is white space inside a class, `run` and `none` are classes with and without it. */
#define GPT2_OF(s, run, none) "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" s "\\p{L}\\p{N}]+|" run "+(?!" none ")|" run "+"
#define LLAMA3_OF(s, run, none, digits) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits \
    "| ?[^" s "\\p{L}\\p{N}]+[\\r\\n]*|" run "*[\\r\\n]+|" run "+(?!" none ")|" run "+"
/* Words begin with a capital, and none stands inside. */
#define TEKKEN_OF(s, run, none) "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}" \
    "| ?[^" s "\\p{L}\\p{N}]+[\\r\\n/]*|" run "*[\\r\\n]+|" run "+(?!" none ")|" run "+"
#define OURS WS, "[" WS "]", "[^" WS "]"
#define THEIRS "\\s", "\\s", "\\S"
#define EXPAND(macro, ...) macro(__VA_ARGS__)

#define GPT2   EXPAND(GPT2_OF, OURS)
#define LLAMA3 EXPAND(LLAMA3_OF, OURS, "{1,3}")
#define QWEN2  EXPAND(LLAMA3_OF, OURS, "")
#define TEKKEN EXPAND(TEKKEN_OF, OURS)

/* Cased letters as of Unicode 11, which DeepSeek's expression lists one by one. */
#define DEEPSEEK_LETTERS "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}" \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}" \
    "\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}" \
    "\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}" \
    "\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}" \
    "\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}" \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}" \
    "\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}" \
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}" \
    "\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}" \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}" \
    "\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}" \
    "\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"

static const daemon_pre known[] = {
    { "smollm",    { NUMERAL, GPT2 }, false, false, false },      /* digits one by one, before everything else */
    { "gpt-2",     { GPT2 },           false, false, false },
    { "llama-bpe", { LLAMA3 },         true,  true,  false },
    { "qwen2",     { QWEN2 },          false, false, true  },
    { "tekken",    { TEKKEN },         true,  true,  false },      /* Mistral's, of Nemo and later */
    { "deepseek-llm", { "[\\r\\n]", "[" WS "]?[" DEEPSEEK_LETTERS "]+",
                        "[" WS "]?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+",
                        "[" WS "]+$", "[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}]+", NUMERAL }, false, false, false },
};
enum { N_KNOWN = sizeof known / sizeof *known };

/* Earlier names of the same, of files that were written before the name was settled.  llama.cpp gives more names these expressions;
 * what they mean beside them is another thing (smaug-bpe does not ignore merges) or not known here, and they are refused. */
static const struct { const char *name, *of; } also[] = { { "llama3", "llama-bpe" }, { "llama-v3", "llama-bpe" } };
enum { N_ALSO = sizeof also / sizeof *also };

const char *const daemon_pre_digit = NUMERAL, *const daemon_pre_digits = NUMERAL "+", *const daemon_pre_gpt2 = GPT2;

static const struct { const char *theirs, *ours; } expression_of[] = {
    { EXPAND(GPT2_OF, THEIRS),            GPT2 },
    { EXPAND(LLAMA3_OF, THEIRS, "{1,3}"), LLAMA3 },
    { EXPAND(LLAMA3_OF, THEIRS, ""),      QWEN2 },
    { EXPAND(TEKKEN_OF, THEIRS),          TEKKEN },
};

/* What Oniguruma, the makers' engine, and PCRE2 read differently. */
static const char *const different[] = { "\\h", "\\H", "\\R", "\\X", "\\K", "\\G", "\\A", "\\Z", "\\z", "\\y", "\\Y", "\\O",
    "\\N", "\\g", "\\k", "&&", "}+", "[^[", "[[", "(?<", "(?m", "(?s", "(?x", "(?i)", "(*", "(|" };

static bool is(const char *name, const char *s, size_t bytes) { return strlen(name) == bytes && !memcmp(name, s, bytes); }

const daemon_pre *daemon_pre_by_name(const char *name, size_t bytes)
{
    for (size_t i = 0; i < N_ALSO; i++)
        if (is(also[i].name, name, bytes)) return daemon_pre_by_name(also[i].of, strlen(also[i].of));
    for (size_t i = 0; i < N_KNOWN; i++)
        if (is(known[i].name, name, bytes)) return &known[i];
    return NULL;
}

void daemon_pre_names(char *buf, size_t cap)
{
    size_t at = 0;

    for (size_t i = 0; i < N_KNOWN && at < cap; i++) {
        at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? ", " : "", known[i].name);
        for (size_t k = 0; k < N_ALSO && at < cap; k++)
            if (!strcmp(also[k].of, known[i].name)) at += (size_t)snprintf(buf + at, cap - at, ", %s", also[k].name);
    }
}

const char *daemon_pre_stage(const char *expression, const char **what)
{
    for (size_t i = 0; i < sizeof expression_of / sizeof *expression_of; i++)
        if (!strcmp(expression, expression_of[i].theirs)) return expression_of[i].ours;
    for (size_t i = 0; i < sizeof different / sizeof *different; i++)
        if (strstr(expression, different[i])) {
            *what = different[i];
            return NULL;
        }
    return expression;
}

const char *daemon_pre_name(const char *const *stage)
{
    for (size_t i = 0; i < N_KNOWN; i++) {
        size_t k = 0;
        while (known[i].stage[k] && stage[k] && !strcmp(known[i].stage[k], stage[k])) k++;
        if (!known[i].stage[k] && !stage[k]) return known[i].name;
    }
    return "custom";
}
