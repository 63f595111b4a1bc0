"""The life of a job: kill -9 of every process, restarts, refusals at the start, the end by a signal, and idling.

usage: lifecycle_test.py [part...]   (kill restart refuse signals idle; all by default)"""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import job  # noqa: E402: marks its processes, so that what is left can be counted
from job import (NOT_SERVING, PHALANXD, PROMPT, RUNTIME, SEGMENTS_BEFORE, SERVING, TINY, Health, alive, end_and_clean, ended,  # noqa: E402
                 harness, named, nothing_left, processes, ranks_of, segments, shard, unavailable, wait)
from harness import Daemon, greedy, grpc, ids_of, make_set, pb  # noqa: E402


# ---- kill -9 ----

def kill_rank(ranks, victim, stopped, transport):
    """kill -9 of a rank, with another one stopped or not: clean, and ready again by itself with the same tokens."""
    d = Daemon(make_set(TINY, ranks), "--transport", transport)
    before, _ = ids_of(d.inference.Generate(greedy(PROMPT, 40), timeout=30))
    pids = ranks_of(d)
    job = set(pids) | set(named("mpirun"))
    folder = [n for n in os.listdir(os.path.join(RUNTIME, os.listdir(RUNTIME)[0])) if n.startswith("j")]
    health = Health(d)
    health.wait([SERVING], 5)
    # A rank that stands still holds the step, so that a stream is certainly in its middle.
    held = pids[stopped] if stopped is not None else pids[victim]
    os.kill(held, signal.SIGSTOP)
    stream = d.inference.Generate(greedy(PROMPT, 200), timeout=30)
    wait(lambda: d.info().running == 1, 5, "the request runs")
    began = time.monotonic()
    os.kill(pids[victim], signal.SIGKILL)
    unavailable(stream)
    health.wait([SERVING, NOT_SERVING, SERVING], 10)
    again = time.monotonic() - began
    wait(lambda: not any(alive(p) for p in job), 5 - again, "the old job is gone")
    inside = os.listdir(os.path.join(RUNTIME, os.listdir(RUNTIME)[0]))
    assert not set(folder) & set(inside), "the old job's folder is there: %s" % inside
    assert not segments() - SEGMENTS_BEFORE or ranks > 1, segments()
    assert d.info().generation == 2
    after, _ = ids_of(d.inference.Generate(greedy(PROMPT, 40), timeout=30))
    assert after == before, (after, before)
    end_and_clean(d)
    return "ready again after %.2f s" % again


def kill_launcher(ranks, stopped):
    """kill -9 of mpirun: the same."""
    d = Daemon(make_set(TINY, ranks))
    before, _ = ids_of(d.inference.Generate(greedy(PROMPT, 40), timeout=30))
    pids, (mpirun,) = ranks_of(d), named("mpirun")
    health = Health(d)
    health.wait([SERVING], 5)
    if stopped is not None:
        os.kill(pids[stopped], signal.SIGSTOP)
    began = time.monotonic()
    os.kill(mpirun, signal.SIGKILL)
    health.wait([SERVING, NOT_SERVING, SERVING], 10)
    again = time.monotonic() - began
    wait(lambda: not any(alive(p) for p in pids + [mpirun]), 5 - again, "the old job is gone")
    after, _ = ids_of(d.inference.Generate(greedy(PROMPT, 40), timeout=30))
    assert after == before, (after, before)
    end_and_clean(d)
    return "ready again after %.2f s" % again


def kill_coordinator(ranks, stopped, busy=False, transport="auto"):
    """kill -9 of phalanxd: everything goes with it."""
    d = Daemon(make_set(TINY, ranks), "--transport", transport)
    pids = ranks_of(d)
    if stopped is not None:
        os.kill(pids[stopped], signal.SIGSTOP)
    if busy:
        d.inference.Generate(greedy(PROMPT, 200), timeout=30)
        time.sleep(0.1)
    d.process.kill()
    d.process.wait(5)
    took = nothing_left()
    d.kill()
    return "clean after %.2f s" % took


