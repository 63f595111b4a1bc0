"""Generate and Score: the golden ids of the tiny models, the same bits alone and among others."""
import json
import math
import os
import unittest
from concurrent.futures import ThreadPoolExecutor

import harness as h
from harness import pb


def model(name):
    folder = os.path.join(h.GOLDEN, "tiny", "arch", name)
    with open(os.path.join(folder, "expected.json")) as f:
        return folder, json.load(f)


def tokens(n, seed, vocab):
    return [(seed * 7919 + i * 104729 + i * i * 31) % vocab for i in range(n)]


class Golden(unittest.TestCase):
    """Exact path: F32 weights and KV, every greedy id."""

    def check(self, name, ranks, *flags):
        folder, want = model(name)
        d = h.Daemon(h.make_set(folder, ranks, "F32"), "--kv.dtype", "f32", *flags)
        try:
            ids, messages = h.ids_of(d.inference.Generate(h.greedy(want["prompt"], len(want["greedy"]["ids"])), timeout=60))
            self.assertEqual(ids, want["greedy"]["ids"])
            self.assertEqual(list(messages[0].prompt_info.token_ids), want["prompt"])
            self.assertEqual(messages[-1].outputs[0].finish_info.finish_reason, pb.LENGTH)
            self.assertEqual(messages[-1].usage.prompt_tokens, len(want["prompt"]))
            self.assertEqual(messages[-1].usage.completion_tokens, len(ids))
            self.assertEqual([m.HasField("usage") for m in messages], [False] * (len(messages) - 1) + [True])
            self.assertEqual(d.stop(), 0)
        finally:
            d.kill()

    def test_llama_1(self):
        self.check("llama", 1)

    def test_llama_2(self):
        self.check("llama", 2)

    def test_llama_2_mpi(self):
        self.check("llama", 2, "--transport", "mpi")

    def test_llama3_2(self):
        self.check("llama3", 2)

    def test_llama_linear_2(self):
        self.check("llama_linear", 2)

    def test_mqa_2(self):
        self.check("mqa", 2)

    def test_smollm_like_3(self):
        self.check("smollm_like", 3)


class Together(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder, cls.want = model("llama")
        cls.vocab = cls.want["logits_shape"][1]
        cls.d = h.Daemon(h.make_set(folder, 2), "--max_sequences", "64", "--token_budget", "64")

    @classmethod
    def tearDownClass(cls):
        cls.d.stop_well()

    def request(self, k):
        return pb.GenerateRequest(
            prompt=pb.Prompt(token_ids=pb.TokenIds(ids=tokens(3 + 5 * (k % 9), k, self.vocab))), temperature=0.8 if k % 3 else 0,
            sampling=pb.Sampling(seed=k, top_p=0.9 if k % 2 else 1, top_k=20 if k % 5 == 0 else 0),
            response=pb.ResponseOptions(logprobs=True, top_logprobs=k % 4),
            stopping=pb.Stopping(max_new_tokens=8 + k % 17, ignore_eos=True))

    def answer(self, k):
        _, messages = h.ids_of(self.d.inference.Generate(self.request(k), timeout=120))
        return [(l.id, l.logprob, [(t.id, t.logprob) for t in l.top]) for m in messages for o in m.outputs for l in o.logprobs]

    def test_32_streams_equal_the_single_ones(self):
        alone = [self.answer(k) for k in range(32)]
        for k, a in enumerate(alone):
            self.assertEqual(len(a), 8 + k % 17)
            self.assertTrue(all(len(x[2]) == k % 4 for x in a))
        with ThreadPoolExecutor(32) as pool:
            together = list(pool.map(self.answer, range(32)))
        self.assertEqual(alone, together)
        i = self.d.wait_free()
        self.assertEqual((i.kv_blocks_free, i.running, i.waiting), (i.kv_blocks_total, 0, 0))

    def test_a_seed_repeats_and_is_told(self):
        prompt = tokens(9, 5, self.vocab)

        def ask(**sampling):
            r = pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), temperature=1,
                                   sampling=pb.Sampling(**sampling), stopping=pb.Stopping(max_new_tokens=12, ignore_eos=True))
            return h.ids_of(self.d.inference.Generate(r, timeout=60))
        one, messages = ask()
        drawn = messages[0].prompt_info.seed
        again, messages = ask(seed=drawn)
        self.assertEqual(one, again)
        self.assertEqual(messages[0].prompt_info.seed, drawn)
        self.assertNotEqual(ask()[1][0].prompt_info.seed, drawn)

    def test_stop_ids_and_min_new_tokens(self):
        first = self.want["greedy"]["ids"]
        ask = h.greedy(self.want["prompt"], 20)
        ids, messages = h.ids_of(self.d.inference.Generate(ask, timeout=60))
        ask.stopping.stop_token_ids.append(ids[3])
        at = ids.index(ids[3])
        got, messages = h.ids_of(self.d.inference.Generate(ask, timeout=60))
        self.assertEqual(got, ids[:at + 1])
        end = messages[-1].outputs[0].finish_info
        self.assertEqual((end.finish_reason, end.WhichOneof("stop"), end.stop_token_id), (pb.STOP, "stop_token_id", ids[3]))
        ask.stopping.min_new_tokens = 10
        got, _ = h.ids_of(self.d.inference.Generate(ask, timeout=60))
        self.assertGreaterEqual(len(got), 10)
        self.assertEqual(len(first), 24)

    def test_score_sums_to_one_and_agrees_with_generate(self):
        prompt = self.want["prompt"]
        rows = list(self.d.inference.Score(pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), top=self.vocab),
                                           timeout=60))
        self.assertEqual([r.position for r in rows], list(range(len(prompt))))
        for r in rows:
            self.assertEqual(sorted(r.top_ids), list(range(self.vocab)))
            self.assertAlmostEqual(sum(math.exp(x) for x in r.top_logprobs), 1, delta=1e-4)
            self.assertEqual(list(r.top_logprobs), sorted(r.top_logprobs, reverse=True))
        for r, nxt in zip(rows, prompt[1:]):
            self.assertEqual(r.id, nxt)
            self.assertEqual(r.logprob, r.top_logprobs[list(r.top_ids).index(nxt)])
        self.assertIsNone(rows[-1].WhichOneof("id_presence"))
        self.assertIsNone(rows[-1].WhichOneof("logprob_presence"))
        ask = h.greedy(prompt, 1)
        ask.response.logprobs = True
        _, m = h.ids_of(self.d.inference.Generate(ask, timeout=60))
        best = m[-1].outputs[0].logprobs[0]
        self.assertEqual((best.id, best.logprob), (rows[-1].top_ids[0], rows[-1].top_logprobs[0]))

    def test_the_default_is_cut_to_what_fits(self):
        context = self.d.control.GetModelInfo(h.ctl.GetModelInfoRequest(), timeout=5).context
        prompt = tokens(context - 5, 1, self.vocab)
        ask = pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), temperature=0,
                                 stopping=pb.Stopping(ignore_eos=True))
        ids, messages = h.ids_of(self.d.inference.Generate(ask, timeout=120))
        self.assertEqual(len(ids), 5)
        self.assertEqual(messages[-1].outputs[0].finish_info.finish_reason, pb.LENGTH)


if __name__ == "__main__":
    unittest.main(verbosity=2)
