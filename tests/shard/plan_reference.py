"""A second planner, written from the formulas alone and sharing nothing with the one in C: what a model takes in memory.

The formulas and the conventions C1 to C9 are those of the golden file's own notes (tests/golden/memory/golden.json);
`plan_reference.py GOLDEN` computes every value of that file again. plan_random.py compares the program with it on
models that are in no file. Everything is whole numbers, and slow and plain on purpose."""
import collections
import json
import math
import sys

BLOCK = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22),
         "Q5_1": (32, 24), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
         "IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "IQ2_XS": (256, 74)}
GROUP = 128
SPLIT = ("W8", "W4", "W4Z", "FP8")                 # data and scales apart
FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ2_XS": "IQ4_NL", "IQ4_XS": "IQ4_NL"}
FORMATS = ("f32", "bf16", "f16", "q8_0", "w8a16_g128", "fp8", "q6_k", "pure_q6_k", "q5_k_m", "pure_q5_k", "q4_k_m", "q4_0",
           "pure_q4_0", "pure_q4_k", "w4a16_g128_awq", "w4a16_g128", "iq2_xs", "pure_iq2_xs", "bf16_hf")
KV_TYPES = ("f32", "f16", "bf16", "fp8", "int8_th", "q8_0", "q4_0")
OPTIMIZERS = {"adam_fp32": 4 + 4 + 4 + 4, "adam_mixed": 2 + 2 + 4 + 4 + 4, "adam_mixed_fp32g": 2 + 4 + 4 + 4 + 4,
              "adam_bf16_pure": 2 + 2 + 2 + 2, "adam8bit_mixed": 2 + 2 + 4 + 1 + 1, "sgd_momentum": 2 + 2 + 4 + 4}


class DoesNotSplit(Exception):
    pass


def up(a, b):
    return (a + b - 1) // b


def align(n, a):
    return up(n, a) * a


