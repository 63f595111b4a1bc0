/* Every value of the golden memory file that the split and the weight and KV math cover, byte for byte. */
#include "shard/plan/act.h"
#include "shard/plan/capacity.h"
#include "shard/plan/device.h"
#include "shard/plan/finetune.h"
#include "tests/testlib.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *golden;
static px_heap heap;

static uint32_t number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v)) fail_msg("no number %s", key);
    return (uint32_t)json_integer_value(v);
}

static shard_arch arch_of(const char *name, const json_t *model)
{
    const json_t *c = json_object_get(model, "config");
    shard_arch m = { .n_layer = number(c, "num_hidden_layers"), .d_model = number(c, "hidden_size"),
                     .d_ff = number(c, "intermediate_size"), .n_head = number(c, "num_attention_heads"),
                     .n_kv_head = number(c, "num_key_value_heads"), .head_dim = number(c, "head_dim"),
                     .n_vocab = number(c, "vocab_size"), .n_ctx = number(c, "max_position_embeddings"),
                     .rms_eps = 1e-5f, .tied = json_is_true(json_object_get(c, "tie_word_embeddings")),
                     .qkv_bias = json_is_true(json_object_get(c, "qkv_bias")),
                     .qk_norm = json_is_true(json_object_get(c, "qk_norm")),
                     .n_expert = number(c, "num_local_experts"), .n_expert_used = number(c, "num_experts_per_tok"),
                     .sliding_window = number(c, "sliding_window"), .rope_theta = 10000, .bos = UINT32_MAX };
    snprintf(m.name, sizeof m.name, "%s", name);
    snprintf(m.family, sizeof m.family, "%s", json_string_value(json_object_get(c, "arch")));
    /* the golden models slide in all layers or in none, which is what shard_arch can say */
    assert_true(m.sliding_window ? !strcmp(json_string_value(json_object_get(c, "sliding_pattern")), "all")
                                 : !strcmp(json_string_value(json_object_get(c, "sliding_pattern")), "none"));
    assert_false(json_is_true(json_object_get(c, "sandwich_norms")));
    return m;
}

static void same(const char *model, const char *key, const char *what, size_t rank, uint64_t found, json_int_t expected)
{
    if ((json_int_t)found != expected)
        fail_msg("%s %s %s[%zu]: %llu, expected %lld", model, key, what, rank, (unsigned long long)found,
                 (long long)expected);
}

/* "blk.%u.attn_q" is called attn_q there; no golden model has two roles of one name. */
static void params_by_class(const char *name, const shard_arch *m, const json_t *want)
{
    size_t n = 0;

    for (shard_role r = 0; r < SHARD_N_ROLES; r++) {
        const char *key = shard_role_get(r)->name, *dot = strrchr(key, '.');
        const json_t *v;
        char bias[64];
        if (!shard_arch_has(m, r)) continue;
        key = dot ? dot + 1 : key;
        if (r >= SHARD_ATTN_Q_BIAS && r <= SHARD_ATTN_V_BIAS) {
            snprintf(bias, sizeof bias, "%s_bias", key);
            key = bias;
        }
        if (!(v = json_object_get(want, key))) fail_msg("%s: no class %s", name, key);
        same(name, "params_by_class", key, 0, shard_params_of(m, r), json_integer_value(v));
        n++;
    }
    assert_int_equal(n, json_object_size(want));
}

static void parameters_and_totals(void **state)
{
    const char *name, *format;
    json_t *model, *v;
    size_t n = 0;
    (void)state;

    json_object_foreach(json_object_get(golden, "models"), name, model) {
        shard_arch m = arch_of(name, model);
        same(name, "params", "", 0, shard_params(&m), json_integer_value(json_object_get(model, "params")));
        same(name, "active_params", "", 0, shard_params_active(&m), json_integer_value(json_object_get(model, "active_params")));
        params_by_class(name, &m, json_object_get(model, "params_by_class"));
        json_object_foreach(json_object_get(model, "total_bytes"), format, v) {
            shard_types t;
            px_err e = { 0 };
            uint64_t bytes;
            assert_int_equal(shard_types_format(&t, &heap.a, &m, format, &e), PX_OK);
            assert_int_equal(shard_source_bytes(&m, &t, &bytes, &e), PX_OK);
            same(name, format, "total_bytes", 0, bytes, json_integer_value(v));
            shard_types_deinit(&t);
            n++;
        }
    }
    print_message("%zu totals\n", n);
    assert_true(n >= 15 * 19);
}

