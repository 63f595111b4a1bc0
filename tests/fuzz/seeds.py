"""Seeds and words of the fuzz targets: small files of every kind, made here or taken from the tests' own files.

make(TARGET, ROOT, FOLDER) writes the seeds into FOLDER; words(ROOT) are texts between quotes that the readers compare with."""
import glob
import json
import os
import re
import struct

TINY = os.path.join("tests", "golden", "tiny")
SHAPE = {"hidden": 8, "ffn": 32, "heads": 2, "kv": 1, "vocab": 4}


def gguf(version=3, types=(), wide=False, more=()):
    """A llama of one layer, every matrix of another type; wide: 256 columns, for the types with blocks of 256."""
    hidden, ffn = (256, 256) if wide else (32, 32)
    sizes = {0: (1, 4), 1: (1, 2), 30: (1, 2), 8: (32, 34), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 20: (32, 18), 10: (256, 84),
             11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 23: (256, 136), 17: (256, 74)}

    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def key(name, v):
        if isinstance(v, bytes):
            return text(name) + v
        if isinstance(v, str):
            return text(name) + struct.pack("<I", 8) + text(v)
        return text(name) + (struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v))

    keys = [("general.architecture", "llama"), ("llama.block_count", 1), ("llama.context_length", 16), ("llama.embedding_length", hidden),
            ("llama.feed_forward_length", ffn), ("llama.attention.head_count", 2), ("llama.attention.head_count_kv", 1),
            ("llama.attention.layer_norm_rms_epsilon", 1e-5)] + list(more)
    names = ["token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.attn_output", "blk.0.ffn_gate", "blk.0.ffn_up", "blk.0.ffn_down"]
    rows = [4, hidden, hidden // 2, hidden // 2, hidden, ffn, ffn, hidden]
    if wide:
        rows = [4, hidden, hidden // 2, hidden // 2, hidden, 32, 32, hidden]
        keys[4] = ("llama.feed_forward_length", 32)
    cols = [hidden] * 7 + [32]
    tensors = [(n, (c, r), (types[i % len(types)] if types else 0) if c % 256 == 0 or not wide else 8) for i, (n, r, c) in
               enumerate(zip(names, rows, cols))]
    tensors += [(n, (hidden,), 0) for n in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")]
    out, at, data = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(key(k, v) for k, v in keys), 0, b""
    for name, dims, kind in tensors:
        n = 1
        for d in dims:
            n *= d
        each, size = sizes[kind]
        raw = bytes((i * 37 >> 3) & 0x3B for i in range(n // each * size))
        raw += b"\0" * (-len(raw) % 32)
        out += text(name + ".weight") + struct.pack("<I%dQ" % len(dims), len(dims), *dims) + struct.pack("<IQ", kind, at)
        data += raw
        at += len(raw)
    return out + b"\0" * (-len(out) % 32) + data


def array(kind, items):
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def vocabulary():
    def text(s):
        return struct.pack("<Q", len(s)) + s
    return [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "llama-bpe"), ("tokenizer.ggml.tokens", array(8, [text(b) for b in
             (b"a", b"b", b"ab", b"<s>")])), ("tokenizer.ggml.token_type", array(5, [struct.pack("<i", x) for x in (1, 1, 1, 3)])),
            ("tokenizer.ggml.merges", array(8, [text(b"a b")])), ("tokenizer.ggml.scores", array(6, [struct.pack("<f", -x) for x in range(4)])),
            ("llama.rope.freq_base", 1e4), ("llama.rope.scaling.type", "linear"), ("llama.rope.scaling.factor", 4.0)]


def pieces():
    """The same of SentencePiece: its control tokens, a token a byte, and a few that are merged."""
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)] + ["\u2581", "a", "b", "ab", "\u2581ab"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 5
    text = [x.encode() for x in names]
    return [("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.tokens", array(8, [struct.pack("<Q", len(x)) + x for x in text])),
            ("tokenizer.ggml.token_type", array(5, [struct.pack("<i", k) for k in kinds])),
            ("tokenizer.ggml.scores", array(6, [struct.pack("<f", -i) for i in range(len(names))])), ("tokenizer.ggml.bos_token_id", 1),
            ("tokenizer.ggml.eos_token_id", 2), ("tokenizer.ggml.unknown_token_id", 0), ("tokenizer.ggml.add_bos_token", b"\7\0\0\0\1"),
            ("tokenizer.ggml.add_space_prefix", b"\7\0\0\0\1"), ("tokenizer.ggml.remove_extra_whitespaces", b"\7\0\0\0\0")]


def hollow(last, value):
    """A GGUF of keys alone that ends in an array of texts which the hole behind the input goes on with; of odd length, which makes the hole."""
    def key(name, v):
        name = name.encode()
        return struct.pack("<Q", len(name)) + name + (v if isinstance(v, bytes) else struct.pack("<IQ", 8, len(v)) + v.encode())

    keys = [(k, v) for k, v in vocabulary() if isinstance(v, (bytes, str)) and k != last]
    for pad in ("", "x"):
        out = b"".join(key(k, v) for k, v in keys + [("pad", pad), (last, value)])
        out = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys) + 2) + out
        if len(out) % 2:
            return out


def safetensors(kind="F32", size=4, tied=True):
    h, f, v = SHAPE["hidden"], SHAPE["ffn"], SHAPE["vocab"]
    p = "model.layers.0."
    shapes = {"model.embed_tokens.weight": [v, h], "model.norm.weight": [h], p + "input_layernorm.weight": [h],
              p + "post_attention_layernorm.weight": [h], p + "self_attn.q_proj.weight": [h, h], p + "self_attn.k_proj.weight": [h // 2, h],
              p + "self_attn.v_proj.weight": [h // 2, h], p + "self_attn.o_proj.weight": [h, h], p + "mlp.gate_proj.weight": [f, h],
              p + "mlp.up_proj.weight": [f, h], p + "mlp.down_proj.weight": [h, f]}
    if not tied:
        shapes["lm_head.weight"] = [v, h]
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, s in shapes.items():
        n = size * s[0] * (s[1] if len(s) > 1 else 1)
        head[name] = {"dtype": kind, "shape": s, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * at


def manifests(phalanx_shard, folder):
    """Of real sets, which phalanx makes here."""
    os.makedirs(os.path.join(folder, "model"))
    with open(os.path.join(folder, "model", "config.json"), "w") as f:
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 64, "num_hidden_layers": 1,
                   "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 4, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
                   "tie_word_embeddings": True, "hidden_act": "silu"}, f)
    SHAPE["ffn"] = 64
    with open(os.path.join(folder, "model", "model.safetensors"), "wb") as f:
        f.write(safetensors())
    SHAPE["ffn"] = 32
    out = []
    for ranks, more in ((1, ()), (2, ()), (2, ("--format", "BF16", "--digest", "sha256", "--split", "even"))):
        to = os.path.join(folder, "set-%d" % len(out))
        phalanx_shard(os.path.join(folder, "model"), "--ranks", str(ranks), "--out", to, *more)
        with open(os.path.join(to, "manifest.json"), "rb") as f:
            out.append(f.read())
    return out


def files(root, *patterns):
    out = []
    for p in patterns:
        for path in sorted(glob.glob(os.path.join(root, p))):
            with open(path, "rb") as f:
                out.append(f.read())
    return out


def tokenizers(root):
    """Golden tokenizers cut to a few tokens; SentencePiece's single bytes stay."""
    out = []
    for name, keep in (("smollm", 40), ("llama3", 40), ("qwen2", 40), ("llama2", 300)):
        for path in sorted(glob.glob(os.path.join(root, TINY, "tokenizers", name, "tokenizer*.json"))):
            with open(path, encoding="utf-8") as f:
                t = json.load(f)
            added = [a["content"] for a in t["added_tokens"]]
            names = [k for k, i in sorted(t["model"]["vocab"].items(), key=lambda x: x[1]) if k not in added]
            ids = {k: i for i, k in enumerate(added[:4] + names[:keep])}
            t["model"]["vocab"] = {k: i for k, i in ids.items() if name == "llama2" or k not in added}
            t["added_tokens"] = [dict(a, id=ids[a["content"]]) for a in t["added_tokens"][:4]]
            pair = lambda m: m.split(" ") if isinstance(m, str) else m
            t["model"]["merges"] = [m for m in t["model"]["merges"] if all(x in ids for x in (*pair(m), "".join(pair(m))))]
            out.append(json.dumps(t, ensure_ascii=False).encode())
            if name == "llama2":                                 # looked for among the normalizer's spaces
                t["added_tokens"] = [dict(a, normalized=True) for a in t["added_tokens"]]
                out.append(json.dumps(t, ensure_ascii=False).encode())
    normal = {"format": 2, "kind": "bpe-bytelevel", "pre": {"name": "x", "stages": ["\\p{N}", "'s| ?\\p{L}+"]}, "nfc": True, "space_prefix": "never",
              "ignore_merges": False, "add_bos": True, "bos": 3, "eos": None, "unk": None, "pad": 3, "eog": [3], "types": "1113",
              "tokens": ["a", "b", "ab", "<s>"], "merges": ["a b"], "ranks": None}
    return out + [json.dumps(normal).encode()]


def with_hints(models):
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>", "pad_token": None, "add_bos_token": True,
              "added_tokens_decoder": {"0": {"content": "<unk>"}}, "model_max_length": 1e30}
    return models + [b"\n@@\n".join((m, json.dumps(config).encode(), b'{"<s>": 1, "</s>": 2}')) for m in models]


def make(target, root, folder, work, phalanx_shard):
    index = {"metadata": {"total_size": 8}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    makers = {
        "planted": lambda: [b"bu", b"fuzz"],
        "gguf": lambda: [gguf(), gguf(2, (0, 1, 30, 8, 2, 3)), gguf(3, (6, 7, 20)), gguf(3, (10, 11, 12, 13, 14, 23, 17), True), gguf(more=vocabulary())],
        "safetensors": lambda: [safetensors(), safetensors("BF16", 2), safetensors("F16", 2, False)],
        "index": lambda: [json.dumps(index).encode(), b'{"weight_map": {"x": "../a.safetensors"}}'],
        "config": lambda: files(root, TINY + "/arch/*/config.json", TINY + "/arch/*/config.v5.json", TINY + "/arch/later/*/config.json"),
        "manifest": lambda: manifests(phalanx_shard, work),
        "yaml": lambda: files(root, "configs/*.yaml", "configs/cuda/*2gpu*.yaml", "configs/models/*.yaml"),
        "tokenizer_json": lambda: tokenizers(root) + files(root, "tests/daemon/text/templates/*.json"),
        "tokenizer_model": lambda: with_hints(files(root, TINY + "/tokenizers/llama2/tokenizer.model")),
        "tokenizer_gguf": lambda: files(root, TINY + "/tokenizers/*/vocab.gguf") + [gguf(more=vocabulary()), gguf(more=pieces()),
            hollow("tokenizer.ggml.merges", struct.pack("<IIQ", 9, 8, 500000)), hollow("tokenizer.ggml.tokens", struct.pack("<IIQQ", 9, 8, 4, 1 << 21))],
    }
    for i, data in enumerate(makers[target]()):
        with open(os.path.join(folder, "seed-%02d" % i), "wb") as f:
            f.write(data)


def words(root):
    found = set()
    for path in sum((glob.glob(os.path.join(root, p)) for p in ("shard/store/*.c", "shard/model/*.c", "proto/config/*.c", "daemon/text/*.c")), []):
        with open(path) as f:
            found.update(re.findall(r'"([A-Za-z_][A-Za-z0-9_.]{1,40})"', f.read()))
    return sorted(found)
