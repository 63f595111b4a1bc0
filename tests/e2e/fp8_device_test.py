"""fp8_activations over kernels/cuda compiled for the host: what serves with it, and who refuses it.

usage: fp8_device_test.py [fp8]"""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import job  # noqa: E402: marks its processes, so that what is left can be counted
from job import nothing_left  # noqa: E402
from harness import Daemon, make_set  # noqa: E402
from host_device_test import model, near, score, stage, to_the_byte  # noqa: E402

MODEL, VOCABULARY, PRODUCTS = "arch/llama", 321, 3 * 7           # of a pass: its layers' matrices; table and head are BF16
ROOM = ("--kv.tokens", "512", "--max_sequences", "80", "--token_budget", "80")
ON = ("--fp8_activations", "true")
W8A8 = (7, 0.2, 2)                                               # tests/shard/run_cuda_test.c
IDS = [i * 37 % VOCABULARY for i in range(80)]


def start(shard_set, *flags, sm=89):
    return [os.path.join(stage("-1 sm %d" % sm), "bin", "phalanxd"), "--set", shard_set, "--listen", "127.0.0.1:0", *ROOM, *flags]


def serves(ranks):
    """A step of 80 rows is near the one without; steps of up to 64 are the same; memory as planned, to the byte; a line tells of products."""
    rows = {}
    for flags in (), ON:
        d = Daemon(make_set(model(MODEL), ranks, "FP8"), "--device", "cuda", *ROOM, *flags, build=stage("-1 sm 89"))
        rows[flags] = score(d, IDS, VOCABULARY), score(d, IDS[:64], VOCABULARY), score(d, IDS[:5], VOCABULARY)
        to_the_byte(d, ranks)
        told = re.findall(r"level=info rank=\d host=\S+ event=fp8_activations products=(\d+) as_f16=(\d+)", "".join(d.log))
        assert told == [(str(PRODUCTS), "0")] * (ranks if flags else 0), told
        job.end_and_clean(d)
    assert rows[()][1:] == rows[ON][1:], "steps of few rows"
    assert rows[()][0] != rows[ON][0], "a step of 80 rows"
    return near(rows[ON][0], rows[()][0], W8A8)


def old_device(sm):
    """Every rank says so, with what it found."""
    p = subprocess.run(start(make_set(model(MODEL), 2, "FP8"), "--device", "cuda", *ON, sm=sm), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert p.returncode == 3 and "ready" not in p.stdout, (p.returncode, p.stderr)
    for rank in 0, 1:
        assert re.search(r"rank=%d host=\S+ event=coldstart_refused code=EUNSUP .*field=fp8_activations found=\"compute capability 8.%d\" expected=\"8.9 or more\""
                         % (rank, sm % 10), p.stderr), p.stderr
    assert "event=advice about=fp8_activations" in p.stderr, p.stderr
    nothing_left()


def excluded(found, *flags):
    """By the configuration alone: nothing is started."""
    p = subprocess.run(start(make_set(model(MODEL), 1, "FP8"), *ON, *flags), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert p.returncode == 2 and "fp8_activations" in p.stderr and found in p.stderr and "event=" not in p.stderr, (p.returncode, p.stderr)
    nothing_left()


def part_fp8():
    for ranks in 1, 2:
        yield serves, ranks
    for sm in 80, 86:
        yield old_device, sm
    yield excluded, "device: cpu"
    yield excluded, "deterministic: true", "--device", "cuda", "--deterministic", "true"


if __name__ == "__main__":
    sys.exit(job.main(globals()))
