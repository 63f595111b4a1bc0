"""Programs with a plugin beside them, which a test tells what to do (says.h)."""
import json
import os
import shutil
import subprocess
import tempfile

from job import harness

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
