"""The real model's golden data through the public interface: the bounds hold at 1, 2 and 3 ranks.

Default path: mean KL of a prompt's steps at most 5e-5 (eleven outcomes: the ten listed and the rest), teacher-forced
argmax equal wherever the reference's margin is over 0.05, free-running greedy equal up to the first smaller margin,
perplexity within 0.15 %.  Exact path (F32 weights and KV): every log-probability within 0.002, argmax equal wherever
the margin is over 0.01, perplexity within 0.01 %."""
import array
import json
import math
import os
import unittest

import harness as h
from harness import pb

GOLDEN = os.path.join(h.SHARED, "golden")
SKIP = "SKIP: the real model is not at " + h.REAL_MODEL


def load(name):
    with open(os.path.join(GOLDEN, name)) as f:
        return json.load(f)


def score(d, ids, top):
    return list(d.inference.Score(pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=ids)), top=top), timeout=300))


def kl(step, row):
    """Of the reference to ours."""
    ours = dict(zip(row.top_ids, row.top_logprobs))
    p = [math.exp(logit - step["logsumexp"]) for _, logit in step["top"]]
    q = [math.exp(ours[i]) for i, _ in step["top"]]
    p.append(max(1 - sum(p), 1e-12))
    q.append(max(1 - sum(q), 1e-12))
    return sum(a * math.log(a / b) for a, b in zip(p, q))


@unittest.skipUnless(os.path.exists(h.REAL_MODEL), SKIP)
class Bounds(unittest.TestCase):
    def daemon(self, ranks, policy=None, *flags):
        d = h.Daemon(h.make_set(h.REAL_MODEL, ranks, policy), *flags)
        self.addCleanup(d.kill)
        return d

    def continuations(self, d, most_kl, margin, free_running):
        worst = 0
        for g in load("continuations.json"):
            ids, greedy, steps = g["prompt_ids"], g["greedy"], g["steps"]
            rows = score(d, ids + greedy[:-1], 1024)[len(ids) - 1:]
            self.assertEqual(len(rows), len(steps))
            for step, row in zip(steps, rows):
                if step["margin"] > margin:
                    self.assertEqual(row.top_ids[0], step["id"], g["prompt_text"][:40])
            mean = sum(kl(s, r) for s, r in zip(steps, rows)) / len(steps)
            worst = max(worst, mean)
            self.assertLessEqual(mean, most_kl, g["prompt_text"][:40])
            if free_running:
                sure = next((i for i, s in enumerate(steps) if s["margin"] < 0.05), len(steps))
                got, _ = h.ids_of(d.inference.Generate(h.greedy(ids, len(steps)), timeout=300))
                self.assertEqual(got[:sure], greedy[:sure])
        print("worst mean KL %.2e" % worst, flush=True)

    def perplexity(self, d, bound):
        text = load("text.json")
        rows = score(d, text["ids"], 1)
        ours = math.exp(-sum(r.logprob for r in rows[:-1]) / (len(rows) - 1))
        print("perplexity %.4f, reference %.4f" % (ours, text["perplexity"]), flush=True)
        self.assertLess(abs(ours / text["perplexity"] - 1), bound)

    def check(self, ranks):
        d = self.daemon(ranks)
        self.continuations(d, 5e-5, 0.05, True)
        self.perplexity(d, 0.0015)
        d.stop_well()

    def test_1_rank(self):
        self.check(1)

    def test_2_ranks(self):
        self.check(2)

    def test_3_ranks(self):
        self.check(3)

    def test_exact_2_ranks(self):
        d = self.daemon(2, "F32", "--kv.dtype", "f32")
        self.continuations(d, 5e-6, 0.01, False)       # the file has five digits
        self.perplexity(d, 0.0001)
        worst = 0
        for g in load("continuations.json"):
            path = os.path.join(GOLDEN, "logits", g["id"] + ".f32")
            want = array.array("f")
            with open(path, "rb") as f:
                want.frombytes(f.read())
            row = score(d, g["prompt_ids"], len(want))[-1]
            lse = g["steps"][0]["logsumexp"]
            self.assertEqual(len(row.top_ids), len(want))
            worst = max(worst, max(abs(lp - (want[i] - lse)) for i, lp in zip(row.top_ids, row.top_logprobs)))
        print("worst log-probability off by %.5f" % worst, flush=True)
        self.assertLess(worst, 0.002)
        d.stop_well()


if __name__ == "__main__":
    unittest.main(verbosity=2)
