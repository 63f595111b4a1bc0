"""Host memory, from /proc: sharding streams with a bounded buffer, and a rank's weights are pages of its file.

The model is larger than any bound that is asserted: 256 MiB of zeros in BF16, as a sparse file."""
import json
import os
import re
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import job  # noqa: E402
from job import SANITIZED, harness  # noqa: E402

MIB = 1 << 20
BOUND = 16 * MIB            # of anonymous memory while sharding
D, FF, LAYERS, VOCAB, HEADS = 1024, 4096, 8, 1024, 16


def make_model():
    folder = os.path.join(harness._tmp, "zeros")
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D, "intermediate_size": FF,
                   "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
                   "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                   "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True, "hidden_act": "silu",
                   "torch_dtype": "bfloat16"}, f)
    tensors = {"model.embed_tokens.weight": [VOCAB, D], "model.norm.weight": [D]}
    for i in range(LAYERS):
        p = "model.layers.%d." % i
        for n in "qkvo":
            tensors[p + "self_attn.%s_proj.weight" % n] = [D, D]
        tensors.update({p + "mlp.gate_proj.weight": [FF, D], p + "mlp.up_proj.weight": [FF, D],
                        p + "mlp.down_proj.weight": [D, FF], p + "input_layernorm.weight": [D],
                        p + "post_attention_layernorm.weight": [D]})
    head, at = {}, 0
    for name, shape in tensors.items():
        n = 2
        for k in shape:
            n *= k
        head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(head).encode()
    path = os.path.join(folder, "model.safetensors")
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    return folder, at


def status(pid, key):
    with open("/proc/%d/status" % pid) as f:
        m = re.search(r"^%s:\s+(\d+) kB" % key, f.read(), re.M)
    return int(m.group(1)) * 1024 if m else 0


def sharding_is_bounded(model, size):
    out, peak = os.path.join(harness._tmp, "zeros.set"), 0
    p = subprocess.Popen([os.path.join(harness.BUILD, "bin", "phalanx"), "shard", model, "--ranks", "2", "--out", out,
                          "--no-tokenizer"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    looks = 0
    while p.poll() is None:
        try:
            peak, looks = max(peak, status(p.pid, "RssAnon")), looks + 1
        except OSError:
            break
        time.sleep(0.002)
    error = p.stderr.read()
    p.stderr.close()
    assert p.wait() == 0, error
    assert looks > 20 and peak > 0, (looks, peak)
    assert size > 3 * BOUND
    if not SANITIZED:                       # a sanitizer keeps what was given back for a while
        assert peak < BOUND, "%d MiB of anonymous memory while %d MiB were sharded" % (peak // MIB, size // MIB)
    return out, "at most %.1f MiB of anonymous memory for a model of %d MiB (%d looks)" % (peak / MIB, size // MIB, looks)


def maps_of(pid, name):
    """Sums over the mappings of files of this name: Rss, Anonymous, Private_Dirty..."""
    sums, inside = {}, False
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
                inside = name in line
                sums["mappings"] = sums.get("mappings", 0) + inside
            elif inside and line.endswith("kB\n"):
                key, value = line.split(":")
                sums[key] = sums.get(key, 0) + int(value.split()[0]) * 1024
    return sums


def weights_are_file_pages(shard_set):
    d = harness.Daemon(shard_set, "--kv.tokens", "512", "--token_budget", "64", "--max_sequences", "4", "--verify", "full")
    ids, _ = harness.ids_of(d.inference.Generate(harness.greedy([5, 6, 7], 4), timeout=120))
    assert len(ids) == 4
    notes = []
    for r in d.info().ranks:
        m = maps_of(r.pid, "rank-%03d-of-002.safetensors" % r.rank)
        assert m["mappings"] >= 1 and m["Rss"] >= 0.95 * r.weights_planned, (m, r.weights_planned)
        assert m["Anonymous"] == 0 and m["Private_Dirty"] == 0 and m["Swap"] == 0, m
        anonymous = status(r.pid, "RssAnon")
        known = r.arena_planned + r.comm_planned + 32 * MIB + 48 * MIB     # step buffers; MPI and the C library
        if not SANITIZED:
            assert anonymous < known < r.weights_planned, (anonymous, known, r.weights_planned)
        # The plan is the allocation.
        assert r.weights_planned == r.weights_measured and r.kv_planned == r.kv_measured, r
        assert r.arena_planned == r.arena_measured and r.comm_planned == r.comm_measured, r
        notes.append("rank %d: %.1f MiB of weights in file pages, %.1f MiB anonymous in all" %
                     (r.rank, m["Rss"] / MIB, anonymous / MIB))
    job.end_and_clean(d)
    return "; ".join(notes)


def verify_runs_as_fast_as_memory(shard_set):
    """Digests of the whole set on all cores, against the same threads reading the same pages: the best of five."""
    best, speed = 0, 0
    for _ in range(5):
        p = subprocess.run([os.path.join(harness.BUILD, "bin", "phalanx"), "verify", shard_set, "--json"], check=True,
                           capture_output=True, text=True, timeout=120)
        o = json.loads(p.stdout)
        assert o["ok"] and o["bytes"] > 250 * MIB and o["threads"] == os.cpu_count(), o
        if o["bytes"] / o["seconds"] / o["read_bytes_per_second"] > best:
            best, speed = o["bytes"] / o["seconds"] / o["read_bytes_per_second"], o["bytes"] / o["seconds"] / 1e9
    return "%.1f GB/s, %.0f %% of the read bandwidth" % (speed, 100 * best)


folder, size = make_model()
shard_set, note = sharding_is_bounded(folder, size)
print("ok   sharding: " + note, flush=True)
print("ok   loading: " + weights_are_file_pages(shard_set), flush=True)
print("ok   verifying: " + verify_runs_as_fast_as_memory(shard_set), flush=True)
