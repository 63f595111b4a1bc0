#include "proto/config/config.h"
#include "proto/config/value.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "proto/base/io.h"

/* Index = value of the enumeration. */
static const char *const transport_words[] = {
    [PROTO_TRANSPORT_AUTO] = "auto", [PROTO_TRANSPORT_SHM] = "shm", [PROTO_TRANSPORT_MPI] = "mpi", NULL };
static const char *const cpu_words[] = {
    [PROTO_CPU_AUTO] = "auto", [PROTO_CPU_SCALAR] = "scalar", [PROTO_CPU_AVX2] = "avx2",
    [PROTO_CPU_AVX512] = "avx512", NULL };
static const char *const device_words[] = { [PROTO_DEVICE_CPU] = "cpu", [PROTO_DEVICE_CUDA] = "cuda", NULL };
static const char *const reduce_words[] = {
    [PROTO_REDUCE_AUTO] = "auto", [PROTO_REDUCE_NCCL] = "nccl", [PROTO_REDUCE_ORDERED] = "ordered", NULL };
static const char *const kv_dtype_words[] = { [PROTO_KV_F16] = "f16", [PROTO_KV_F32] = "f32", [PROTO_KV_BF16] = "bf16",
    [PROTO_KV_INT8] = "int8_th", [PROTO_KV_FP8] = "fp8", NULL };
static const char *const level_words[] = { "debug", "info", "warn", "error", NULL };
static const char *const verify_words[] = { "auto", "header", "sample", "full", NULL };
static const uint32_t    kv_block_only[] = { 16, 32, 64, 128, 0 };

#define AT(member) offsetof(proto_config, member), sizeof(((proto_config *)0)->member)
#define MOST_TOKENS ((uint64_t)1 << 31)
#define MOST_KV     ((uint64_t)1 << 30)     /* what shard/plan/layout.c lays out */

