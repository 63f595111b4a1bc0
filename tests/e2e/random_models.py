"""Random tiny models against a float64 reference, through gRPC.  By hand, not in ctest: python3 random_models.py [FIRST [COUNT]]

A seed is a model: an architecture (windows, biases, norms of heads), shapes that divide by nothing, all kinds of heads, rope, vocabularies so small that a rank owns only
padding, every storage type of safetensors (one file or several) and GGUF; then a rank count, a policy and daemons with
random settings.  The first daemon of a set must be near the reference; the others, and the same requests amid a crowd,
must give the same bits.  Needs numpy beside the harness."""
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import threading

import numpy as np

import harness as h
from harness import pb

GGML = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}
HEADS = [(9, 3), (10, 5), (7, 7), (4, 1), (6, 2), (3, 1), (8, 4), (5, 5), (12, 3), (1, 1), (2, 2), (15, 5), (14, 2)]
# Largest difference of a log-probability and mean KL, by what the set holds.  BF16 activations are rounded in the
# reference too, so what is left is where two roundings fall apart.
BOUNDS = {"F32": (1e-3, 1e-6), "quantised": (0.1, 5e-5), "BF16": (0.4, 5e-4)}


# ---- storage types: values -> (bytes, values as stored) ----

def bf16(a):
    u = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def wide(b):
    return (b.astype(np.uint32) << 16).view(np.float32)


def store(a, kind):
    if kind == "F32":
        return a.astype("<f4").tobytes(), a.astype(np.float32)
    if kind == "F16":
        return a.astype("<f2").tobytes(), a.astype(np.float16).astype(np.float32)
    if kind == "BF16":
        return bf16(a).tobytes(), wide(bf16(a))
    x = a.reshape(-1, 32).astype(np.float32)
    low, span = {"Q8_0": (None, 127), "Q4_0": (None, 8), "Q4_1": (x.min(-1, keepdims=True), 15)}[kind]
    d = (np.abs(x).max(-1, keepdims=True) if low is None else x.max(-1, keepdims=True) - low) / span
    d = np.maximum(d, 1e-6).astype("<f2")
    low = None if low is None else low.astype("<f2")
    x0 = x if low is None else x - low.astype(np.float32)
    q = np.rint(x0 / d.astype(np.float32))
    if kind == "Q8_0":
        q = np.clip(q, -127, 127)
        quants = q.astype(np.int8).view(np.uint8)
    else:
        q = np.clip(q, -8, 7) if kind == "Q4_0" else np.clip(q, 0, 15)
        n = (q + (8 if kind == "Q4_0" else 0)).astype(np.uint8)
        quants = n[:, :16] | n[:, 16:] << 4
    head = [d.view(np.uint8)] + ([] if low is None else [low.view(np.uint8)])
    back = q * d.astype(np.float32) + (0 if low is None else low.astype(np.float32))
    return np.concatenate(head + [quants], -1).tobytes(), back.astype(np.float32).reshape(a.shape)


# ---- a model ----