def kill_in_cold_start(ranks, what):
    """kill -9 while the job is not ready yet: of the coordinator nothing is left; a rank's death at the first start is
    a refusal."""
    d = Daemon(make_set(TINY, ranks), wait=False)
    wait(lambda: named("phalanx-rank") or d.process.poll() is not None, 10, "a rank is there")
    if what == "coordinator":
        d.process.kill()
        d.process.wait(5)
    else:
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(named("phalanx-rank")[0], signal.SIGKILL)
        try:
            code = d.process.wait(6)
            assert code == 3, code
        except subprocess.TimeoutExpired:           # it was ready just before: then this was a restart
            assert d.stop() == 0
    took = nothing_left()
    d.kill()
    return "clean after %.2f s" % took


def part_kill():
    for ranks in (2, 3):
        for victim in range(ranks):
            for stopped in [None] + [r for r in range(ranks) if r != victim]:
                yield kill_rank, ranks, victim, stopped, "shm"
        yield kill_rank, ranks, ranks - 1, None, "mpi"
        yield kill_rank, ranks, 0, 1, "mpi"
        for stopped in (None, 0, ranks - 1):
            yield kill_launcher, ranks, stopped
            yield kill_coordinator, ranks, stopped
        yield kill_coordinator, ranks, None, True
        yield kill_coordinator, ranks, ranks - 1, True
        yield kill_coordinator, ranks, 0, True, "mpi"
        yield kill_in_cold_start, ranks, "coordinator"
        yield kill_in_cold_start, ranks, "rank"
    yield kill_rank, 1, 0, None, "auto"
    yield kill_coordinator, 1, None
    yield kill_coordinator, 1, 0


# ---- restarts ----

def restarts_used_up():
    """More deaths than restart.max: NOT_SERVING, exit code 3, nothing left."""
    d = Daemon(make_set(TINY, 2), "--restart.max", "2", "--restart.window_s", "60")
    health = Health(d)
    health.wait([SERVING], 5)
    for n in range(2):
        os.kill(ranks_of(d)[n], signal.SIGKILL)
        health.wait([SERVING] + [NOT_SERVING, SERVING] * (n + 1), 10)
    os.kill(ranks_of(d)[0], signal.SIGKILL)
    code = ended(d)
    assert code == 3, code
    assert "restart.max" in "".join(d.log[-5:]), "".join(d.log[-5:])
    assert health.seen[-1] == NOT_SERVING, health.seen
    nothing_left()


def restart_forbidden():
    d = Daemon(make_set(TINY, 2), "--restart.max", "0")
    os.kill(ranks_of(d)[1], signal.SIGKILL)
    assert ended(d) == 3
    nothing_left()


def truncated_under_service(ranks, policy=None):
    """A shard that is cut off while it is mapped: the file is named, the streams end, exit code 3."""
    shard_set = fresh(ranks)
    d = Daemon(shard_set)
    health = Health(d)
    health.wait([SERVING], 5)
    victim = shard(shard_set, ranks - 1)
    os.truncate(victim, 4096)
    stream = d.inference.Generate(greedy(PROMPT, 200), timeout=30)
    try:
        list(stream)
        raise AssertionError("a stream ended well on a shard that is gone")
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNAVAILABLE, e
    code = ended(d)
    log = "".join(d.log)
    assert code == 3, (code, log)
    assert victim in log and "truncated" in log, log
    assert health.seen[-1] == NOT_SERVING, health.seen
    nothing_left()


def changed_between_restarts():
    """A set that was spoilt while it was served: the restart refuses it for good."""
    shard_set = fresh(2)
    d = Daemon(shard_set, "--verify", "full")
    path = shard(shard_set, 1)
    os.rename(path, path + ".away")
    os.kill(ranks_of(d)[0], signal.SIGKILL)
    assert ended(d) == 3
    assert path in "".join(d.log)
    nothing_left()


