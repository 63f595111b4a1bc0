#!/usr/bin/env python3
"""A model's chat template, Jinja in the checkpoint, as the table that phalanxd reads: derived from what the template makes of
probe conversations, and proved on random ones.

usage: ops/chat-template.py MODEL [--out chat_template.json] [--bos TOKEN] [--eos TOKEN] [--date YYYY-MM-DD]

MODEL is a GGUF file, a checkpoint's folder, a shard set, or a file with the template's text.  Give the table to the sharder:
`phalanx shard MODEL --chat-template chat_template.json ...`.  Needs python3-jinja2 (Debian's, or pip's Jinja2).
Exit status: 0 the table is written, 1 the template is not of the table's kind (the reason is told), 2 bad usage.
"""
import argparse
import datetime
import json
import os
import random
import resource
import signal
import struct
import sys

PROVED_ON = 50
SECONDS, MEMORY = 20, 2 << 30
ROLES = ("system", "user", "assistant")


class NotOfThisKind(Exception):
    pass


class TakesTooLong(Exception):
    pass


# ---- the template's own engine, as the transformers library sets it up ----

def environment(day):
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %}: marks what an answer is, for training; its text is its content."""
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("content"), [], [], body).set_lineno(line)

        def content(self, caller):
            return caller()

    def raise_exception(message):
        raise TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    e = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    e.filters["tojson"] = tojson
    e.globals["raise_exception"] = raise_exception
    if day:
        e.globals["strftime_now"] = day.strftime
    return e


class Jinja:
    def __init__(self, text, bos, eos, day=None):
        from jinja2.exceptions import TemplateError, TemplateSyntaxError
        self.error = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
        self.bos, self.eos, self.why = bos, eos, ""         # why: what the last refusal said
        try:
            self.template = environment(day).from_string(text)
        except TemplateSyntaxError as why:
            raise NotOfThisKind("line %d: %s" % (why.lineno, why))

    def __call__(self, talk, generation=True):
        """None: the template refuses the conversation."""
        try:
            return self.template.render(messages=talk, bos_token=self.bos, eos_token=self.eos, add_generation_prompt=generation)
        except self.error as why:
            self.why = str(why)
            return None


def too_long(*_):
    raise TakesTooLong("it takes more than %d seconds" % SECONDS)


def set_limits():
    """A template may be a loop of any length: its text comes with the checkpoint."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most))
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)


def asks_for_the_date(jinja):
    """A table is one text; transformers gives a template a clock.  What it has instead, without one, is what was derived."""
    jinja.template.globals["strftime_now"] = lambda form: "QqD"
    texts = [jinja(say(("user", "QqA"))), jinja(say(("system", "QqS"), ("user", "QqA")))]
    del jinja.template.globals["strftime_now"]
    return any("QqD" in t for t in texts if t)


def say(*messages):
    return [{"role": r, "content": c} for r, c in messages]


# ---- the table's meaning: the same as daemon/text/chat.c ----

def allowed(table, talk):
    before = "system"
    for i, m in enumerate(talk):
        if m["role"] == "system" and (i or table["system_in"] == "none"):
            return False
        if table["alternate"] and m["role"] != "system" and m["role"] != ("assistant" if before == "user" else "user"):
            return False
        before = m["role"]
    return before == "user" or not (table["user_last"] or (before == "system" and table["system_in"] != "own"))


def render(table, talk):
    out, talk, system = table["begin"], list(talk), table["default_system"]
    if talk[0]["role"] == "system":
        system = talk.pop(0)["content"]
    turn = lambda role: (table[role]["prefix"], table[role]["suffix"], table[role]["trim"])
    if system is not None and table["system_in"] == "own":
        prefix, suffix, trim = turn("system")
        out += prefix + (system.strip() if trim else system) + suffix
    users = [i for i, m in enumerate(talk) if m["role"] == "user"]
    place = {"first_user": users[:1], "last_user": users[-1:]}.get(table["system_in"], [])
    for i, m in enumerate(talk):
        prefix, suffix, trim = turn(m["role"])
        text = m["content"]
        if m["role"] == "assistant" and table["drop_thinking"] and "</think>" in text:
            text = text.split("</think>")[-1]
            text = text if table["drop_thinking"] == "keep_newlines" else text.lstrip("\n")
        if system is not None and i in place:
            text = table["system"]["prefix"] + system + table["system"]["suffix"] + text
        out += prefix + (text.strip() if trim else text) + suffix
    return out + table["generation"]