/* Which type every tensor of a format gets: the mixtures' rules and the fallbacks. */
static void type_counts(void **state)
{
    const char *name, *format, *type;
    json_t *model, *counts, *v;
    (void)state;

    json_object_foreach(json_object_get(golden, "models"), name, model) {
        shard_arch m = arch_of(name, model);
        json_object_foreach(json_object_get(model, "type_counts"), format, counts) {
            json_int_t found[KERN_N_DTYPES] = { 0 }, sum = 0, expected = 0;
            shard_types t;
            assert_int_equal(shard_types_format(&t, &heap.a, &m, format, NULL), PX_OK);
            for (shard_role r = 0; r < SHARD_N_ROLES; r++)
                for (uint32_t i = 0; shard_arch_has(&m, r) && i < (shard_role_get(r)->per_layer ? m.n_layer : 1); i++, sum++)
                    found[shard_type_of(&t, r, i)]++;
            json_object_foreach(counts, type, v) {
                kern_dtype d;
                assert_int_equal(kern_dtype_parse(type, &d, NULL), PX_OK);
                same(name, format, type, 0, (uint64_t)found[d], json_integer_value(v));
                expected += json_integer_value(v);
            }
            same(name, format, "tensors", 0, (uint64_t)sum, expected);
            shard_types_deinit(&t);
        }
    }
}

static void one_cut(const char *name, const shard_arch *m, const char *key, const json_t *want, shard_ffn_split ffn)
{
    char format[64], vocab[32];
    const json_t *list;
    unsigned world;
    shard_types t;
    shard_split s;
    px_err e = { 0 };
    px_code rc;

    assert_int_equal(sscanf(key, "%63[^/]/tp%u/%31s", format, &world, vocab), 3);
    assert_int_equal(shard_types_format(&t, &heap.a, m, format, &e), PX_OK);
    rc = shard_split_init(&s, &heap.a, m, &t, world, ffn,
                          !strcmp(vocab, "padded64") ? SHARD_VOCAB_PADDED64 : SHARD_VOCAB_UNPADDED, &e);
    if (json_object_get(want, "error")) {
        shard_split again;
        unsigned largest = 0;
        assert_int_equal(rc, PX_ERANGE);
        assert_string_equal(e.field, "ranks");
        assert_int_equal(strtoul(e.found, NULL, 10), world);
        /* the number it names works, and the next does not */
        assert_int_equal(sscanf(e.expected, "1 to %u", &largest), 1);
        assert_true(largest >= 1 && largest < world);
        assert_int_equal(shard_split_init(&again, &heap.a, m, &t, largest, ffn, s.vocab, NULL), PX_OK);
        shard_split_deinit(&again);
        assert_int_equal(shard_split_init(&again, &heap.a, m, &t, largest + 1, ffn, s.vocab, NULL), PX_ERANGE);
        shard_types_deinit(&t);
        return;
    }
    if (rc) fail_msg("%s %s: %s", name, key, e.text);
    for (unsigned r = 0; r < world; r++) {
        const shard_cut *c = &s.cut[r];
        shard_weight_bytes w;
        assert_int_equal(shard_weight_bytes_of(m, &t, &s, r, false, &w, &e), PX_OK);
#define SAME(what, value) if ((list = json_object_get(want, what))) \
        same(name, key, what, r, (value), json_integer_value(json_array_get(list, r)))
        SAME("bytes", w.stored);
        SAME("arena", w.arena);
        SAME("ffn", c->ffn.end - c->ffn.begin);
        SAME("q_heads", c->q_head.end - c->q_head.begin);
        SAME("kv_heads", c->kv_head.end - c->kv_head.begin);
        if (ffn == SHARD_SPLIT_EVEN) SAME("vocab", c->vocab.end - c->vocab.begin);
#undef SAME
        /* contiguous, and every query head finds its KV head on the rank */
        assert_int_equal(c->q_head.begin, r ? c[-1].q_head.end : 0);
        assert_int_equal(c->ffn.begin, r ? c[-1].ffn.end : 0);
        assert_int_equal(c->vocab.begin, r ? c[-1].vocab.end : 0);
        for (uint32_t q = c->q_head.begin; q < c->q_head.end; q++)
            assert_true(shard_split_kv_of(m, c, q) < c->kv_head.end - c->kv_head.begin);
    }
    assert_int_equal(s.cut[world - 1].q_head.end, m->n_head);
    assert_int_equal(s.cut[world - 1].kv_head.end, m->n_kv_head);
    assert_int_equal(s.cut[world - 1].ffn.end, m->d_ff);
    assert_true(s.cut[world - 1].vocab.end >= m->n_vocab);
    if (ffn == SHARD_SPLIT_EVEN) assert_int_equal(s.kv_replicated, json_is_true(json_object_get(want, "kv_replicated")));
    shard_split_deinit(&s);
    shard_types_deinit(&t);
}

