"""Text: prompts, stop strings, Tokenize and Detokenize on a tiny model; chat and golden ids on the real one."""
import json
import os
import time
import unittest

import grpc
import harness as h
from harness import pb

CODE = grpc.StatusCode
TINY = os.path.join(h.GOLDEN, "tiny", "gguf", "smollm_like_f16", "model.gguf")


class Tiny(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = h.Daemon(h.make_set(TINY, 2))
        cls.model = cls.d.control.GetModelInfo(h.ctl.GetModelInfoRequest(), timeout=5)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop_well()

    def refused(self, call, code, *words):
        with self.assertRaises(grpc.RpcError) as x:
            got = call()
            if hasattr(got, "__iter__"):
                list(got)
        self.assertEqual(x.exception.code(), code, x.exception.details())
        for w in words:
            self.assertIn(w, x.exception.details())

    def tokenize(self, text, **more):
        return list(self.d.inference.Tokenize(pb.TokenizeRequest(text=text, **more), timeout=30).ids)

    def detokenize(self, ids):
        return self.d.inference.Detokenize(pb.DetokenizeRequest(ids=ids), timeout=30).text

    def ask(self, text, n, **stopping):
        r = pb.GenerateRequest(prompt=pb.Prompt(text=text), temperature=0,
                               stopping=pb.Stopping(max_new_tokens=n, ignore_eos=True, **stopping))
        return h.ids_of(self.d.inference.Generate(r, timeout=60))

    def test_there_and_back(self):
        self.assertTrue(self.model.has_tokenizer)
        for text in ["", "hello world", "a\0b", "\0", "\0\0\0x", "é 😀 \n\t", "x" * 5000, "a\0" * 5000]:
            with self.subTest(text=text[:20]):
                ids = self.tokenize(text)
                self.assertEqual(self.detokenize(ids), text)

    def test_a_text_prompt_is_its_ids(self):
        ids = self.tokenize("hello\0 world", add_special=True)
        _, messages = self.ask("hello\0 world", 4)
        self.assertEqual(list(messages[0].prompt_info.token_ids), ids)
        rows = list(self.d.inference.Score(pb.ScoreRequest(prompt=pb.Prompt(text="hello\0 world"), top=1), timeout=30))
        self.assertEqual([r.id for r in rows[:-1]], ids[1:])

    def test_the_deltas_are_the_text(self):
        ids, messages = self.ask("one two", 40)
        whole = h.text_of(messages)
        special = lambda i: not self.detokenize([i]) or (self.detokenize([i]).startswith("<") and len(self.detokenize([i])) > 2)
        self.assertEqual(whole, self.detokenize([i for i in ids if not special(i)]))

    def test_stop_strings(self):
        ids, messages = self.ask("one two", 40)
        whole = h.text_of(messages)
        self.assertGreater(len(whole), 12)
        stop = whole[5:8]
        at = whole.index(stop)
        _, messages = self.ask("one two", 40, stop_strings=["never to be seen", stop])
        self.assertEqual(h.text_of(messages), whole[:at])
        end = messages[-1].outputs[0].finish_info
        self.assertEqual((end.finish_reason, end.WhichOneof("stop"), end.stop_string), (pb.STOP, "stop_string", stop))
        _, messages = self.ask("one two", 40, stop_strings=[stop], include_stop_strings=True)
        self.assertEqual(h.text_of(messages), whole[:at] + stop)

    def test_errors(self):
        text = lambda t: pb.GenerateRequest(prompt=pb.Prompt(text=t))
        s = self.d.inference
        self.refused(lambda: s.Generate(text(""), timeout=5), CODE.INVALID_ARGUMENT, "prompt.text", "empty")
        self.refused(lambda: s.Generate(text("z" * 4000000), timeout=20), CODE.INVALID_ARGUMENT, "prompt")
        self.refused(lambda: s.Generate(text("z" * ((4 << 20) + 1)), timeout=20), CODE.INVALID_ARGUMENT, "prompt.text")
        for stop, field in [([""], "stop_strings[0]"), (["a", "b" * 256], "stop_strings[1]"), (["a"] * 17, "stop_strings")]:
            r = text("hello")
            r.stopping.stop_strings.extend(stop)
            self.refused(lambda: s.Generate(r, timeout=5), CODE.INVALID_ARGUMENT, field)
        self.refused(lambda: s.Detokenize(pb.DetokenizeRequest(ids=[0, 2**31]), timeout=5), CODE.INVALID_ARGUMENT, "ids[1]")
        raw = lambda method: self.d.channel.unary_unary("/phalanx.v1.Inference/" + method)
        self.refused(lambda: raw("Tokenize")(b"\x12\x02\xc3\x28", timeout=5), CODE.INVALID_ARGUMENT, "text")
        self.refused(lambda: raw("Generate")(b"\x1a\x04\x0a\x02\xc3\x28", timeout=5), CODE.INVALID_ARGUMENT, "prompt.text")

    def test_a_model_without_a_template(self):
        chat = pb.ChatRequest(messages=[pb.Message(role="user", content="hello")])
        self.assertEqual(self.model.chat_template, "")
        self.refused(lambda: self.d.inference.Chat(chat, timeout=5), CODE.FAILED_PRECONDITION, "template")

    def test_long_texts_do_not_hold_up_others(self):
        ask = pb.TokenizeRequest(text="abc def " * 250000)
        long = [self.d.inference.Tokenize.future(ask, timeout=60) for _ in range(6)]
        worst = 0
        while not all(x.done() for x in long):
            began = time.monotonic()
            self.d.info()
            worst = max(worst, time.monotonic() - began)
        self.assertEqual(len({len(x.result().ids) for x in long}), 1)
        self.assertLess(worst, 1)


class SentencePiece(unittest.TestCase):
    """A tiny Llama 2 with its own tokenizer; the file has no chat template, the set has a table that was derived from one."""
    FOLDER = os.path.join(h.GOLDEN, "tiny", "tokenizers", "llama2")
    TABLE = os.path.join(h.ROOT, "tests", "daemon", "text", "templates", "llama2.json")

    @classmethod
    def setUpClass(cls):
        cls.d = h.Daemon(h.make_set(os.path.join(cls.FOLDER, "model.gguf"), 2, more=("--chat-template", cls.TABLE)))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop_well()

    def ids(self, text, **more):
        return list(self.d.inference.Tokenize(pb.TokenizeRequest(text=text, **more), timeout=30).ids)

    def test_golden_cases(self):
        with open(os.path.join(self.FOLDER, "cases.jsonl")) as f:
            cases = [json.loads(line) for line in f]
        for case in cases:
            with self.subTest(text=case["text"][:40]):
                self.assertEqual(self.ids(case["text"], parse_special=case["parse_special"], add_special=case["add_special"]), case["ids"])
                if not {1, 2} & set(case["ids"]):           # Detokenize writes control tokens by their names
                    text = self.d.inference.Detokenize(pb.DetokenizeRequest(ids=case["ids"]), timeout=30).text
                    self.assertEqual(text, case["decoded"])
        self.assertGreater(len(cases), 700)

    def test_a_generated_text_is_its_ids_text(self):
        ask = pb.GenerateRequest(prompt=pb.Prompt(text="the word"), temperature=0, stopping=pb.Stopping(max_new_tokens=40, ignore_eos=True))
        ids, messages = h.ids_of(self.d.inference.Generate(ask, timeout=60))
        self.assertEqual(list(messages[0].prompt_info.token_ids), self.ids("the word", add_special=True))
        text = self.d.inference.Detokenize(pb.DetokenizeRequest(ids=[i for i in ids if i > 2]), timeout=30).text
        self.assertEqual(h.text_of(messages), text)

    def test_chat_by_a_derived_table(self):
        self.assertEqual(self.d.control.GetModelInfo(h.ctl.GetModelInfoRequest(), timeout=5).chat_template, "derived")
        talk = [("system", "Be brief."), ("user", "<s>name"), ("assistant", "word"), ("user", " and so\n")]
        ask = pb.ChatRequest(messages=[pb.Message(role=r, content=c) for r, c in talk], temperature=0, stopping=pb.Stopping(max_new_tokens=2))
        _, messages = h.ids_of(self.d.inference.Chat(ask, timeout=60))
        want = [1] + self.ids("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<s>name [/INST] word ") + [2, 1] + self.ids("[INST] and so [/INST]")
        self.assertEqual(list(messages[0].prompt_info.token_ids), want)
        bad = pb.ChatRequest(messages=[pb.Message(role="user", content="a"), pb.Message(role="user", content="b")])
        with self.assertRaises(grpc.RpcError) as x:
            list(self.d.inference.Chat(bad, timeout=10))
        self.assertEqual(x.exception.code(), CODE.INVALID_ARGUMENT)
        self.assertIn("messages[1].role", x.exception.details())


@unittest.skipUnless(os.path.exists(h.REAL_MODEL), "SKIP: the real model is not at " + h.REAL_MODEL)
class Real(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = h.Daemon(h.make_set(h.REAL_MODEL, 2))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop_well()

    def test_tokenize_like_the_reference(self):
        with open(os.path.join(h.SHARED, "golden", "tokenize.jsonl")) as f:
            cases = [json.loads(line) for line in f]
        for case in cases:
            with self.subTest(text=case["text"][:40]):
                got = self.d.inference.Tokenize(pb.TokenizeRequest(text=case["text"], parse_special=case["special"]), timeout=30)
                self.assertEqual(list(got.ids), case["ids"])
                text = self.d.inference.Detokenize(pb.DetokenizeRequest(ids=case["ids"]), timeout=30).text
                self.assertEqual(text, case["decoded"])
        self.assertGreater(len(cases), 300)

    def test_chat(self):
        ask = pb.ChatRequest(messages=[pb.Message(role="user", content="What is the capital of France?")], temperature=0,
                             stopping=pb.Stopping(max_new_tokens=32))
        ids, messages = h.ids_of(self.d.inference.Chat(ask, timeout=120))
        self.assertIn("Paris", h.text_of(messages))
        self.assertEqual(messages[-1].usage.completion_tokens, len(ids))

    def test_roles(self):
        for messages, field in [([("robot", "hello")], "messages[0].role"),
                                ([("user", "hello"), ("system", "be kind")], "messages[1].role")]:
            ask = pb.ChatRequest(messages=[pb.Message(role=r, content=c) for r, c in messages])
            with self.assertRaises(grpc.RpcError) as x:
                list(self.d.inference.Chat(ask, timeout=10))
            self.assertEqual(x.exception.code(), CODE.INVALID_ARGUMENT)
            self.assertIn(field, x.exception.details())

    def test_control_tokens_in_a_text_are_text(self):
        ask = pb.GenerateRequest(prompt=pb.Prompt(text="<|im_start|>user"), temperature=0, stopping=pb.Stopping(max_new_tokens=1))
        _, messages = h.ids_of(self.d.inference.Generate(ask, timeout=60))
        special = self.d.inference.Tokenize(pb.TokenizeRequest(text="<|im_start|>", parse_special=True), timeout=5).ids
        self.assertEqual(len(special), 1)
        self.assertNotIn(special[0], messages[0].prompt_info.token_ids)

    def test_continuations(self):
        """Free-running greedy, up to the first step whose margin is under 0.05."""
        with open(os.path.join(h.SHARED, "golden", "continuations.json")) as f:
            golden = json.load(f)
        for g in golden:
            with self.subTest(prompt=g["prompt_text"][:40]):
                sure = next((i for i, s in enumerate(g["steps"]) if s["margin"] < 0.05), len(g["steps"]))
                ids, _ = h.ids_of(self.d.inference.Generate(h.greedy(g["prompt_ids"], len(g["steps"])), timeout=120))
                self.assertEqual(ids[:sure], g["greedy"][:sure])


if __name__ == "__main__":
    unittest.main(verbosity=2)
