"""The planner against plan_reference.py on random models, each given to `phalanx plan` as a Hugging Face config.json alone.

plan_random.py PHALANX [--seeds N] [--first N]: the first disagreement ends it, with the model, the request, both values."""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import plan_reference as ref

ARCHITECTURE = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                "mixtral": "MixtralForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM",
                "gemma3": "Gemma3ForConditionalGeneration"}
DTYPES = ("float32", "float16", "bfloat16")
PER_RANK = ("bytes", "arena", "q_heads", "kv_heads", "ffn", "vocab")


def family_of(rng, c, f, sliding):
    """The keys that only this family has, and what they make of the golden file's numbers."""
    n, window = c["num_hidden_layers"], rng.choice((1, 17, 512, 1024, 4096, 100000))
    everything, none = [True] * n, [False] * n
    kinds = ("full_attention", "sliding_attention")
    if f == "mistral":
        form = rng.choice(("key", "silent", "null"))
        if form == "key":
            return {"sliding_window": window}, window, everything
        return ({}, 4096, everything) if form == "silent" else ({"sliding_window": None}, 0, none)
    if f in ("qwen2", "qwen3"):
        form = rng.choice(("off", "first", "types", "silent", "absent"))
        if form == "off":
            return {"use_sliding_window": False, "sliding_window": window, "max_window_layers": rng.randrange(n + 1)}, 0, none
        if form == "first":
            first = rng.randrange(n + 2)
            return {"use_sliding_window": True, "sliding_window": window, "max_window_layers": first}, window, [i >= first for i in range(n)]
        if form == "types":
            s = [rng.random() < 0.5 for _ in range(n)]
            return {"use_sliding_window": True, "sliding_window": window, "layer_types": [kinds[x] for x in s]}, window, s
        if form == "silent":
            return {"use_sliding_window": True, "max_window_layers": 0}, 4096, everything
        return {}, 0, none
    if f == "mixtral":
        c["num_local_experts"] = rng.choice((2, 3, 4, 8, 8, 16))
        c["num_experts_per_tok"] = rng.randint(1, 2)
        keys = {k: c[k] for k in ("num_local_experts", "num_experts_per_tok")}
        if c["num_local_experts"] == 8 and c["num_experts_per_tok"] == 2 and rng.random() < 0.5:
            keys = {}                                        # the family's defaults
        return dict(keys, sliding_window=None), 0, none
    if f == "gemma2":
        form = rng.choice(("silent", "types", "key"))
        if form == "silent":
            return {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh"}, 4096, \
                [i % 2 == 0 for i in range(n)]
        keys = {"sliding_window": window, "hidden_act": "gelu_pytorch_tanh"}
        s = [i % 2 == 0 for i in range(n)]
        if form == "types":
            s = [rng.random() < 0.5 for _ in range(n)]
            keys["layer_types"] = [kinds[x] for x in s]
        return keys, window, s
    if f.startswith("gemma3"):
        every = rng.choice((2, 3, 6))
        keys = {"sliding_window": window, "sliding_window_pattern": every, "rope_local_base_freq": 10000.0}
        if rng.random() < 0.3:
            keys, every = {"sliding_window": window}, 6
        s = [i % every < every - 1 for i in range(n)]
        if rng.random() < 0.3:
            keys["layer_types"] = [kinds[x] for x in s]
        return keys, window, s
    return ({"sliding_window": None} if sliding else {}), 0, none


def make(rng):
    """(config.json, the golden file's words for it)."""
    f = rng.choice(list(ARCHITECTURE))
    h = rng.choice((16, 32, 48, 64, 64, 80, 96, 112, 128, 128, 128, 160, 256))
    kv, group = rng.choice((1, 1, 2, 3, 4, 5, 8, 8, 10, 16, 32)), rng.choice((1, 1, 2, 3, 4, 6, 7, 8, 12))
    heads = kv * group
    d = heads * h if rng.random() < 0.5 else rng.choice((32, 64, 96, 256)) * rng.randint(1, 40) + rng.choice((0, 0, 0, 0, 4, 17))
    c = {"arch": f, "hidden_size": d, "intermediate_size": rng.choice((256 * rng.randint(1, 80), 32 * rng.randint(1, 500), rng.randint(40, 9000))),
         "num_hidden_layers": rng.choice((1, 2, 5, 8, 12, 24, 28, 30, 32, 40, 80)), "num_attention_heads": heads, "num_key_value_heads": kv,
         "head_dim": h, "vocab_size": rng.choice((32000, 32001, 49152, 128256, 151936, rng.randint(300, 260000))),
         "max_position_embeddings": rng.choice((16, 513, 2048, 4096, 8192, 32768, 131072)),
         "tie_word_embeddings": rng.random() < 0.5, "qkv_bias": f == "qwen2", "qk_norm": f == "qwen3" or f.startswith("gemma3"),
         "sandwich_norms": f.startswith("gemma"), "num_local_experts": 0, "num_experts_per_tok": 0}
    keys, window, slides = family_of(rng, c, f, rng.random() < 0.5)
    c["sliding_window"], c["sliding_layers"] = window if any(slides) else 0, slides
    hf = dict(keys, model_type=f, architectures=[ARCHITECTURE[f]], rms_norm_eps=1e-5, rope_theta=10000.0)
    for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
              "max_position_embeddings", "head_dim", "tie_word_embeddings"):
        hf[k] = c[k]
    derived = heads * h == d
    if derived and f in ("llama", "mistral", "mixtral", "qwen2") and rng.random() < 0.6:          # the width of heads not said
        if rng.random() < 0.5:
            del hf["head_dim"]
        else:
            hf["head_dim"] = None
    if group == 1 and f == "llama" and rng.random() < 0.5:
        del hf["num_key_value_heads"]
    elif group == 1 and f in ("llama", "mistral", "mixtral", "qwen2", "qwen3") and rng.random() < 0.3:
        hf["num_key_value_heads"] = None
    if c["tie_word_embeddings"] == f.startswith("gemma") and rng.random() < 0.5:                   # the family's default
        del hf["tie_word_embeddings"]
    rope = rng.choice(("none", "default", "linear", "llama3"))
    scaling = {"default": {"rope_type": "default"}, "linear": {"factor": 4.0},
               "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}.get(rope)
    if scaling is not None:
        scaling.setdefault(rng.choice(("rope_type", "type")) if rope == "linear" else "rope_type", rope)
        if rng.random() < 0.5:
            hf["rope_scaling"] = scaling
        else:
            hf["rope_parameters"] = dict(scaling, rope_theta=hf.pop("rope_theta"))
    dtype = rng.choice(DTYPES)
    hf[rng.choice(("torch_dtype", "dtype"))] = rng.choice(("", "torch.")) * (rng.random() < 0.2) + dtype
    c["dtype"] = dtype
    if f == "gemma3":
        outer = {k: hf.pop(k) for k in ("model_type", "architectures")}
        hf = dict(outer, text_config=dict(hf, model_type="gemma3_text"), vision_config={"hidden_size": 1152})
    return hf, c


class Bad(Exception):
    pass


class Case:
    def __init__(self, phalanx, path, hf, c):
        self.phalanx, self.path, self.hf, self.m, self.c, self.values, self.args = phalanx, path, hf, ref.Model(c), c, 0, ()
        with open(path, "w") as f:
            json.dump(hf, f)

    def run(self, *args):
        self.args = args
        return subprocess.run([self.phalanx, "plan", self.path, *map(str, args), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True, timeout=60)

    def plan(self, *args):
        p = self.run(*args)
        if p.returncode:
            raise Bad("refused: " + p.stderr)
        return json.loads(p.stdout)

    def same(self, where, found, want):
        self.values += len(want) if isinstance(want, (list, dict)) else 1
        if found != want:
            raise Bad("%s: planned %s, the formulas say %s" % (where, found, want))

    def the_model(self):
        m, p = self.m, self.plan("--ranks", 1, "--device", "1TiB", "--cuts")
        by_class = m.params()
        self.same("params_by_class", p["params_by_class"], by_class)
        self.same("params", p["params"], sum(by_class.values()))
        self.same("active_params", p["active_params"], m.active_params())
        self.same("kv_layers", p["kv_layers"], {"full": m.slides.count(False), "sliding": m.slides.count(True)})
        for fmt in ref.FORMATS:
            total = ref.total_bytes(m, fmt)
            self.same("total_bytes " + fmt, p["total_bytes"][fmt], total)
            self.same("type_counts " + fmt, p["type_counts"][fmt], ref.type_counts(m, fmt))
            self.same("bits_per_weight " + fmt, abs(p["bits_per_weight"][fmt] - total * 8 / p["params"]) < 5.1e-5, True)
        for t in ref.KV_TYPES:
            v = ref.kv_vector(t, m.h)
            self.same("kv_bytes_per_token " + t, p["kv_bytes_per_token"].get(t), None if v is None else m.L * 2 * m.K * v)
        for n, found in p["kv_seq_bytes_f16_page16_chunk2048"].items():
            self.same("kv_seq_bytes " + n, found, ref.kv_seq_bytes(m, "f16", int(n), 16, 2048))
        for section in ("weights", "weights_balanced"):
            for fmt in ref.FORMATS:
                for tp in (1, 2, 3, 4, 5, 6, 7, 8, 16):
                    for vocab in ("unpadded", "padded64"):
                        key = "%s/tp%d/%s" % (fmt, tp, vocab)
                        if key not in p[section]:
                            if section == "weights":
                                raise Bad(key + " is missing")
                            continue
                        self.cut(key, p[section][key], fmt, tp, vocab, section == "weights_balanced")

    def cut(self, key, found, fmt, tp, vocab, balanced):
        try:
            want = ref.Cut(self.m, fmt, tp, vocab, balanced)
        except ref.DoesNotSplit:
            self.same(key + " error", "error" in found, True)
            return
        for k, v in dict(want.as_golden(), kv_replicated=sum(want.kv) > self.m.K).items():
            self.same("%s %s" % (key, k), found.get(k), v)

    def largest(self, fmt, vocab, tp):
        while True:
            try:
                ref.Cut(self.m, fmt, tp, vocab)
                return tp
            except ref.DoesNotSplit:
                tp -= 1

    def request(self, rng):
        """One deployment: ranks, format, split, cache, classes, at random."""
        m, fmt, tp = self.m, rng.choice(ref.FORMATS), rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 64))
        vocab, split, dtype = rng.choice(("unpadded", "padded64")), rng.choice(("even", "balanced")), rng.choice(ref.KV_TYPES)
        page, chunk, sequences = rng.choice((16, 32, 64, 128)), rng.choice((1, 7, 64, 256, 2048)), rng.choice((1, 3, 32, 64))
        backend = rng.choice((("--backend", "cuda"), ("--backend", "cpu", "--memory", "64TiB")))
        pool = rng.choice((1 << 24, 1 << 28, 3 << 30, 48 << 30)) + rng.randrange(4096)
        classes = [(n, rng.randint(1, 3000), rng.randint(1, 900)) for n in (rng.randint(1, 64) for _ in range(rng.randrange(3)))]
        args = ["--ranks", tp, "--format", fmt, "--vocab", vocab, "--split", split, "--kv.dtype", dtype, "--kv.block", page,
                "--token_budget", chunk, "--max_sequences", sequences, "--pool", pool, *backend]
        for i, (n, p, o) in enumerate(classes):
            args += ["--class", "c%d:%d:%d+%d:%d+%d" % (i, n, p, o, 2 * p, 2 * o)]
        p = self.run(*args)
        try:
            cut = ref.Cut(m, fmt, tp, vocab, split == "balanced")
        except ref.DoesNotSplit:
            self.same("exit code", p.returncode, 3)
            most = self.largest(fmt, vocab, tp)
            self.same("nearest ranks", "found %d, expected 1 to %d)" % (tp, most) in p.stderr or p.stderr, True)
            return
        if ref.kv_vector(dtype, m.h) is None:
            self.same("exit code", p.returncode, 3)
            self.same("the field", "kv.dtype" in p.stderr or p.stderr, True)
            return
        if ("kv.tokens" in p.stderr or "pool" in p.stderr) and p.returncode and any(
                page * 2 * m.L * kv * ref.kv_vector(dtype, m.h) > pool for kv in cut.kv):
            return                                              # not one block
        if p.returncode:
            raise Bad("refused: " + p.stderr)
        p = json.loads(p.stdout)
        want, act = cut.as_golden(), 2 if "cuda" in backend else 4
        for k in PER_RANK:
            self.same(k, [r[k] for r in p["per_rank"]], want[k])
        self.same("source_bytes", p["source_bytes"], ref.total_bytes(m, fmt))
        tokens = [(n, a + b, 2 * (a + b)) for n, a, b in classes]
        caps = ref.capacity(m, cut, dtype, page, chunk, pool, tokens)
        for r, found in enumerate(p["per_rank"]):
            a = ref.activations(m, cut, r, chunk, sequences, act, 4, act)
            self.same("activation of rank %d" % r, {k: found["activation"].get(k) for k in a}, a)
            self.same("capacity of rank %d" % r, {k: found[k] for k in caps[r]}, caps[r])

    def as_file(self):
        """The checkpoint's own types: a config.json says one for all tensors."""
        p = self.plan("--ranks", 1, "--device", "1TiB")
        size = 4 if self.c["dtype"] == "float32" else 2
        self.same("source_bytes as_file", p["source_bytes"], size * sum(self.m.params().values()))