const proto_field proto_fields[] = {
    { .key = "set", PROTO_STRING, PROTO_HOST, AT(set), .fallback = "",
      .doc = "folder of the shard set (made by phalanx shard); required" },
    { .key = "listen", PROTO_STRING, PROTO_HOST, AT(listen), .fallback = "127.0.0.1:50051",
      .doc = "address of the gRPC server, HOST:PORT or [V6]:PORT; port 0 lets the kernel pick" },
    { .key = "insecure", PROTO_BOOL, PROTO_HOST, AT(insecure), .fallback = "false",
      .doc = "allow a listen address that is not loopback, without encryption or keys" },
    { .key = "ranks", PROTO_UINT, PROTO_GLOBAL, AT(ranks), 0, 1024, .fallback = "0",
      .doc = "ranks to start; 0: what the set was cut for" },
    { .key = "threads", PROTO_UINT, PROTO_HOST, AT(threads), 0, 1024, .fallback = "0",
      .doc = "threads of each rank; 0: cores divided by ranks, at least 1" },
    { .key = "transport", PROTO_ENUM, PROTO_GLOBAL, AT(transport), .words = transport_words, .fallback = "auto",
      .doc = "how ranks add their sums; auto: shm on one host, else mpi" },
    { .key = "cpu", PROTO_ENUM, PROTO_HOST, AT(cpu), .words = cpu_words, .fallback = "auto",
      .doc = "kernels to use; auto: the best that the processor has; all give the same bits" },
    { .key = "device", PROTO_ENUM, PROTO_GLOBAL, AT(device), .words = device_words, .fallback = "cpu",
      .doc = "what computes; cuda: NVIDIA GPUs, one a rank, by the plugin libphalanx-cuda.so" },
    { .key = "devices", PROTO_STRING, PROTO_HOST, AT(devices), .fallback = "",
      .doc = "device: cuda: ordinals of the GPUs for the ranks of this host, \"0,1\"; empty: a rank's number on its host" },
    { .key = "deterministic", PROTO_BOOL, PROTO_GLOBAL, AT(deterministic), .fallback = "false",
      .doc = "device: cuda: a token's bits do not depend on what else runs, at a price; on cpu they never do" },
    { .key = "fp8_activations", PROTO_BOOL, PROTO_GLOBAL, AT(fp8_activations), .fallback = "false",
      .doc = "device: cuda, a set with FP8 weights: in steps of more than 64 rows (prefill) activations are FP8, too, and answers coarser; in smaller steps they stay fp16" },
    { .key = "reduce", PROTO_ENUM, PROTO_GLOBAL, AT(reduce), .words = reduce_words, .fallback = "auto",
      .doc = "device: cuda: nccl adds on the GPUs, ordered over the hosts in one order; auto: nccl where every rank has it and a GPU of its own" },
    { .key = "check_sequence", PROTO_BOOL, PROTO_GLOBAL, AT(check_sequence), .fallback = "false",
      .doc = "for finding faults: after each step the ranks compare what they have done, call for call" },
    { .key = "kv.dtype", PROTO_ENUM, PROTO_GLOBAL, AT(kv_dtype), .words = kv_dtype_words, .fallback = "f16",
      .doc = "number type of the KV cache; bf16, int8_th (a scale a token and head) and fp8 (e4m3) are of device: cuda" },
    { .key = "kv.tokens", PROTO_UINT, PROTO_GLOBAL, AT(kv_tokens), 1, MOST_KV, .fallback = "16384",
      .doc = "tokens that the KV cache holds, rounded up to whole blocks; a start where they do not fit is refused" },
    { .key = "kv.block", PROTO_UINT, PROTO_GLOBAL, AT(kv_block), .only = kv_block_only, .fallback = "16",
      .doc = "tokens a KV block" },
    { .key = "max_sequences", PROTO_UINT, PROTO_GLOBAL, AT(max_sequences), 1, 4096, .fallback = "64",
      .doc = "sequences that run at the same time" },
    { .key = "token_budget", PROTO_UINT, PROTO_GLOBAL, AT(token_budget), 1, 65536, .fallback = "256",
      .doc = "most tokens of one step, prefill and decode together" },
    { .key = "queue", PROTO_UINT, PROTO_HOST, AT(queue), 0, 1000000, .fallback = "256",
      .doc = "requests that may wait for a place" },
    { .key = "default_max_new_tokens", PROTO_UINT, PROTO_HOST, AT(default_max_new_tokens), 1, MOST_TOKENS,
      .fallback = "512", .doc = "new tokens of a request that names no limit" },
    { .key = "restart.max", PROTO_UINT, PROTO_HOST, AT(restart_max), 0, 1000, .fallback = "3",
      .doc = "restarts of the ranks within restart.window_s before the daemon gives up" },
    { .key = "restart.window_s", PROTO_UINT, PROTO_HOST, AT(restart_window_s), 1, 86400, .fallback = "60",
      .doc = "seconds in which restarts are counted" },
    { .key = "grace_s", PROTO_UINT, PROTO_HOST, AT(grace_s), 0, 3600, .fallback = "5",
      .doc = "seconds that running calls get after SIGTERM" },
    { .key = "hello_s", PROTO_UINT, PROTO_HOST, AT(hello_s), 1, 3600, .fallback = "10",
      .doc = "seconds in which every rank must have read its headers and said who it is" },
    { .key = "coldstart_s", PROTO_UINT, PROTO_HOST, AT(coldstart_s), 0, 86400, .fallback = "0",
      .doc = "seconds that each of map, mpi, carve and warmup may take at start; 0: 600, 60, 300 and 120" },
    { .key = "step_s", PROTO_UINT, PROTO_HOST, AT(step_s), 1, 3600, .fallback = "60",
      .doc = "seconds in which the ranks must answer a step, and half a second more for each of its tokens; else they are restarted" },
    { .key = "max_clock_skew_s", PROTO_UINT, PROTO_HOST, AT(max_clock_skew_s), 0, 86400, .fallback = "5",
      .doc = "most seconds by which the clock of a rank's host may differ from the coordinator's" },
    { .key = "log.level", PROTO_STRING, PROTO_HOST, AT(log_level), .words = level_words, .fallback = "info",
      .doc = "least level of the lines on standard error" },
    { .key = "chat_template", PROTO_STRING, PROTO_HOST, AT(chat_template), .fallback = "",
      .doc = "name of a known chat template; empty: the set's own table, or found by the digest of the set's template" },
    { .key = "verify", PROTO_STRING, PROTO_HOST, AT(verify), .words = verify_words, .fallback = "auto",
      .doc = "how deep the shards are checked at start; auto: full where it is quick, else sample, then full beside serving" },
    { .key = "verify_full_mib", PROTO_UINT, PROTO_HOST, AT(verify_full_mib), 0, MOST_TOKENS, .fallback = "4096",
      .doc = "verify: auto checks a rank's shard of at most so many MiB fully before it serves" },
};
const size_t proto_n_fields = sizeof proto_fields / sizeof *proto_fields;
_Static_assert(sizeof proto_fields / sizeof *proto_fields <= PROTO_MAX_FIELDS, "there is a place for each field");

const proto_field *proto_config_find(const char *key)
{
    for (size_t i = 0; i < proto_n_fields; i++)
        if (!strcmp(proto_fields[i].key, key)) return &proto_fields[i];
    return NULL;
}

