"""ops/chat-template.py: the tables that it derives, and why a template is none.  argv: the repository's root.  Needs jinja2."""
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = sys.argv[1]
HERE = os.path.join(ROOT, "tests", "daemon", "text", "templates")
SCRIPT = os.path.join(ROOT, "ops", "chat-template.py")
TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


class Derive(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="phalanx-chat-")
        self.addCleanup(self.dir.cleanup)

    def derive(self, *args):
        out = os.path.join(self.dir.name, "table.json")
        p = subprocess.run([sys.executable, SCRIPT, *args, "--out", out], capture_output=True, text=True, timeout=100)
        if p.returncode:
            self.assertFalse(os.path.exists(out))
            return p, None
        with open(out, encoding="utf-8") as f:
            return p, json.load(f)

    def of_text(self, text, *args):
        path = os.path.join(self.dir.name, "t.jinja")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return self.derive(path, *args)

    def test_tables_are_those_that_the_c_test_reads(self):
        for name, bos, eos in (("llama2", "<s>", "</s>"), ("mistral-v3", "<s>", "</s>"), ("qwen3", "", "<|im_end|>")):
            _, table = self.derive(os.path.join(HERE, name + ".jinja"), "--bos", bos, "--eos", eos)
            with open(os.path.join(HERE, name + ".json"), encoding="utf-8") as f:
                self.assertEqual(table, json.load(f))

    def test_all_known_templates_can_be_derived(self):
        for name in sorted(n for n in os.listdir(HERE) if n.endswith(".jinja")):
            bos, eos = ("<|begin_of_text|>", "<|eot_id|>") if name.startswith("llama3") else ("<s>", "</s>")
            with self.subTest(name=name):
                p, table = self.derive(os.path.join(HERE, name), "--bos", bos, "--eos", eos)
                self.assertEqual(p.returncode, 0, p.stderr)

    def test_a_folder_says_its_own_tokens(self):
        with open(os.path.join(self.dir.name, "tokenizer_config.json"), "w") as f:
            json.dump({"bos_token": {"content": "<b>"}, "eos_token": "<e>",
                       "chat_template": [{"name": "default", "template": "{{ bos_token }}" + TURNS.replace("</>", "{{ eos_token }}")}]}, f)
        with open(os.path.join(self.dir.name, "tokenizer.json"), "w") as f:
            json.dump({"added_tokens": [{"content": t, "special": t != "<u>"} for t in ("<b>", "<e>", "<x>", "<u>")]}, f)
        _, table = self.derive(self.dir.name)
        self.assertEqual((table["begin"], table["user"], table["control"]),
                         ("<b>", {"prefix": "<user>", "suffix": "<e>", "trim": False}, ["<b>", "<e>"]))

    def test_a_gguf_says_its_own_tokens(self):
        text = lambda s: struct.pack("<Q", len(s.encode())) + s.encode()
        tokens = ["a", "<b>", "<e>", "<x>"]
        keys = [("tokenizer.chat_template", struct.pack("<I", 8) + text("{{ bos_token }}" + TURNS.replace("</>", "{{ eos_token }}"))),
                ("tokenizer.ggml.tokens", struct.pack("<IIQ", 9, 8, 4) + b"".join(map(text, tokens))),
                ("tokenizer.ggml.token_type", struct.pack("<IIQ4i", 9, 5, 4, 1, 3, 3, 3)),
                ("tokenizer.ggml.bos_token_id", struct.pack("<II", 4, 1)), ("tokenizer.ggml.eos_token_id", struct.pack("<II", 4, 2))]
        data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(text(k) + v for k, v in keys)
        path = os.path.join(self.dir.name, "model.gguf")
        for cut in (len(data), len(data) - 3, 60):
            with open(path, "wb") as f:
                f.write(data[:cut])
            p, table = self.derive(path)
            if cut == len(data):
                self.assertEqual((p.returncode, table["begin"], table["control"]), (0, "<b>", ["<b>", "<e>"]), p.stderr)
                os.remove(os.path.join(self.dir.name, "table.json"))
            else:
                self.assertIn("not a GGUF that can be read", p.stderr)

    def test_an_answer_that_is_begun_unasked(self):
        p, table = self.of_text(TURNS.replace("{% if add_generation_prompt %}", "").replace("<assistant>{% endif %}", "<assistant>"))
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertFalse(table["user_last"] or table["alternate"])
        self.assertTrue(table["generation"].endswith("<assistant>"))

    def test_an_end_of_what_is_not_to_go_on(self):
        p, table = self.of_text(TURNS.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}"), "--eos", "<e>")
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertEqual((table["user"]["suffix"], table["assistant"]["suffix"], table["generation"]), ("</>", "</>", "<assistant>"))
        self.assertFalse(table["user_last"])

    def test_a_date_is_told(self):
        dated = "{% if strftime_now is defined %}{% set d = strftime_now('%d %b') %}{% else %}{% set d = '1 Jan' %}{% endif %}[{{ d }}]" + TURNS
        for text, told in ((dated, True), (dated.replace("[{{ d }}]", "[]"), False)):
            p, table = self.of_text(text)
            self.assertEqual((p.returncode, "today's date" in p.stdout), (0, told), p.stdout + p.stderr)
            self.assertEqual(table["begin"], "[1 Jan]" if told else "[]")

    def test_a_date_is_given(self):
        text = "[{{ strftime_now('%d %b %Y') }}]" + TURNS
        self.assertIn("--date", self.of_text(text)[0].stderr)
        self.assertEqual(self.of_text(text, "--date", "tomorrow")[0].returncode, 2)
        p, table = self.of_text(text, "--date", "2026-07-04")
        self.assertEqual((p.returncode, table["begin"]), (0, "[04 Jul 2026]"), p.stderr)
        self.assertNotIn("today's date", p.stdout)

    def test_what_transformers_knows_beside_jinja(self):
        text = TURNS.replace("{{ m['content'] }}", "{% generation %}{{ m['content'] }}{% endgeneration %}")
        p, table = self.of_text("{{ [] | tojson(ensure_ascii=False, separators=(',', ':'), sort_keys=True) }}" + text)
        self.assertEqual((p.returncode, table["begin"]), (0, "[]"), p.stderr)
        self.assertEqual(table["assistant"], {"prefix": "<assistant>", "suffix": "</>", "trim": False})

    def test_thoughts_are_dropped_with_the_newlines_behind_them_or_without(self):
        for strip, want in ((".lstrip('\\n')", True), ("", "keep_newlines")):
            p, table = self.of_text(TURNS.replace("m['content']", "(m['content'].split('</think>')[-1]%s if m['role'] == 'assistant' "
                                                  "and '</think>' in m['content'] else m['content'])" % strip))
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertEqual(table["drop_thinking"], want)

    def test_templates_that_are_none(self):
        for text, why in (
                ("{% for m in messages %}{{ loop.index }}:{{ m['content'] }}\n{% endfor %}A:", "cannot be a table"),
                ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | upper }}</>{% endfor %}", "exactly once"),
                ("{{ raise_exception('never') }}", "refuses the plainest conversations: never"),
                ("{{ strftime_now('%d') }}" + TURNS, "'strftime_now' is undefined"),
                ("{% for m in messages %}\n{{ m['content'] }", "line 2: "),
                ("{{ 1 // 0 }}" + TURNS, "by zero"),
                ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
                ("{% for i in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3, "it takes more than"),
                (TURNS.replace("{{ m['content'] }}", "{{ m['content'] }}{% if m['content'] | length > 20 %}!{% endif %}"), "does not render")):
            with self.subTest(text=text):
                p, table = self.of_text(text)
                self.assertEqual(p.returncode, 1, p.stderr)
                self.assertIn(why, p.stderr)
                self.assertIn("cannot be a table", p.stderr)
                self.assertIsNone(table)

    def test_it_is_proved_on_what_a_table_cannot_say(self):
        """Every second user's text is written otherwise: the probes do not show it, random conversations do."""
        text = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.n = ns.n + 1 %}{% endif %}" \
               "<{{ m['role'] }}>{% if ns.n == 3 %}x{% endif %}{{ m['content'] }}</>{% endfor %}<assistant>"
        p, table = self.of_text(text)
        self.assertEqual(p.returncode, 1, p.stderr)
        self.assertIn("does not render", p.stderr)


if __name__ == "__main__":
    try:
        import jinja2  # noqa: F401
    except ImportError:
        print("SKIP: no jinja2 for %s" % sys.executable)
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=1)
