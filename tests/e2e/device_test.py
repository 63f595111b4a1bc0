"""device: cuda without a GPU: the whole daemon over the plugin of apart_plugin.c, whose memory is a CPU's and lies apart.

usage: device_test.py [part...]   (serve refuse faults; all by default)

What a GPU computes is tested elsewhere; here are the plugin's ways, uploads, sums over the host, reports, refusals and
what follows when a device fails."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import job  # noqa: E402: marks its processes, so that what is left can be counted
from job import PROMPT, TINY, Health, NOT_SERVING, SERVING, harness, nothing_left, ranks_of, unavailable  # noqa: E402
from harness import Daemon, greedy, ids_of, make_set, pb  # noqa: E402
import plugged  # noqa: E402
from plugged import CONTEXT, compared, lost_and_back, tell  # noqa: E402

PLUGIN = os.environ["PHALANX_APART_PLUGIN"]
STEPS = ["parse", "manifest", "plan", "spawn", "hello", "compare", "agree", "map", "mpi", "carve", "warmup", "ready"]
SMALL = ("--kv.tokens", "4096", "--max_sequences", "8", "--token_budget", "64")


def stage(says=(), plugin=PLUGIN):
    return plugged.stage(plugin, says)


def serve(d, ranks, *flags):
    return Daemon(make_set(TINY, ranks), "--device", "cuda", *SMALL, *flags, build=d)


def requests():
    yield greedy(PROMPT, 24)
    yield greedy([3], 8)
    yield greedy(list(range(1, 120)), 6)               # two steps of prefill
    yield pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=PROMPT)), temperature=0.8,
                             sampling=pb.Sampling(top_p=0.9, seed=7),
                             stopping=pb.Stopping(max_new_tokens=16, ignore_eos=True))


def answers(d):
    return [ids_of(d.inference.Generate(r, timeout=60))[0] for r in requests()]


def on_cpu(ranks=1):
    d = Daemon(make_set(TINY, ranks), "--cpu", "scalar", *SMALL)
    try:
        return answers(d)
    finally:
        job.end_and_clean(d)


# ---- serve ----

def same_tokens(expected, ranks, *flags):
    """The CPU's tokens, every step of the cold start, and memory to the byte."""
    d = serve(stage(), ranks, *flags)
    got = answers(d)
    assert got == expected, (got, expected)
    info = d.info()
    assert [s.name for s in info.cold_start] == STEPS and all(s.state == "done" and s.percent == 100 for s in info.cold_start)
    assert {r.cpu_path for r in info.ranks} == {"apart"}, info.ranks
    c = compared(d)
    assert c["equal"] is True and len(c["ranks"]) == ranks, c
    for r in c["ranks"]:
        assert all(a["difference"] == 0 and a["actual"] == a["planned"] > 0 for a in r["arenas"]), r["arenas"]
        others = {o["kind"]: o for o in r["others"]}
        assert {"device_context", "device_nccl", "device_graphs"} <= set(others), others
        assert others["device_context"]["measured"] == CONTEXT, others
        assert others["device_nccl"]["measured"] == others["device_graphs"]["measured"] == 0, others
    log = "".join(d.log)
    assert len(re.findall(r"event=hello_device rank=\d+ gpu=\"a CPU apart\" ordinal=0 arch=90 driver=0.1 runtime=0.2", log)) == ranks, log
    assert re.search(r"event=reduce asked=\w+ sums=%s$" % ("none" if ranks == 1 else "ordered"), log, re.M), log
    assert len(re.findall(r"event=memory_of_rank of=\d+ difference=0 ", log)) == ranks, log
    sums = re.findall(r"rank=0 host=\S+ event=sums chosen=(\S+)", log)
    assert sums == (["staged"] if ranks > 1 else []), log
    assert len(re.findall(r"event=sum_latency bytes=\d+ staged_us=", log)) >= 3 * len(sums), log
    job.end_and_clean(d)
    return "%d requests as on one scalar CPU" % len(expected)