/* ---- one value ---- */

const char *proto_field_expects(const proto_field *f, char *buf, size_t cap)
{
    size_t n = 0;

    if (f->words || f->only) {
        n = (size_t)snprintf(buf, cap, "one of");
        for (size_t i = 0; (f->words ? f->words[i] != NULL : f->only[i] != 0) && n < cap; i++) {
            if (f->words) n += (size_t)snprintf(buf + n, cap - n, "%s %s", i ? "," : "", f->words[i]);
            else n += (size_t)snprintf(buf + n, cap - n, "%s %" PRIu32, i ? "," : "", f->only[i]);
        }
    } else if (f->type == PROTO_UINT) {
        snprintf(buf, cap, "a whole number from %" PRIu64 " to %" PRIu64, f->min, f->max);
    } else if (f->type == PROTO_BOOL) {
        snprintf(buf, cap, "true or false");
    } else {
        snprintf(buf, cap, "a text of at most %zu bytes", f->bytes - 1);
    }
    return buf;
}

static bool is_word(const char *text, size_t n, const char *word)
{
    return strlen(word) == n && !memcmp(text, word, n);
}

static bool is_any(const char *text, size_t n, const char *const *words)
{
    for (; *words; words++)
        if (is_word(text, n, *words)) return true;
    return false;
}

/* What YAML's core schema would not read as a text; "" is a null there. */
static bool is_null(const char *text, size_t n)
{
    static const char *const nulls[] = { "", "~", "null", "Null", "NULL", NULL };
    return is_any(text, n, nulls);
}

static bool is_bool(const char *text, size_t n)
{
    static const char *const bools[] = { "true", "True", "TRUE", "false", "False", "FALSE", NULL };
    return is_any(text, n, bools);
}

static bool is_number(const char *text, size_t n)
{
    bool digit = false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] >= '0' && text[i] <= '9') digit = true;
        else if (!strchr("+-._eE", text[i])) return false;
    }
    return digit;
}

static px_code refuse(px_err *e, px_code code, const proto_field *f, const char *what, const char *text, size_t n)
{
    char expected[128], found[128];

    snprintf(found, sizeof found, "%.*s", n > 100 ? 100 : (int)n, text);
    proto_field_expects(f, expected, sizeof expected);
    return px_refuse(e, code, f->key, found, expected, "%s", what);
}

static px_code set_uint(proto_config *c, const proto_field *f, proto_style style, const char *text, size_t n, px_err *e)
{
    uint64_t v = 0;

    if (style == PROTO_STYLE_QUOTED)
        return refuse(e, PX_EINVAL, f, "a number stands without quotes", text, n);
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') return refuse(e, PX_EINVAL, f, "not a whole number", text, n);
        if (v > UINT64_MAX / 16) return refuse(e, PX_ERANGE, f, "out of range", text, n);
        v = v * 10 + (uint64_t)(text[i] - '0');
    }
    if (n > 1 && text[0] == '0') return refuse(e, PX_EINVAL, f, "a leading zero", text, n);
    bool ok = !f->only && v >= f->min && v <= f->max;
    for (size_t i = 0; f->only && f->only[i]; i++)
        if (f->only[i] == v) ok = true;
    if (!ok || v > UINT32_MAX) return refuse(e, PX_ERANGE, f, "out of range", text, n);
    uint32_t stored = (uint32_t)v;
    memcpy((char *)c + f->offset, &stored, sizeof stored);
    return PX_OK;
}

static px_code set_bool(proto_config *c, const proto_field *f, proto_style style, const char *text, size_t n, px_err *e)
{
    bool on = is_word(text, n, "true");

    if (style == PROTO_STYLE_QUOTED || (!on && !is_word(text, n, "false")))
        return refuse(e, PX_EINVAL, f, "not true or false", text, n);
    memcpy((char *)c + f->offset, &on, sizeof on);
    return PX_OK;
}

