"""Programs with a plugin beside them, which a test tells what to do (says.h)."""
import json
import os
import shutil
import subprocess
import tempfile
import time

from job import NOT_SERVING, PROMPT, SERVING, Health, harness, unavailable
from harness import greedy

CONTEXT = 300 << 20                                # bytes that every plugin says "the driver" takes


def stage(plugin, says=()):
    """A build of its own: the programs, and beside them the plugin; None: none."""
    d = tempfile.mkdtemp(dir=harness._tmp)
    os.makedirs(os.path.join(d, "bin"))
    for name in ("phalanxd", "phalanx-rank", "phalanx"):
        shutil.copy(os.path.join(harness.BUILD, "bin", name), os.path.join(d, "bin"))
    if plugin:
        shutil.copy(plugin, os.path.join(d, "bin", "libphalanx-cuda.so"))
    tell(d, says)
    return d


def tell(d, says):
    tell_of(os.path.join(d, "bin", "libphalanx-cuda.so"), says)


def tell_of(library, says):
    path = library + ".says"
    with open(path + ".new", "w") as f:
        f.write("".join(line + "\n" for line in says))
    os.rename(path + ".new", path)


def compared(d):
    """The plan beside what the ranks of a daemon measured."""
    p = subprocess.run([os.path.join(harness.BUILD, "bin", "phalanx"), "plan", "--compare", d.address, "--json"],
                       capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, (p.stdout, p.stderr)
    return json.loads(p.stdout)


def lost_and_back(d, begin, end, seconds=30):
    """A stream meets the fault that `begin` causes and ends, `end` takes the fault back, and within `seconds` the service has
    started again.  Answers how long it took until the stream ended, and what was logged."""
    health = Health(d)
    health.wait([SERVING], 5)
    begin()
    began = time.monotonic()
    unavailable(d.inference.Generate(greedy(PROMPT, 24), timeout=60))
    found = time.monotonic() - began
    end()
    health.wait([SERVING, NOT_SERVING, SERVING], seconds)
    return found, "".join(d.log)
