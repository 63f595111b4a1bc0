"""The command line against a server: generate, score, info; and against one that follows a script."""
import concurrent.futures
import json
import math
import os
import signal
import struct
import subprocess
import threading
import time
import unittest

import grpc
import harness as h
from harness import pb

PHALANX = os.path.join(h.BUILD, "bin", "phalanx")
TINY = os.path.join(h.GOLDEN, "tiny", "gguf", "smollm_like_f16", "model.gguf")
FOLDER = os.path.join(h.GOLDEN, "tiny", "arch", "llama")
OK, FAILURE, USAGE, REFUSED, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130
LOWEST = -3.4028234663852886e38


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


class Case(unittest.TestCase):
    address = None

    def run_cli(self, *args, code=OK, text=b""):
        p = subprocess.run([PHALANX] + list(args) + ["--address", self.address], input=text, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=120)
        p.out, p.err = p.stdout.decode(), p.stderr.decode()
        self.assertEqual(p.returncode, code, p.err)
        return p

    def generate(self, *args, code=OK, text=b""):
        p = self.run_cli("generate", "--json", *args, code=code, text=text)
        self.assertEqual(p.out.count("\n"), 1)
        answer = json.loads(p.out)
        for key in ("prompt_token_ids", "token_ids", "text", "finish_reason", "usage", "logprobs"):
            self.assertIn(key, answer)
        return answer


