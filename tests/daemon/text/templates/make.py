"""Conversations as the templates' own engine renders them: cases.jsonl, for chat_test.

python3 make.py          needs jinja2; each template of this folder is rendered as the transformers library does it
"""
import importlib.util
import json
import os
import random

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("chat_template", os.path.join(HERE, "../../../../ops/chat-template.py"))
ops = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ops)

TOKENS = {"llama2": ("<s>", "</s>"), "mistral": ("<s>", "</s>"), "zephyr": ("<s>", "</s>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>")}
CASES = 16


def main():
    out = open(os.path.join(HERE, "cases.jsonl"), "w", encoding="ascii", newline="\n")
    for name in sorted(n for n in os.listdir(HERE) if n.endswith(".jinja")):
        with open(os.path.join(HERE, name), encoding="utf-8", newline="") as f:
            template = ops.environment().from_string(f.read())
        bos, eos = next((t for k, t in TOKENS.items() if name.startswith(k)), ("", "<|im_end|>"))
        rng, made = random.Random(name), 0
        while made < CASES:
            talk = ops.random_conversation(rng, system=rng.random() < 0.5, alternate=rng.random() < 0.8)
            try:
                text = template.render(messages=talk, bos_token=bos, eos_token=eos, add_generation_prompt=True)
            except Exception:
                continue
            out.write(json.dumps({"template": name, "messages": talk, "text": text}) + "\n")
            made += 1


main()
