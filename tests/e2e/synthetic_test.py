"""phalanx shard --synthetic: sets of real shapes without weights, from a laptop's 70B to one that serves."""
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import job  # noqa: E402
from job import end_and_clean, harness  # noqa: E402
from refused import ANY, check_refused, serve  # noqa: E402

PHALANX = os.path.join(harness.BUILD, "bin", "phalanx")


def phalanx(*args, code=0):
    p = subprocess.run([PHALANX] + list(args), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert p.returncode == code, (args, p.returncode, p.stdout, p.stderr)
    return p.stdout + p.stderr


def make(name, ranks, *flags):
    out = os.path.join(harness._tmp, "-".join((name, str(ranks)) + flags).replace("-", "_"))
    phalanx("shard", "--synthetic", name, "--ranks", str(ranks), "--out", out, *flags)
    return out


def on_disk(folder):
    return sum(os.stat(os.path.join(folder, n)).st_blocks * 512 for n in os.listdir(folder))


def seventy_billion():
    """Planned, verified at header depth, and cold-started up to the memory check, within a megabyte or two of disk."""
    began = time.monotonic()
    s = make("llama-2-70b", 8, "--sparse", "--format", "BF16")
    took = time.monotonic() - began
    with open(os.path.join(s, "manifest.json")) as f:
        stored = json.load(f)["stored_bytes"]
    assert stored > 137e9, stored
    assert on_disk(s) < 16 << 20, on_disk(s)
    phalanx("verify", s, "--depth", "header")
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 130e9:
        check_refused(serve(s, "--hello_s", "30"), "ERANGE", ANY, "memory")
    return "made in %.2f s: %.0f GB in %d KiB" % (took, stored / 1e9, on_disk(s) >> 10)


def zeros_are_valid():
    s = make("smollm2-135m", 2, "--sparse")
    assert "ok:" in phalanx("verify", s)
    assert on_disk(s) < 4 << 20


def random_weights_serve():
    """The same numbers each time, and finite."""
    s, again = make("smollm2-135m", 2), make("smollm2-135m", 2, "--digest", "xxh3")
    assert "ok:" in phalanx("verify", s)
    with open(os.path.join(s, "manifest.json")) as f, open(os.path.join(again, "manifest.json")) as g:
        assert f.read() == g.read()
    d = harness.Daemon(s, "--kv.tokens", "1024")
    a, _ = harness.ids_of(d.inference.Generate(harness.greedy([1, 50, 600, 7000], 8), timeout=120))
    b, _ = harness.ids_of(d.inference.Generate(harness.greedy([1, 50, 600, 7000], 8), timeout=120))
    assert len(a) == 8 and a == b, (a, b)               # a number that is not finite would end the stream
    end_and_clean(d)


def usage():
    phalanx("shard", "--ranks", "2", "--out", "/nowhere/x", code=2)
    phalanx("shard", "m.gguf", "--synthetic", "smollm2-135m", "--ranks", "2", "--out", "/nowhere/x", code=2)
    phalanx("shard", "m.gguf", "--sparse", "--ranks", "2", "--out", "/nowhere/x", code=2)
    assert "nearest is llama-2-7" in phalanx("shard", "--synthetic", "llama-2-70", "--ranks", "2", "--out",
                                    os.path.join(harness._tmp, "none"), code=3)


def part_all():
    for part in (seventy_billion, zeros_are_valid, random_weights_serve, usage):
        yield part,


if __name__ == "__main__":
    sys.exit(job.main(globals()))