class Tiny(Case):
    @classmethod
    def setUpClass(cls):
        cls.d = h.Daemon(h.make_set(TINY, 2), "--kv.tokens", "8192")
        cls.address = cls.d.address

    @classmethod
    def tearDownClass(cls):
        cls.d.stop_well()

    def test_the_answer_is_the_servers(self):
        r = pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=[1, 2, 3])), temperature=0,
                               stopping=pb.Stopping(max_new_tokens=12, ignore_eos=True),
                               response=pb.ResponseOptions(logprobs=True, top_logprobs=3))
        want, messages = h.ids_of(self.d.inference.Generate(r, timeout=30))
        a = self.generate("--prompt-ids", "1,2,3", "--temperature", "0", "--max-new-tokens", "12", "--ignore-eos",
                          "--top-logprobs", "3")
        self.assertEqual(a["token_ids"], want)
        self.assertEqual(a["prompt_token_ids"], [1, 2, 3])
        self.assertEqual(a["finish_reason"], "length")
        self.assertEqual(a["usage"], {"prompt_tokens": 3, "completion_tokens": 12})
        self.assertEqual(a["text"], "".join(o.text for m in messages for o in m.outputs))
        self.assertNotIn("error", a)
        probs = [p for m in messages for o in m.outputs for p in o.logprobs]
        self.assertEqual([p["id"] for p in a["logprobs"]], want)
        self.assertEqual([f32(p["logprob"]) for p in a["logprobs"]], [p.logprob for p in probs])     # to the bit
        self.assertEqual([[(i, f32(x)) for i, x in p["top"]] for p in a["logprobs"]],
                         [[(t.id, t.logprob) for t in p.top] for p in probs])

    def test_the_text_is_streamed(self):
        args = ["one two", "--temperature", "0", "--max-new-tokens", "40", "--ignore-eos"]
        a = self.generate(*args)
        p = self.run_cli("generate", *args, "--stats")
        self.assertEqual(p.out, a["text"])
        self.assertIn("tokens/s", p.err)
        self.assertEqual(self.run_cli("generate", *args).err, "")          # no figures without a terminal
        self.assertEqual(self.run_cli("generate", "-", *args[1:], text=b"one two").out, a["text"])

    def test_sampling_and_stopping(self):
        args = ["--prompt-ids", "5 6 7", "--temperature", "1.5", "--top-k", "40", "--top-p", "0.95", "--min-p", "0.001",
                "--max-new-tokens", "30", "--num-sequences", "1", "--priority", "0"]
        a = self.generate(*args, "--seed", "18446744073709551615", "--ignore-eos")
        self.assertEqual(a["seed"], "18446744073709551615")
        self.assertEqual(self.generate(*args, "--seed", a["seed"], "--ignore-eos")["token_ids"], a["token_ids"])
        self.assertNotEqual(self.generate(*args, "--seed", "1", "--ignore-eos")["token_ids"], a["token_ids"])
        at = a["token_ids"].index(a["token_ids"][9])
        b = self.generate(*args, "--seed", a["seed"], "--ignore-eos", "--stop-token-ids", str(a["token_ids"][9]))
        self.assertEqual(b["finish_reason"], "stop")
        self.assertEqual(b["stop_token_id"], a["token_ids"][9])
        self.assertEqual(b["token_ids"][:at], a["token_ids"][:at])
        stop = a["text"][len(a["text"]) // 2:][:4]
        for more, tail in (([], 0), (["--include-stop-strings"], len(stop))):
            c = self.generate(*args, "--seed", a["seed"], "--ignore-eos", "--stop", "never there", "--stop", stop, *more)
            self.assertEqual(c["finish_reason"], "stop")
            self.assertEqual(c["stop_string"], stop)
            self.assertEqual(c["text"], a["text"][:a["text"].index(stop) + tail])

    def test_refusals(self):
        for args, status in ((["--prompt-ids", "1,99999999"], "INVALID_ARGUMENT"), (["--prompt-ids", ""], "INVALID_ARGUMENT"),
                             (["x", "--temperature", "-1"], "INVALID_ARGUMENT"), (["x", "--model", "other"], "NOT_FOUND"),
                             (["--chat", "x"], "FAILED_PRECONDITION"), (["x", "--min-new-tokens", "9", "--max-new-tokens", "5"],
                                                                       "INVALID_ARGUMENT")):
            a = self.generate(*args, code=REFUSED)
            self.assertEqual((a["finish_reason"], a["error"]["status"]), ("error", status), a)
            self.assertFalse(a["error"]["retryable"])
            self.assertTrue(a["error"]["message"])
            self.assertIn(status, self.run_cli("generate", *args, code=REFUSED).err)

    def test_what_the_server_serves_of_the_fields(self):
        """Every field's flag reaches the server: it serves the field, or refuses it by its name."""
        for flags, field in ((["--presence-penalty", "0.5"], "presence_penalty"),
                             (["--frequency-penalty", "0.5"], "frequency_penalty"),
                             (["--repetition-penalty", "1.5"], "repetition_penalty"),
                             (["--logit-bias", "5=1.5,7=-100"], "logit_bias"), (["--num-sequences", "2"], "num_sequences"),
                             (["--priority", "-3"], "priority")):
            p = subprocess.run([PHALANX, "generate", "--prompt-ids", "1", "--max-new-tokens", "2", "--json", "--address",
                                self.address] + flags, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
            a = json.loads(p.stdout)
            if p.returncode:
                self.assertEqual(p.returncode, REFUSED)
                self.assertIn(field, a["error"]["message"])
            else:
                self.assertIn(a["finish_reason"], ("stop", "length"))

    def test_score(self):
        n = self.d.control.GetModelInfo(h.ctl.GetModelInfoRequest(), timeout=5).n_vocab
        want = list(self.d.inference.Score(pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=[4, 5, 6])), top=n),
                                           timeout=30))
        p = self.run_cli("score", "--prompt-ids", "4,5,6", "--top", str(n), "--json")
        rows = [json.loads(x) for x in p.out.splitlines()]
        self.assertEqual([(r["position"], r["id"]) for r in rows], [(0, 5), (1, 6), (2, None)])
        self.assertIsNone(rows[2]["logprob"])
        for r, w in zip(rows, want):
            self.assertEqual([i for i, _ in r["top"]], list(w.top_ids))
            self.assertEqual([f32(x) for _, x in r["top"]], list(w.top_logprobs))
        self.assertEqual(f32(rows[0]["logprob"]), dict(zip(want[0].top_ids, want[0].top_logprobs))[5])
        p = self.run_cli("score", "one two", "--top", "2", "--stats")
        self.assertIn("perplexity", p.err)
        self.assertEqual(p.out.splitlines()[0].split("\t")[0], "0")
        self.run_cli("score", "--prompt-ids", "1", "--top", str(n + 1), code=REFUSED)
        self.run_cli("score", "--prompt-ids", "", code=REFUSED)

    def test_info(self):
        p = self.run_cli("info")
        for w in ("ready", "cold start", "warmup", "planned", "measured", "weights"):
            self.assertIn(w, p.out)
        i = json.loads(self.run_cli("info", "--json").out)
        self.assertEqual(i["server"]["state"], "ready")
        self.assertEqual([s["name"] for s in i["server"]["cold_start"]][-1], "ready")
        self.assertTrue(i["model"]["has_tokenizer"])

    def test_the_plan_is_what_was_measured(self):
        """Law 1: what we own is carved to the byte, and `phalanx plan` says the same."""
        p = subprocess.run([PHALANX, "plan", h.make_set(TINY, 2), "--kv.tokens", "8192", "--json"], stdout=subprocess.PIPE,
                           check=True, timeout=60)
        plan = json.loads(p.stdout)["per_rank"]
        for r, b in zip(json.loads(self.run_cli("info", "--json").out)["server"]["ranks"], plan):
            for what in ("weights", "kv", "arena", "step", "comm"):
                self.assertEqual(r[what + "_planned"], r[what + "_measured"], what)
            self.assertEqual(sum(r[w + "_planned"] for w in ("weights", "kv", "arena", "step", "comm")), b["total"])