# ---- conversations to prove it on ----

WORDS = ["so", "what", "is", "12", "it?", "\n", " ", "\n\n", "\t", "é", "日本", "😀", "<s>", "[INST]", "{{ x }}", "a_b", "\u00a0", "don't",
         "<think>", "</think>", "\\n", '"', "'"]


def random_text(rng):
    return "".join(rng.choice(WORDS) + rng.choice((" ", " ", "")) for _ in range(rng.choice((0, 1, 2, 3, 8, 20))))


def random_conversation(rng, system, alternate):
    talk = [{"role": "system", "content": random_text(rng)}] if system else []
    role = "user"
    for _ in range(rng.choice((1, 1, 3, 3, 5, 2, 4))):
        talk.append({"role": role, "content": random_text(rng)})
        role = ("assistant" if role == "user" else "user") if alternate else rng.choice(("user", "assistant"))
    return talk


def mismatch(table, jinja, rng, alternate):
    """A conversation that the table permits and renders otherwise than the template; None after PROVED_ON of them."""
    proved = tries = 0
    while proved < PROVED_ON:
        tries += 1
        if tries > 200 * PROVED_ON:
            raise NotOfThisKind("it refuses nearly every conversation")
        talk = random_conversation(rng, rng.random() < 0.5 and table["system_in"] != "none", alternate or table["alternate"])
        if not allowed(table, talk):
            continue
        if jinja(talk) != render(table, talk):
            return talk
        proved += 1
    return None


# ---- deriving ----

def cut(text, *marks):
    """What stands before, between and behind the marks."""
    parts, rest = [], text
    for m in marks:
        if rest is None or rest.count(m) != 1:
            raise NotOfThisKind("a message's text is not in the prompt exactly once")
        before, rest = rest.split(m)
        parts.append(before)
    return parts + [rest]


def without_tail(text, tail, what):
    if not text.endswith(tail):
        raise NotOfThisKind("%s is not the same in every place" % what)
    return text[:len(text) - len(tail)]


def without_head(text, head, what):
    if not text.startswith(head):
        raise NotOfThisKind("%s is not the same in every place" % what)
    return text[len(head):]


def derive_turns(jinja, table, choice):
    """The beginnings and ends of user's and assistant's turns; returns what stands before the first one.  Where an answer's end
    cannot be seen alone, the cut between it and the next user's turn is a choice: the choice-th is taken."""
    one, two = jinja(say(("user", "QqA")), False), jinja(say(("user", "QqA"), ("assistant", "QqB")), False)
    long = jinja(say(("user", "QqA"), ("assistant", "QqB"), ("user", "QqC")), False)
    if one is None or long is None:
        raise NotOfThisKind("it refuses the plainest conversations: %s" % jinja.why)
    head, to_answer, to_user, tail = cut(long, "QqA", "QqB", "QqC")
    user_suffix, suffix = cut(one, "QqA")[1], cut(two, "QqA", "QqB")[2] if two is not None else None
    # What ends a conversation that is not to go on stands in none of ours.
    end = jinja.eos if jinja.eos and user_suffix.endswith(jinja.eos) else user_suffix[len(os.path.commonprefix([user_suffix, to_answer])):]
    if end and user_suffix == tail and not to_answer.startswith(user_suffix):
        user_suffix = tail = tail[:-len(end)]
        suffix = suffix[:-len(end)] if suffix is not None and suffix.endswith(end) else suffix
    if tail != user_suffix or not to_answer.startswith(user_suffix):
        raise NotOfThisKind("what follows a user's text depends on the conversation")
    if suffix is None or not to_user.startswith(suffix) or choice:
        ends = [n for n in range(len(to_user) + 1) if head.endswith(to_user[n:])]
        if choice >= len(ends):
            raise NotOfThisKind("no way to cut it into turns renders the same")
        end = to_user[:ends[choice]]
        begun = suffix[len(end):] if suffix is not None and suffix.startswith(end) else None
        if begun and user_suffix.endswith(begun):      # it begins the answer whether asked to or not
            user_suffix = user_suffix[:len(user_suffix) - len(begun)]
        else:
            table["user_last"] = True
        suffix = end
    generation = without_head(cut(jinja(say(("user", "QqA"))), "QqA")[1], user_suffix, "what follows a user's text")
    table.update(user={"prefix": to_user[len(suffix):], "suffix": user_suffix}, generation=generation,
                 assistant={"prefix": to_answer[len(user_suffix):], "suffix": suffix})
    return without_tail(head, to_user[len(suffix):], "the beginning of a user's turn")