static px_code set_text(proto_config *c, const proto_field *f, proto_style style, const char *text, size_t n, px_err *e)
{
    char *out = (char *)c + f->offset;
    unsigned index = 0;

    if (style == PROTO_STYLE_PLAIN && (is_bool(text, n) || is_number(text, n)))
        return refuse(e, PX_EINVAL, f, "not a text; quote it if it is one", text, n);
    if (f->words) {
        while (f->words[index] && !is_word(text, n, f->words[index])) index++;
        if (!f->words[index]) return refuse(e, PX_ERANGE, f, "not a known word", text, n);
    }
    if (f->type == PROTO_ENUM) {
        memcpy(out, &index, sizeof index);
        return PX_OK;
    }
    if (n >= f->bytes) return refuse(e, PX_ERANGE, f, "too long", text, n);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
            return refuse(e, PX_EINVAL, f, "a control character in a text", text, n);
    if (!px_utf8_valid(text, n)) return refuse(e, PX_EINVAL, f, "not UTF-8", text, n);
    memset(out, 0, f->bytes);           /* equal configs are equal bytes */
    memcpy(out, text, n);
    return PX_OK;
}
_Static_assert(sizeof(proto_device) == sizeof(unsigned) && sizeof(proto_reduce) == sizeof(unsigned) &&
               sizeof(proto_transport) == sizeof(unsigned) && sizeof(proto_cpu) == sizeof(unsigned) &&
               sizeof(proto_kv_dtype) == sizeof(unsigned), "set_text stores enumerations as unsigned");

px_code proto_value_set(proto_config *c, const proto_field *f, proto_style style, const char *text, size_t n, px_err *e)
{
    bool may_be_empty = f->type == PROTO_STRING && !f->fallback[0] && style != PROTO_STYLE_PLAIN;

    if (style == PROTO_STYLE_PLAIN ? is_null(text, n) : n == 0 && !may_be_empty)
        return refuse(e, PX_EINVAL, f, "empty", n ? text : "nothing", n ? n : 7);
    switch (f->type) {
    case PROTO_UINT: return set_uint(c, f, style, text, n, e);
    case PROTO_BOOL: return set_bool(c, f, style, text, n, e);
    case PROTO_STRING:
    case PROTO_ENUM: return set_text(c, f, style, text, n, e);
    }
    return px_fail(e, PX_EINTERNAL, f->key, "field of type %d", (int)f->type);
}

px_code proto_key_unknown(const char *key, px_err *e)
{
    const char *keys[PROTO_MAX_FIELDS], *tails[PROTO_MAX_FIELDS];
    size_t n = 0;

    for (; n < proto_n_fields; n++) {
        const char *dot = strrchr(proto_fields[n].key, '.');
        keys[n] = proto_fields[n].key;
        tails[n] = dot ? dot + 1 : keys[n];
    }
    const char *near = px_nearest(key, keys, n);
    if (!near) {                        /* "tokens" means kv.tokens */
        const char *dot = strrchr(key, '.'), *tail = px_nearest(dot ? dot + 1 : key, tails, n);
        for (size_t i = 0; tail && !near; i++)
            if (tails[i] == tail) near = keys[i];
    }
    if (near) return px_fail(e, PX_ENOTFOUND, key, "unknown key; the nearest is %s", near);
    return px_fail(e, PX_ENOTFOUND, key, "unknown key; no key is near");
}

/* ---- the whole ---- */

void proto_config_init(proto_config *c)
{
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < proto_n_fields; i++) {
        const proto_field *f = &proto_fields[i];
        proto_value_set(c, f, PROTO_STYLE_FLAG, f->fallback, strlen(f->fallback), NULL);
    }
}

px_code proto_config_set(proto_config *c, const char *key, const char *value, px_err *e)
{
    const proto_field *f = proto_config_find(key);
    char flag[128];

    px_code rc = f ? proto_value_set(c, f, PROTO_STYLE_FLAG, value, strlen(value), e) : proto_key_unknown(key, e);
    if (rc) {
        snprintf(flag, sizeof flag, "--%s", key);
        px_err_set_file(e, flag);
    }
    return rc;
}

const char *proto_config_show(const proto_config *c, const proto_field *f, char *buf, size_t cap)
{
    const char *at = (const char *)c + f->offset;
    uint32_t v = 0;

    switch (f->type) {
    case PROTO_STRING:
        snprintf(buf, cap, "%s", at);
        break;
    case PROTO_BOOL:
        snprintf(buf, cap, "%s", *(const bool *)at ? "true" : "false");
        break;
    case PROTO_UINT:
        memcpy(&v, at, sizeof v);
        snprintf(buf, cap, "%" PRIu32, v);
        break;
    case PROTO_ENUM:
        memcpy(&v, at, sizeof v);
        for (uint32_t i = 0; i <= v; i++)
            if (!f->words[i]) { snprintf(buf, cap, "?"); return buf; }
        snprintf(buf, cap, "%s", f->words[v]);
        break;
    }
    return buf;
}