class Bare(Case):
    """A set without a tokenizer, while it starts and when it serves."""

    def test_ids_only(self):
        d = h.Daemon(h.make_set(FOLDER, 2))
        self.address = d.address
        try:
            a = self.generate("--prompt-ids", "1,2,3", "--temperature", "0", "--max-new-tokens", "5", "--ignore-eos")
            self.assertEqual((len(a["token_ids"]), a["text"]), (5, ""))
            p = self.run_cli("generate", "--prompt-ids", "1,2,3", "--temperature", "0", "--max-new-tokens", "5", "--ignore-eos")
            self.assertEqual([int(x) for x in p.out.split()], a["token_ids"])
            for args in (["text"], ["--chat", "x"], ["--prompt-ids", "1", "--stop", "x"]):
                self.assertEqual(self.generate(*args, code=REFUSED)["error"]["status"], "FAILED_PRECONDITION")
            self.run_cli("score", "text", code=REFUSED)
        finally:
            d.stop_well()
        p = self.run_cli("info", code=UNAVAILABLE)
        self.assertIn(self.address, p.err)


class Scripted(Case):
    """A server that does what a test needs, also what no server should."""

    def serve(self, answer):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))

        class Inference(h.inference_pb2_grpc.InferenceServicer):
            Generate = staticmethod(lambda request, context: answer(context))
            Score = staticmethod(lambda request, context: answer(context))
        h.inference_pb2_grpc.add_InferenceServicer_to_server(Inference(), server)
        self.address = "127.0.0.1:%d" % server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(lambda: server.stop(0).wait(10))

    def delta(self, text, ids, **more):
        return pb.GenerateResponse(outputs=[pb.Output(text=text, token_ids=ids, **more)])

    def endless(self, gone):
        def answer(context):
            context.add_callback(gone.set)
            for i in range(10000):
                if gone.is_set():
                    return
                yield self.delta("x", [7])
                time.sleep(0.02)
        return answer

    def test_text_comes_at_once_and_an_interrupt_ends_the_call(self):
        for flags in ([], ["--json"]):
            gone = threading.Event()
            self.serve(self.endless(gone))
            p = subprocess.Popen([PHALANX, "generate", "x", "--address", self.address] + flags, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
            if flags:
                time.sleep(1)
            else:
                self.assertEqual(p.stdout.read(3), b"xxx")              # long before the end
            self.assertIsNone(p.poll())
            p.send_signal(signal.SIGINT)
            out, _ = p.communicate(timeout=20)
            self.assertEqual(p.returncode, INTERRUPTED)
            self.assertTrue(gone.wait(5))                                # the server was told
            if flags:
                a = json.loads(out)
                self.assertEqual((a["finish_reason"], a["error"]["status"]), ("cancelled", "CANCELLED"))
                self.assertEqual(a["text"], "x" * len(a["token_ids"]))
                self.assertEqual(a["usage"]["completion_tokens"], len(a["token_ids"]))
                self.assertGreater(len(a["token_ids"]), 3)

    def test_an_abort_is_no_interrupt(self):
        def answer(context):
            yield self.delta("x", [7])
            context.abort(grpc.StatusCode.CANCELLED, "aborted")
        self.serve(answer)
        self.assertEqual(self.generate("x", code=FAILURE)["finish_reason"], "cancelled")

    def test_timeout(self):
        gone = threading.Event()
        self.serve(self.endless(gone))
        a = self.generate("x", "--timeout", "0.5", code=FAILURE)
        self.assertEqual((a["finish_reason"], a["error"]["status"]), ("error", "DEADLINE_EXCEEDED"))
        self.assertTrue(gone.wait(5))

    def test_an_error_after_some_text(self):
        def answer(context):
            yield self.delta("some ", [7])
            context.set_trailing_metadata((("retryable", "true"),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "a rank is gone\nforged line")
        self.serve(answer)
        a = self.generate("x", code=UNAVAILABLE)
        self.assertEqual((a["text"], a["token_ids"], a["finish_reason"]), ("some ", [7], "error"))
        self.assertEqual(a["error"], {"status": "UNAVAILABLE", "message": "a rank is gone?forged line", "retryable": True})
        p = self.run_cli("generate", "x", code=UNAVAILABLE)
        self.assertEqual(p.out, "some ")
        self.assertIn("tried again", p.err)

    def test_no_finish(self):
        self.serve(lambda context: iter([self.delta("some", [7])]))
        self.assertEqual(self.generate("x", code=REFUSED)["finish_reason"], "error")

    def test_a_second_sequence(self):
        self.serve(lambda context: iter([pb.GenerateResponse(outputs=[pb.Output(index=1, text="x")])]))
        self.assertEqual(self.generate("x", code=REFUSED)["finish_reason"], "error")

    def test_silence(self):
        def answer(context):
            time.sleep(5)
            return iter([])
        self.serve(answer)
        begin = time.monotonic()
        self.generate("x", "--timeout", "0.5", code=FAILURE)
        self.assertLess(time.monotonic() - begin, 4)

    def test_infinities(self):
        rows = [pb.ScoreResponse(position=0, id=1, logprob=-math.inf, top_ids=[3], top_logprobs=[math.nan]),
                pb.ScoreResponse(position=1, top_ids=[1, 2], top_logprobs=[1])]
        self.serve(lambda context: iter(rows[:1]))
        row = json.loads(self.run_cli("score", "--prompt-ids", "1", "--json").out)
        self.assertEqual(f32(row["logprob"]), LOWEST)
        self.assertEqual(row["top"], [[3, None]])
        self.serve(lambda context: iter(rows[1:]))
        self.run_cli("score", "--prompt-ids", "1", "--json", code=REFUSED)

    def test_another_service(self):
        self.serve(lambda context: iter([]))
        self.run_cli("info", code=REFUSED)                     # UNIMPLEMENTED


if __name__ == "__main__":
    unittest.main()
