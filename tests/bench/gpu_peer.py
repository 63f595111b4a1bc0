#!/usr/bin/env python3
"""Decode of an 8B model (Llama 3's shape, random weights) by PyTorch, beside cuda_bench's `decode` lines of the same run.

usage: gpu_peer.py [--tiny] [--device cuda] [--batch 1,16] [--context 2048] [--steps 48] [--eager]
       gpu_peer.py --rates          copies on the device, and one large product: the limits, by another hand

A stand-in for gpt-fast, written anew after the same recipe: bf16, fused projections, a cache of fixed size, attention by
scaled_dot_product_attention over all of it with a mask, layers compiled by torch.compile with tuned products (with one row they
become reductions), the whole step with its greedy choice replayed as one CUDA graph.  What is compiled must answer as what is not,
or nothing is printed.  Prints CSV as cuda_bench does: what,shape,microseconds,value,unit,percent (none)."""
import argparse
import sys
import time

import torch
import torch.nn.functional as F

LLAMA_8B = {"layers": 32, "d": 4096, "ff": 14336, "heads": 32, "kv": 8, "dim": 128, "vocab": 128256}
TINY = {"layers": 2, "d": 128, "ff": 256, "heads": 4, "kv": 2, "dim": 32, "vocab": 500}


class Layer(torch.nn.Module):
    def __init__(self, s, batch, length, device):
        super().__init__()
        self.s = s
        rows = (s["heads"] + 2 * s["kv"]) * s["dim"]
        like = {"dtype": torch.bfloat16, "device": device}
        for name, out, cols in (("qkv", rows, s["d"]), ("out", s["d"], s["heads"] * s["dim"]), ("up", 2 * s["ff"], s["d"]), ("down", s["d"], s["ff"])):
            setattr(self, name, torch.nn.Parameter(torch.randn(out, cols, **like) * cols ** -0.5, requires_grad=False))
        self.norms = torch.nn.Parameter(torch.ones(2, s["d"], **like), requires_grad=False)
        for name in ("k", "v"):
            self.register_buffer(name, torch.randn(batch, s["kv"], length, s["dim"], **like))

    def forward(self, x, cos, sin, pos, mask):
        s, batch = self.s, x.shape[0]
        q, k, v = F.linear(norm(x, self.norms[0]), self.qkv).view(batch, 1, -1, s["dim"]).transpose(1, 2).split([s["heads"], s["kv"], s["kv"]], dim=1)
        self.k[:, :, pos] = rope(k, cos, sin)
        self.v[:, :, pos] = v
        groups = rope(q, cos, sin).view(batch, s["kv"], -1, s["dim"])  # the heads on one of the cache's are its rows: nothing is repeated
        y = F.scaled_dot_product_attention(groups, self.k, self.v, attn_mask=mask)
        x = x + F.linear(y.reshape(batch, -1), self.out)
        gate, up = F.linear(norm(x, self.norms[1]), self.up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


def norm(x, w):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * w


def rope(x, cos, sin):
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Model:
    def __init__(self, s, batch, length, device):
        like = {"dtype": torch.bfloat16, "device": device}
        self.layers = [Layer(s, batch, length, device) for _ in range(s["layers"])]
        self.table, self.head = torch.randn(s["vocab"], s["d"], **like), torch.randn(s["vocab"], s["d"], **like) * s["d"] ** -0.5
        self.last = torch.ones(s["d"], **like)
        angle = torch.arange(length, device=device)[:, None] * 500000.0 ** (-torch.arange(0, s["dim"], 2, device=device) / s["dim"])
        self.cos, self.sin = angle.cos(), angle.sin()
        self.places = torch.arange(length, device=device)
        self.id = torch.ones(batch, dtype=torch.long, device=device)
        self.pos = torch.zeros(1, dtype=torch.long, device=device)
        self.run = [layer.forward for layer in self.layers]
        self.end = lambda x: F.linear(norm(x, self.last), self.head)

    def compile(self):
        torch._inductor.config.coordinate_descent_tuning = True        # what makes one row's products reductions
        torch._dynamo.config.cache_size_limit = 64
        self.run = [torch.compile(layer, fullgraph=True, dynamic=False) for layer in self.layers]       # compiled once: they are alike
        self.end = torch.compile(self.end, fullgraph=True, dynamic=False)

    def logits(self):
        x = self.table[self.id]
        cos, sin = self.cos[self.pos], self.sin[self.pos]
        mask = (self.places <= self.pos)[None, None, None, :]
        for layer in self.run:
            x = layer(x, cos, sin, self.pos, mask)
        return self.end(x)

    def step(self):
        self.id.copy_(self.logits().argmax(-1))
        self.pos.add_(1)


def measure(s, batch, args):
    cuda = args.device == "cuda"
    m = Model(s, batch, args.context + 64, args.device)
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    m.pos.fill_(args.context)
    want = m.logits().float()
    if not args.eager:
        m.compile()
        got = m.logits().float()
        off = ((got - want).norm() / want.norm()).item()
        if not off < 0.05:
            sys.exit(f"gpu_peer: compiled logits are off by {off:.3g} of their size")
    replay = m.step
    if cuda:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            m.step()
        wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            m.step()
        replay = graph.replay
    m.pos.fill_(args.context)
    times = []
    for _ in range(args.steps):
        wait()
        t = time.perf_counter()
        replay()
        m.id.tolist()                                                  # the answer is the host's, as cuda_bench's is
        times.append(time.perf_counter() - t)
    t = sorted(times)[len(times) // 2]
    print(f"peer decode,bf16 batch {batch} context {args.context},{t * 1e6:.2f},{batch / t:.2f},tokens/s,", flush=True)


def rates():
    def best(f):
        f()
        times = []
        for _ in range(5):
            torch.cuda.synchronize()
            t = time.perf_counter()
            f()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - t)
        return min(times)

    x, y = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    print(f"torch {torch.__version__}: copy {2e-9 * a.numel() / best(lambda: b.copy_(a)):.0f} GB/s, "
          f"bf16 8192^3 {2e-12 * 8192 ** 3 / best(lambda: x @ y):.0f} Tflop/s")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tiny", action="store_true")
    p.add_argument("--device", default="cuda")
    p.add_argument("--batch", default="1,16")
    p.add_argument("--context", type=int, default=2048)
    p.add_argument("--steps", type=int, default=48)
    p.add_argument("--eager", action="store_true", help="layers as they are, not compiled")
    p.add_argument("--rates", action="store_true")
    args = p.parse_args()
    if args.rates:
        rates()
        return
    print(f"# peer: torch {torch.__version__}, {'eager' if args.eager else 'compiled'}{', a graph' if args.device == 'cuda' else ''}", flush=True)
    with torch.no_grad():
        for batch in args.batch.split(","):
            measure(TINY if args.tiny else LLAMA_8B, int(batch), args)


if __name__ == "__main__":
    main()