static size_t all_cuts(const char *section, shard_ffn_split ffn)
{
    const char *name, *key;
    json_t *model, *want;
    size_t n = 0;

    json_object_foreach(json_object_get(golden, "models"), name, model) {
        shard_arch m = arch_of(name, model);
        json_object_foreach(json_object_get(model, section), key, want) {
            one_cut(name, &m, key, want, ffn);
            n++;
        }
    }
    print_message("%zu cuts of %s\n", n, section);
    return n;
}

static void weights(void **state) { (void)state; assert_true(all_cuts("weights", SHARD_SPLIT_EVEN) > 4000); }
static void weights_balanced(void **state) { (void)state; assert_true(all_cuts("weights_balanced", SHARD_SPLIT_BALANCED) > 200); }

static void kv(void **state)
{
    const char *name, *key;
    json_t *model, *v;
    size_t n = 0;
    (void)state;

    json_object_foreach(json_object_get(golden, "models"), name, model) {
        shard_arch m = arch_of(name, model);
        const json_t *layers = json_object_get(model, "kv_layers");
        uint64_t bytes;
        uint32_t full, sliding;
        shard_kv_layers(&m, &full, &sliding);
        same(name, "kv_layers", "full", 0, full, json_integer_value(json_object_get(layers, "full")));
        same(name, "kv_layers", "sliding", 0, sliding, json_integer_value(json_object_get(layers, "sliding")));
        json_object_foreach(json_object_get(model, "kv_bytes_per_token"), key, v) {
            assert_int_equal(shard_kv_token_bytes(&m, key, m.n_kv_head, &bytes, NULL), PX_OK);
            same(name, key, "kv_bytes_per_token", 0, bytes, json_integer_value(v));
            n++;
        }
        json_object_foreach(json_object_get(model, "kv_seq_bytes_f16_page16_chunk2048"), key, v) {
            assert_int_equal(shard_kv_sequence_bytes(&m, "f16", m.n_kv_head, strtoull(key, NULL, 10), 16, 2048, &bytes,
                                                     NULL), PX_OK);
            same(name, key, "kv_seq_bytes", 0, bytes, json_integer_value(v));
            n++;
        }
    }
    assert_true(n >= 15 * 12);
}

/* A scenario's model, types and cut. */
typedef struct scene { shard_arch m; shard_types t; shard_split s; } scene;

static void scene_init(scene *x, const json_t *o)
{
    const char *model = json_string_value(json_object_get(o, "model"));
    const char *vocab = json_string_value(json_object_get(o, "vocab"));
    px_err e = { 0 };

    x->m = arch_of(model, json_object_get(json_object_get(golden, "models"), model));
    assert_int_equal(shard_types_format(&x->t, &heap.a, &x->m, json_string_value(json_object_get(o, "fmt")), &e), PX_OK);
    assert_int_equal(shard_split_init(&x->s, &heap.a, &x->m, &x->t, number(o, "tp"), SHARD_SPLIT_EVEN,
                                      vocab && !strcmp(vocab, "padded64") ? SHARD_VOCAB_PADDED64 : SHARD_VOCAB_UNPADDED, &e), PX_OK);
}

static void scene_deinit(scene *x)
{
    shard_split_deinit(&x->s);
    shard_types_deinit(&x->t);
}

static void activations(void **state)
{
    json_t *o, *want;
    size_t i, r, n = 0;
    (void)state;

    json_array_foreach(json_object_get(golden, "activation_scenarios"), i, o) {
        shard_act_kind kind = { number(o, "act"), number(o, "res"), number(o, "act") };
        scene x;
        scene_init(&x, o);
        json_array_foreach(json_object_get(o, "ranks"), r, want) {
            shard_act a;
            assert_int_equal(shard_act_of(&x.m, &x.s, (uint32_t)r, number(o, "T"), number(o, "S"), kind, &a, NULL), PX_OK);
#define SAME(key, value) same(x.m.name, "activations", key, r, (value), json_integer_value(json_object_get(want, key)))
            SAME("residual", a.residual);
            SAME("attn", a.attn);
            SAME("ffn", a.ffn);
            SAME("head", a.head);
            SAME("total", a.total);
            SAME("scores_if_naive", a.scores_if_naive);
            n++;
        }
        scene_deinit(&x);
    }
    assert_true(n >= 20);
}

