"""The mutation table: one fault at a time in an otherwise good set, job or host, and the refusal that must follow.

usage: mutation_test.py [--table | part...]   (table files ranks host auto; all by default)

The faults are in file_faults.py, rank_faults.py and here (of the host), what a refusal has to be in refused.py.  `auto`
repeats those that only a digest can tell with nothing but a sample read before serving: what the sample misses, the
background pass finds."""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import job  # noqa: E402
from file_faults import TENSOR_CLASSES, file_faults, flip, tensor_at  # noqa: E402
from job import TINY, harness, nothing_left, shard  # noqa: E402
from rank_faults import args, hello, rank_fault, rank_faults, stage  # noqa: E402
from refused import ANY, as_another, base, check_refused, copy, matches, other_values, refusals, serve, verify_finds, with_tmpfs  # noqa: E402

BIG = "SmolLM2-135M"                              # by name: half a GiB to read beside serving, as holes


# ---- faults of files ----

def file_fault(name, spoil_it, code, rank, field):
    s = copy(base())
    before, env = as_another(s) if name.startswith("unreadable") else ([], None)
    spoil_it(s)
    note = check_refused(before + serve(s, "--verify", "full"), code, rank, field, env)
    verify_finds(s, code, rank, field, before)
    if env:
        assert not os.listdir(env["XDG_RUNTIME_DIR"]), os.listdir(env["XDG_RUNTIME_DIR"])
    shutil.rmtree(os.path.dirname(s), ignore_errors=True)
    return note


def part_files():
    for fault in file_faults():
        yield (file_fault,) + fault


# ---- faults of ranks ----

