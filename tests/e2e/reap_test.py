"""Whatever dies first, nothing that phalanxd started is there when it has ended: no process, and no zombie either.

usage: reap_test.py

This program is a subreaper that reaps nothing but what it started itself.  So a process that phalanxd neither ends nor
reaps comes here and stays, whatever process 1 of this machine does with those that come to it."""
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import job  # noqa: E402: marks its processes, so that what is left can be counted
from coldstart_test import stage  # noqa: E402
from job import NOT_SERVING, PROMPT, SERVING, TINY, Health, harness, named, processes, ranks_of, wait  # noqa: E402
from harness import Daemon, greedy, ids_of, make_set  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def stat(pid):
    """Name, state and parent; None: it is not there, not even as a zombie."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return name, rest.split()[0], int(rest.split()[1])


def in_proc(pids):
    return {p: stat(p) for p in pids if stat(p)}


def ours():
    """Children of this program, dead or alive: what was left to it."""
    return {p: x for p, x in in_proc(int(n) for n in os.listdir("/proc") if n.isdigit()).items() if x[2] == os.getpid()}


def no_trace(d, codes, started):
    """phalanxd ends with one of these codes, and right then nothing of `started` exists and nothing was left to its parent."""
    got = d.process.wait(20)
    left, here = in_proc(started), ours()
    try:
        assert got in codes, (got, "".join(d.log[-30:]))
        assert not left and not here, "still there: %s; left to phalanxd's parent: %s" % (left, here)
    finally:
        d.kill()
        for pid in here:                            # the next case shall not find them
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert not job.left(), job.left()


def victim_of(d, what):
    return named("mpirun")[0] if what == "mpirun" else ranks_of(d)[what]


def killed_while_serving(ranks, what, held):
    """kill -9 of mpirun or of a rank, another rank stopped or not: the old job is gone without a trace before the service
    is ready again, and the new one when it has ended."""
    d = Daemon(make_set(TINY, ranks))
    health = Health(d)
    health.wait([SERVING], 5)
    old = set(processes()) - {d.process.pid}
    watcher = set(named("phalanx-watch"))
    if held is not None:
        os.kill(ranks_of(d)[held], signal.SIGSTOP)
    os.kill(victim_of(d, what), signal.SIGKILL)
    health.wait([SERVING, NOT_SERVING, SERVING], 10)
    assert not in_proc(old - watcher), in_proc(old - watcher)
    assert not ours().keys() - {d.process.pid}, ours()
    ids_of(d.inference.Generate(greedy(PROMPT, 8), timeout=30))
    old |= set(processes()) - {d.process.pid}
    d.process.send_signal(signal.SIGTERM)
    no_trace(d, [0], old)


def killed_for_good(ranks, what):
    """The same where no restart is allowed: phalanxd itself ends."""
    d = Daemon(make_set(TINY, ranks), "--restart.max", "0")
    old = set(processes()) - {d.process.pid}
    os.kill(victim_of(d, what), signal.SIGKILL)
    no_trace(d, [3], old)


def killed_in_cold_start(step, what):
    """Rank 1 stands still in a step of the cold start; then mpirun, this rank or the other one is killed."""
    d = Daemon(make_set(TINY, 2), wait=False, build=stage("1 " + step))
    (stopped,) = wait(lambda: [p for p in named("phalanx-rank") if (stat(p) or "  ")[1] == "T"], 10, "rank 1 has stopped")
    (other,) = [p for p in named("phalanx-rank") if p != stopped]
    old = set(processes()) - {d.process.pid}
    os.kill({"mpirun": named("mpirun")[0], 1: stopped, 0: other}[what], signal.SIGKILL)
    no_trace(d, [3], old)


def killed_before_the_rank_asked(what):
    """A rank that dies with nobody, as one is before its first line, and has a child that is like it."""
    d = tempfile.mkdtemp(dir=harness._tmp)
    os.mkdir(os.path.join(d, "bin"))
    shutil.copy(job.PHALANXD, os.path.join(d, "bin"))
    rank = os.path.join(d, "bin", "phalanx-rank")
    with open(rank, "w") as f:
        f.write("#!/bin/sh\ntrap '' TERM HUP INT\nsleep 300 &\nexec sleep 301\n")
    os.chmod(rank, 0o755)
    served = Daemon(make_set(TINY, 2), wait=False, build=d)
    sleeps = wait(lambda: len(named("sleep")) == 4 and named("sleep"), 10, "two ranks with a child each")
    old = set(processes()) - {served.process.pid}
    (mpirun,) = named("mpirun")
    if what == "mpirun":
        os.kill(mpirun, signal.SIGKILL)
    else:                                           # rank and child: mpirun sees the one, and nobody the other
        os.kill([p for p in sleeps if stat(p)[2] == mpirun][0], signal.SIGKILL)
    no_trace(served, [3], old)


def ended_by_a_signal(step):
    """SIGTERM, while rank 1 stands still and mpirun was killed a moment ago: whichever phalanxd sees first."""
    d = Daemon(make_set(TINY, 2), wait=False, build=stage("1 " + step))
    wait(lambda: [p for p in named("phalanx-rank") if (stat(p) or "  ")[1] == "T"], 10, "rank 1 has stopped")
    old = set(processes()) - {d.process.pid}
    os.kill(d.process.pid, signal.SIGSTOP)
    os.kill(named("mpirun")[0], signal.SIGKILL)
    d.process.send_signal(signal.SIGTERM)
    os.kill(d.process.pid, signal.SIGCONT)
    no_trace(d, (0, 3), old)


def strangers_child():
    """What a shell had started before it became phalanxd is its child, too, but not its job's: it lives on, and nobody
    waits for it."""
    d = tempfile.mkdtemp(dir=harness._tmp)
    os.mkdir(os.path.join(d, "bin"))
    with open(os.path.join(d, "bin", "phalanxd"), "w") as f:
        f.write('#!/bin/sh\nsleep 300 &\nexec %s "$@"\n' % job.PHALANXD)
    os.chmod(f.name, 0o755)
    served = Daemon(make_set(TINY, 2), "--restart.max", "0", build=d)
    (stranger,) = named("sleep")
    assert stat(stranger)[2] == served.process.pid, stat(stranger)
    began = time.monotonic()
    os.kill(named("mpirun")[0], signal.SIGKILL)
    assert served.process.wait(20) == 3
    took = time.monotonic() - began
    try:
        assert ours().keys() == {stranger} and stat(stranger)[1] == "S", (ours(), stat(stranger))
        assert took < 4, took
    finally:
        os.kill(stranger, signal.SIGKILL)
        served.kill()
        os.waitpid(stranger, 0)
    return "ended after %.2f s" % took


def part_reap():
    for ranks in (2, 3):
        for held in (None, 0):
            yield killed_while_serving, ranks, "mpirun", held
            yield killed_while_serving, ranks, ranks - 1, held
        yield killed_for_good, ranks, "mpirun"
        yield killed_for_good, ranks, 0
    yield killed_while_serving, 1, 0, None
    for what in ("mpirun", 0, 1):
        yield killed_in_cold_start, "hello", what
        yield killed_in_cold_start, "warmup", what
    yield killed_before_the_rank_asked, "mpirun"
    yield killed_before_the_rank_asked, "rank"
    yield ended_by_a_signal, "map"
    yield strangers_child,


if __name__ == "__main__":
    sys.exit(job.main(globals()))
