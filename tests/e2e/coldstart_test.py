"""The cold start's steps: what GetServerInfo and the log say of them, and a rank that goes wrong in each.

usage: coldstart_test.py [part...]   (faults info; all by default)

faulty_rank.c is phalanx-rank with one fault, which stands in a file beside it."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import job  # noqa: E402: marks its processes, so that what is left can be counted
from job import PROMPT, TINY, Health, NOT_SERVING, SERVING, harness, nothing_left, unavailable  # noqa: E402
from harness import Daemon, greedy, ids_of, make_set  # noqa: E402

STEPS = ["parse", "manifest", "plan", "spawn", "hello", "compare", "agree", "map", "mpi", "carve", "warmup", "ready"]


def stage(fault):
    """A folder with phalanxd in bin, and the faulty rank in the place of phalanx-rank."""
    d = tempfile.mkdtemp(dir=harness._tmp)
    os.mkdir(os.path.join(d, "bin"))
    shutil.copy(job.PHALANXD, os.path.join(d, "bin"))
    shutil.copy(os.environ["PHALANX_FAULTY_RANK"], os.path.join(d, "bin", "phalanx-rank"))
    choose(d, fault)
    return d


def choose(d, fault):
    with open(os.path.join(d, "bin", "phalanx-rank.fault"), "w") as f:
        f.write(fault + "\n")


def start(d, *flags):
    began = time.monotonic()
    p = subprocess.run([os.path.join(d, "bin", "phalanxd"), "--set", make_set(TINY, 2), "--listen", "127.0.0.1:0"] + list(flags),
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return p, time.monotonic() - began


def stopped_in(step, rank):
    """A rank that stops (SIGSTOP) is a refusal with the step's name and that rank at the step's deadline."""
    p, took = start(stage("%d %s" % (rank, step)), "--hello_s", "2", "--coldstart_s", "2")
    assert p.returncode == 3, (p.returncode, p.stderr)
    assert "ready" not in p.stdout
    refused = [line for line in p.stderr.splitlines() if "event=coldstart_refused" in line]
    field = "hello" if step == "hello" else "deadline"
    assert any("rank=%d " % rank in x and "ETIMEOUT" in x and "field=" + field in x and step in x for x in refused), p.stderr
    (line,) = [x for x in p.stderr.splitlines() if "event=coldstart step=%s " % step in x]
    assert "code=ETIMEOUT" in line and "limit_us=2000000 " in line, line
    assert took < 8, took
    nothing_left()
    return "refused after %.2f s" % took


def wrong_sum(rank):
    """One rank's share of a sum is wrong: the self-test of the warm-up refuses the start."""
    p, took = start(stage("%d sum" % rank))
    assert p.returncode == 3, (p.returncode, p.stderr)
    refused = [line for line in p.stderr.splitlines() if "event=coldstart_refused" in line]
    assert any("ECORRUPT" in x and "field=selftest" in x and "found=" in x and "expected=" in x for x in refused), p.stderr
    assert "event=advice about=selftest" in p.stderr, p.stderr
    (line,) = [x for x in p.stderr.splitlines() if "event=coldstart step=warmup " in x]
    assert "code=ECORRUPT" in line, line
    nothing_left()
    return "refused after %.2f s" % took


def stopped_while_serving(rank, ranks, transport):
    """A rank that stops in the middle of a stream: found at step_s, restarted, and the same call gives the same tokens."""
    d = stage("-1 none")
    prompt, n = PROMPT, 60
    shard_set = make_set(TINY, ranks)
    whole = Daemon(shard_set, "--transport", transport, build=d)
    expected, _ = ids_of(whole.inference.Generate(greedy(prompt, n), timeout=30))
    job.end_and_clean(whole)
    choose(d, "%d serve" % rank)
    served = Daemon(shard_set, "--transport", transport, "--step_s", "1", build=d)
    health = Health(served)
    health.wait([SERVING], 5)
    began = time.monotonic()
    why = unavailable(served.inference.Generate(greedy(prompt, n), timeout=30))
    found = time.monotonic() - began
    health.wait([SERVING, NOT_SERVING, SERVING], 10)
    again = time.monotonic() - began
    log = "".join(served.log)
    assert "event=job_lost" in log and "field=step" in log and "ETIMEOUT" in log, log
    assert 1 <= found < 8, found
    ids, _ = ids_of(served.inference.Generate(greedy(prompt, n), timeout=30))
    assert ids == expected, (ids, expected)
    assert served.info().generation == 2
    job.end_and_clean(served)
    return "found after %.2f s (%s), ready again after %.2f s" % (found, why, again)


def part_faults():
    for step in ("hello", "map", "mpi", "carve", "warmup"):
        for rank in (0, 1):
            yield stopped_in, step, rank
    yield wrong_sum, 0
    yield wrong_sum, 1
    for rank in (0, 1):
        yield stopped_while_serving, rank, 2, "shm"
    yield stopped_while_serving, 1, 2, "mpi"
    yield stopped_while_serving, 0, 1, "auto"


def check_steps(steps):
    assert [s.name for s in steps] == STEPS, steps
    for s in steps:
        assert s.state == "done" and s.percent == 100, s
        assert s.duration_us < s.deadline_us, s


def steps_when_ready():
    """Every step in its order with its deadline, in GetServerInfo, in the log and in phalanx info."""
    d = Daemon(make_set(TINY, 2), "--hello_s", "7")
    check_steps(d.info().cold_start)
    limit = {s.name: s.deadline_us for s in d.info().cold_start}
    assert limit["hello"] == 7000000 and limit["map"] == 600000000, limit
    logged = re.findall(r"event=coldstart step=(\w+) code=OK us=(\d+) limit_us=(\d+) percent=100 ", "".join(d.log))
    assert [x[0] for x in logged] == STEPS, logged
    assert {x[0]: int(x[2]) for x in logged} == limit, (logged, limit)
    text = subprocess.run([os.path.join(harness.BUILD, "bin", "phalanx"), "info", "--address", d.address], check=True,
                          capture_output=True, text=True, timeout=30).stdout
    for s in STEPS:
        (line,) = re.findall(r"^  %s +done +100 %% +[0-9.]+ ms.*$" % s, text, re.M)
        assert "of " in line, line
    job.end_and_clean(d)


def step_that_runs():
    """While a step waits its state, deadline and progress can be asked; a rank that has done its half counts half."""
    d = stage("1 map")
    served = Daemon(make_set(TINY, 2), "--coldstart_s", "4", wait=False, build=d)

    def half():
        steps = {s.name: s for s in served.info().cold_start}
        return steps if steps["map"].percent == 50 else None
    steps = job.wait(half, 4, "map is at 50 %")
    assert steps["map"].state == "running" and steps["map"].deadline_us == 4000000, steps["map"]
    assert steps["hello"].state == "done" and steps["hello"].percent == 100, steps["hello"]
    assert steps["warmup"].state == "waiting" and steps["warmup"].percent == 0, steps["warmup"]
    time.sleep(0.2)
    more = {s.name: s for s in served.info().cold_start}["map"]
    assert more.duration_us >= steps["map"].duration_us + 100000, (more, steps["map"])
    assert job.ended(served) == 3
    nothing_left()


def part_info():
    yield steps_when_ready,
    yield step_that_runs,


if __name__ == "__main__":
    sys.exit(job.main(globals()))