def a_little_late(name, twist, *flags):
    """Within the deadlines: served.  Shows that the stand-in itself is no fault."""
    d = stage(twist)
    p = subprocess.run(serve(base(), "--dry-run", *flags, program=os.path.join(d, "phalanxd")), stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and "fits ranks=2" in p.stdout, (p.returncode, p.stdout, p.stderr)
    nothing_left(2)


def host_keys_may_differ():
    """Every key of scope host has another value on rank 1: served."""
    flags, keys = [], []
    for key, value in other_values("host"):
        keys.append(key)
        flags += ["--" + key, value or copy(base())]
    a_little_late("host keys", args(*flags))
    return "%d keys: %s" % (len(keys), " ".join(keys))


def what_a_rank_says_is_quoted():
    """No value of a hello stands in the log as a field of its own."""
    d = stage(hello(set={"cpu_path": "a rank=7", "boot_id": "b pid=1", "cpu_features": "c=1 d"}))
    p = subprocess.run(serve(base(), "--dry-run", program=os.path.join(d, "phalanxd")), stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=60)
    (line,) = [x for x in p.stderr.splitlines() if "event=hello rank=1 " in x]
    assert all(x in line for x in (' cpu="a rank=7"', ' boot="b pid=1"', ' features="c=1 d"')), line
    assert p.returncode == 0, p.stderr
    nothing_left(2)


def part_ranks():
    yield what_a_rank_says_is_quoted,
    yield a_little_late, "no twist at all", {}
    yield a_little_late, "a hello passed on", hello()
    yield a_little_late, "a hello half a second late", hello(delay=0.5), "--hello_s", "5"
    yield a_little_late, "a clock 3 s behind", hello(skew_s=-3)
    yield host_keys_may_differ,
    for fault in rank_faults():
        yield (rank_fault,) + fault


# ---- faults of the host ----

def port_in_use():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(1)
        cmd = serve(base())
        cmd[cmd.index("127.0.0.1:0")] = "127.0.0.1:%d" % s.getsockname()[1]
        return check_refused(cmd, "EBUSY", None, "listen")


def larger_than_memory():
    """A KV cache beyond what this host has, before anything is taken."""
    return check_refused(serve(base(), "--kv.tokens", str(1 << 29)), "ERANGE", ANY, "kv.tokens")


def no_weight_is_fp8():
    """Known from the set alone: refused without a plugin, a GPU or a rank."""
    return check_refused(serve(base(), "--device", "cuda", "--fp8_activations", "true"), "EINVAL", None, "fp8_activations")


def small_shm():
    """/dev/shm of 64 KiB: Open MPI's segments go to the job's folder and ours are memory files, so it is used by nobody
    and the service must not care."""
    before = with_tmpfs("/dev/shm", "64k")
    for transport in ("shm", "mpi"):
        p = subprocess.run(before + serve(base(), "--transport", transport, "--dry-run"), capture_output=True, text=True, timeout=60)
        assert p.returncode == 0, p.stderr
    p = subprocess.Popen(before + serve(base(), "--transport", "mpi"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert p.stdout.readline().startswith("ready "), "not ready with a /dev/shm of 64 KiB"
        with open("/proc/%d/mountinfo" % p.pid) as f:
            assert " /dev/shm " in f.read()
        used = os.statvfs("/proc/%d/root/dev/shm" % p.pid)
        assert used.f_blocks <= 16 and used.f_bfree == used.f_blocks, "somebody uses /dev/shm"
    finally:
        p.terminate()
        p.wait(15)
        p.stdout.close()
    nothing_left()
    return "serves"


def small_job_folder(size, code):
    """Where Open MPI's segments really go: refused by name, or served, never a crash."""
    where = tempfile.mkdtemp(dir=harness._tmp)
    env = dict(os.environ, XDG_RUNTIME_DIR=where)
    before = with_tmpfs(where, size)
    if code:
        return check_refused(before + serve(base(), "--transport", "mpi"), code, None, "tmpdir", env)
    p = subprocess.Popen(before + serve(base(), "--transport", "mpi"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert p.stdout.readline().startswith("ready "), p.communicate(timeout=15)[1]
        p.terminate()
        assert p.wait(15) == 0
    finally:
        p.kill()
        p.stdout.close(), p.stderr.close()
    nothing_left()
    return "serves"


def part_host():
    yield port_in_use,
    yield larger_than_memory,
    yield no_weight_is_fp8,
    yield small_shm,
    for size in ("64k", "8500k", "12m", "17m"):
        yield small_job_folder, size, "ERANGE"
    yield small_job_folder, "17600k", None


# ---- depth auto ----

def watched(s):
    """Starts with a sample only; (exit code, log, health as a watch from before the fault told it)."""
    d = harness.Daemon(s, "--verify", "auto", "--verify_full_mib", "0", wait=False)
    health = job.Health(d)
    job.wait(lambda: health.seen or d.process.poll() is not None, 10, "health is told, or the end")
    code = job.ended(d)
    health.thread.join(5)
    nothing_left()
    return code, "".join(d.log), health.seen


def auto_bit_flip(tensor, model=TINY, *flags):
    """A sample before serving, the rest beside it: refused at the start, or served and then NOT_SERVING and exit 3.
    Repeated until both ways, and the end of serving as a client sees it, have been seen."""
    s = copy(base(2, model, *flags))
    flip(shard(s, 1), tensor_at(shard(s, 1), tensor) + 5)
    seen = {"start": 0, "background": 0, "watched": 0}
    for _ in range(40):
        try:
            code, log, health = watched(s)
        except RuntimeError:                     # refused before it could be asked
            seen["start"] += 1
            nothing_left()
            continue
        assert code == 3, (code, log)
        assert matches(refusals(log), "ECORRUPT", 1, tensor), log
        if "event=ready" not in log:
            assert job.SERVING not in health, health
            seen["start"] += 1
            continue
        seen["background"] += 1
        assert re.search(r"event=state state=ready.*event=state state=failed", log, re.S), log
        assert not health or health[-1] == job.NOT_SERVING, health
        seen["watched"] += job.SERVING in health
        if seen["watched"] and (seen["start"] or flags):
            break
    assert seen["background"] and (seen["watched"] or not flags), seen
    shutil.rmtree(os.path.dirname(s), ignore_errors=True)
    return "found %(start)d times at the start, %(background)d times beside serving, %(watched)d of these from SERVING to NOT_SERVING" % seen


def auto_file_fault(name, spoil_it, code, rank, field):
    """What headers tell is refused at the start whatever the depth."""
    s = copy(base())
    before, env = as_another(s) if name.startswith("unreadable") else ([], None)
    spoil_it(s)
    note = check_refused(before + serve(s, "--verify", "auto", "--verify_full_mib", "0"), code, rank, field, env)
    shutil.rmtree(os.path.dirname(s), ignore_errors=True)
    return note


def part_auto():
    for t in TENSOR_CLASSES[1:8:3]:
        yield auto_bit_flip, t
    yield auto_bit_flip, "blk.29.ffn_down.weight", BIG, "--synthetic", BIG, "--sparse"
    for fault in file_faults():
        if not fault[0].startswith("bit flip in"):
            yield (auto_file_fault,) + fault


# ---- the table ----

def table():
    """Rows of the runbook's second table: what was done, and what the refusal says."""
    for name, _, code, rank, field in file_faults():
        yield name, code, "-" if rank is None else "of the file", field
    for name, _, code, rank, field, *_ in rank_faults():
        yield name, code, "-" if rank is ANY else "of the rank", field
    yield "port in use", "EBUSY", "-", "listen"
    yield "no room for MPI's shared memory files", "ERANGE", "-", "tmpdir"
    yield "a KV cache larger than the memory", "ERANGE", "least free", "kv.tokens"
    yield "fp8_activations with a set that has no FP8 weights", "EINVAL", "-", "fp8_activations"


def runbook_has_all():
    with open(os.path.join(harness.ROOT, "ops", "runbook.md")) as f:
        text = f.read()
    rows = ["| %s | %s | %s | `%s` |" % r for r in table()]
    missing = [r for r in rows if r not in text]
    assert not missing, "ops/runbook.md lacks (mutation_test.py --table prints them):\n" + "\n".join(missing)
    return "%d faults" % len(rows)


def part_table():
    yield runbook_has_all,


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        for r in table():
            print("| %s | %s | %s | `%s` |" % r)
        sys.exit(0)
    sys.exit(job.main(globals()))