def derive_system(jinja, table, head, bos):
    """head: what stands before the first user's turn of a conversation without a system message."""
    first, last = say(("system", "QqS"), ("user", "QqA")), say(("system", "QqS"), ("user", "QqA"), ("assistant", "QqB"), ("user", "QqC"))
    text, more = jinja(first), jinja(last)
    table["system"] = {"prefix": "", "suffix": ""}
    if text is None or "QqS" not in text:
        table.update(system_in="none", begin=head, default_system=None)
        return
    if more is not None and more.count("QqS") == 1 and more.index("QqS") > more.index("QqA"):
        before, between, _ = cut(text, "QqS", "QqA")
        table.update(system_in="last_user", begin=head, default_system=None)
        table["system"] = {"prefix": without_head(before, head + table["user"]["prefix"], "the beginning"), "suffix": between}
        return
    before, between, _ = cut(text, "QqS", "QqA")
    if not between.endswith(table["user"]["prefix"]) or (not table["user"]["prefix"] and before.startswith(head)):
        table.update(system_in="first_user", begin=head, default_system=None)
        table["system"] = {"prefix": without_head(before, head + table["user"]["prefix"], "the beginning"), "suffix": between}
        return
    begin = head if before.startswith(head) else bos if bos and before.startswith(bos) and head.startswith(bos) else ""
    system = {"prefix": before[len(begin):], "suffix": without_tail(between, table["user"]["prefix"], "the system message's end")}
    default = None
    if head != begin:
        rest = head[len(begin):]
        if not (rest.startswith(system["prefix"]) and rest.endswith(system["suffix"]) and
                len(rest) >= len(system["prefix"]) + len(system["suffix"])):
            raise NotOfThisKind("without a system message it begins with something else than a system message")
        default = rest[len(system["prefix"]):len(rest) - len(system["suffix"])]
    table.update(system_in="own", begin=begin, default_system=default, system=system)


def derive_contents(jinja, table):
    """Is white space around a text kept?  Is what an answer thought about dropped?"""
    for role in ROLES:
        talk = {"system": say(("system", " QqS "), ("user", "x")), "user": say(("user", " QqS ")),
                "assistant": say(("user", "x"), ("assistant", " QqS "), ("user", "x"))}[role]
        text = jinja(talk) if role != "system" or table["system_in"] == "own" else None
        table[role]["trim"] = text is not None and table[role]["prefix"] + "QqS" + table[role]["suffix"] in text
    text = jinja(say(("user", "x"), ("assistant", "<think>\nQqT\n</think>\n\nQqS"), ("user", "x")))
    table["drop_thinking"] = text is not None and "QqT" not in text
    if table["drop_thinking"] and table["assistant"]["prefix"] + "\n\nQqS" in text:
        table["drop_thinking"] = "keep_newlines"


def derive_one(jinja, bos, choice):
    table = {"alternate": False, "user_last": False}
    derive_system(jinja, table, derive_turns(jinja, table, choice), bos)
    derive_contents(jinja, table)
    rng = random.Random(1)
    for change in ({}, {"user_last": True}, {"alternate": True}, {"alternate": True, "user_last": True}):
        tried = dict(table, **change)
        wrong = mismatch(tried, jinja, rng, False) or mismatch(tried, jinja, rng, True)
        if wrong is None:
            return tried
    raise NotOfThisKind("a table made from it does not render %s" % json.dumps(wrong, ensure_ascii=False))


def derive(jinja, bos):
    first = None
    for choice in range(8):
        try:
            return derive_one(jinja, bos, choice)
        except NotOfThisKind as why:
            first = first or why
    raise first


# ---- files ----

