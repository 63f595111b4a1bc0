#!/usr/bin/env python3
"""Decode speed of the default model: Phalanx with 2 ranks of 1 thread, and llama-cpp-python with 2 threads, in turn.

usage: peer_bench.py BIN_DIR SET_DIR MODEL.gguf [--rounds N] [--tokens N]

BIN_DIR holds phalanx, phalanxd and phalanx-rank; SET_DIR is a shard set of MODEL for 2 ranks.  The peer is measured if
this Python has the package llama_cpp (built with clang, as `CC=clang CXX=clang++ pip install llama-cpp-python`);
otherwise the line says that it is not installed.  Both decode greedily after the same prompt, end-of-sequence ignored;
the time is from the first new token to the last.  Prints CSV: what,round,tokens,seconds,tokens_per_s; then medians and
their ratio.  Machines are noisy: quote the ratio of one run."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

PROMPT = "Explain in a few paragraphs how rivers shape the land that they run through."


def machine():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown")
    here = os.path.dirname(os.path.abspath(__file__))
    commit = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f"# machine={model} cores={os.cpu_count()} commit={commit.stdout.strip() or 'unknown'}"


class Phalanx:
    def __init__(self, bins, shards):
        self.bins = bins
        self.daemon = subprocess.Popen(
            [os.path.join(bins, "phalanxd"), "--set", shards, "--listen", "127.0.0.1:0", "--threads", "1", "--log.level", "warn"],
            stdout=subprocess.PIPE, text=True)
        line = self.daemon.stdout.readline()
        if not line.startswith("ready address="):
            raise SystemExit(f"phalanxd is not ready: {line!r}")
        self.address = line.strip().split("=", 1)[1]

    def run(self, tokens):
        command = [os.path.join(self.bins, "phalanx"), "generate", PROMPT, "--address", self.address, "--temperature", "0",
                   "--ignore-eos", "--max-new-tokens", str(tokens)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        first = None
        while child.stdout.read1(65536):
            if first is None:
                first = time.perf_counter()
        end = time.perf_counter()
        if child.wait() or first is None:
            raise SystemExit("phalanx generate failed")
        return tokens - 1, end - first

    def close(self):
        self.daemon.terminate()
        self.daemon.wait(timeout=20)


class Peer:
    def __init__(self, model):
        from llama_cpp import Llama
        self.llama = Llama(model_path=model, n_threads=2, n_threads_batch=2, n_ctx=2048, verbose=False)
        self.ids = self.llama.tokenize(PROMPT.encode())

    def run(self, tokens):
        self.llama.reset()
        n, first = 0, None
        for _ in self.llama.generate(self.ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            if first is None:
                first = time.perf_counter()
            n += 1
            if n == tokens:
                break
        return n - 1, time.perf_counter() - first

    def close(self):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bins")
    parser.add_argument("shards")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    args = parser.parse_args()
    print(machine())
    print("what,round,tokens,seconds,tokens_per_s")
    makers = {"phalanx-2x1": lambda: Phalanx(args.bins, args.shards)}
    try:
        import llama_cpp
        makers[f"llama-cpp-python-{llama_cpp.__version__}-2t"] = lambda: Peer(args.model)
    except ImportError:
        print("# llama-cpp-python is not installed: no peer in this run")
    speeds = {name: [] for name in makers}
    # Each in its own turn, and alone on the cores: a peer's idle threads may spin.
    for turn in range(args.rounds):
        for name, make in makers.items():
            engine = make()
            try:
                engine.run(16)
                n, seconds = engine.run(args.tokens)
            finally:
                engine.close()
                del engine
            speeds[name].append(n / seconds)
            print(f"{name},{turn},{n},{seconds:.4f},{n / seconds:.1f}", flush=True)
    medians = {name: statistics.median(v) for name, v in speeds.items()}
    print("# medians " + json.dumps({k: round(v, 1) for k, v in medians.items()}))
    if len(medians) == 2:
        ours, theirs = medians.values()
        print(f"# ratio {ours / theirs:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