def part_restart():
    yield restarts_used_up,
    yield restart_forbidden,
    yield truncated_under_service, 1
    yield truncated_under_service, 2
    yield truncated_under_service, 3
    yield changed_between_restarts,


# ---- refusals at the start ----

def fresh(ranks, model=TINY):
    """A copy of a set that may be spoilt."""
    out = os.path.join(tempfile.mkdtemp(dir=harness._tmp), "set")
    shutil.copytree(make_set(model, ranks), out)
    return out


def refused(args, code=3, **expect):
    """phalanxd ends with this code, says each of these (a list of texts that stand in one line each), leaves nothing."""
    p = subprocess.run([PHALANXD, "--listen", "127.0.0.1:0"] + args, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=60)
    assert p.returncode == code, (p.returncode, p.stderr)
    assert "ready" not in p.stdout
    for texts in expect["lines"]:
        assert any(all(t in line for t in texts) for line in p.stderr.splitlines()), (texts, p.stderr)
    nothing_left(2)
    return p.stderr


def missing_shard():
    s = fresh(3)
    os.unlink(shard(s, 1))
    refused(["--set", s], lines=[["coldstart_refused", "rank=1", "ENOTFOUND", "rank-001-of-003"]])


def swapped_shards():
    s = fresh(3)
    a, b = shard(s, 1), shard(s, 2)
    os.rename(a, s + "/x"), os.rename(b, a), os.rename(s + "/x", b)
    refused(["--set", s], lines=[["coldstart_refused", a, "field=rank", "found=2", "expected=1"],
                                 ["coldstart_refused", b, "field=rank", "found=1", "expected=2"]])


def all_mismatches_at_once():
    """Every rank's every mismatch is listed, not only the first."""
    s = fresh(3)
    os.truncate(shard(s, 0), os.path.getsize(shard(s, 0)) - 64)
    os.unlink(shard(s, 1))
    shutil.copy(shard(make_set(TINY, 2), 1), shard(s, 2))
    refused(["--set", s], lines=[["coldstart_refused", "rank=0", "field=bytes"],
                                 ["coldstart_refused", "rank=1", "ENOTFOUND"],
                                 ["coldstart_refused", "rank=2", "field=world", "found=2", "expected=3"],
                                 ["coldstart_refused", "rank=2", "field=rank", "found=1", "expected=2"],
                                 ["coldstart_refused", "rank=2", "field=plan"]])


def other_rank_count():
    refused(["--set", make_set(TINY, 3), "--ranks", "2"],
            lines=[["coldstart_refused", "field=ranks", "found=3", "expected=2"]])


def other_revision():
    """A shard of the same model and split, made from other weights."""
    s, model = fresh(2), os.path.join(tempfile.mkdtemp(dir=harness._tmp), "model.gguf")
    shutil.copy(TINY, model)
    with open(model, "r+b") as f:
        f.seek(-4097, os.SEEK_END)
        byte = f.read(1)
        f.seek(-4097, os.SEEK_END)
        f.write(bytes([byte[0] ^ 1]))
    out = os.path.join(os.path.dirname(model), "other")
    subprocess.run([os.path.join(harness.BUILD, "bin", "phalanx"), "shard", model, "--ranks", "2", "--out", out], check=True,
                   timeout=60, stdout=subprocess.DEVNULL)
    shutil.copy(shard(out, 0), shard(s, 0))
    refused(["--set", s], lines=[["coldstart_refused", shard(s, 0), "rank=0", "found=", "expected="]])