static void capacity(void **state)
{
    json_t *o, *want, *cls;
    size_t i, r, n = 0;
    (void)state;

    json_array_foreach(json_object_get(golden, "capacity_scenarios"), i, o) {
        shard_cache k = { json_string_value(json_object_get(o, "kv_dtype")), number(o, "page"), number(o, "chunk") };
        uint64_t pool = (uint64_t)json_integer_value(json_object_get(o, "pool"));
        shard_class c[SHARD_MAX_CLASSES] = { 0 };
        size_t at;
        scene x;
        scene_init(&x, o);
        json_array_foreach(json_object_get(o, "classes"), at, cls) {
            snprintf(c[at].name, sizeof c[at].name, "%s", json_string_value(json_object_get(cls, "name")));
            c[at].n = number(cls, "n");
            for (size_t q = 0; q < 2; q++) {
                c[at].p95[q] = (uint32_t)json_integer_value(json_array_get(json_object_get(cls, "p95"), q));
                c[at].p99[q] = (uint32_t)json_integer_value(json_array_get(json_object_get(cls, "p99"), q));
            }
        }
        json_array_foreach(json_object_get(o, "ranks"), r, want) {
            uint32_t heads = x.s.cut[r].kv_head.end - x.s.cut[r].kv_head.begin;
            shard_capacity a;
            uint64_t ctx32;
            assert_int_equal(shard_capacity_of(&x.m, &k, heads, pool, c, json_array_size(json_object_get(o, "classes")), &a, NULL), PX_OK);
            assert_int_equal(shard_max_context(&x.m, &k, heads, pool, 32, &ctx32, NULL), PX_OK);
            SAME("kv_heads", heads);
            SAME("block_bytes", a.block_bytes);
            SAME("need_p95", a.need_p95);
            SAME("need_p99", a.need_p99);
            SAME("max_context_1", a.max_context_1);
            SAME("max_context_32", ctx32);
            assert_true(a.need_expected <= a.need_p95 && a.overflow >= 0 && a.overflow <= 1);
            n++;
        }
        scene_deinit(&x);
    }
    assert_true(n >= 28);
}
#undef SAME

static void devices_and_optimizers(void **state)
{
    const json_t *nccl = json_object_get(golden, "nccl"), *bytes = json_object_get(golden, "optimizer_bytes_per_param");
    (void)state;

    same("nccl", "", "ll", 0, SHARD_NCCL_LL, json_integer_value(json_object_get(nccl, "ll")));
    same("nccl", "", "ll128", 0, SHARD_NCCL_LL128, json_integer_value(json_object_get(nccl, "ll128")));
    same("nccl", "", "simple", 0, SHARD_NCCL_SIMPLE, json_integer_value(json_object_get(nccl, "simple")));
    same("nccl", "", "per_channel_peer", 0, shard_nccl_channel_bytes(SHARD_NCCL_SIMPLE),
         json_integer_value(json_object_get(nccl, "per_channel_peer")));
    assert_int_equal(shard_nccl_bytes(8, 24, SHARD_NCCL_SIMPLE).bytes, 288u << 20);
    assert_int_equal(shard_nccl_bytes(1, 24, SHARD_NCCL_SIMPLE).high, 0);
    assert_int_equal(json_object_size(bytes), SHARD_N_OPTIMIZERS);
    for (size_t i = 0; i < SHARD_N_OPTIMIZERS; i++)
        same("optimizer", "", shard_optimizers[i].name, 0, shard_optimizer_bytes(&shard_optimizers[i]),
             json_integer_value(json_object_get(bytes, shard_optimizers[i].name)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_and_totals), cmocka_unit_test(type_counts), cmocka_unit_test(weights),
        cmocka_unit_test(weights_balanced),      cmocka_unit_test(kv),
        cmocka_unit_test(activations),           cmocka_unit_test(capacity),  cmocka_unit_test(devices_and_optimizers),
    };
    json_error_t je;
    int rc;

    if (!(golden = json_load_file(test_golden("memory/golden.json"), 0, &je))) {
        fprintf(stderr, "golden.json: %s\n", je.text);
        return 1;
    }
    px_heap_init(&heap, "test");
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    px_heap_deinit(&heap);
    json_decref(golden);
    return rc;
}
