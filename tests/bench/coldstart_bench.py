"""How long phalanxd takes from its start to ready, by step, with the shards in the page cache.

usage: coldstart_bench.py [--build DIR] [--model FILE] [--ranks 1,2,3] [--runs N] [-- FLAG...]

Prints CSV: ranks, step, and the least, the median and the most milliseconds of N runs; the steps as the coordinator logs
them, and "wall", from the process's start to its ready line.  A first run, not counted, reads the shards.  FLAGs go to
phalanxd."""
import argparse
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(os.path.dirname(ROOT), "shared", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")


def one_start(build, shard_set, flags):
    """{step: ms}; the daemon has ended when this returns."""
    with tempfile.TemporaryFile("w+") as log:
        began = time.monotonic()
        p = subprocess.Popen([os.path.join(build, "bin", "phalanxd"), "--set", shard_set, "--listen", "127.0.0.1:0"] + flags,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            line = p.stdout.readline()
            wall = time.monotonic() - began
        finally:
            p.send_signal(signal.SIGTERM)
            try:
                p.wait(30)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
            p.stdout.close()
        log.seek(0)
        text = log.read()
    if not line.startswith("ready "):
        sys.exit("phalanxd was not ready:\n" + text)
    steps = {m.group(1): int(m.group(2)) / 1e3
             for m in re.finditer(r"event=coldstart step=(\w+) code=OK us=(\d+)", text)}
    steps["wall"] = wall * 1e3
    return steps


def commit():
    p = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return p.stdout.strip() or "unknown"


def processor():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return "%d x %s" % (os.cpu_count(), names[0] if names else platform.machine())


def main():
    a = argparse.ArgumentParser(usage=__doc__.split("\n")[2][7:])
    a.add_argument("--build", default=os.path.join(ROOT, "build"))
    a.add_argument("--model", default=MODEL)
    a.add_argument("--ranks", default="1,2,3")
    a.add_argument("--runs", type=int, default=10)
    a.add_argument("flags", nargs="*")
    o = a.parse_args()
    print("# %s, commit %s, %s, %d runs, load %.2f at the beginning"
          % (processor(), commit(), os.path.basename(o.model), o.runs, os.getloadavg()[0]))
    print("ranks,step,min_ms,median_ms,max_ms")
    with tempfile.TemporaryDirectory(prefix="phalanx-bench-") as tmp:
        for ranks in (int(n) for n in o.ranks.split(",")):
            shard_set = os.path.join(tmp, "%d" % ranks)
            subprocess.run([os.path.join(o.build, "bin", "phalanx"), "shard", o.model, "--ranks", str(ranks),
                            "--out", shard_set], check=True, stdout=subprocess.DEVNULL)
            one_start(o.build, shard_set, o.flags)
            runs = [one_start(o.build, shard_set, o.flags) for _ in range(o.runs)]
            for step in runs[0]:
                v = [r[step] for r in runs]
                print("%d,%s,%.1f,%.1f,%.1f" % (ranks, step, min(v), statistics.median(v), max(v)), flush=True)


main()
