"""Every value of golden.json out of `phalanx plan --json`: each model from a config.json made of its numbers alone.
Usage: plan_cli_test.py PHALANX SOURCE_FOLDER"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

PHALANX, ROOT = sys.argv[1], sys.argv[2]
with open(os.path.join(ROOT, "tests", "golden", "memory", "golden.json")) as f:
    GOLDEN = json.load(f)
README = {}
for page in ("README.md", os.path.join("shard", "plan", "README.md")):
    with open(os.path.join(ROOT, page)) as f:
        README[page] = re.findall(r"```console\n(.*?)```", f.read(), re.S)
FAMILY = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def run(*args):
    return subprocess.run([PHALANX, "plan", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=60)


def hf_config(c):
    """What such a model's config.json says; the golden file's own words for it are not read by the planner."""
    keys = ("head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
            "num_hidden_layers", "num_key_value_heads", "tie_word_embeddings", "vocab_size")
    out = {k: c[k] for k in keys}
    sliding = c["sliding_pattern"] == "all"
    out["model_type"] = "mistral" if sliding else c["arch"]
    out["architectures"] = ["MistralForCausalLM" if sliding else FAMILY[c["arch"]]]
    out["torch_dtype"] = "bfloat16"
    if sliding:
        out["sliding_window"] = c["sliding_window"]
    return out


class Plan(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory()
        cls.path = {}
        for name, m in GOLDEN["models"].items():
            cls.path[name] = os.path.join(cls.tmp.name, name + ".json")
            with open(cls.path[name], "w") as out:
                json.dump(hf_config(m["config"]), out)

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    def plan(self, *args):
        p = run(*args, "--json")
        self.assertEqual(p.returncode, 0, (args, p.stderr))
        return json.loads(p.stdout)

    def test_types(self):
        found = self.plan("llama-1-7b", "--ranks", 1)
        for key in ("formats", "split_formats", "nccl"):
            self.assertEqual(found[key], GOLDEN[key])
        nine = {"block": 32, "bytes": 36, "bpw": 9.0}
        self.assertEqual(found["stored_formats"], {"Q8_M": nine, "Q8_H": nine, "Q2_HM": {"block": 64, "bytes": 32, "bpw": 4.0},
                                                   "Q4_HL": {"block": 32, "bytes": 20, "bpw": 5.0}})

    def test_every_model_and_format(self):
        values = 0
        for name, m in GOLDEN["models"].items():
            found = self.plan(self.path[name], "--ranks", 1, "--cuts")
            for key in ("params", "active_params", "params_by_class", "total_bytes", "type_counts", "kv_layers"):
                self.assertEqual(found[key], m[key], (name, key))
            for key in ("kv_bytes_per_token", "kv_seq_bytes_f16_page16_chunk2048"):
                for k, v in m[key].items():
                    self.assertEqual(found[key][k], v, (name, key, k))
            for fmt, v in m["bits_per_weight"].items():
                self.assertAlmostEqual(found["bits_per_weight"][fmt], v, delta=5.1e-5, msg=(name, fmt))
            for section in ("weights", "weights_balanced"):
                for key, want in m[section].items():
                    have = found[section][key]
                    self.assertEqual("error" in have, "error" in want, (name, key))
                    for k, v in want.items():
                        if k != "error":
                            self.assertEqual(have[k], v, (name, section, key, k))
                            values += len(v) if isinstance(v, list) else 1
        self.assertGreater(values, 90000)

    def test_the_request_itself(self):
        """The same through --format, --ranks, --vocab and --split: what is asked for stands in per_rank."""
        n = 0
        for i, (name, m) in enumerate(GOLDEN["models"].items()):
            for section, split in (("weights", "even"), ("weights_balanced", "balanced")):
                keys = sorted(m[section])
                for key in keys[i::101] if section == "weights" else keys[i % 7::19]:
                    fmt, tp, vocab = key.split("/")
                    args = (self.path[name], "--ranks", tp[2:], "--format", fmt, "--vocab", vocab, "--split", split,
                            *(("--backend", "cuda") if n % 2 else ()))
                    want = m[section][key]
                    if "error" in want:
                        p = run(*args)
                        self.assertEqual(p.returncode, 3, p.stderr)
                        self.assertIn("expected 1 to ", p.stderr)
                        continue
                    found = self.plan(*args)
                    for k in ("bytes", "arena", "q_heads", "kv_heads", "ffn", "vocab"):
                        if k in want:
                            self.assertEqual([r[k] for r in found["per_rank"]], want[k], (name, key, k))
                    self.assertEqual(found["source_bytes"], m["total_bytes"][fmt])
                    n += 1
        self.assertGreater(n, 40)

    def test_activations(self):
        for s in GOLDEN["activation_scenarios"]:
            found = self.plan(self.path[s["model"]], "--ranks", s["tp"], "--format", s["fmt"], "--vocab", s["vocab"], "--split", "even",
                              "--backend", "cuda", "--token_budget", s["T"], "--max_sequences", s["S"])
            for r, want in zip(found["per_rank"], s["ranks"]):
                self.assertEqual({k: r["activation"][k] for k in want}, want)

    def test_capacity(self):
        for s in GOLDEN["capacity_scenarios"]:
            classes = []
            for c in s["classes"]:
                classes += ["--class", "%s:%d:%d+%d:%d+%d" % (c["name"], c["n"], *c["p95"], *c["p99"])]
            found = self.plan(self.path[s["model"]], "--ranks", s["tp"], "--format", s["fmt"], "--split", "even", "--backend", "cuda",
                              "--kv.dtype", s["kv_dtype"], "--kv.block", s["page"], "--token_budget", s["chunk"], "--pool", s["pool"], *classes)
            self.assertEqual(len(found["per_rank"]), len(s["ranks"]))
            for r, want in zip(found["per_rank"], s["ranks"]):
                self.assertEqual({k: r[k] for k in want}, want)

    def test_finetune(self):
        found = self.plan("llama-2-70b", "--finetune")
        self.assertEqual(found["optimizer_bytes_per_param"], GOLDEN["optimizer_bytes_per_param"])
        mixed = found["finetune"]["adam_mixed"]
        self.assertEqual(mixed["total"] - mixed["activations"], 16 * found["params"])          # 1103.6 GB
        p = run("llama-1-7b", "--finetune", "--lora", 16, "--format", "q4_0", "--replicas", 4, "--zero", 2, "--checkpointing")
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertIn("LoRA of rank 16", p.stdout)
        self.assertEqual(run("llama-1-7b", "--finetune", "--zero", 4).returncode, 3)

    def test_known_models(self):
        names = run("--models").stdout.split()
        self.assertGreaterEqual(len(names), 32)
        for n in names:
            if n in GOLDEN["models"]:
                found = self.plan(n, "--ranks", 1)
                self.assertEqual(found["params"], GOLDEN["models"][n]["params"])
                self.assertEqual(found["config"]["intermediate_size"], GOLDEN["models"][n]["config"]["intermediate_size"])
        p = run("llama-2-7bb", "--ranks", 1)
        self.assertNotEqual(p.returncode, 0)
        self.assertIn("llama-2-7b", p.stderr)

    def test_it_is_quick(self):
        """Not a timed test: bounds ten times what is promised (10 ms a plan, 1 s a sweep), for machines that are busy."""
        begin = time.monotonic()
        self.plan("llama-3.1-405b", "--ranks", 8, "--format", "q4_k_m", "--device", "80GiB")
        self.assertLess(time.monotonic() - begin, 1.0)
        begin = time.monotonic()
        rows = self.plan("llama-3.1-405b", "--sweep", "--device", "80GiB")["sweep"]
        self.assertLess(time.monotonic() - begin, 10.0)
        self.assertGreater(len(rows), 500)
        self.assertTrue(any(r["pareto"] for r in rows))
        best = [r for r in rows if r["pareto"]]
        for r in best:                                        # nothing beats a row that is shown
            for o in rows:
                if o["fits"] and o["ranks"] <= r["ranks"] and o["bits"] >= r["bits"] and o["kv_dtype"] == r["kv_dtype"]:
                    self.assertFalse(o["max_context"] > r["max_context"] and o["max_sequences"] > r["max_sequences"], (r, o))

    def test_verdicts_and_what_would_fit(self):
        no = self.plan("llama-2-70b", "--ranks", 2, "--format", "bf16", "--device", "40GiB")
        self.assertFalse(no["verdict"]["fits"])
        for c in no["changes"]:
            if not c["fits"]:
                continue
            args = {"--ranks": 2, "--format": "bf16", "--device": "40GiB"}
            args["--" + c["lever"]] = c["to"]
            again = self.plan("llama-2-70b", *[x for kv in args.items() for x in kv])
            self.assertTrue(again["verdict"]["fits"], c)         # each change, made, does what it says
            worst = again["per_rank"][again["worst_rank"]]
            self.assertEqual(worst["stack"]["headroom"] + worst["need"]["bytes"], c["need"], c)
        levers = {c["lever"]: c for c in no["changes"] if c["fits"]}
        self.assertEqual(set(levers), {"ranks", "format"})
        self.assertFalse(self.plan("llama-2-70b", "--ranks", levers["ranks"]["to"] - 1, "--format", "bf16", "--device", "40GiB")["verdict"]["fits"])
        for r in no["per_rank"]:
            self.assertEqual(sum(v for k, v in r["stack"].items() if k != "headroom"), r["need"]["bytes"])
            self.assertLessEqual(r["need"]["low"], r["need"]["bytes"])
        tight = self.plan("llama-3-8b", "--ranks", 1, "--format", "bf16", "--device", "24GiB", "--kv.tokens", 100000)
        self.assertFalse(tight["verdict"]["fits"])
        tokens = tight["kv_tokens_fit"]
        fit = ["llama-3-8b", "--ranks", 1, "--format", "bf16", "--device", "24GiB", "--kv.tokens"]
        self.assertTrue(self.plan(*fit, tokens)["verdict"]["fits"])
        self.assertFalse(self.plan(*fit, tokens + 16)["verdict"]["fits"])
        host = self.plan("smollm2-135m", "--ranks", 2, "--memory", "512MiB")
        self.assertFalse(host["verdict"]["fits"])
        self.assertTrue(host["carved"])

    def test_only_a_host_populates_its_pool(self):
        """The advice says how long that takes where it takes anything."""
        for args in (("--memory", "64GiB", "--kv.tokens", 100000), ("--memory", "64GiB", "--kv.tokens", 16), ("--device", "80GiB", "--kv.tokens", 100000)):
            found = self.plan("llama-3-8b", "--ranks", 2, *args)
            takes = found["loads"][found["load"]]["populate_s"]
            (line,) = [a["text"] for a in found["advice"] if a["key"] == "warm_up"]
            said = re.findall(r"populating the pool takes ([0-9.]+) s", line)
            self.assertEqual([float(x) for x in said], [round(takes, 2)] if args[-1] > 16 and "--memory" in args else [], (args, line))
            self.assertTrue("are gone to the" in line and "0.00 s" not in line, line)

    def test_wrong_requests_get_the_nearest_right_one(self):
        for args, code, words in (
                (("tinyllama-1.1b", "--ranks", 16, "--format", "iq2_xs"), 3, ("ranks", "1 to 8")),
                (("smollm2-135m", "--ranks", 16), 3, ("found 16", "1 to 9")),
                (("llama-2-7b", "--ranks", 2, "--format", "q4km"), 2, ("q4_k_m",)),
                (("llama-2-7b", "--ranks", 2, "--kv.dtype", "fp16"), 3, ("kv.dtype", "f16")),
                (("llama-2-7b", "--ranks", 3, "--split", "aligned"), 3, ("ranks", "found 3, expected 1, 2, 4 or 8", "nearest is 4")),
                (("smollm2-135m", "--ranks", 2, "--split", "aligned"), 3, ("split", "9 heads")),
                (("llama-2-7b", "--ranks", 2, "--split", "alinged"), 2, ("nearest is aligned",)),
                (("llama-2-7b", "--ranks", 2, "--hosts", 3), 2, ("1 to 2",)),
                (("llama-2-7b", "--ranks", 2, "--class", "chat:4"), 2, ("NAME:CONCURRENCY",)),
                (("llama-2-7b", "--ranks", 2, "--device", "80Gib7"), 2, ("80GiB",)),
                (("llama-2-7b", "--ranks", 2, "--backend", "gpu"), 2, ("cuda",)),
                (("llama-2-7b", "--ranks", 2, "--backend", "cuda", "--memory", "1GiB"), 2, ("--device",)),
                (("llama-2-7b", "--ranks", 2, "--headroom", 95), 3, ("headroom", "90")),
                (("llama-2-7b", "--ranks", 2, "--kv.block", 24), 2, ("kv.block",)),
                (("smollm2-360m", "--ranks", 2, "--kv.dtype", "q5_0"), 3, ("q8_0",)),
                (("llama-2-7b", "--ranks", 2, "--backend", "cuda", "--fp8_activations", "true"), 3, ("fp8_activations", "weights of F", "--format FP8")),
                (("llama-2-7b", "--ranks", 2, "--format", "fp8", "--fp8_activations", "true"), 3, ("fp8_activations", "device: cpu", "device: cuda")),
                (("llama-2-7b", "--rank", 2), 2, ("--ranks",))):
            p = run(*args)
            self.assertEqual(p.returncode, code, (args, p.stderr))
            for w in words:
                self.assertIn(w, p.stderr, args)

    def test_aligned(self):
        """Where whole leaves are what an even deal gives, the bytes are the same; it is planned, and no set is cut so."""
        for ranks in (1, 2, 4, 8):
            args = ("llama-3-8b", "--ranks", ranks, "--format", "q8_0", "--memory", "64GiB")
            found, even = self.plan(*args, "--split", "aligned"), self.plan(*args, "--split", "even")
            self.assertEqual((found["split"], list(found["weights_aligned"])), ("aligned", ["q8_0/tp%d/padded64" % ranks]))
            for k in ("bytes", "arena", "q_heads", "kv_heads", "ffn", "vocab"):
                self.assertEqual([r[k] for r in found["per_rank"]], [r[k] for r in even["per_rank"]], (ranks, k))
            self.assertEqual((found["carved"], found["why_not_carved"]["field"]), (False, "split"))
        p = subprocess.run([PHALANX, "shard", self.path["tinyllama-1.1b"], "--ranks", "2", "--split", "aligned", "--out", self.tmp.name + "/set"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=60)
        self.assertEqual(p.returncode, 2, p.stderr)
        self.assertIn("not served yet", p.stderr)

    def test_fp8_activations(self):
        """In the scratch, and nowhere else: a row of the widest input's columns in bytes and a float, for each row of a step above 64."""
        args = ("llama-2-7b", "--ranks", 2, "--format", "fp8", "--device", "79GiB", "--token_budget", 512)
        off, on = self.plan(*args), self.plan(*args, "--fp8_activations", "true")
        self.assertEqual(("fp8_activations" in off, on["fp8_activations"]), (False, True))
        for a, b in zip(off["per_rank"], on["per_rank"]):
            changed = {k: b["stack"][k] - v for k, v in a["stack"].items() if b["stack"][k] != v}
            more = changed.pop("scratch")
            self.assertEqual(changed, {}, changed)
            self.assertTrue(512 * (11008 / 2 + 4) <= more <= 512 * (11008 / 2 + 32 + 4) + 512, more)
        few = ("llama-2-7b", "--ranks", 2, "--format", "fp8", "--backend", "cuda", "--token_budget", 64)
        self.assertEqual(self.plan(*few)["per_rank"], self.plan(*few, "--fp8_activations", "true")["per_rank"])

    def test_deployment_file(self):
        path = os.path.join(self.tmp.name, "d.yaml")
        with open(path, "w") as f:
            f.write("ranks: 4\nformat: q8_0\ndevice: 24GiB\nkv.dtype: fp8\nclass: ['chat:8:100+20', 'rag:2:3000+100:3500+200']\n")
        found = self.plan("llama-3-8b", "--deployment", path)
        self.assertEqual((found["ranks"], found["format"], found["kv_dtype"], found["backend"]), (4, "q8_0", "fp8", "cuda"))
        self.assertEqual([c["name"] for c in found["classes"]], ["chat", "rag"])
        self.assertEqual(self.plan("llama-3-8b", "--deployment", path, "--ranks", 2)["ranks"], 2)       # the command line wins
        for bad, word in (("ranks: 4\nranks: 5\n", "ranks"), ("rankz: 4\n", "--ranks"), ("- a\n", "map"), ("ranks: {a: b}\n", "ranks"),
                          ("ranks: &x 4\n", "ranks"), ("a: b\n---\nc: d\n", "document")):
            with open(path, "w") as f:
                f.write(bad)
            p = run("llama-3-8b", "--deployment", path)
            self.assertNotEqual(p.returncode, 0, bad)
            self.assertIn(word, p.stderr, bad)

    def test_readme(self):
        """Every command of the plan's page and of the front page prints what stands under it."""
        env = dict(os.environ, PATH=os.path.dirname(os.path.abspath(PHALANX)) + os.pathsep + os.environ["PATH"])
        self.assertEqual([len(b) > n for b, n in zip(README.values(), (0, 8))], [True, True])
        for word in ("llama-1-65b", "llama-2-70b", "phalanx supported"):
            self.assertIn(word, "".join(README["README.md"]))
        for block in sum(README.values(), []):
            for piece in re.split(r"^\$ ", block, flags=re.M)[1:]:
                command, _, want = piece.partition("\n")
                p = subprocess.run(["bash", "-c", command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   universal_newlines=True, timeout=60, cwd=self.tmp.name)
                self.assertEqual(p.stdout, want, (command, p.stderr))

    def test_picture(self):
        path = os.path.join(self.tmp.name, "a.svg")
        p = run("llama-2-70b", "--ranks", 8, "--device", "80GiB", "--format", "bf16", "--svg", path)
        self.assertEqual(p.returncode, 0, p.stderr)
        root = xml.etree.ElementTree.parse(path).getroot()
        titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
        self.assertEqual(sum(t == "weights: 17251172352 bytes" for t in titles), 8)
        self.assertNotEqual(run("llama-2-70b", "--ranks", 8, "--svg", "/nonexistent/a.svg").returncode, 0)

    def test_explained_sums(self):
        """Each "a x b + c = n" of --explain, worked out again."""
        checked = 0
        for args in (("llama-2-70b", "--ranks", 3, "--format", "q4_k_m", "--device", "80GiB"), ("smollm2-135m", "--ranks", 2),
                     ("mixtral-8x7b", "--ranks", 2, "--format", "w4a16_g128", "--device", "80GiB"), ("gemma-3-27b", "--ranks", 4, "--format", "fp8")):
            p = run(*args, "--explain")
            self.assertEqual(p.returncode, 0, p.stderr)
            for line in p.stdout.splitlines():
                if not line.startswith("  ") or line.count("=") != 1:
                    continue
                sum_, n = line.split("=")
                sum_ = sum_.split(": ")[-1].split("(F32)")[0]
                for w in sum_.split("("):
                    sum_ = sum_.replace("(%s)" % w.split(")")[0], "") if w[:1].isupper() else sum_
                head = sum_.split(None, 1)
                if head and not head[0][0].isdigit() and head[0][0] != "(":
                    sum_ = head[1] if len(head) > 1 else ""
                sum_ = sum_.replace(" x ", " * ").replace("groups", "").replace("panels", "").replace("layers", "").replace("heads", "")
                sum_ = sum_.replace("(K, V)", "").replace("tokens", "").replace(",", "").strip()
                n = n.strip().split()[0].rstrip(")").replace(",", "")
                if set(sum_) <= set("0123456789*+-/(). ") and "*" in sum_ and n.isdigit():
                    value, n = eval(sum_), int(n)
                    # terms of activations are rounded up to 256 bytes each
                    self.assertTrue(value == n or n - 5 * 256 < value <= n, (args, line, value))
                    checked += 1
        self.assertGreater(checked, 60)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