REFUSED = (                                                     # what is changed, and the field that must be named
    ({"attention_bias": True}, "attention_bias"), ({"mlp_bias": True}, "mlp_bias"), ({"model_type": "falcon"}, "model_type"),
    ({"hidden_act": "gelu"}, "hidden_act"), ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    ({"num_attention_heads": 0}, "num_attention_heads"), ({"num_key_value_heads": 7}, "n_kv_head"), ({"head_dim": 33}, "head_dim"),
    ({"head_dim": 0}, "head_dim"), ({"head_dim": -64}, "head_dim"), ({"head_dim": 4096}, "head_dim"),
    ({"hidden_size": 1 << 40}, "hidden_size"), ({"hidden_size": "4096"}, "hidden_size"), ({"hidden_size": 4096.5}, "hidden_size"),
    ({"num_hidden_layers": 0}, "n_layer"), ({"vocab_size": 0}, "n_vocab"), ({"intermediate_size": 0}, "d_ff"),
    ({"intermediate_size": None}, "intermediate_size"), ({"num_hidden_layers": None}, "num_hidden_layers"),
    ({"max_position_embeddings": 0}, "n_ctx"), ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype"), ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ({"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "rope_scaling.rope_type"), ({"layer_types": ["linear_attention"] * 2}, "layer_types"),
    ({"model_type": "qwen2", "architectures": None, "layer_types": ["linear_attention"] * 2}, "layer_types"),
    ({"model_type": "mistral", "architectures": None, "layer_types": ["full_attention"]}, "layer_types"),
    ({"model_type": "mixtral", "architectures": None, "num_experts_per_tok": 9}, "n_expert_used"),
    ({"model_type": "mistral", "architectures": None, "sliding_window": "4096"}, "sliding_window"),
    ({"model_type": "gemma3_text", "architectures": None, "sliding_window_pattern": "6"}, "sliding_window_pattern"))