class Model:
    """From the golden file's `config`; `sliding_layers` (a list of truths) says more than `sliding_pattern` can."""

    def __init__(self, c):
        self.d, self.f, self.L = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
        self.H, self.K, self.h = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.g, self.V, self.ctx = self.H // self.K, c["vocab_size"], c["max_position_embeddings"]
        self.E, self.k, self.W = c["num_local_experts"], c["num_experts_per_tok"], c["sliding_window"]
        self.tied, self.bias, self.qk = c["tie_word_embeddings"], c["qkv_bias"], c["qk_norm"]
        self.sandwich = c["sandwich_norms"]
        pattern = c.get("sliding_pattern", "none")
        self.slides = c.get("sliding_layers") or [{"none": False, "all": True, "gemma2": i % 2 == 0, "5:1": i % 6 < 5}[pattern]
                                                  for i in range(self.L)]

    def tensors(self):
        """(class, layer or -1, how it is cut, rows, columns, copies); cut: rows of q/kv heads, ffn, vocab; q and ffn by columns."""
        yield "token_embd", -1, "vocab", self.V, self.d, 1
        yield "output_norm", -1, None, 1, self.d, 1
        if not self.tied:
            yield "output", -1, "vocab", self.V, self.d, 1
        for i in range(self.L):
            yield "attn_norm", i, None, 1, self.d, 1
            yield "attn_q", i, "q", self.H * self.h, self.d, 1
            yield "attn_k", i, "kv", self.K * self.h, self.d, 1
            yield "attn_v", i, "kv", self.K * self.h, self.d, 1
            yield "attn_output", i, "q cols", self.d, self.H * self.h, 1
            if self.bias:
                yield "attn_q_bias", i, "q bias", 1, self.H * self.h, 1
                yield "attn_k_bias", i, "kv bias", 1, self.K * self.h, 1
                yield "attn_v_bias", i, "kv bias", 1, self.K * self.h, 1
            if self.qk:
                yield "attn_q_norm", i, None, 1, self.h, 1
                yield "attn_k_norm", i, None, 1, self.h, 1
            if self.sandwich:
                yield "post_attention_norm", i, None, 1, self.d, 1
                yield "post_ffw_norm", i, None, 1, self.d, 1
            yield "ffn_norm", i, None, 1, self.d, 1
            if self.E:
                yield "ffn_gate_inp", i, None, self.E, self.d, 1
            n = self.E or 1
            yield "ffn_gate", i, "ffn", self.f, self.d, n
            yield "ffn_up", i, "ffn", self.f, self.d, n
            yield "ffn_down", i, "ffn cols", self.d, self.f, n

    def params(self):
        by_class = {}
        for name, _, _, rows, cols, n in self.tensors():
            by_class[name] = by_class.get(name, 0) + n * rows * cols
        return by_class

    def active_params(self):
        """An expert's share of those that a token meets."""
        p = self.params()
        idle = sum(p[k] - p[k] // self.E * self.k for k in ("ffn_gate", "ffn_up", "ffn_down")) if self.E else 0
        return sum(p.values()) - idle


def storage_type(m, fmt, name, layer, rows, cols):
    """C2, the mixtures and their fallbacks. `cols` are the whole tensor's."""
    if fmt == "bf16_hf":
        return "BF16"
    if rows == 1 or name == "ffn_gate_inp":
        return "F32"
    table = name == "output" or name == "token_embd" and m.tied
    if fmt in ("f32", "bf16", "f16"):
        return fmt.upper()
    if fmt == "fp8":
        return "BF16" if name in ("token_embd", "output") else "FP8"
    if fmt == "w8a16_g128":
        return "F16" if name == "token_embd" else "W8"
    if fmt.startswith("w4a16"):
        return "F16" if name in ("token_embd", "output") else "W4Z" if fmt.endswith("awq") else "W4"
    eight, more = m.E == 8, layer < m.L // 8 or layer >= 7 * m.L // 8 or (layer - m.L // 8) % 3 == 2
    if fmt.startswith("pure_"):
        t = fmt[5:].upper()
    elif fmt in ("q8_0", "q6_k"):
        t = fmt.upper()
    elif fmt == "q4_0":
        t = "Q6_K" if table else "Q4_0"
    elif fmt in ("q4_k_m", "q5_k_m"):
        t = fmt[:4].upper()
        if table:
            t = "Q6_K"
        elif name in ("attn_v", "ffn_down") and more:
            t = "Q6_K"
        elif name == "attn_v" and m.L == 80 and m.g > 1:
            t = "Q5_K"
        if eight and name in ("attn_k", "attn_v"):
            t = "Q8_0"
        if eight and name == "attn_output" and fmt == "q4_k_m":
            t = "Q5_K"
    elif fmt == "iq2_xs":
        t = "IQ2_XS"
        if table:
            t = "Q5_K"
        elif name == "token_embd":
            t = "Q2_K"
        elif name == "attn_v":
            t = "Q4_K" if m.g >= 4 or m.E >= 4 else "Q2_K"
        elif name == "ffn_down" and layer < m.L // 8:
            t = "Q2_K"
        elif eight and name == "attn_k":
            t = "Q4_K"
        elif eight and name == "attn_output":
            t = "Q5_K"
    else:
        raise ValueError(fmt)
    if cols % BLOCK[t][0]:
        t = "Q8_0" if table and not fmt.startswith("pure_") else FALLBACK.get(t, t)
    return "F16" if cols % BLOCK[t][0] else t


def parts(t, rows, cols, copies):
    """Bytes of a matrix as its allocations: one, or data and scales. Each expert is a tensor of its own, with its own scales."""
    if not rows * cols:
        return [0]
    if t == "FP8":
        one = [rows * cols + 4]
    elif t in SPLIT:
        groups = rows * up(cols, GROUP)
        one = [rows * cols if t == "W8" else rows * up(cols, 2), 2 * groups + (up(groups, 2) if t == "W4Z" else 0)]
    else:
        n, b = BLOCK[t]
        one = [rows * up(cols, n) * b]
    return one * copies


def block_of(t):
    return 1 if t == "FP8" else GROUP if t in SPLIT else BLOCK[t][0]


def deal(units, tp):
    return [units // tp + (r < units % tp) for r in range(tp)]


def ranges(units, unit, whole, tp):
    """[lo, hi) of each rank where `units` of `unit` are dealt and the last may be short (C4)."""
    out, at = [], 0
    for n in deal(units, tp):
        out.append((min(at * unit, whole), min((at + n) * unit, whole)))
        at += n
    return out


class Cut:
    """Who owns what: C3 to C7."""

    def __init__(self, m, fmt, tp, vocab, balanced=False):
        self.m, self.fmt, self.tp = m, fmt, tp
        attn = block_of(storage_type(m, fmt, "attn_output", 0, m.d, m.H * m.h))
        ffn = max(block_of(storage_type(m, fmt, "ffn_down", i, m.d, m.f)) for i in range(m.L))
        u, uq = attn // math.gcd(attn, m.g * m.h), attn // math.gcd(attn, m.h)
        if up(m.K, u) >= tp:
            heads = ranges(up(m.K, u), u, m.K, tp)
            self.q, self.kv = [m.g * (b - a) for a, b in heads], [b - a for a, b in heads]
        elif up(m.H, uq) >= tp:
            heads = ranges(up(m.H, uq), uq, m.H, tp)
            self.q = [b - a for a, b in heads]
            self.kv = [(b - 1) // m.g - a // m.g + 1 for a, b in heads]
        else:
            raise DoesNotSplit("attention", up(m.H, uq))
        unit = max(32, ffn)
        if up(m.f, unit) < tp:
            raise DoesNotSplit("ffn", up(m.f, unit))
        self.v = [b - a for a, b in ranges(m.V, 1, m.V, tp)] if vocab == "unpadded" else [up(m.V, 64 * tp) * 64] * tp
        self.f = [b - a for a, b in ranges(up(m.f, unit), unit, m.f, tp)]
        self.kinds = collections.Counter((storage_type(m, fmt, c, i, rows, cols), cut, rows, cols, n)
                                         for c, i, cut, rows, cols, n in m.tensors())
        if balanced and m.f % unit == 0:
            self.f = [unit] * tp                            # no rank is left without an FFN; then to the lightest
            weight = [self.bytes(r) for r in range(tp)]
            ffn = [self.ffn_bytes(n * unit) for n in range(m.f // unit + 2)]
            for _ in range(m.f // unit - tp):
                r = min(range(tp), key=lambda i: (weight[i], i))
                n = self.f[r] // unit
                weight[r] += ffn[n + 1] - ffn[n]
                self.f[r] += unit

    def shape(self, r, cut, rows, cols):
        h = self.m.h
        return {None: (rows, cols), "vocab": (self.v[r], cols), "q": (self.q[r] * h, cols), "kv": (self.kv[r] * h, cols),
                "q cols": (rows, self.q[r] * h), "q bias": (1, self.q[r] * h), "kv bias": (1, self.kv[r] * h),
                "ffn": (self.f[r], cols), "ffn cols": (rows, self.f[r])}[cut]

    def allocations(self, r):
        """(how many tensors, bytes of each)."""
        for (t, cut, rows, cols, n), times in self.kinds.items():
            for b in parts(t, *self.shape(r, cut, rows, cols), n):
                yield times, b

    def ffn_bytes(self, f):
        return sum(times * sum(parts(t, *((f, cols) if cut == "ffn" else (rows, f)), n))
                   for (t, cut, rows, cols, n), times in self.kinds.items() if cut in ("ffn", "ffn cols"))

    def bytes(self, r):
        return sum(times * b for times, b in self.allocations(r))

    def arena(self, r):
        return align(sum(times * align(b, 256) for times, b in self.allocations(r)), 2 << 20)

    def as_golden(self):
        ranks = range(self.tp)
        return {"arena": [self.arena(r) for r in ranks], "bytes": [self.bytes(r) for r in ranks], "ffn": self.f,
                "kv_heads": self.kv, "q_heads": self.q, "vocab": self.v}


def weights(m, fmt, tp, vocab, balanced=False):
    return Cut(m, fmt, tp, vocab, balanced).as_golden()


def total_bytes(m, fmt):
    return sum(sum(parts(storage_type(m, fmt, c, i, rows, cols), rows, cols, n)) for c, i, _, rows, cols, n in m.tensors())


def type_counts(m, fmt):
    out = {}
    for c, i, _, rows, cols, _ in m.tensors():
        t = storage_type(m, fmt, c, i, rows, cols)
        out[t] = out.get(t, 0) + 1
    return out


def kv_vector(dtype, h):
    """Bytes of a head's K (or V) of one token; None: blocks of 32 do not fit the head."""
    if dtype in ("q8_0", "q4_0"):
        return None if h % 32 else h // 32 * (34 if dtype == "q8_0" else 18)
    return {"f32": 4 * h, "f16": 2 * h, "bf16": 2 * h, "fp8": h, "int8_th": h + 4}[dtype]


def kv_seq_bytes(m, dtype, tokens, page, chunk, heads=None):
    heads = m.K if heads is None else heads
    per_page = page * 2 * heads * kv_vector(dtype, m.h)
    pages = up(tokens, page)
    window = up(m.W - 1 + chunk, page) + 1
    return sum((min(pages, window) if s else pages) * per_page for s in m.slides)


def activations(m, cut, r, T, S, act, res, comm, context=None):
    a = lambda n: align(n, 256)
    d, h, q, kv, f, v = m.d, m.h, cut.q[r], cut.kv[r], cut.f[r], cut.v[r]
    x = a(T * d * res)
    attn = a(T * d * act) + a(T * (q + 2 * kv) * h * act) + a(T * q * h * act) + a(T * d * comm)
    if m.E:
        k = m.k
        ffn = (a(T * d * act) + a(T * m.E * 4) + a(T * k * 8) + a(T * k * d * act) + a(T * k * 2 * f * act) + a(T * k * d * comm)
               + a(T * d * comm))
    else:
        ffn = a(T * d * act) + a(T * 2 * f * act) + a(T * d * comm)
    head = a(S * d * act) + a(S * v * 4) + a(S * m.V * 4)
    return {"residual": x, "attn": attn, "ffn": ffn, "head": head, "total": x + max(attn, ffn, head),
            "scores_if_naive": q * T * T * 4}


def capacity(m, cut, dtype, page, chunk, pool, classes):
    """`classes`: (n, tokens at p95, tokens at p99)."""
    block = [m.L * page * 2 * kv * kv_vector(dtype, m.h) for kv in cut.kv]
    need = [[sum(c[0] * kv_seq_bytes(m, dtype, c[q], page, chunk, kv) for c in classes) for q in (1, 2)] for kv in cut.kv]

    def longest(n, kv):
        """Whole pages, the last page of the model's context may be short."""
        best, lo, hi = 0, 0, up(m.ctx, page)
        while lo <= hi:
            mid = (lo + hi) // 2
            if n * kv_seq_bytes(m, dtype, mid * page, page, chunk, kv) <= pool:
                best, lo = mid, mid + 1
            else:
                hi = mid - 1
        return min(best * page, m.ctx)
    return [{"block_bytes": block[r], "kv_heads": kv, "max_context_1": longest(1, kv), "max_context_32": longest(32, kv),
             "need_p95": need[r][0], "need_p99": need[r][1]} for r, kv in enumerate(cut.kv)]


class Mismatch(Exception):
    pass


def check(golden):
    """Every value of the golden file; returns how many there were."""
    seen = 0

    def same(where, found, want):
        nonlocal seen
        seen += len(want) if isinstance(want, (list, dict)) else 1
        if found != want:
            raise Mismatch("%s: found %s, golden %s" % (where, found, want))

    for t, f in golden["formats"].items():
        same(t, list(BLOCK[t]), [f["block"], f["bytes"]])
    same("optimizers", OPTIMIZERS, golden["optimizer_bytes_per_param"])
    models = {}
    for name, g in golden["models"].items():
        m = models[name] = Model(g["config"])
        same(name, m.params(), g["params_by_class"])
        same(name, sum(m.params().values()), g["params"])
        same(name, m.active_params(), g["active_params"])
        same(name, {"full": m.slides.count(False), "sliding": m.slides.count(True)}, g["kv_layers"])
        for fmt in g["total_bytes"]:
            same((name, fmt), total_bytes(m, fmt), g["total_bytes"][fmt])
            same((name, fmt), type_counts(m, fmt), g["type_counts"][fmt])
            same((name, fmt), abs(total_bytes(m, fmt) * 8 / g["params"] - g["bits_per_weight"][fmt]) < 5.1e-5, True)
        for t, n in g["kv_bytes_per_token"].items():
            same((name, t), m.L * 2 * m.K * kv_vector(t, m.h), n)
        for n, want in g["kv_seq_bytes_f16_page16_chunk2048"].items():
            same((name, n), kv_seq_bytes(m, "f16", int(n), 16, 2048), want)
        for section in ("weights", "weights_balanced"):
            for key, want in g[section].items():
                fmt, tp, vocab = key.split("/")
                try:
                    found = Cut(m, fmt, int(tp[2:]), vocab, section == "weights_balanced")
                except DoesNotSplit:
                    same((name, section, key), True, "error" in want)
                    continue
                have = dict(found.as_golden(), kv_replicated=sum(found.kv) > m.K)
                for k, v in want.items():
                    same((name, section, key, k), have.get(k), v)
    for s in golden["activation_scenarios"]:
        m = models[s["model"]]
        c = Cut(m, s["fmt"], s["tp"], s["vocab"])
        for r, want in enumerate(s["ranks"]):
            same(s["model"], activations(m, c, r, s["T"], s["S"], s["act"], s["res"], s["act"]), want)
    for s in golden["capacity_scenarios"]:
        m = models[s["model"]]
        c = Cut(m, s["fmt"], s["tp"], "unpadded")
        classes = [(x["n"], sum(x["p95"]), sum(x["p99"])) for x in s["classes"]]
        same(s["model"], capacity(m, c, s["kv_dtype"], s["page"], s["chunk"], s["pool"], classes), s["ranks"])
    return seen


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        try:
            print("%d values as in %s" % (check(json.load(file)), sys.argv[1]))
        except Mismatch as e:
            sys.exit("plan_reference: %s" % e)