def random_config(g):
    d = int(g.choice([8, 10, 16, 24, 32, 40, 48, 64, 80, 96, 128]))
    n_head, n_kv = HEADS[g.integers(len(HEADS))]
    hidden = n_head * d
    if g.random() < .5 or hidden > 700:
        hidden = int(g.choice([32, 40, 50, 77, 96, 128]))
    scaling = [None, {"type": "linear", "factor": float(g.choice([2, 2.5, 4]))},
               {"rope_type": "llama3", "factor": float(g.choice([8, 32])), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": int(g.choice([32, 64, 8192]))}][g.integers(3)]
    # Qwen's window counts only if it is switched on; Mistral's is there unless it is null
    window = int(g.choice([1, 5, 16, 30, 64]))
    family = [{"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
              {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window if g.random() < .8 else None},
              {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "sliding_window": window, "max_window_layers": 0,
               "use_sliding_window": bool(g.random() < .3)},
              {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}][g.integers(4)]
    return {**family, "hidden_act": "silu", "hidden_size": hidden,
            "num_attention_heads": n_head, "num_key_value_heads": n_kv, "head_dim": d,
            "intermediate_size": int(g.choice([33, 64, 96, 100, 129, 160, 200, 257, 352])),
            "num_hidden_layers": int(g.integers(1, 4)), "rms_norm_eps": float(g.choice([1e-5, 1e-6])),
            "vocab_size": int(g.choice([5, 63, 64, 65, 100, 129, 130, 257, 321, 500])),
            "max_position_embeddings": int(g.choice([37, 64, 96, 100, 129])), "tie_word_embeddings": bool(g.random() < .5),
            "rope_theta": float(g.choice([1e4, 1e5, 5e5, 1e6])), "rope_scaling": scaling, "eos_token_id": [0, 2]}


def window_of(c):
    on = c.get("use_sliding_window", c["model_type"] == "mistral")
    return c.get("sliding_window") if on else None


def random_weights(c, g):
    hidden, ffn, vocab, d = c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    scale = 3 / (0.03 * math.sqrt(hidden)) if c["tie_word_embeddings"] else 1.0
    w = {"token_embd": g.normal(0, 0.03, (vocab, hidden)), "output_norm": g.uniform(0.6, 1.4, hidden) * scale}
    if not c["tie_word_embeddings"]:
        w["output"] = g.normal(0, 3 / math.sqrt(hidden), (vocab, hidden))
    for i in range(c["num_hidden_layers"]):
        for name, rows, cols, gain in (("attn_q", q, hidden, 1.3), ("attn_k", kv, hidden, 1.3), ("attn_v", kv, hidden, 1.3),
                                       ("attn_output", hidden, q, 0.5), ("ffn_gate", ffn, hidden, 1.3),
                                       ("ffn_up", ffn, hidden, 1.3), ("ffn_down", hidden, ffn, 0.35)):
            w["blk.%d.%s" % (i, name)] = g.normal(0, gain / math.sqrt(cols), (rows, cols))
        for name in ("attn_norm", "ffn_norm"):
            w["blk.%d.%s" % (i, name)] = g.uniform(0.4, 1.6, hidden)
        if c["model_type"] == "qwen2":
            for name, n in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
                w["blk.%d.%s.bias" % (i, name)] = g.normal(0, 0.5, n)
        if c["model_type"] == "qwen3":
            for name in ("attn_q_norm", "attn_k_norm"):
                w["blk.%d.%s" % (i, name)] = g.uniform(0.4, 1.6, d)
    return {k: v.astype(np.float32) for k, v in w.items()}


HF = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_q": "self_attn.q_proj",
      "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
      "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
      "ffn_norm": "post_attention_layernorm", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


def full_name(name):
    return name if name.endswith(".bias") else name + ".weight"


def hf_name(name):
    parts = full_name(name).split(".")
    return ("model.layers.%s." % parts[1] if len(parts) == 4 else "") + HF[parts[-2]] + "." + parts[-1]


def write_safetensors(folder, c, w, kind_of, g):
    os.makedirs(folder)
    with open(folder + "/config.json", "w") as f:
        json.dump(c, f)
    names = list(w)
    g.shuffle(names)
    parts = int(g.integers(1, 4))
    kinds, back, where = {}, {}, {}
    for p in range(parts):
        file = "model.safetensors" if parts == 1 else "model-%05d-of-%05d.safetensors" % (p + 1, parts)
        head, data = {}, b""
        for name in names[p::parts]:
            kinds[name] = kind_of(name, w[name])
            raw, back[name] = store(w[name], kinds[name])
            head[hf_name(name)] = {"dtype": kinds[name], "shape": list(w[name].shape),
                                   "data_offsets": [len(data), len(data) + len(raw)]}
            where[hf_name(name)] = file
            data += raw
        text = json.dumps(head).encode()
        with open(os.path.join(folder, file), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data)
    if parts > 1:
        with open(folder + "/model.safetensors.index.json", "w") as f:
            json.dump({"metadata": {}, "weight_map": where}, f)
    return folder, kinds, back


def interleaved(a, n_head):
    """Rows (i, i + D/2) of a head become rows (2i, 2i + 1), as GGUF files of this architecture hold them."""
    return a.reshape(n_head, 2, -1, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)


def separated(a, n_head):
    return a.reshape(n_head, -1, 2, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)


def write_gguf(folder, c, w, kind_of, g):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def key(name, v):
        if isinstance(v, str):
            return text(name) + struct.pack("<I", 8) + text(v)
        return text(name) + (struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v))

    arch = c["model_type"]
    keys = {"block_count": c["num_hidden_layers"], "context_length": c["max_position_embeddings"],
            "embedding_length": c["hidden_size"], "feed_forward_length": c["intermediate_size"],
            "attention.head_count": c["num_attention_heads"], "attention.head_count_kv": c["num_key_value_heads"],
            "attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"],
            "rope.dimension_count": c["head_dim"], "rope.freq_base": c["rope_theta"],
            "attention.layer_norm_rms_epsilon": c["rms_norm_eps"]}
    keys = {"general.architecture": arch, **{"%s.%s" % (arch, k): v for k, v in keys.items()}}
    tensors, kinds, back = [], {}, {}
    scaling = c["rope_scaling"] or {}
    if scaling.get("type") == "linear":
        keys.update({arch + ".rope.scaling.type": "linear", arch + ".rope.scaling.factor": scaling["factor"]})
    elif scaling:
        divisor = frequencies({**c, "rope_scaling": None}) / frequencies(c)
        tensors.append(("rope_freqs.weight", divisor.shape, 0, divisor.astype("<f4").tobytes()))
    for name, a in w.items():
        pairs = {"attn_q": c["num_attention_heads"], "attn_k": c["num_key_value_heads"]} if arch == "llama" else {}
        heads = pairs.get(name.split(".")[-1])
        kinds[name] = kind_of(name, a)
        raw, stored = store(interleaved(a, heads) if heads else a, kinds[name])
        back[name] = separated(stored, heads) if heads else stored
        tensors.append((full_name(name), a.shape, GGML[kinds[name]], raw))
    out = b"GGUF" + struct.pack("<IQQ", int(g.integers(2, 4)), len(tensors), len(keys))
    out += b"".join(key(k, v) for k, v in keys.items())
    data = b""
    for name, shape, kind, raw in tensors:
        out += text(name) + struct.pack("<I%dQ" % len(shape), len(shape), *shape[::-1]) + struct.pack("<IQ", kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    os.makedirs(folder)
    with open(folder + "/model.gguf", "wb") as f:
        f.write(out + b"\0" * (-len(out) % 32) + data)
    return folder + "/model.gguf", kinds, back


# ---- the reference ----

def frequencies(c):
    d, s = c["head_dim"], c["rope_scaling"] or {}
    f = c["rope_theta"] ** (-np.arange(0, d, 2) / d)
    if s.get("type") == "linear":
        return f / s["factor"]
    if not s:
        return f
    turns = s["original_max_position_embeddings"] * f / (2 * math.pi)
    keep = np.clip((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"]), 0, 1)
    return f * (keep + (1 - keep) / s["factor"])


def reference(c, w, kinds, ids):
    """Log-probabilities after every position, in float64; the input of a BF16 matrix is rounded to BF16."""
    d, n_head, n_kv, n = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"], len(ids)

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"]) * w[name]

    def times(x, name):
        return (wide(bf16(x)) if kinds[name] == "BF16" else x).astype(np.float64) @ w[name].T.astype(np.float64)

    angle = np.arange(n)[:, None, None] * frequencies(c)

    def rotate(x):
        a, b = x[..., :d // 2], x[..., d // 2:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    far = np.arange(n)[:, None] - np.arange(n)                          # how far back a key is; a window counts the token itself
    mask = np.where((far < 0) | (far >= (window_of(c) or n)), -np.inf, 0.0)

    def heads(y, p, name, count):
        x = times(y, p + name)
        x = (x + w.get(p + name + ".bias", 0.0)).reshape(n, count, d)
        return norm(x, p + name + "_norm") if p + name + "_norm" in w and name != "attn_v" else x

    x = w["token_embd"][ids].astype(np.float64)
    for i in range(c["num_hidden_layers"]):
        p = "blk.%d." % i
        y = norm(x, p + "attn_norm")
        q = rotate(heads(y, p, "attn_q", n_head))
        k = np.repeat(rotate(heads(y, p, "attn_k", n_kv)), n_head // n_kv, 1)
        v = np.repeat(heads(y, p, "attn_v", n_kv), n_head // n_kv, 1)
        s = np.einsum("thd,shd->hts", q, k) / math.sqrt(d) + mask
        s = np.exp(s - s.max(-1, keepdims=True))
        s /= s.sum(-1, keepdims=True)
        x = x + times(np.einsum("hts,shd->thd", s, v).reshape(n, -1), p + "attn_output")
        y = norm(x, p + "ffn_norm")
        gate = times(y, p + "ffn_gate")
        x = x + times(gate / (1 + np.exp(-gate)) * times(y, p + "ffn_up"), p + "ffn_down")
    y = times(norm(x, "output_norm"), "output" if "output" in w else "token_embd")
    y -= y.max(-1, keepdims=True)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


# ---- what the daemon says ----

def score(d, ids, vocab):
    rows = list(d.inference.Score(pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=ids)), top=vocab), timeout=120))
    out = np.full((len(ids), vocab), np.nan, np.float32)
    assert [r.position for r in rows] == list(range(len(ids)))
    for r in rows:
        best = list(zip(r.top_logprobs, r.top_ids))
        assert best == sorted(best, key=lambda x: (-x[0], x[1])) and sorted(r.top_ids) == list(range(vocab))
        out[r.position, list(r.top_ids)] = r.top_logprobs
        if r.position + 1 < len(ids):
            assert r.id == ids[r.position + 1] and r.logprob == out[r.position, r.id]
    return out


def generate(d, ids, n):
    ids, messages = h.ids_of(d.inference.Generate(h.greedy(ids, n, response=pb.ResponseOptions(logprobs=True)), timeout=120))
    return ids, [x.logprob for m in messages for o in m.outputs for x in o.logprobs]


def ask_all(d, ids, prompt, n_new, vocab):
    scored = score(d, ids, vocab)
    new, logprobs = generate(d, prompt, n_new)
    again = score(d, prompt + new, vocab)
    for i, (t, x) in enumerate(zip(new, logprobs)):
        row = again[len(prompt) - 1 + i]
        assert t == row.argmax() and np.float32(x) == row[t], "Generate and Score disagree at token %d" % i
    return scored.tobytes(), new, logprobs


def crowd(d, seed, context, vocab, failed):
    def one(i):
        g = np.random.default_rng([seed, i])
        n = int(g.integers(1, context))
        try:
            generate(d, [int(x) for x in g.integers(0, vocab, n)], min(12, context - n))
        except Exception as e:
            failed.append(e)
    return [threading.Thread(target=one, args=(i,)) for i in range(32)]


def random_flags(g, context):
    return ["--threads", str(g.integers(1, 4)), "--kv.block", str(g.choice([16, 32, 64, 128])),
            "--cpu", str(g.choice(["auto", "scalar"])), "--kv.tokens", str(g.choice([context, 2 * context, 4096])),
            "--token_budget", str(g.choice([1, 7, 64, 256])),
            "--transport", str(g.choice(["shm", "mpi"])), "--max_sequences", str(g.choice([1, 2, 3, 64]))]


def run(seed):
    g = np.random.default_rng(seed)
    c = random_config(g)
    w = random_weights(c, g)
    # a GGUF has no word for a window: Mistral's are Llamas
    gguf, context, vocab = g.random() < .5 and not window_of(c) and c["model_type"] != "mistral", c["max_position_embeddings"], c["vocab_size"]
    source = str(g.choice(["F32", "F16", "BF16", "mixed"] + (["Q8_0", "Q4_0", "Q4_1"] if gguf else [])))
    every = ["F32", "F16", "BF16"] + (["Q8_0", "Q4_0", "Q4_1"] if gguf else [])

    def kind_of(name, a):
        k = str(g.choice(every)) if source == "mixed" else source
        if gguf and a.ndim == 1:
            return "F32"
        return "F16" if k[0] == "Q" and a.shape[-1] % 32 else k

    folder = os.path.join(h._tmp, "model-%d" % seed)
    model, kinds, back = (write_gguf if gguf else write_safetensors)(folder, c, w, kind_of, g)
    policy = [None, None, "f32", "bf16"][g.integers(4)]
    ranks, out = int(g.integers(1, 5)), folder + "/set"
    while True:
        p = subprocess.run([os.path.join(h.BUILD, "bin", "phalanx"), "shard", model, "--ranks", str(ranks), "--out", out] +
                           (["--format", policy] if policy else []), capture_output=True, text=True, timeout=60)
        if not p.returncode:
            break
        most = re.search(r"the largest number that works is (\d+)", p.stderr)
        assert most and int(most.group(1)) < ranks, p.stderr        # a refusal says what would work, and that works
        ranks = int(most.group(1))
    if policy:
        kinds = {k: policy.upper() for k in kinds}
    if policy == "bf16":
        back = {k: wide(bf16(v)) if v.ndim > 1 else v for k, v in back.items()}
    kv = str(g.choice(["f16", "f32"]))
    used = {v for k, v in kinds.items() if w[k].ndim > 1}
    sort = "BF16" if "BF16" in used else "F32" if used <= {"F32", "F16"} and kv == "f32" else "quantised"
    ids = [int(x) for x in g.integers(0, vocab, context)]
    ids[-2] = vocab - 1
    want = reference(c, back, kinds, ids)
    first, told = None, "seed %d %s%s %s %s %s ranks %d kv %s V%d hid%d heads %d/%d D%d ffn%d layers %d ctx%d" % (
        seed, c["model_type"], ":%d" % window_of(c) if window_of(c) else "", "gguf" if gguf else "safetensors", source, policy or "as_file", ranks, kv, vocab, c["hidden_size"],
        c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["intermediate_size"], c["num_hidden_layers"],
        context)
    for variant in range(3):
        flags = ["--kv.dtype", kv] + (random_flags(g, context) if variant else ["--threads", "1"])
        d = h.Daemon(out, *flags)
        request = (d, ids, ids[:10], min(20, context - 10), vocab)
        got = ask_all(*request)
        if not first:
            first = got
            s = np.frombuffer(got[0], np.float32).reshape(len(ids), vocab)
            diff, kl = np.abs(s - want).max(), (np.exp(want) * (want - s)).sum(-1).mean()
            print("%s: diff %.1e KL %.1e" % (told, diff, kl), flush=True)
            assert diff <= BOUNDS[sort][0] and kl <= BOUNDS[sort][1], "far from the reference (%s)" % sort
        assert got == first, "other bits with %s" % flags
        if variant == 2:
            failed = []
            threads = crowd(d, seed, context, vocab, failed)
            for t in threads:
                t.start()
            got = ask_all(*request)
            for t in threads:
                t.join()
            assert not failed, failed[0]
            assert got == first, "other bits in a crowd with %s" % flags
        left = d.wait_free()
        assert left.kv_blocks_free == left.kv_blocks_total, "KV blocks are not free"
        assert d.stop() == 0
    shutil.rmtree(folder)


if __name__ == "__main__":
    start = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    for number in range(start, start + count):
        run(number)
    print("%d models are well" % count)