def refusals(phalanx, path):
    good = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512}
    for change, field in ((None, None),) + REFUSED:
        with open(path, "w") as f:
            json.dump({k: v for k, v in dict(good, **(change or {})).items() if k != "architectures" or v}, f)
        p = subprocess.run([phalanx, "plan", path, "--ranks", "1", "--device", "1GiB"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           universal_newlines=True, timeout=60)
        if (p.returncode == 0) != (change is None) or change and " %s:" % field not in p.stderr:
            sys.exit("plan_random: %s: exit code %d, expected a refusal of %s\n%s" % (change, p.returncode, field, p.stderr))
    return len(REFUSED)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("phalanx")
    args.add_argument("--seeds", type=int, default=12)
    args.add_argument("--first", type=int, default=0)
    args.add_argument("--requests", type=int, default=25, help="of each model")
    args = args.parse_args()
    values = 0
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "config.json")
        n = refusals(args.phalanx, path)
        for seed in range(args.first, args.first + args.seeds):
            rng = random.Random(seed)
            case = Case(args.phalanx, path, *make(rng))
            try:
                case.the_model()
                case.as_file()
                for _ in range(args.requests):
                    case.request(rng)
            except Bad as e:
                sys.exit("plan_random: seed %d: %s\n%s\nphalanx plan config.json %s" %
                         (seed, e, json.dumps(case.hf), " ".join(map(str, case.args))))
            values += case.values
    print("%d models, %d values as the formulas say, %d configurations refused by field" % (args.seeds, values, n))
    if values < 1000 * args.seeds:
        sys.exit("plan_random: too few values were compared")


if __name__ == "__main__":
    main()
