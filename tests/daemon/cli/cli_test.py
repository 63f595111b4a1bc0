"""The program `phalanx` on small models and bad input: exit codes, messages, and what is left on the disk.

usage: cli_test.py PHALANX SOURCE_ROOT"""
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

PHALANX, ROOT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
TINY = os.path.join(ROOT, "tests", "golden", "tiny")
GGUF = os.path.join(TINY, "gguf", "smollm_like_f16", "model.gguf")
LLAMA = os.path.join(TINY, "arch", "llama")
Q5_1 = os.path.join(TINY, "gguf", "llama3_q5_1", "model.gguf")
VOCAB = os.path.join(TINY, "tokenizers", "smollm", "vocab.gguf")
OK, FAILURE, USAGE, REFUSED, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130


def run(*args, text=b"", **kw):
    if isinstance(text, str):
        text = text.encode()
    p = subprocess.run([PHALANX] + list(args), input=text, stdout=kw.pop("stdout", subprocess.PIPE),
                       stderr=subprocess.PIPE, timeout=120, **kw)
    p.out, p.err = (p.stdout or b"").decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")
    return p


def read(*parts):
    with open(os.path.join(*parts), "rb") as f:
        return f.read()


def fake_model(folder, mib):
    """A llama of zeros that is large enough to be interrupted: safetensors with a sparse data part."""
    d, ff, vocab = 512, 1024, 2048
    layers = max(1, mib * 1024 * 1024 // (2 * (2 * d * d + 2 * d * 256 + 3 * d * ff)))
    config = json.loads(read(LLAMA, "config.json"))
    config.update(vocab_size=vocab, hidden_size=d, num_hidden_layers=layers, num_attention_heads=8,
                  num_key_value_heads=4, intermediate_size=ff, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    shapes = {"model.embed_tokens.weight": [vocab, d], "model.norm.weight": [d]}
    for i in range(layers):
        p = "model.layers.%d." % i
        shapes.update({p + "input_layernorm.weight": [d], p + "post_attention_layernorm.weight": [d],
                       p + "self_attn.q_proj.weight": [d, d], p + "self_attn.k_proj.weight": [256, d],
                       p + "self_attn.v_proj.weight": [256, d], p + "self_attn.o_proj.weight": [d, d],
                       p + "mlp.gate_proj.weight": [ff, d], p + "mlp.up_proj.weight": [ff, d],
                       p + "mlp.down_proj.weight": [d, ff]})
    header, at = {}, 0
    for name, shape in shapes.items():
        n = 2
        for x in shape:
            n *= x
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    text = json.dumps(header).encode()
    path = os.path.join(folder, "model.safetensors")
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    return path


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="phalanx-cli-")
        self.addCleanup(shutil.rmtree, self.dir, True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def expect(self, p, code, *words):
        self.assertEqual(p.returncode, code, p.err)
        if code not in (OK, INTERRUPTED):
            self.assertTrue(p.err.startswith("phalanx"), p.err)
        for w in words:
            self.assertIn(w, p.err)

    def shard(self, model, ranks, *more, name="set"):
        out = self.path(name)
        p = run("shard", model, "--ranks", str(ranks), "--out", out, "--json", *more)
        self.expect(p, OK)
        return out, json.loads(p.out), p

    def nothing_left(self, *keep):
        self.assertEqual(sorted(os.listdir(self.dir)), sorted(keep))


class Words(Case):
    def test_help_everywhere(self):
        for c in ("plan", "shard", "verify", "serve", "tokenize", "detokenize", "generate", "score", "info"):
            p = run(c, "--help")
            self.expect(p, OK)
            self.assertTrue(p.out.startswith("usage: phalanx " + c), p.out)
            self.assertIn("xit codes", p.out)
            self.assertIn(c, run("--help").out)
        self.assertIn("--kv.tokens", run("serve", "--help").out)

    def test_usage(self):
        self.expect(run("--version"), OK)
        p = run()
        self.assertEqual(p.returncode, USAGE)
        self.expect(run("verifi"), USAGE, "verify")
        for args in (["plan"], ["plan", "a", "b"], ["plan", GGUF], ["plan", GGUF, "--ranks", "x"],
                     ["plan", GGUF, "--ranks", "0"], ["plan", GGUF, "--ranks", "2", "--format", "F17"],
                     ["plan", GGUF, "--ranks", "2", "--kv.block", "17"], ["plan", GGUF, "--ranks", "2", "--queue", "5"],
                     ["shard", GGUF], ["shard", GGUF, "--ranks", "2"], ["shard", GGUF, "--out", "x"],
                     ["shard", GGUF, "--ranks", "2", "--out", "x", "--digest", "md5"], ["verify"],
                     ["verify", "x", "--depth", "deep"], ["tokenize"], ["detokenize"], ["generate"], ["serve"],
                     ["generate", "x", "--chat", "y"], ["generate", "x", "--system", "y"],
                     ["generate", "--prompt-ids", "1,x"], ["generate", "x", "--temperature", "hot"],
                     ["generate", "x", "--logit-bias", "1:2"], ["generate", "x", "--logit-bias", "1=2,"],
                     ["generate", "x", "--stop-token-ids", "-1"], ["generate", "x", "--address", "nowhere"],
                     ["generate", "x", "--timeout", "0"], ["score"], ["score", "x", "--top", "-1"], ["info", "x"]):
            p = run(*args)
            self.assertEqual(p.returncode, USAGE, (args, p.err))
            self.assertTrue(p.err.startswith("phalanx " + args[0]), (args, p.err))
            self.assertEqual(p.out, "", args)

    def test_output_that_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "w") as full:
            p = run("plan", GGUF, "--ranks", "2", stdout=full)
        self.expect(p, FAILURE, "standard output")

    def test_nobody_there(self):
        for args in (["generate", "x"], ["score", "--prompt-ids", "1"], ["info"]):
            p = run(*args, "--address", "127.0.0.1:1")
            self.expect(p, UNAVAILABLE, "127.0.0.1:1")
        p = run("generate", "x", "--address", "127.0.0.1:1", "--json")
        self.expect(p, UNAVAILABLE)
        answer = json.loads(p.out)
        self.assertEqual(answer["finish_reason"], "error")
        self.assertEqual(answer["error"]["status"], "UNAVAILABLE")
        self.assertTrue(answer["error"]["retryable"])

    def test_serve_becomes_the_daemon(self):
        config = self.path("a.yaml")
        with open(config, "w") as f:
            f.write("set: /nowhere\nkv.tokenz: 5\n")
        p = run("serve", "-c", config)
        self.assertEqual(p.returncode, USAGE, p.err)
        self.assertIn("a.yaml:2", p.err)
        self.assertIn("kv.tokens", p.err)


class Plan(Case):
    def plan(self, *args):
        p = run("plan", *args, "--memory", "64GiB", "--json")     # what is measured differs from run to run
        self.expect(p, OK)
        return json.loads(p.out)

    def test_the_plan_is_what_is_stored(self):
        formats = ("as_file", "F32", "BF16")
        for model, ranks, more in ((GGUF, 1, ()), (GGUF, 3, ("Q4_1",)), (LLAMA, 2, ("Q8_0", "Q4_0")), (LLAMA, 1, ("w8a16", "w4a16")), (LLAMA, 3, ("FP8",)), (Q5_1, 2, ("Q8_0",)),
                                   (os.path.join(TINY, "arch", "mqa"), 2, ())):
            for fmt in formats + more:
                plan = self.plan(model, "--ranks", str(ranks), "--format", fmt)
                out, made, _ = self.shard(model, ranks, "--format", fmt, name="%d-%s" % (ranks, fmt))
                self.assertEqual([r["weights_mapped"] for r in plan["per_rank"]], made["rank_mapped_bytes"])
                self.assertEqual(sum(r["weights_stored"] for r in plan["per_rank"]), made["stored_bytes"])
                sizes = [made[k] for k in ("source_bytes", "stored_bytes", "mapped_bytes")]
                self.assertEqual([plan[k] for k in ("source_bytes", "stored_bytes", "mapped_bytes")], sizes)
                if model == Q5_1 and fmt in ("as_file", "Q8_0"):           # what becomes larger is told apart, and why
                    self.assertLess(sizes[0] * 1.3, sizes[1])
                    self.assertLess(sizes[1], sizes[2])
                    to = "Q8_M" if fmt == "as_file" else fmt                # Q8_M has the values of Q5_1, Q8_0 has not
                    self.assertEqual({(c["from"], c["to"]) for c in made["converted"].values()}, {("Q5_1", to)})
                    self.assertTrue(all(c["rounding"] == 0 if to == "Q8_M" else 1e-3 < c["rounding"] < 1e-2
                                        for c in made["converted"].values()))
                self.assertEqual(self.plan(out)["per_rank"], plan["per_rank"])
                shutil.rmtree(out)
                for r in plan["per_rank"]:
                    self.assertEqual(r["total"], sum(r[k] for k in (
                        "weights_mapped", "kv_pool", "activations", "rope_tables", "host_tables", "step_buffers", "comm_shared",
                        "comm_private")))
                self.assertEqual(max(r["total"] for r in plan["per_rank"]),
                                 plan["per_rank"][plan["worst_rank"]]["total"])

    def test_kv(self):
        small = self.plan(GGUF, "--ranks", "1", "--kv.tokens", "100", "--kv.block", "32")["per_rank"][0]
        self.assertEqual(small["kv_blocks"], 4)
        wide = self.plan(GGUF, "--ranks", "1", "--kv.tokens", "100", "--kv.block", "32", "--kv.dtype", "f32")["per_rank"][0]
        self.assertEqual(wide["kv_pool"], 2 * small["kv_pool"])

    def test_table(self):
        p = run("plan", LLAMA, "--ranks", "2")
        self.expect(p, OK)
        self.assertIn("worst rank: ", p.out)

    def test_ranks_that_cannot_be(self):
        p = run("plan", LLAMA, "--ranks", "7")
        self.expect(p, REFUSED, "ranks", "found 7", "6")
        self.expect(run("shard", LLAMA, "--ranks", "7", "--out", self.path("x")), REFUSED, "found 7")
        self.expect(run("shard", LLAMA, "--ranks", "65", "--out", self.path("x")), REFUSED, "64")
        self.nothing_left()

    def test_models_that_are_not_served(self):
        p = run("plan", os.path.join(TINY, "arch", "later", "gemma3_text", "config.json"), "--ranks", "2")
        self.expect(p, OK)
        self.assertIn("not served", p.err)

    def test_bad_paths(self):
        self.expect(run("plan", self.path("none"), "--ranks", "2"), FAILURE, "none")
        os.mkdir(self.path("empty"))
        self.expect(run("plan", self.path("empty"), "--ranks", "2"), REFUSED, "config.json")
        self.expect(run("plan", "/dev/null", "--ranks", "2"), REFUSED, "/dev/null")
        out, _, _ = self.shard(GGUF, 2)
        self.expect(run("plan", out, "--format", "F32"), USAGE, "--format")


class Shard(Case):
    def test_a_chat_template_without_an_end_is_left_behind(self):
        """A hole in the file where its template should be takes no place on a disk; its copy in the set would."""
        data, key = read(GGUF), b"tokenizer.chat_template"
        self.assertNotIn(key, data)
        n_tensor, n_kv = struct.unpack_from("<QQ", data, 8)
        for size, has in ((16 << 20, True), ((16 << 20) + 32, False)):
            more = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, size)
            room = -(len(more) + 23) % 32                    # what follows keeps its alignment
            pad = struct.pack("<Q", 3) + b"pad" + struct.pack("<IQ", 8, room) + b"x" * room
            with open(self.path("hole.gguf"), "wb") as f:
                f.write(data[:8] + struct.pack("<QQ", n_tensor, n_kv + 2) + pad + more)
                f.seek(size, 1)
                f.write(data[24:])
            p = run("shard", self.path("hole.gguf"), "--ranks", "1", "--out", self.path("set-%d" % has))
            self.expect(p, 0, "not a known one" if has else "the checkpoint's has more than 16 MiB")
            self.assertEqual(os.path.exists(self.path("set-%d/chat_template.txt" % has)), has)

    def test_bytes_are_told(self):
        p = run("shard", GGUF, "--ranks", "2", "--out", self.path("set"))
        self.expect(p, OK)
        for w in ("source", "stored", "mapped", "rank 0", "rank 1"):
            self.assertIn(w, p.out)
        self.assertNotIn("another type", p.out)
        self.assertEqual(p.err.count("\r"), 0)              # no bar without a terminal
        self.expect(run("verify", self.path("set")), OK)

    def test_the_page_shows_what_is_printed(self):
        page = read(ROOT, "shard", "store", "README.md").decode()
        command, _, rest = page.partition("```console\n$ phalanx ")[2].partition(" 2>/dev/null\n")
        words = [os.path.join(ROOT, w) if w.startswith("tests/") else self.path("set") if w == "SET" else w for w in command.split()]
        p = run(*words)
        self.expect(p, OK)
        self.assertEqual(p.out.replace(self.path("set"), "SET"), rest.partition("```")[0])

    def test_what_a_format_changes_is_told(self):
        """Per class: types, bytes, and an error that is as large as the format's steps make it."""
        bounds = {"FP8": (0.02, 0.03), "w8a16": (0.002, 0.02), "w4a16": (0.03, 0.2), "Q8_0": (0.002, 0.02), "Q4_0": (0.03, 0.2), "Q4_1": (0.03, 0.2), "F32": (0, 0)}
        layers = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
        for fmt, (least, most) in bounds.items():
            _, made, _ = self.shard(LLAMA, 1 if fmt[0] == "w" else 2, "--format", fmt, name=fmt)
            self.assertEqual(set(made["converted"]), layers if fmt == "FP8" else layers | {"token_embd", "output"}, fmt)
            for name, c in made["converted"].items():
                self.assertEqual((c["from"], c["tensors"]), ("BF16", 3 if name in layers else 1), name)
                if c["to"] == "F16":
                    self.assertTrue(fmt[0] == "w" and c["rounding"] < 1e-6 and c["source_bytes"] == c["stored_bytes"], (fmt, name, c))
                    continue
                self.assertTrue(least <= c["rounding"] <= most, (fmt, name, c))
                self.assertEqual(c["stored_bytes"] < c["source_bytes"], fmt != "F32", (fmt, name, c))
        p = run("shard", LLAMA, "--ranks", "1", "--format", "Q4_1", "--out", self.path("text"))
        self.expect(p, OK)
        self.assertRegex(p.out, r"stored as another type")
        self.assertRegex(p.out, r"ffn_down +3  BF16 +to Q4_1 .* rounding +0\.\d+ of its size")

    def test_safetensors_without_a_tokenizer(self):
        out, made, p = self.shard(LLAMA, 2)
        self.assertFalse(made["has_tokenizer"])
        self.assertIn("no tokenizer", p.err)
        self.expect(run("tokenize", out, text="x"), REFUSED, "tokenizer")
        self.expect(run("tokenize", LLAMA, text="x"), REFUSED, "tokenizer.json")

    def folder_with(self, tokenizer, config=None):
        folder = self.path("folder")
        shutil.copytree(LLAMA, folder)
        with open(os.path.join(folder, "tokenizer.json"), "w") as f:
            json.dump(tokenizer, f)
        if config is not None:
            with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
                json.dump(config, f)
        return folder

    def test_safetensors_with_a_tokenizer(self):
        """The first 321 tokens of a golden tokenizer, as many as the model's table has rows."""
        t = json.loads(read(TINY, "tokenizers", "smollm", "tokenizer.json"))
        vocab = {k: i for k, i in t["model"]["vocab"].items() if i < 321}
        t["model"].update(vocab=vocab, merges=[m for m in t["model"]["merges"] if m[0] + m[1] in vocab and m[0] in vocab and m[1] in vocab])
        t["added_tokens"] = [a for a in t["added_tokens"] if a["id"] < 321]
        chatml = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}" \
                 "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        folder = self.folder_with(t, {"eos_token": {"content": "<|im_end|>"}, "chat_template": chatml})
        out, made, _ = self.shard(folder, 2)
        self.assertTrue(made["has_tokenizer"] and made["has_chat_template"])
        self.assertEqual(read(out, "chat_template.txt").decode(), chatml)
        text = "<|im_start|>a 12 the\n"
        ids = [run("tokenize", x, "--json", text=text) for x in (out, folder, os.path.join(folder, "tokenizer.json"))]
        self.assertEqual(len({p.out for p in ids}), 1)
        self.assertEqual(json.loads(ids[0].out)["ids"][0], 1)
        back = run("detokenize", out, "--json", text=ids[0].out)
        self.assertEqual(json.loads(back.out)["text"], text)

    def test_a_chat_table(self):
        """What ops/chat-template.py made of a template goes into the set; one of another template is refused."""
        t = json.loads(read(TINY, "tokenizers", "smollm", "tokenizer.json"))
        vocab = {k: i for k, i in t["model"]["vocab"].items() if i < 321}
        t["model"].update(vocab=vocab, merges=[])
        t["added_tokens"] = [a for a in t["added_tokens"] if a["id"] < 321]
        texts = os.path.join(ROOT, "tests", "daemon", "text", "templates")
        table = os.path.join(texts, "llama2.json")
        folder = self.folder_with(t, {"chat_template": read(texts, "llama2.jinja").decode()})
        out, _, p = self.shard(folder, 1, "--chat-template", table)
        self.assertEqual(read(out, "chat_template.json"), read(table))
        self.expect(run("verify", out), OK)
        self.expect(run("shard", folder, "--ranks", "1", "--out", self.path("x"), "--chat-template", os.path.join(texts, "qwen3.json")),
                    REFUSED, "qwen3.json", "template", "another model's")
        self.expect(run("shard", folder, "--ranks", "1", "--out", self.path("x"), "--chat-template", os.path.join(texts, "qwen3.jinja")),
                    REFUSED, "qwen3.jinja", "not a JSON object")
        with open(os.path.join(out, "chat_template.json"), "a") as f:
            f.write(" ")
        self.expect(run("verify", out), REFUSED, "chat_template.json")
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
            json.dump({"chat_template": "{{ messages }}"}, f)
        p = run("shard", folder, "--ranks", "1", "--out", self.path("y"))
        self.expect(p, OK, "not a known one", "ops/chat-template.py")

    def test_a_folder_with_a_tokenizer_of_another_model(self):
        folder = self.folder_with(json.loads(read(TINY, "tokenizers", "llama2", "tokenizer.json")))
        self.expect(run("shard", folder, "--ranks", "1", "--out", self.path("set")), REFUSED, "model.vocab", "1000 tokens", "at most 321")
        self.nothing_left("folder")
        self.expect(run("shard", folder, "--ranks", "1", "--out", self.path("set"), "--no-tokenizer"), OK)

    def test_a_damaged_tokenizer_names_file_and_field(self):
        t = json.loads(read(TINY, "tokenizers", "qwen2", "tokenizer.json"))
        t["model"]["vocab"]["zzz"] = 100000
        folder = self.folder_with(t)
        self.expect(run("tokenize", folder, text="x"), REFUSED, "tokenizer.json", "model.vocab.", "id 100000", "without gaps")

    def test_options(self):
        out, made, _ = self.shard(GGUF, 2, "--no-tokenizer", "--digest", "sha256", "--split", "even", "--revision", "r1")
        self.assertFalse(made["has_tokenizer"])
        manifest = read(out, "manifest.json").decode()
        self.assertIn('"r1"', manifest)
        self.assertIn("sha256", manifest)
        self.expect(run("verify", out), OK)

    def test_never_over_something(self):
        out, _, _ = self.shard(GGUF, 2)
        before = sorted((f, os.stat(os.path.join(out, f)).st_mtime_ns) for f in os.listdir(out))
        self.expect(run("shard", GGUF, "--ranks", "3", "--out", out), REFUSED, out, "out")
        self.assertEqual(before, sorted((f, os.stat(os.path.join(out, f)).st_mtime_ns) for f in os.listdir(out)))
        open(self.path("file"), "w").close()
        self.expect(run("shard", GGUF, "--ranks", "3", "--out", self.path("file")), REFUSED, "file")
        self.nothing_left("set", "file")

    def test_places_that_cannot_be_written(self):
        for out in ("/proc/self/set", self.path("no/such/folder/set"), "/dev/null/set"):
            p = run("shard", GGUF, "--ranks", "2", "--out", out)
            self.expect(p, FAILURE, out)
        self.nothing_left()

    def test_a_full_disk(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
        p = run("shard", GGUF, "--ranks", "2", "--out", self.path("set"), preexec_fn=limit)
        self.expect(p, FAILURE, "set.partial")
        self.nothing_left()

    def test_a_disk_that_is_really_full(self):
        disk = self.path("disk")
        os.mkdir(disk)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk], capture_output=True).returncode:
            self.skipTest("SKIPPED: mount is not permitted here; test_a_full_disk limits the size of files instead")
        try:
            self.expect(run("shard", GGUF, "--ranks", "2", "--out", os.path.join(disk, "set")), FAILURE, "space")
            self.assertEqual(os.listdir(disk), [])
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_what_a_dead_run_left(self):
        os.mkdir(self.path("set.partial"))
        open(self.path("set.partial/junk"), "w").close()
        _, _, p = self.shard(GGUF, 2)
        self.assertIn("set.partial", p.err)
        self.nothing_left("set")

    def test_another_run(self):
        os.mkdir(self.path("set.partial"))
        fd = os.open(self.path("set.partial"), os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self.expect(run("shard", GGUF, "--ranks", "2", "--out", self.path("set")), FAILURE, "another run")
        self.nothing_left("set.partial")
        os.close(fd)

    def test_truncated(self):
        data = read(GGUF)
        model = self.path("model.gguf")
        for n in (0, 3, 4, 8, 24, 100, len(data) // 3, len(data) // 2, len(data) - 1):
            with open(model, "wb") as f:
                f.write(data[:n])
            p = run("shard", model, "--ranks", "2", "--out", self.path("set"))
            self.expect(p, REFUSED, "model.gguf")
            self.nothing_left("model.gguf")

    def test_bit_flips(self):
        """Whatever a flipped bit makes: a refusal, or a set; never a crash, never half a set."""
        data, rnd = bytearray(read(GGUF)), random.Random(7)
        model, refused = self.path("model.gguf"), 0
        for i in range(150):
            at = rnd.randrange(32) if i < 20 else rnd.randrange(4000) if i < 120 else rnd.randrange(len(data))
            bit = 1 << rnd.randrange(8)
            data[at] ^= bit
            with open(model, "wb") as f:
                f.write(data)
            data[at] ^= bit
            p = run("shard", model, "--ranks", "2", "--out", self.path("set"))
            self.assertIn(p.returncode, (OK, FAILURE, REFUSED), "byte %d: %s" % (at, p.err))
            refused += p.returncode != OK
            self.nothing_left(*(["model.gguf", "set"] if p.returncode == OK else ["model.gguf"]))
            shutil.rmtree(self.path("set"), True)
        self.assertGreater(refused, 20)

    def test_a_vocabulary_is_no_model(self):
        self.expect(run("plan", VOCAB, "--ranks", "1"), REFUSED, "vocab.gguf")
        self.expect(run("shard", VOCAB, "--ranks", "1", "--out", self.path("set")), REFUSED, "vocab.gguf")
        self.nothing_left()

    def start(self, mib):
        """A run in the middle of writing, and its source."""
        source = fake_model(self.path("big"), mib)
        p = subprocess.Popen([PHALANX, "shard", self.path("big"), "--ranks", "2", "--out", self.path("set"), "--format",
                              "F32"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first, end = self.path("set.partial/rank-000-of-002.safetensors"), time.monotonic() + 60
        while not os.path.exists(first) and p.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        return p, source

    def test_a_tokenizer_of_another_model(self):
        """One token more than the table has rows: 20 bytes of name, so that what follows stays aligned to 32."""
        with open(GGUF, "rb") as f:
            data = f.read()
        for key, entry in ((b"tokenizer.ggml.tokens", struct.pack("<Q", 20) + b"one-token-too-many!!"),
                           (b"tokenizer.ggml.token_type", struct.pack("<i", 1))):
            at = data.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
            kind, n = struct.unpack_from("<4xIQ", data, at)[0], struct.unpack_from("<Q", data, at + 8)[0]
            end = at + 16
            for _ in range(n):
                end += 4 if kind == 5 else 8 + struct.unpack_from("<Q", data, end)[0]
            data = data[:at + 8] + struct.pack("<Q", n + 1) + data[at + 16:end] + entry + data[end:]
        model = self.path("model.gguf")
        with open(model, "wb") as f:
            f.write(data)
        p = run("shard", model, "--ranks", "1", "--out", self.path("set"))
        self.expect(p, REFUSED, "tokenizer.ggml.tokens", "322 tokens", "at most 321")
        self.nothing_left("model.gguf")
        self.expect(run("shard", model, "--ranks", "1", "--out", self.path("set"), "--no-tokenizer"), OK)

    def test_a_signal_leaves_nothing(self):
        for sig in (signal.SIGINT, signal.SIGTERM):
            p, _ = self.start(96)
            p.send_signal(sig)
            _, err = p.communicate(timeout=60)
            self.assertEqual(p.returncode, INTERRUPTED, err)
            self.nothing_left("big")
            shutil.rmtree(self.path("big"))

    def test_a_source_that_shrinks(self):
        for wait in (0, 0, 0.01, 0.02):          # before anything of it is written, and in the middle
            p, source = self.start(96)
            time.sleep(wait)
            os.truncate(source, 100000)
            _, err = p.communicate(timeout=60)
            self.assertEqual(p.returncode, REFUSED, err)
            self.assertIn(source, err.decode())
            self.assertIn("truncated", err.decode())
            self.nothing_left("big")
            shutil.rmtree(self.path("big"))

    def test_a_killed_run_is_cleaned_by_the_next(self):
        p, _ = self.start(96)
        p.kill()
        p.communicate(timeout=60)
        self.assertIn("set.partial", os.listdir(self.dir))
        p = run("shard", LLAMA, "--ranks", "2", "--out", self.path("set"))
        self.expect(p, OK)
        self.assertIn("set.partial", p.err)
        self.nothing_left("big", "set")


class Verify(Case):
    def setUp(self):
        super().setUp()
        self.set, _, _ = self.shard(GGUF, 2)

    def file(self, rank):
        return os.path.join(self.set, "rank-%03d-of-002.safetensors" % rank)

    def test_ok(self):
        for depth in ("header", "sample", "full", "auto"):
            p = run("verify", self.set, "--depth", depth)
            self.expect(p, OK)
            self.assertTrue(p.out.startswith("ok: "), p.out)
        p = run("verify", self.set, "--ranks", "2", "--json")
        self.expect(p, OK)
        self.assertEqual(json.loads(p.out)["errors"], [])

    def test_another_rank_count(self):
        p = run("verify", self.set, "--ranks", "3", "--json")
        self.expect(p, REFUSED, "ranks", "2", "3")
        error = json.loads(p.out)["errors"][0]
        self.assertEqual((error["field"], error["found"], error["expected"]), ("ranks", "2", "3"))

    def test_every_mismatch_is_listed(self):
        for rank in (0, 1):
            with open(self.file(rank), "r+b") as f:
                f.seek(-64, 2)
                b = f.read(1)
                f.seek(-64, 2)
                f.write(bytes([b[0] ^ 1]))
        p = run("verify", self.set, "--json")
        self.expect(p, REFUSED, "rank-000-of-002", "rank-001-of-002")
        answer = json.loads(p.out)
        self.assertFalse(answer["ok"])
        self.assertEqual(sorted(e["rank"] for e in answer["errors"]), [0, 1])
        for e in answer["errors"]:
            self.assertEqual(e["code"], "ECORRUPT")
            self.assertNotEqual(e["found"], e["expected"])
        self.expect(run("verify", self.set, "--depth", "header"), OK)

    def test_swapped(self):
        a, b = self.file(0), self.file(1)
        os.rename(a, a + "x"), os.rename(b, a), os.rename(a + "x", b)
        self.expect(run("verify", self.set), REFUSED, "rank-000", "rank-001")

    def test_truncated(self):
        os.truncate(self.file(1), os.path.getsize(self.file(1)) - 1)
        self.expect(run("verify", self.set), REFUSED, "rank-001-of-002")

    def test_missing(self):
        os.unlink(self.file(1))
        self.expect(run("verify", self.set), REFUSED, "rank-001-of-002")

    def test_of_another_revision(self):
        other, _, _ = self.shard(GGUF, 2, "--revision", "other", name="other")
        shutil.copy(os.path.join(other, "rank-001-of-002.safetensors"), self.file(1))
        self.expect(run("verify", self.set), REFUSED, "rank-001-of-002")

    def test_no_set(self):
        self.expect(run("verify", self.path("none")), FAILURE, "none")
        self.expect(run("verify", LLAMA), FAILURE, "manifest.json")
        for damaged in ("{", "{}", "[]"):
            with open(os.path.join(self.set, "manifest.json"), "w") as f:
                f.write(damaged)
            self.expect(run("verify", self.set), REFUSED, "manifest.json")


class Tokenize(Case):
    def test_golden(self):
        cases = [json.loads(x) for x in read(TINY, "tokenizers", "smollm", "cases.jsonl").split(b"\n") if x]
        special = [c for c in cases if "<|" in c["text"]][:20]
        self.assertGreater(len(special), 5)
        for c in special + random.Random(1).sample(cases, 40):
            flags = ["--json"] + ([] if c["parse_special"] else ["--no-special"]) + (["--bos"] if c["add_special"] else [])
            p = run("tokenize", VOCAB, *flags, text=c["text"])
            self.expect(p, OK)
            self.assertEqual(json.loads(p.out)["ids"], c["ids"], c)
            p = run("detokenize", VOCAB, "--json", text=p.out)
            self.expect(p, OK)
            self.assertEqual(json.loads(p.out)["text"], c["decoded"], c)

    def test_plain(self):
        p = run("tokenize", VOCAB, text="Child game")
        self.expect(p, OK)
        ids = p.out.split()
        self.assertEqual(run("detokenize", VOCAB, text=",".join(ids)).out, "Child game")
        self.assertEqual(run("tokenize", VOCAB, text="").out, "\n")
        self.assertEqual(run("detokenize", VOCAB, text="").out, "")

    def test_nul_and_large(self):
        p = run("tokenize", VOCAB, text=b"a\0b")
        self.expect(p, OK)
        self.assertEqual(run("detokenize", VOCAB, text=p.out).stdout, b"a\0b")
        p = run("tokenize", VOCAB, "--json", text=b"a" * (4 << 20))
        self.expect(p, OK)
        self.assertGreater(len(json.loads(p.out)["ids"]), 1000)

    def test_bad(self):
        self.expect(run("tokenize", VOCAB, text=b"ab\xff"), REFUSED, "UTF-8")
        self.expect(run("detokenize", VOCAB, text="1 2 three"), REFUSED, "byte 4", "three")
        self.expect(run("detokenize", VOCAB, text="[1, 2"), REFUSED, "JSON")
        self.expect(run("detokenize", VOCAB, text="1 99999999"), REFUSED, "99999999")
        self.expect(run("tokenize", self.path("none"), text="x"), FAILURE, "none")
        self.expect(run("tokenize", "/dev/null", text="x"), REFUSED, "/dev/null")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