px_code proto_config_device(const proto_config *c, uint32_t n, uint32_t *ordinal, bool *listed, px_err *e)
{
    uint32_t list[sizeof c->devices / 2], count = 0;
    const char *at = c->devices;

    *ordinal = n;
    *listed = *at != '\0';
    if (!*listed) return PX_OK;
    for (;; at++) {
        const char *from = at;
        uint32_t v = 0;
        for (; *at >= '0' && *at <= '9' && v < 10000; at++) v = v * 10 + (uint32_t)(*at - '0');
        if (at == from || v >= 10000 || (*at && *at != ','))
            return px_refuse(e, PX_EINVAL, "devices", c->devices, "numbers with commas between them: \"0,1\"", "no list of devices");
        list[count++] = v;
        if (!*at) break;
    }
    *ordinal = list[n % count];
    return PX_OK;
}

/* ---- addresses ---- */

static px_code bad_address(px_err *e, const char *s, const char *what)
{
    return px_refuse(e, PX_EINVAL, "listen", s, "HOST:PORT or [V6]:PORT", "%s", what);
}

px_code proto_split_address(const char *s, char *host, size_t cap, uint16_t *port, px_err *e)
{
    const char *begin = s, *end, *digits;
    struct in6_addr v6;
    unsigned long v = 0;

    if (cap) host[0] = '\0';
    *port = 0;
    if (*s == '[') {
        begin = s + 1;
        end = strchr(begin, ']');
        if (!end || end[1] != ':') return bad_address(e, s, "no ]: after the address");
        digits = end + 2;
    } else {
        end = strchr(s, ':');
        if (!end) return bad_address(e, s, "no port");
        if (strchr(end + 1, ':')) return bad_address(e, s, "an IPv6 address stands in brackets");
        digits = end + 1;
    }
    size_t n = (size_t)(end - begin);
    if (!n) return bad_address(e, s, "no host");
    if (n >= cap) return bad_address(e, s, "the host is too long");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)begin[i];
        bool name = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '-'
                 || c == '_';
        if (*s == '[' ? c <= ' ' || c >= 0x7F : !name)
            return bad_address(e, s, "a character that no host has");
    }
    size_t n_digits = strlen(digits);
    if (!n_digits || n_digits > 5) return bad_address(e, s, "not a port");
    for (size_t i = 0; i < n_digits; i++) {
        if (digits[i] < '0' || digits[i] > '9') return bad_address(e, s, "not a port");
        v = v * 10 + (unsigned long)(digits[i] - '0');
    }
    if (v > 65535) return bad_address(e, s, "the port is above 65535");
    memcpy(host, begin, n);
    host[n] = '\0';
    if (*s == '[' && inet_pton(AF_INET6, host, &v6) != 1) {
        host[0] = '\0';
        return bad_address(e, s, "not an IPv6 address in the brackets");
    }
    *port = (uint16_t)v;
    return PX_OK;
}

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
    return !strcasecmp(host, "localhost");
}

px_code proto_config_check_activations(const proto_config *c, px_err *e)
{
    if (!c->fp8_activations) return PX_OK;
    if (c->device != PROTO_DEVICE_CUDA)
        return px_refuse(e, PX_EUNSUP, "fp8_activations", "true with device: cpu", "false, or device: cuda", "no CPU kernel reads FP8 activations");
    if (c->deterministic)
        return px_refuse(e, PX_EINVAL, "fp8_activations", "true with deterministic: true", "one of them",
                         "a token's bits would depend on how many rows its step has");
    return PX_OK;
}

px_code proto_config_check(const proto_config *c, px_err *e)
{
    char host[sizeof c->listen];
    uint16_t port;
    uint32_t ordinal;
    bool listed;
    px_code rc;

    if (!c->set[0]) return px_fail(e, PX_EINVAL, "set", "required: the folder of a shard set");
    if ((rc = proto_config_device(c, 0, &ordinal, &listed, e)) || (rc = proto_config_check_activations(c, e))) return rc;
    if (c->deterministic && c->device == PROTO_DEVICE_CUDA && c->reduce == PROTO_REDUCE_NCCL)
        return px_refuse(e, PX_EINVAL, "reduce", "nccl", "auto or ordered", "NCCL adds in an order of its own: not with deterministic");
    if (c->device == PROTO_DEVICE_CPU && c->kv_dtype > PROTO_KV_F32)
        return px_refuse(e, PX_EUNSUP, "kv.dtype", kv_dtype_words[c->kv_dtype], "f16 or f32, or device: cuda", "a cache that no CPU kernel reads");
    if ((rc = proto_split_address(c->listen, host, sizeof host, &port, e))) return rc;
    if (!c->insecure && !is_loopback(host))
        return px_refuse(e, PX_EINVAL, "listen", c->listen, "a loopback address, or insecure: true",
                         "not a loopback address: without encryption and keys it is served only with insecure: true");
    return PX_OK;
}
