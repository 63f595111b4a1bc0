"""Every tiny model of the golden data through the public interface, at 1, 2 and 3 ranks: log-probabilities and greedy ids.

Exact path (F32 weights and KV): every log-probability within 1e-3, all greedy ids equal.  As the file is, at 2 ranks in chunks
of seven tokens: within the bounds of its kind (golden data's README), which a wrong window, bias or norm misses by far.
`later` is refused by the key that says so."""
import array
import json
import math
import os
import subprocess
import unittest

import harness as h
from harness import pb

TINY = os.path.join(h.GOLDEN, "tiny")
EXACT, Q12, BF16 = (1e-3, 1e-6, 0.001), (0.1, 5e-5, 0.05), (0.4, 8e-4, 0.2)      # log-probability, mean KL, margin of a flip
FP8 = (5, 0.15, 2)                                    # three digits of every weight; these models are random, and lean on each
ARCH = ["llama", "llama3", "llama_linear", "mistral", "mqa", "qwen2", "qwen3", "smollm_like"]
GGUF = {"smollm_like_f16/model.gguf": Q12, "qwen2_q8_0/model.gguf": Q12, "qwen3_q4_0/model.gguf": Q12, "qwen3_q4_0/model.v2.gguf": Q12,
        "llama3_q5_1/model.gguf": Q12}


def reference(folder):
    """ids of the prompt, its log-probabilities (rows), greedy ids."""
    with open(os.path.join(folder, "expected.json")) as f:
        e = json.load(f)
    logits = array.array("f")
    with open(os.path.join(folder, "logits.f32"), "rb") as f:
        logits.frombytes(f.read())
    rows, n = e["logits_shape"]
    out = []
    for r in range(rows):
        row = logits[r * n:(r + 1) * n]
        top = max(row)
        norm = top + math.log(sum(math.exp(x - top) for x in row))
        out.append([x - norm for x in row])
    return e["prompt"], out, e["greedy"]["ids"]


class Models(unittest.TestCase):
    def distance(self, d, prompt, want):
        worst = kl = flipped = 0
        n = len(want[0])
        request = pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), top=n)
        for row, ref in zip(d.inference.Score(request, timeout=120), want, strict=True):
            self.assertEqual(sorted(row.top_ids), list(range(n)))
            ours = dict(zip(row.top_ids, row.top_logprobs))
            worst = max(worst, max(abs(ours[i] - x) for i, x in enumerate(ref)))
            kl += sum(math.exp(x) * (x - ours[i]) for i, x in enumerate(ref)) / len(want)
            second, best = sorted(ref)[-2:]
            if ref[row.top_ids[0]] != best:
                flipped = max(flipped, best - second)
        return worst, kl, flipped

    def check(self, name, model, folder, policy, ranks, bound, *flags):
        with self.subTest(model=name, ranks=ranks, policy=policy or "as_file"):
            prompt, want, ids = reference(folder)
            d = h.Daemon(h.make_set(model, ranks, policy), *flags)
            self.addCleanup(d.kill)
            got = self.distance(d, prompt, want)
            print("%-28s %-7s %d ranks: worst %.2g, KL %.2g, flipped margin %.2g" % ((name, policy or "as_file", ranks) + got), flush=True)
            for x, most in zip(got, bound):
                self.assertLessEqual(x, most)
            if bound is EXACT:
                self.assertEqual(h.ids_of(d.inference.Generate(h.greedy(prompt, len(ids)), timeout=60))[0], ids)
            d.stop_well()

    def every(self, name, model, folder, bound):
        for ranks in (1, 2, 3):
            self.check(name, model, folder, "F32", ranks, EXACT, "--kv.dtype", "f32")
        self.check(name, model, folder, None, 2, bound, "--token_budget", "7")

    def test_architectures(self):
        for name in ARCH:
            folder = os.path.join(TINY, "arch", name)
            self.every("arch/" + name, folder, folder, BF16)

    def test_e4m3(self):
        """A set is not the nearest to its model, but served as it is; each rank has scales of its own."""
        for name, ranks in (("llama", 1), ("qwen3", 3)):
            folder = os.path.join(TINY, "arch", name)
            self.check("arch/" + name, folder, folder, "FP8", ranks, FP8)

    def test_ggufs(self):
        for name, bound in GGUF.items():
            model = os.path.join(TINY, "gguf", name)
            self.every("gguf/" + name, model, os.path.dirname(model), bound)

    def test_nothing_of_later_is_served(self):
        for name, found in (("mixtral", "mixtral"), ("gemma3_text", "gemma3_text"), ("qwen3_moe", "qwen3_moe")):
            folder = os.path.join(h._tmp, "later", name)
            os.makedirs(folder)
            os.symlink(os.path.join(TINY, "arch", "later", name, "config.json"), os.path.join(folder, "config.json"))
            with open(os.path.join(folder, "model.safetensors"), "wb") as f:
                f.write(b"\2\0\0\0\0\0\0\0{}")
            out = os.path.join(folder, "set")
            p = subprocess.run([os.path.join(h.BUILD, "bin", "phalanx"), "shard", folder, "--ranks", "1", "--out", out], capture_output=True, text=True, timeout=60)
            self.assertEqual(p.returncode, 3, p.stderr)
            for word in ("model_type", "is " + found, "llama, mistral, qwen2 or qwen3", "config.json"):
                self.assertIn(word, p.stderr)
            self.assertFalse(os.path.exists(out))


if __name__ == "__main__":
    unittest.main(verbosity=2)