def killed(ranks):
    """kill -9 of a rank: the job starts again, weights are uploaded again, and the same call gives the same tokens."""
    d = serve(stage(), ranks)
    expected = answers(d)
    health = Health(d)
    health.wait([SERVING], 5)
    stream = d.inference.Generate(greedy(PROMPT, 240), timeout=60)
    next(stream)
    os.kill(ranks_of(d)[-1], signal.SIGKILL)
    unavailable(stream)
    health.wait([SERVING, NOT_SERVING, SERVING], 20)
    assert d.info().generation == 2
    assert answers(d) == expected
    job.end_and_clean(d)
    return "again the same tokens"


def part_serve():
    expected = on_cpu()
    for ranks in (1, 2, 3):
        yield same_tokens, expected, ranks
    yield same_tokens, expected, 2, "--transport", "mpi", "--reduce", "ordered"
    yield same_tokens, expected, 2, "--deterministic", "true", "--check_sequence", "true"
    for ranks in (1, 2):
        yield killed, ranks


# ---- refuse ----

def refused(d, ranks, field, *words, flags=(), env=None):
    p = subprocess.run([os.path.join(d, "bin", "phalanxd"), "--set", make_set(TINY, ranks), "--listen", "127.0.0.1:0",
                        "--device", "cuda", *SMALL, *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                       env=env)
    assert p.returncode == 3 and "ready" not in p.stdout, (p.returncode, p.stdout, p.stderr)
    lines = [x for x in p.stderr.splitlines() if "event=coldstart_refused" in x and "field=" + field + " " in x + " "]
    assert lines, p.stderr
    assert any(all(w in x for w in words) for x in lines), lines
    assert "event=advice about=" + field in p.stderr, p.stderr
    nothing_left()
    return "field %s" % field


def with_flags(d, ranks, field, words, *flags):
    return refused(d, ranks, field, words, flags=flags)


def no_file():
    return refused(stage(plugin=None), 2, "plugin", "ENOTFOUND", "a build without CUDA")


def no_plugin():
    d = stage(plugin=None)
    with open(os.path.join(d, "bin", "libphalanx-cuda.so"), "w") as f:
        f.write("no library\n")
    return refused(d, 1, "plugin", "ENOTFOUND", "cannot be opened")


def wrong_plugin(file, *words):
    """One of those that tests/kernels/cuda builds, each wrong in one way."""
    return refused(stage(plugin=os.path.join(harness.BUILD, "tests/kernels/cuda/plugins", file)), 2, "plugin", *words)


def without_nccl():
    """An environment in which libnccl.so.2 cannot be opened, whether this machine has one or not."""
    d = tempfile.mkdtemp(dir=harness._tmp)
    with open(os.path.join(d, "libnccl.so.2"), "w") as f:
        f.write("no library\n")
    return dict(os.environ, LD_LIBRARY_PATH=os.pathsep.join([d] + os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)).rstrip(os.pathsep))


def no_nccl():
    """Asked for by name it is missed; one rank, and `ordered`, need none."""
    devices = ["-1 devices 2"]
    return refused(stage(devices), 2, "nccl", "ENOTFOUND", 'found="no libnccl.so.2"', flags=("--reduce", "nccl"), env=without_nccl())


def auto_without_nccl():
    """reduce: auto goes on with sums over the host, and says so."""
    before = dict(os.environ)
    try:
        os.environ.update(without_nccl())
        d = serve(stage(["-1 devices 2"]), 2)
    finally:
        os.environ.clear()
        os.environ.update(before)
    log = "".join(d.log)
    assert re.search(r"event=reduce asked=auto sums=ordered$", log, re.M), log
    assert ids_of(d.inference.Generate(greedy(PROMPT, 8), timeout=60))[0]
    job.end_and_clean(d)
    return "sums=ordered"


def real_plugin():
    """The plugin of this build where there is one: on a machine without a driver it says so."""
    real = os.path.join(harness.BUILD, "bin", "libphalanx-cuda.so")
    if not os.path.exists(real):
        raise job.Skip("this build has no plugin (no toolkit)")
    if os.path.exists("/dev/nvidiactl"):
        raise job.Skip("this machine has a driver")
    # cuBLASLt is half a gigabyte of file: read from a disk that others use, it may take longer than a hello does.
    return refused(stage(plugin=real), 1, "driver", "ENOTFOUND", "no NVIDIA driver is installed", flags=("--hello_s", "60"))