def read_json(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return {}


NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_gguf(f):
    """The metadata of a GGUF, v2 or v3."""
    def number(kind):
        form = "<" + NUMBERS[kind]
        return struct.unpack(form, f.read(struct.calcsize(form)))[0]

    def text():
        return f.read(number(10)).decode("utf-8", "replace")

    def value(kind):
        if kind == 8:
            return text()
        if kind != 9:
            return number(kind)
        each, n = number(4), number(10)
        return [value(each) for _ in range(n)]

    if number(4) not in (2, 3):
        raise ValueError("neither version 2 nor 3")
    number(10)
    return {text(): value(number(4)) for _ in range(number(10))}


def read_gguf_model(path, f):
    try:
        keys = read_gguf(f)
    except (struct.error, KeyError, ValueError, RecursionError) as why:
        sys.exit("chat-template: %s: not a GGUF that can be read: %s" % (path, why))
    text, tokens = keys.get("tokenizer.chat_template"), keys.get("tokenizer.ggml.tokens", [])
    if not isinstance(text, str):
        sys.exit("chat-template: %s: no tokenizer.chat_template" % path)
    named = lambda key: tokens[keys[key]] if keys.get(key, len(tokens)) < len(tokens) else None
    control = [t for t, kind in zip(tokens, keys.get("tokenizer.ggml.token_type", [])) if kind == 3]
    return text, named("tokenizer.ggml.bos_token_id"), named("tokenizer.ggml.eos_token_id"), control


def read_model(path):
    """The template's text, bos, eos and the names of control tokens."""
    if os.path.isfile(path):
        with open(path, "rb") as f:
            if f.read(4) == b"GGUF":
                return read_gguf_model(path, f)
        with open(path, encoding="utf-8", newline="") as f:
            return f.read(), None, None, []
    config, tokens = read_json(os.path.join(path, "tokenizer_config.json")), read_json(os.path.join(path, "tokenizer.json"))
    text = config.get("chat_template")
    if isinstance(text, list):
        text = next((t["template"] for t in text if t.get("name") == "default"), None)
    for name in ("chat_template.jinja", "chat_template.txt"):
        if os.path.isfile(os.path.join(path, name)):
            with open(os.path.join(path, name), encoding="utf-8", newline="") as f:
                text = f.read()
    if not isinstance(text, str):
        sys.exit("chat-template: %s: no chat_template.txt, chat_template.jinja or tokenizer_config.json with one" % path)
    word = lambda v: v.get("content") if isinstance(v, dict) else v
    bos, eos = word(config.get("bos_token")), word(config.get("eos_token"))
    if "types" in tokens:                                   # a set: the normal form
        control = [t for t, kind in zip(tokens["tokens"], tokens["types"]) if kind == "3"]
        bos, eos = (tokens["tokens"][tokens[k]] if tokens.get(k) is not None else None for k in ("bos", "eos"))
    else:
        control = [t["content"] for t in tokens.get("added_tokens", []) if t.get("special")]
    return text, bos, eos, control


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("model")
    p.add_argument("--out", default="chat_template.json")
    p.add_argument("--bos")
    p.add_argument("--eos")
    p.add_argument("--date", type=datetime.datetime.fromisoformat, help="today, for a template that asks; the table has this date for good")
    a = p.parse_args()
    try:
        import jinja2  # noqa: F401
    except ImportError:
        sys.exit("chat-template: needs Jinja: apt install python3-jinja2, or pip install Jinja2 in a venv")
    text, bos, eos, control = read_model(a.model)
    bos, eos = a.bos or bos or "", a.eos or eos or ""
    try:
        set_limits()
        jinja = Jinja(text, bos, eos, a.date)
        table = derive(jinja, bos)
    except (NotOfThisKind, TakesTooLong, MemoryError) as why:
        hint = " (it asks for today's date: --date gives it one)" if "'strftime_now' is undefined" in str(why) else ""
        print("chat-template: %s: this template cannot be a table: %s%s" % (a.model, str(why) or "it takes more than %d bytes" % MEMORY, hint),
              file=sys.stderr)
        return 1
    signal.alarm(0)
    talk = say(("system", "x"), ("user", "x"), ("assistant", "x"), ("user", "x"))
    written = render(table, talk[1:]) + (render(table, talk) if table["system_in"] != "none" else "")
    used = [c for c in control or [t for t in (bos, eos) if t] if c in written]
    table = {"format": 1, "name": "derived", "template": text, "control": used, **table}
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(table, f, ensure_ascii=False, indent=1)
        f.write("\n")
    print("%s: derived, and the same as Jinja on %d conversations" % (a.out, 2 * PROVED_ON))
    if not a.date and asks_for_the_date(jinja):
        print("%s: the template asks for today's date; the table has what the template says without a clock" % a.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
