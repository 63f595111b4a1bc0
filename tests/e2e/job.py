"""Jobs that leave nothing: what a test of a job's life asks of it and of the machine, and how its parts are run.

Every process that a daemon starts inherits a mark in its environment, so that "nothing is left" means every process,
every shared memory segment and every folder."""
import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid

# Before the harness: its children inherit both.
MARK = "PHALANX_LIFECYCLE=" + uuid.uuid4().hex
os.environ.update([MARK.split("=")])
RUNTIME = tempfile.mkdtemp(prefix="px-life-")
os.environ["XDG_RUNTIME_DIR"] = RUNTIME
atexit.register(shutil.rmtree, RUNTIME, ignore_errors=True)    # before the harness: runs after it has ended all

import harness  # noqa: E402
from harness import grpc  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402

TINY = os.path.join(harness.GOLDEN, "tiny", "gguf", "smollm_like_f16", "model.gguf")
PHALANXD = os.path.join(harness.BUILD, "bin", "phalanxd")
PROMPT = [5, 17, 42, 99, 7]
with open(os.path.join(harness.BUILD, "CMakeCache.txt")) as _f:
    SANITIZED = "PHALANX_SANITIZE:BOOL=ON" in _f.read()
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


# ---- what there is ----

def processes():
    """{pid: name} of every process with our mark, but this one and zombies."""
    found = {}
    for p in os.listdir("/proc"):
        if not p.isdigit() or int(p) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open("/proc/%s/environ" % p, "rb") as f:
                if MARK.encode() not in f.read():
                    continue
            with open("/proc/%s/stat" % p) as f:
                name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
            if rest.split()[0] != "Z":
                found[int(p)] = name
    return found


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def segments():
    try:
        return {n for n in os.listdir("/dev/shm") if n.startswith(("vader", "sm_", "phalanx", "ompi"))}
    except OSError:
        return set()


SEGMENTS_BEFORE = segments()


def left():
    what = ["process %d %s" % x for x in processes().items()]
    what += ["folder " + n for n in os.listdir(RUNTIME)]
    what += ["segment " + n for n in segments() - SEGMENTS_BEFORE]
    return what


def wait(check, seconds, what):
    end = time.monotonic() + seconds
    while True:
        x = check()
        if x:
            return x
        assert time.monotonic() < end, "not within %g s: %s" % (seconds, what)
        time.sleep(0.02)


def nothing_left(seconds=5):
    began = time.monotonic()
    end = began + seconds
    while left() and time.monotonic() < end:
        time.sleep(0.02)
    assert not left(), "left after %g s: %s" % (seconds, left())
    return time.monotonic() - began


def ranks_of(d):
    return [r.pid for r in sorted(d.info().ranks, key=lambda r: r.rank)]


def named(name):
    return [p for p, n in processes().items() if n == name]


class Health:
    """Health as Watch tells it: every state, in order."""

    def __init__(self, d):
        stub = health_pb2_grpc.HealthStub(d.connect())
        self.seen = []
        self.call = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        self.thread = harness.threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        with contextlib.suppress(grpc.RpcError):
            for m in self.call:
                self.seen.append(m.status)

    def wait(self, states, seconds):
        wait(lambda: self.seen == states, seconds, "health %s, seen %s" % (states, self.seen))


def unavailable(stream):
    """The stream ends with UNAVAILABLE and says that the call may be made again."""
    try:
        list(stream)
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNAVAILABLE, e
        meta = {k: v for k, v in e.trailing_metadata() or ()}
        assert meta.get("retryable") == "true", meta
        return e.details()
    raise AssertionError("the stream ended without an error")


def ended(d, seconds=15):
    """The exit code; the log is complete then."""
    code = d.process.wait(seconds)
    time.sleep(0.2)
    d.kill()
    return code


def end_and_clean(d):
    assert d.stop() == 0, "".join(d.log[-20:])
    nothing_left()


def shard(shard_set, rank):
    (name,) = [n for n in os.listdir(shard_set) if n.startswith("rank-%03d" % rank)]
    return os.path.join(shard_set, name)


# ---- a test program of parts ----

class Skip(Exception):
    """What this machine does not allow: said aloud, never passed."""


def said(x):
    """An argument as a case's name shows it; None: it does not."""
    if isinstance(x, str):
        if x.startswith(harness._tmp):
            return None
        return os.path.basename(x) if os.path.isabs(x) else repr(x)[1:-1][:60]
    return str(x) if isinstance(x, (int, float)) else None


def end_all():
    """Whatever a failure left: the next case shall not meet it."""
    for d in list(harness._running):
        d.kill()
    for pid in processes():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    for f in os.listdir(RUNTIME):
        shutil.rmtree(os.path.join(RUNTIME, f), ignore_errors=True)


def main(of):
    """Runs the parts of a module (part_NAME: yields a function and its arguments) that the command line names, or all."""
    parts = {n[5:]: f for n, f in of.items() if n.startswith("part_")}
    failed = skipped = n = 0
    for part in sys.argv[1:] or list(parts):
        for run, *args in parts[part]():
            n += 1
            began = time.monotonic()
            name = "%s %s(%s)" % (part, run.__name__, ", ".join(s for s in map(said, args) if s is not None))
            try:
                note = run(*args)
                print("ok   %5.1f s  %s%s" % (time.monotonic() - began, name, ": " + note if note else ""), flush=True)
            except Skip as e:
                skipped += 1
                print("SKIPPED %s: %s" % (name, e), flush=True)
            except Exception as e:  # noqa: BLE001: the next one shall run
                failed += 1
                for d in list(harness._running):
                    print("".join(d.log[-40:]), flush=True)
                print("FAIL %5.1f s  %s: %s: %.3000s" % (time.monotonic() - began, name, type(e).__name__, e), flush=True)
                end_all()
    print("%d passed, %d skipped, %d failed" % (n - failed - skipped, skipped, failed))
    return 1 if failed else 0