def damaged():
    """A byte of a tensor: found beside the upload, by name."""
    bad = tempfile.mkdtemp(dir=harness._tmp) + "/set"
    shutil.copytree(make_set(TINY, 2), bad)
    (name,) = [n for n in os.listdir(bad) if re.search(r"00*1.*\.safetensors$|rank.*1", n)][:1] or [None]
    path = os.path.join(bad, name)
    with open(path, "r+b") as f:
        f.seek(-1000, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-1000, os.SEEK_END)
        f.write(bytes([byte ^ 1]))
    p = subprocess.run([os.path.join(stage(), "bin", "phalanxd"), "--set", bad, "--listen", "127.0.0.1:0", "--device", "cuda", *SMALL,
                        "--verify", "full"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert p.returncode == 3, (p.returncode, p.stderr)
    assert re.search(r"event=coldstart step=map code=OK ", p.stderr) and re.search(r"event=coldstart step=carve code=ECORRUPT ", p.stderr), p.stderr
    assert re.search(r"event=coldstart_refused code=ECORRUPT .*field=(blk|output|token_embd)", p.stderr), p.stderr
    nothing_left()
    return "refused in carve"


def part_refuse():
    yield no_file,
    yield no_plugin,
    yield wrong_plugin, "libplugin_abi.so", "EMISMATCH", 'found="abi 1,', 'expected="abi '
    yield wrong_plugin, "libplugin_needs.so", "ENOTFOUND", "a library of the CUDA toolkit that is missing: libplugin_needed.so"
    yield real_plugin,
    yield refused, stage(["1 probe nodriver"]), 2, "driver", "no NVIDIA driver"
    yield refused, stage(["-1 probe nodevice"]), 1, "device", "no CUDA device is visible"
    two = ("-1 devices 2",)
    for key, field in (("name", "gpu.name"), ("driver", "gpu.driver"), ("runtime", "gpu.runtime")):
        yield refused, stage([*two, "1 %s other" % key]), 2, field, "EMISMATCH", "found=other", "rank=1 "
    yield with_flags, stage(), 1, "device", "there is no device 5: 1 are visible", "--devices", "5"
    yield with_flags, stage(), 2, "gpu.shared", "GPU 0 for ranks 0 and 1", "--reduce", "nccl"
    yield no_nccl,
    yield auto_without_nccl,
    yield with_flags, stage(["-1 mib 302"]), 2, "gpu.memory", "do not fit GPU 0", "--kv.tokens", "16"
    yield with_flags, stage(["-1 mib 512"]), 1, "kv.tokens", "at most ", "--kv.tokens", "33554432"
    yield damaged,


# ---- faults ----

def fault_while_serving(ranks, what, *flags):
    """The rank that meets it says what it knows and ends; the service starts again and gives the same tokens."""
    d = stage()
    s = serve(d, ranks, *flags)
    expected = answers(s)
    found, log = lost_and_back(s, lambda: tell(d, ["%d step %s" % (ranks - 1, what)]), lambda: tell(d, []), 20)
    if what == "fail":
        assert re.search(r"rank=%d host=\S+ event=job_lost code=EDEVICE field=attention" % (ranks - 1), log), log
    else:
        assert re.search(r"rank=[0-%d] host=\S+ event=step_lost code=ETIMEOUT field=step" % (ranks - 1), log), log    # all wait: the first says it
        assert re.search(r"event=job_lost code=ETIMEOUT field=step .*has not ended on the device", log), log
        assert 0.5 < found < 8, found
    assert answers(s) == expected and s.info().generation == 2
    job.end_and_clean(s)
    return "found after %.2f s" % found


def part_faults():
    for ranks in (1, 2):
        yield fault_while_serving, ranks, "fail"
        yield fault_while_serving, ranks, "hang", "--step_s", "1"


if __name__ == "__main__":
    sys.exit(job.main(globals()))
