"""What bad input gets: a status, a field's name, and a service that goes on."""
import json
import os
import threading
import time
import unittest

import grpc
import harness as h
from harness import pb

FOLDER = os.path.join(h.GOLDEN, "tiny", "arch", "llama")
CODE = grpc.StatusCode


def ask(**more):
    r = pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=[1, 2, 3])), temperature=0,
                           stopping=pb.Stopping(max_new_tokens=3))
    for k, v in more.items():
        at = getattr(r, k)
        if hasattr(at, "CopyFrom"):
            at.CopyFrom(v)
        else:
            setattr(r, k, v)
    return r


class Errors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = h.Daemon(h.make_set(FOLDER, 2), "--max_sequences", "4", "--queue", "4")
        cls.model = cls.d.control.GetModelInfo(h.ctl.GetModelInfoRequest(), timeout=5)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop_well()

    def tearDown(self):
        i = self.d.wait_free()
        self.assertEqual((i.state, i.kv_blocks_free), ("ready", i.kv_blocks_total))
        ids, _ = h.ids_of(self.d.inference.Generate(ask(), timeout=20))
        self.assertEqual(len(ids), 3)

    def refused(self, call, code, *words):
        with self.assertRaises(grpc.RpcError) as x:
            got = call()
            if hasattr(got, "__iter__"):
                list(got)
        self.assertEqual(x.exception.code(), code, x.exception.details())
        for w in words:
            self.assertIn(w, x.exception.details())
        return x.exception

    def generate(self, request, code, *words):
        return self.refused(lambda: self.d.inference.Generate(request, timeout=20), code, *words)

    def test_values(self):
        v = self.model.n_vocab
        prompt = lambda ids: pb.Prompt(token_ids=pb.TokenIds(ids=ids))
        nan, inf = float("nan"), float("inf")
        bad = [
            (ask(temperature=-0.1), "temperature"), (ask(temperature=100.5), "temperature"),
            (ask(temperature=nan), "temperature"), (ask(temperature=inf), "temperature"),
            (ask(sampling=pb.Sampling(top_p=0)), "sampling.top_p"), (ask(sampling=pb.Sampling(top_p=1.5)), "sampling.top_p"),
            (ask(sampling=pb.Sampling(top_p=nan)), "sampling.top_p"), (ask(sampling=pb.Sampling(min_p=-1)), "sampling.min_p"),
            (ask(sampling=pb.Sampling(min_p=1.01)), "sampling.min_p"), (ask(sampling=pb.Sampling(min_p=nan)), "sampling.min_p"),
            (ask(decoding=pb.Decoding(presence_penalty=nan)), "decoding.presence_penalty"),
            (ask(stopping=pb.Stopping(max_new_tokens=0)), "stopping.max_new_tokens"),
            (ask(stopping=pb.Stopping(max_new_tokens=self.model.context)), "stopping.max_new_tokens"),
            (ask(stopping=pb.Stopping(max_new_tokens=2**32 - 1)), "stopping.max_new_tokens"),
            (ask(stopping=pb.Stopping(max_new_tokens=3, min_new_tokens=4)), "stopping.min_new_tokens"),
            (ask(stopping=pb.Stopping(stop_token_ids=[0, v])), "stopping.stop_token_ids[1]"),
            (ask(stopping=pb.Stopping(stop_token_ids=[1] * 65)), "stopping.stop_token_ids"),
            (ask(response=pb.ResponseOptions(top_logprobs=65)), "response.top_logprobs"),
            (ask(prompt=pb.Prompt()), "prompt"), (ask(prompt=prompt([])), "prompt.token_ids"),
            (ask(prompt=prompt([1, v])), "prompt.token_ids[1]"), (ask(prompt=prompt([2**32 - 1])), "prompt.token_ids[0]"),
            (ask(prompt=prompt([1] * self.model.context)), "longer than the context"),
            (ask(prompt=prompt([1] * 1000000)), "longer than the context"),
            (ask(request_id="a" * 128), "request_id"), (ask(request_id="a\nlevel=error"), "request_id"),
            (ask(request_id="a\0b"), "request_id"), (ask(request_id="a\x85b"), "request_id"),
        ]
        for request, word in bad:
            with self.subTest(word=word, request=str(request)[:80]):
                self.generate(request, CODE.INVALID_ARGUMENT, word)
        r = ask()
        r.ClearField("prompt")
        self.generate(r, CODE.INVALID_ARGUMENT, "prompt")
        e = self.generate(ask(prompt=prompt([1] * self.model.context)), CODE.INVALID_ARGUMENT)
        self.assertIn("found %d" % self.model.context, e.details())
        self.refused(lambda: self.d.inference.Score(pb.ScoreRequest(prompt=prompt([1]), top=v + 1), timeout=5),
                     CODE.INVALID_ARGUMENT, "top")
        self.refused(lambda: self.d.inference.Score(pb.ScoreRequest(prompt=prompt([1] * (self.model.context + 1))), timeout=5),
                     CODE.INVALID_ARGUMENT, "prompt")

    def test_not_served_yet(self):
        for request, word in [(ask(sampling=pb.Sampling(num_sequences=2)), "sampling.num_sequences"),
                              (ask(decoding=pb.Decoding(presence_penalty=1)), "decoding.presence_penalty"),
                              (ask(decoding=pb.Decoding(frequency_penalty=-1)), "decoding.frequency_penalty"),
                              (ask(decoding=pb.Decoding(repetition_penalty=1.1)), "decoding.repetition_penalty"),
                              (ask(decoding=pb.Decoding(logit_bias={1: 2.0})), "decoding.logit_bias"),
                              (ask(priority=1), "priority")]:
            with self.subTest(word=word):
                self.generate(request, CODE.UNIMPLEMENTED, word)
        ids, _ = h.ids_of(self.d.inference.Generate(ask(decoding=pb.Decoding(repetition_penalty=1),
                                                        sampling=pb.Sampling(num_sequences=1)), timeout=20))
        self.assertEqual(len(ids), 3)

    def test_a_set_without_a_tokenizer(self):
        s = self.d.inference
        self.generate(ask(prompt=pb.Prompt(text="hello")), CODE.FAILED_PRECONDITION, "prompt.text", "tokenizer")
        self.generate(ask(stopping=pb.Stopping(stop_strings=["x"])), CODE.FAILED_PRECONDITION, "stop_strings")
        chat = pb.ChatRequest(messages=[pb.Message(role="user", content="hello")])
        self.refused(lambda: s.Chat(chat, timeout=5), CODE.FAILED_PRECONDITION, "messages")
        self.refused(lambda: s.Tokenize(pb.TokenizeRequest(text="hello"), timeout=5), CODE.FAILED_PRECONDITION)
        self.refused(lambda: s.Detokenize(pb.DetokenizeRequest(ids=[1]), timeout=5), CODE.FAILED_PRECONDITION)

    def test_another_model(self):
        self.generate(ask(model="other"), CODE.NOT_FOUND, "other")
        ids, _ = h.ids_of(self.d.inference.Generate(ask(model=self.model.name), timeout=20))
        self.assertEqual(len(ids), 3)

    def test_unknown_method_and_no_message(self):
        call = self.d.channel.unary_unary("/phalanx.v1.Inference/Nothing")
        self.refused(lambda: call(b"", timeout=5), CODE.UNIMPLEMENTED, "Nothing")
        call = self.d.channel.unary_unary("/")
        self.refused(lambda: call(b"", timeout=5), CODE.UNIMPLEMENTED)
        call = self.d.channel.stream_unary("/phalanx.v1.Inference/Tokenize")
        self.refused(lambda: call(iter([]), timeout=5), CODE.INVALID_ARGUMENT, "message")

    def test_bytes_that_are_no_message(self):
        for method in ("Inference/Generate", "Inference/Tokenize", "Control/Abort", "Inference/Score"):
            call = self.d.channel.unary_unary("/phalanx.v1." + method)
            for data in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab", os.urandom(500)[:-1] + b"\xff"):
                e = self.refused(lambda: call(data, timeout=5), CODE.INVALID_ARGUMENT)
                self.assertTrue(e.details())

    def test_invalid_utf8(self):
        call = self.d.channel.unary_unary("/phalanx.v1.Inference/Generate")
        self.refused(lambda: call(b"\x0a\x02\xc3\x28", timeout=5), CODE.INVALID_ARGUMENT, "request_id")

    def test_too_large_a_message(self):
        r = pb.TokenizeRequest(text="a" * (9 << 20))
        self.refused(lambda: self.d.inference.Tokenize(r, timeout=20), CODE.RESOURCE_EXHAUSTED)

    def test_amplification(self):
        # Two bytes of wire that want to become a message each.
        data = b"\x32\x04" + b"\x22\x02\x08\x01" + b"\x32\x84\x80\x80\x01" + b"\x22\x00" * ((1 << 21) // 2 + 1)
        call = self.d.channel.unary_unary("/phalanx.v1.Inference/Generate")
        self.refused(lambda: call(data, timeout=20), CODE.INVALID_ARGUMENT)

    def test_gzip(self):
        self.refused(lambda: self.d.inference.Tokenize(pb.TokenizeRequest(text="a" * 4000000), timeout=20,
                                                       compression=grpc.Compression.Gzip), CODE.UNIMPLEMENTED)

    def while_it_runs(self, request, look):
        """look() while the stream runs; a stream that ended meanwhile proves nothing: again."""
        for _ in range(20):
            s = self.d.inference.Generate(request, timeout=60)
            next(s)
            if look():
                return s
            list(s)
        self.fail("the streams always ended first")

    def test_duplicate_request_id(self):
        def refused():
            try:
                list(self.d.inference.Generate(ask(request_id="one"), timeout=20))
            except grpc.RpcError as e:
                self.assertEqual(e.code(), CODE.ALREADY_EXISTS)
                self.assertIn("request_id", e.details())
                return True
        long = ask(request_id="one", stopping=pb.Stopping(max_new_tokens=200, ignore_eos=True))
        self.assertGreater(len(h.ids_of(self.while_it_runs(long, refused))[0]), 100)
        for _ in range(50):                      # free again the moment it has ended
            ids, _ = h.ids_of(self.d.inference.Generate(ask(request_id="one"), timeout=20))
            self.assertEqual(len(ids), 3)

    def test_a_full_queue(self):
        long = ask(stopping=pb.Stopping(max_new_tokens=200, ignore_eos=True))
        streams = [self.d.inference.Generate(long, timeout=60) for _ in range(24)]
        codes = []
        for s in streams:
            try:
                list(s)
                codes.append(CODE.OK)
            except grpc.RpcError as e:
                codes.append(e.code())
                self.assertEqual(dict(e.trailing_metadata()).get("retryable"), "true")
        self.assertEqual(set(codes), {CODE.OK, CODE.RESOURCE_EXHAUSTED})
        self.assertGreaterEqual(codes.count(CODE.OK), 8)

    def test_deadline(self):
        long = ask(stopping=pb.Stopping(max_new_tokens=240, ignore_eos=True))
        self.refused(lambda: self.d.inference.Generate(long, timeout=0.01), CODE.DEADLINE_EXCEEDED)

    def test_cancel(self):
        long = ask(stopping=pb.Stopping(max_new_tokens=240, ignore_eos=True))
        streams = [self.d.inference.Generate(long, timeout=60) for _ in range(4)]
        for s in streams:
            next(s)
        for s in streams:
            s.cancel()
        i = self.d.wait_free(2)
        self.assertEqual(i.kv_blocks_free, i.kv_blocks_total)

    def test_abort(self):
        long = ask(request_id="to abort", stopping=pb.Stopping(max_new_tokens=240, ignore_eos=True))
        abort = lambda: self.d.control.Abort(h.ctl.AbortRequest(request_id="to abort"), timeout=5).found
        self.refused(lambda: self.while_it_runs(long, abort), CODE.CANCELLED)
        self.assertFalse(abort())
        self.refused(lambda: self.d.control.Abort(h.ctl.AbortRequest(), timeout=5), CODE.INVALID_ARGUMENT, "request_id")

    def test_a_client_that_dies(self):
        channel = self.d.connect()
        stub = h.inference_pb2_grpc.InferenceStub(channel)
        long = ask(stopping=pb.Stopping(max_new_tokens=240, ignore_eos=True))
        streams = [stub.Generate(long, timeout=60) for _ in range(4)]
        next(streams[0])
        channel.close()
        i = self.d.wait_free(2)
        self.assertEqual(i.kv_blocks_free, i.kv_blocks_total)

    def test_a_client_that_stops_reading(self):
        n = self.model.context
        prompt = [(i * 37) % self.model.n_vocab for i in range(n)]
        # Windows so small that the server's sends stop at once.
        slow = self.d.connect(("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
        stub = h.inference_pb2_grpc.InferenceStub(slow)
        lazy = [stub.Score(pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), top=self.model.n_vocab),
                           timeout=60) for _ in range(2)]
        time.sleep(0.5)
        for _ in range(5):                       # others are served meanwhile
            self.assertEqual(len(h.ids_of(self.d.inference.Generate(ask(), timeout=20))[0]), 3)
        rows = list(lazy[0])                     # and what was held back still comes, whole and in order
        self.assertEqual([r.position for r in rows], list(range(n)))
        self.assertTrue(all(len(r.top_ids) == self.model.n_vocab for r in rows))
        lazy[1].cancel()

    def test_many_threads(self):
        def work(k):
            for i in range(10):
                try:
                    s = self.d.inference.Generate(ask(stopping=pb.Stopping(max_new_tokens=50, ignore_eos=True)), timeout=60)
                    if (i + k) % 3 == 0:
                        next(s)
                        s.cancel()
                    else:
                        list(s)
                except grpc.RpcError as e:
                    self.codes.append(e.code())
        self.codes = []
        threads = [threading.Thread(target=work, args=(k,)) for k in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertLessEqual(set(self.codes), {CODE.RESOURCE_EXHAUSTED, CODE.CANCELLED})


if __name__ == "__main__":
    unittest.main(verbosity=2)