def truncated_shard():
    s = fresh(2)
    os.truncate(shard(s, 1), os.path.getsize(shard(s, 1)) // 2)
    refused(["--set", s], lines=[["coldstart_refused", shard(s, 1), "field=bytes"]])


def flipped_bit():
    s = fresh(2)
    with open(shard(s, 1), "r+b") as f:
        f.seek(-5000, os.SEEK_END)
        byte = f.read(1)
        f.seek(-5000, os.SEEK_END)
        f.write(bytes([byte[0] ^ 4]))
    refused(["--set", s, "--verify", "full"], lines=[["coldstart_refused", shard(s, 1), "ECORRUPT", "rank=1", "field=blk."]])


def damaged_manifest():
    s = fresh(2)
    path = os.path.join(s, "manifest.json")
    with open(path) as f:
        text = f.read()
    with open(path, "w") as f:
        f.write(text[:len(text) // 2])
    refused(["--set", s], lines=[["coldstart_refused", "manifest.json"]])


def not_a_set():
    d = tempfile.mkdtemp(dir=harness._tmp)
    refused(["--set", d], lines=[["coldstart_refused", "manifest.json"]])
    refused(["--set", os.path.join(d, "nowhere")], lines=[["nowhere"]])


def mistyped_key():
    path = os.path.join(tempfile.mkdtemp(dir=harness._tmp), "c.yaml")
    with open(path, "w") as f:
        f.write("set: %s\nkv.tokenz: 5\nthreads: many\nqueue: 1\nqueue: 2\n" % make_set(TINY, 2))
    err = refused(["-c", path], code=2, lines=[["c.yaml:2:1", "kv.tokenz", "kv.tokens"], ["c.yaml:3", "threads"],
                                               ["c.yaml:5", "queue"]])
    assert len(err.splitlines()) == 3, err
    refused(["--set", make_set(TINY, 2), "--kv.tokenz", "5"], code=2, lines=[["kv.tokenz", "kv.tokens"]])


def port_in_use():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(1)
        refused(["--set", make_set(TINY, 2), "--listen", "127.0.0.1:%d" % s.getsockname()[1]],
                lines=[["listen", "%d" % s.getsockname()[1]]])


def no_launcher():
    """The file that cannot be started is named."""
    path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
    try:
        refused(["--set", make_set(TINY, 2)], lines=[("code=ENOTFOUND", "file=mpirun", "field=launcher", "cannot be started")])
    finally:
        os.environ["PATH"] = path


def open_address():
    refused(["--set", make_set(TINY, 2), "--listen", "0.0.0.0:0"], code=2, lines=[["listen", "insecure"]])


def part_refuse():
    for f in (missing_shard, swapped_shards, all_mismatches_at_once, other_rank_count, other_revision, truncated_shard,
              flipped_bit, damaged_manifest, not_a_set, mistyped_key, port_in_use, no_launcher, open_address):
        yield f,


# ---- signals ----

def signal_in_cold_start(ranks, delay):
    """SIGTERM at any moment of the cold start: exit code 0, nothing left."""
    p = subprocess.Popen([PHALANXD, "--listen", "127.0.0.1:0", "--set", make_set(TINY, ranks)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait(lambda: p.poll() is not None or p.stderr.readable() and named("phalanx-watch"), 5, "it handles signals")
    time.sleep(delay)
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=15)
    # Before the handler is there the signal ends it as any program.
    assert p.returncode in (0, -signal.SIGTERM), (p.returncode, err)
    nothing_left(5)
    return "exit %d%s" % (p.returncode, ", was ready" if "ready" in out else "")


def signal_while_streaming(sig, grace, finishes):
    """Running streams get grace_s, new calls are refused as retryable, the exit code is 0."""
    d = Daemon(make_set(TINY, 2), "--grace_s", str(grace))
    health = Health(d)
    health.wait([SERVING], 5)
    pids = ranks_of(d)
    os.kill(pids[1], signal.SIGSTOP)
    stream = d.inference.Generate(greedy(PROMPT, 60), timeout=60)
    wait(lambda: d.info().running == 1, 5, "the request runs")
    began = time.monotonic()
    d.process.send_signal(sig)
    if finishes:
        health.wait([SERVING, NOT_SERVING], 5)
        unavailable(d.inference.Generate(greedy(PROMPT, 4), timeout=10))
        os.kill(pids[1], signal.SIGCONT)
        ids, messages = ids_of(stream)
        assert len(ids) == 60 and messages[-1].outputs[0].finish_info.finish_reason == pb.LENGTH
    else:
        # The step never ends: after the grace time the stream is ended, and so is the job.
        unavailable(stream)
    code = ended(d, grace + 10)
    assert code == 0, (code, "".join(d.log[-20:]))
    took = time.monotonic() - began
    assert took < grace + 6, took
    nothing_left()
    return "after %.2f s" % took


def signal_when_idle(sig):
    d = Daemon(make_set(TINY, 2))
    began = time.monotonic()
    d.process.send_signal(sig)
    assert ended(d) == 0
    took = time.monotonic() - began
    assert took < 5, took
    nothing_left(2)
    return "after %.2f s" % took


def part_signals():
    for ranks in (1, 2):
        for delay in (0, 0.02, 0.05, 0.1, 0.15, 0.25):
            yield signal_in_cold_start, ranks, delay
    yield signal_while_streaming, signal.SIGTERM, 5, True
    yield signal_while_streaming, signal.SIGINT, 2, False
    yield signal_when_idle, signal.SIGTERM
    yield signal_when_idle, signal.SIGINT


# ---- idling, and the time of the start ----

def cpu_seconds():
    ticks = 0
    for p in processes():
        with open("/proc/%d/stat" % p) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def sched_seconds():
    """The same from the scheduler's own account, in nanoseconds, of every thread."""
    total = 0
    for p in processes():
        for t in os.listdir("/proc/%d/task" % p):
            with contextlib.suppress(OSError, ValueError):
                with open("/proc/%d/task/%s/schedstat" % (p, t)) as f:
                    total += int(f.read().split()[0])
    return total / 1e9


def idle(ranks, model, seconds=10):
    """Under 10 ms of CPU over 10 s, all processes together; also after requests, with a channel that stays open."""
    d = Daemon(make_set(model, ranks))
    ids_of(d.inference.Generate(greedy(PROMPT, 16), timeout=60))
    health = Health(d)
    health.wait([SERVING], 5)
    time.sleep(1)
    before = cpu_seconds(), sched_seconds()
    time.sleep(seconds)
    after = cpu_seconds(), sched_seconds()
    end_and_clean(d)
    used = after[0] - before[0]
    # A tick of the accounting is 10 ms, and a loaded machine's interrupts are charged to whoever runs.
    assert used <= 0.03, "%.3f s of CPU in %d s" % (used, seconds)
    return "%.1f ms of CPU in %d s (by ticks %.0f ms)" % ((after[1] - before[1]) * 1e3, seconds, used * 1e3)


def cold_start(ranks, model):
    """Warm: the shards are in the page cache.  Printed; the bound holds on a quiet machine."""
    shard_set, best = make_set(model, ranks), 1e9
    for _ in range(3):
        began = time.monotonic()
        d = Daemon(shard_set)
        best = min(best, time.monotonic() - began)
        steps = ", ".join("%s %.0f" % (s.name, s.duration_us / 1e3) for s in d.info().cold_start if s.duration_us > 1000)
        end_and_clean(d)
    assert best < 20, best
    return "%.2f s to ready (ms of the last: %s)" % (best, steps)


def part_idle():
    yield idle, 2, TINY
    if os.path.exists(harness.REAL_MODEL):
        yield idle, 2, harness.REAL_MODEL
        yield idle, 3, harness.REAL_MODEL
        for ranks in (1, 2, 3):
            yield cold_start, ranks, harness.REAL_MODEL
    else:
        print("SKIPPED the default model (%s is absent): idling and cold start are measured on a tiny one only"
              % harness.REAL_MODEL)
        yield cold_start, 2, TINY


if __name__ == "__main__":
    sys.exit(job.main(globals()))
