"""phalanx plan -c on every file of configs/cuda: it fits on the devices that it is written for, and each key counts.
Usage: plan_configs_test.py PHALANX SOURCE_FOLDER [--table]      --table prints what configs/README.md must show"""
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

PHALANX, ROOT = sys.argv[1], sys.argv[2]
FOLDER = os.path.join(ROOT, "configs", "cuda")
README = os.path.join(ROOT, "configs", "README.md")
FORMATS = {"bf16": "bf16", "fp8": "fp8", "w8a16": "w8a16_g128", "w4a16": "w4a16_g128"}
LARGE = ("llama-1-65b", "llama-2-70b", "llama-3-70b")
SHIPPED = [(m, g, f) for ms, gs in ((("llama-3-8b",), ("1gpu",)), (LARGE, ("2gpu", "4gpu", "8gpu", "2x8gpu")))
           for m, g, f in itertools.product(ms, gs, FORMATS)]
SERVING = {"transport"}          # means nothing to a plan on devices; that serving knows it is what reading the file checks


def plan(*args):
    return subprocess.run([PHALANX, "plan", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=60)


def path_of(model, gpus, short):
    return os.path.join(FOLDER, "%s-%s-%s.yaml" % (model, gpus, short))


def table():
    out = ["| file | ranks | weights of the worst rank | KV tokens | sequences |", "|---|---|---|---|---|"]
    for model, gpus, short in SHIPPED:
        d = json.loads(plan("-c", path_of(model, gpus, short), "--json").stdout)
        worst = d["per_rank"][d["worst_rank"]]
        out.append("| `%s-%s-%s` | %d | %.1f GiB | %s | %d |" % (model, gpus, short, d["ranks"], worst["arena"] / 2**30,
                   format(d["kv_tokens"], ","), d["max_sequences"]))
    return out


class Configs(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.addCleanup(self.tmp.cleanup)

    def written(self, text):
        path = os.path.join(self.tmp.name, "x.yaml")
        with open(path, "w") as f:
            f.write(text)
        return path

    def test_all_are_there_and_no_other(self):
        self.assertEqual(sorted(os.listdir(FOLDER)), sorted(os.path.basename(path_of(*s)) for s in SHIPPED))

    def test_each_fits_where_it_is_written_for(self):
        for model, gpus, short in SHIPPED:
            with self.subTest(model=model, gpus=gpus, format=short):
                p = plan("-c", path_of(model, gpus, short), "--json")
                self.assertEqual((p.returncode, p.stderr), (0, ""))
                d = json.loads(p.stdout)
                hosts, per_host = map(int, re.fullmatch(r"(?:(\d)x)?(\d)gpu", gpus).groups("1"))
                self.assertEqual((d["model"], d["ranks"], d["hosts"], d["format"], d["backend"], d["memory"]),
                                 (model, hosts * per_host, hosts, FORMATS[short], "cuda", 79 * 2**30))
                for k in ("known", "fits", "memory_fits", "p95_fits", "p99_fits"):
                    self.assertIs(d["verdict"][k], True, k)
                self.assertGreaterEqual(d["max_sequences"], sum(c["n"] for c in d["classes"]))

    def test_each_key_counts(self):
        """Without a line of it a file is another plan, or none.  Files of one model and machine have the same keys."""
        for s in SHIPPED:
            with open(path_of(*s)) as f:
                lines = f.read().splitlines(keepends=True)
            keys = [re.match(r" *[a-z_.0-9]+:", line) for line in lines]
            keys = [k[0] for k in keys if k]
            if s[2] != "bf16":
                self.assertEqual(keys, first)
                continue
            first = keys
            whole = plan("-c", path_of(*s), "--json").stdout
            for i, line in enumerate(lines):
                key = re.match(r"\s*([a-z_.0-9]+): .", line)
                if not key or key[1] in SERVING:
                    continue
                value = {"kv.dtype": "f32", "max_sequences": "63"}.get(key[1])       # may stand at its default
                other = line[:key.end() - 1] + value + "\n" if value else ""
                with self.subTest(file=s, key=key[1]):
                    p = plan("-c", self.written("".join(lines[:i] + [other] + lines[i + 1:])), "--json")
                    self.assertFalse(p.stdout == whole)

    def test_what_is_wrong_is_named(self):
        good = "ranks: 2\ndevice: cuda\nplan: {model: llama-3-8b, format: bf16, device: 79GiB}\n"
        self.assertEqual(plan("-c", self.written(good)).returncode, 0)
        for bad, words in (("rankz: 2\n" + good, ("rankz", "x.yaml:1:1", "ranks")),
                           (good + "plan: {hosts: 2}\n", ("plan", "twice")),
                           ("plan: 3\n", ("plan", "a map")),
                           ("plan: [a]\n", ("plan", "a map")),
                           (good.replace("format:", "fromat:"), ("fromat", "--format")),
                           (good.replace("format: bf16", "format: &x bf16"), ("anchor",)),
                           (good.replace("format: bf16", "model: llama-3-70b"), ("model", "twice")),
                           (good.replace("model: llama-3-8b, ", ""), ("MODEL",)),
                           (good.replace("79GiB", "79GoB"), ("device", "79GoB")),
                           (good.replace("device: cuda\n", ""), ("--device is for cuda",))):
            p = plan("-c", self.written(bad))
            self.assertNotEqual(p.returncode, 0, bad)
            for w in words:
                self.assertIn(w, p.stderr, bad)
        p = plan("-c", self.written(good), "--deployment", self.written(good))
        self.assertEqual(p.returncode, 2)
        self.assertIn("one of them", p.stderr)
        p = plan("-c", os.path.join(self.tmp.name, "none.yaml"))
        self.assertNotEqual(p.returncode, 0)
        self.assertIn("none.yaml", p.stderr)

    def test_the_command_line_wins(self):
        path = self.written("ranks: 2\ndevice: cuda\nkv.tokens: 4096\nplan: {model: llama-3-8b, format: bf16, device: 79GiB}\n")
        d = json.loads(plan("llama-2-7b", "-c", path, "--ranks", 4, "--format", "q8_0", "--kv.tokens", 1024, "--json").stdout)
        self.assertEqual((d["model"], d["ranks"], d["format"], d["kv_tokens"]), ("llama-2-7b", 4, "q8_0", 1024))

    def test_the_page_has_the_table(self):
        with open(README) as f:
            text = f.read()
        for line in table():
            self.assertTrue(line + "\n" in text, line)


if __name__ == "__main__":
    if sys.argv[3:] == ["--table"]:
        print("\n".join(table()))
    else:
        unittest.main(argv=sys.argv[:1])
