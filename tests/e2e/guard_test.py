"""An allocation in a step is a failure, on whichever rank: a service whose ranks take a byte in every step."""
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import job  # noqa: E402
from job import harness, nothing_left  # noqa: E402

LEAKY = os.path.join(harness.BUILD, "tests", "daemon", "rank", "leaky_rank")
WRAPPER = """#!/bin/sh
if [ "${OMPI_COMM_WORLD_RANK:-0}" = %d ]; then exec %s "$@"; fi
exec %s "$@"
"""


def bites(ranks, bad):
    folder = tempfile.mkdtemp(dir=harness._tmp)
    shutil.copy(job.PHALANXD, folder)
    program = os.path.join(folder, "phalanx-rank")
    with open(program, "w") as f:
        f.write(WRAPPER % (bad, LEAKY, os.path.join(harness.BUILD, "bin", "phalanx-rank")))
    os.chmod(program, 0o755)
    os.makedirs(os.path.join(folder, "bin"))
    os.rename(os.path.join(folder, "phalanxd"), os.path.join(folder, "bin", "phalanxd"))
    os.rename(program, os.path.join(folder, "bin", "phalanx-rank"))
    d = harness.Daemon(_sets[ranks], "--restart.max", "0", build=folder)
    job.unavailable(d.inference.Generate(harness.greedy(job.PROMPT, 8), timeout=30))
    code = job.ended(d)
    log = "".join(d.log)
    assert code == 3, (code, log)
    assert any("rank=%d" % bad in l and "field=guard" in l and "leaky" in l for l in log.splitlines()), log
    nothing_left()


_sets = {n: harness.make_set(job.TINY, n) for n in (1, 2)}
for args in ((1, 0), (2, 0), (2, 1)):
    bites(*args)
    print("ok   %d ranks, rank %d allocates: the step fails and says who" % args, flush=True)
shutil.rmtree(job.RUNTIME, ignore_errors=True)
