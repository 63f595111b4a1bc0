"""device: cuda without a GPU: the whole daemon over kernels/cuda itself, compiled for the host (tests/cuda_host/plugin.c).

usage: host_device_test.py [part...]   (kernels law errors nccl; all by default)

kernels: its answers are the CPU's within the bounds for CUDA.  law: bits, memory and graphs.  errors: what CUDA says reaches
the log with device, call and error, and the service goes on.
nccl: two devices, a process each, and sums by the libnccl of process_nccl.c."""
import concurrent.futures
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import job  # noqa: E402: marks its processes, so that what is left can be counted
from job import NOT_SERVING, PROMPT, SERVING, TINY, Health, harness, nothing_left, ranks_of, unavailable  # noqa: E402
from harness import Daemon, greedy, ids_of, make_set, pb  # noqa: E402
import plugged  # noqa: E402
from plugged import CONTEXT, compared, lost_and_back, tell  # noqa: E402

PLUGIN = os.environ["PHALANX_HOST_PLUGIN"]
SMALL = ("--kv.tokens", "512", "--max_sequences", "4", "--token_budget", "16")
N, NEW = 20, 6                                      # ids of the prompt: two steps of it; new ones
# Log-probability, mean KL, margin of a flip (tests/shard/run_cuda_test.c): activations in fp16; bf16; caches that keep less.
NEAR, BF16 = (0.1, 5e-5, 0.05), (0.4, 8e-4, 0.2)
INT8, FP8 = (0.8, 4e-3, 0.2), (4, 0.1, 1.5)


def stage(*says):
    return plugged.stage(PLUGIN, says)


def model(name):
    path = os.path.join(harness.GOLDEN, "tiny", name)
    return os.path.join(path, "model.gguf") if name.startswith("gguf/") else path


def prompt_of(name):
    with open(os.path.join(harness.GOLDEN, "tiny", name, "expected.json")) as f:
        return json.load(f)["prompt"][:N]


def serve(d, shard_set, *flags):
    return Daemon(shard_set, "--device", "cuda", *SMALL, *flags, build=d)


def score(d, ids, top):
    """A row of log-probabilities for each id."""
    request = pb.ScoreRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=ids)), top=top)
    return [dict(zip(r.top_ids, r.top_logprobs)) for r in d.inference.Score(request, timeout=60)]


# ---- kernels ----

def near(got, want, bound):
    worst = kl = flipped = 0
    for g, w in zip(got, want, strict=True):
        assert g.keys() == w.keys()
        worst = max(worst, max(abs(g[i] - w[i]) for i in w))
        kl += sum(math.exp(w[i]) * (w[i] - g[i]) for i in w) / len(want)
        flipped = max(flipped, max(w.values()) - w[max(g, key=g.get)])
    assert all(x <= most for x, most in zip((worst, kl, flipped), bound)), (worst, kl, flipped)
    return "worst %.2g, KL %.2g, flipped margin %.2g" % (worst, kl, flipped)


def answers(name, policy, ranks, kv, sm, bound):
    """Distributions and tokens are those of the CPU over the same set; what each rank holds is as planned, to the byte."""
    ids = prompt_of(name)
    with open(os.path.join(make_set(model(name), ranks, policy), "manifest.json")) as f:
        n_vocab = json.load(f)["arch"]["n_vocab"]
    d = serve(stage("-1 sm %d" % sm), make_set(model(name), ranks, policy), "--kv.dtype", kv, "--check_sequence", "true")
    got = score(d, ids, n_vocab)
    new = ids_of(d.inference.Generate(greedy(ids, NEW), timeout=60))[0]
    log = "".join(d.log)
    assert len(re.findall(r"event=hello_device rank=\d+ gpu=host ordinal=0 arch=%d driver=\d+\.\d+ runtime=\d+\.\d+ " % sm, log)) == ranks, log
    assert {r.cpu_path for r in d.info().ranks} == {"cuda"}
    to_the_byte(d, ranks)
    job.end_and_clean(d)
    c = Daemon(make_set(model(name), ranks, policy), *SMALL)
    note = near(got, score(c, ids, n_vocab), bound)
    rows = score(c, ids + new, n_vocab)[N - 1:-1]
    job.end_and_clean(c)
    assert len(new) == len(rows) == NEW
    for i, row in zip(new, rows):
        first, second = sorted(row.values())[:-3:-1]
        assert first - second <= max(0.2, bound[2]) or row[i] == first, (new, first, second, row[i])
    return note


def to_the_byte(d, ranks):
    c = compared(d)
    assert c["equal"] is True and len(c["ranks"]) == ranks, c
    for r in c["ranks"]:
        assert all(a["difference"] == 0 and a["actual"] == a["planned"] > 0 for a in r["arenas"]), r["arenas"]
        others = {o["kind"]: o for o in r["others"]}
        assert others["device_context"]["measured"] == CONTEXT, others
        assert others["device_nccl"]["measured"] == others["device_graphs"]["measured"] == 0, others


def part_kernels():
    yield answers, "gguf/smollm_like_f16", None, 1, "f16", 80, NEAR
    yield answers, "gguf/smollm_like_f16", None, 2, "int8_th", 90, INT8
    yield answers, "arch/llama3", None, 2, "bf16", 80, BF16
    yield answers, "arch/llama3", "W4A16", 1, "fp8", 90, FP8
    yield answers, "arch/llama", "FP8", 2, "f16", 90, NEAR
    yield answers, "gguf/llama3_q5_1", None, 1, "f16", 90, NEAR
    yield answers, "gguf/qwen3_q4_0", None, 2, "f16", 80, NEAR


# ---- law ----

def counts(d, at, always, word):
    """How often rank 0 has called each function, before what it does next."""
    tell(at, [*always, "-1 count " + word])
    generate(d, [3], 1)
    path = os.path.join(at, "bin", "libphalanx-cuda.so.saw.0." + word)
    job.wait(lambda: os.path.exists(path), 5, path)
    with open(path) as f:
        return {k: int(n) for k, n in map(str.split, f)}


def generate(d, ids, n, **sampling):
    """Token ids and the bits of their log-probabilities."""
    request = pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=ids)), response=pb.ResponseOptions(logprobs=True),
                                 stopping=pb.Stopping(max_new_tokens=n, ignore_eos=True), **sampling or {"temperature": 0})
    out = [o for m in d.inference.Generate(request, timeout=60) for o in m.outputs]
    return [i for o in out for i in o.token_ids], [p.logprob for o in out for p in o.logprobs]


def replays(d, at, always=(), measured=0):
    """A graph for each bucket at the start; then nothing is launched, allocated or recorded but by a replay."""
    before = counts(d, at, always, "before")
    generate(d, PROMPT, 24)
    after = counts(d, at, always, "after")
    # rows 1 to 16; rows of the head 1 to 4, with lists and without; what sums were measured by
    assert before["cudaGraphInstantiate"] == 5 + 2 * 3 + measured, before
    new = {k: after[k] - before[k] for k in after}
    uploads = new.pop("cudaMemcpyAsync")
    assert new == {"cudaMalloc": 0, "cudaGraphInstantiate": 0, "cudaLaunchKernel": 0, "cudaGraphLaunch": 2 * (1 + 24)}, new
    assert uploads < 10 * 25, uploads
    return "25 steps, 50 replays, %d copies" % uploads


def steps_are_replays():
    at = stage()
    d = serve(at, make_set(TINY, 1))
    note = replays(d, at)
    job.end_and_clean(d)
    return note


def asked(d):
    """Three requests, one after the other."""
    sampled = {"temperature": 0.8, "sampling": pb.Sampling(top_p=0.9, seed=7)}
    return score(d, LONG, 4), generate(d, PROMPT, 3), generate(d, LONG[:9], 4, **sampled)


LONG = list(range(1, 20))


def in_company(d):
    """The same while others run."""
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        others = [pool.submit(generate, d, [9 + k] * (3 + 4 * k), 6) for k in range(3)]
        got = asked(d)
        for o in others:
            o.result()
    return got


def bits_are_the_requests_own(ranks, kv, policy=None):
    """Alone, in company, after kill -9 of a rank, in steps and blocks of other sizes."""
    flags = ("--deterministic", "true", "--kv.dtype", kv, "--check_sequence", "true")
    d = serve(stage(), make_set(TINY, ranks, policy), *flags)
    expected = asked(d)
    assert in_company(d) == expected
    health = Health(d)
    health.wait([SERVING], 5)
    stream = d.inference.Generate(greedy(PROMPT, 240), timeout=60)
    next(stream)
    os.kill(ranks_of(d)[-1], signal.SIGKILL)
    unavailable(stream)
    health.wait([SERVING, NOT_SERVING, SERVING], 30)
    assert asked(d) == expected and d.info().generation == 2
    job.end_and_clean(d)
    d = serve(stage("-1 schedule 3"), make_set(TINY, ranks, policy), *flags, "--token_budget", "7", "--kv.block", "32")
    assert asked(d) == expected
    job.end_and_clean(d)


def part_law():
    yield steps_are_replays,
    yield bits_are_the_requests_own, 1, "f16"
    yield bits_are_the_requests_own, 2, "int8_th", "W8A16"


# ---- errors ----

ILLEGAL, LAUNCH, MEMORY, ECC, INVALIDATED = 700, 719, 2, 214, 901
OPS = "embed", "add_norm", "gather", "quant", "matmul", "rope_append", "attention", "swiglu", "candidates"
NAMES = {ILLEGAL: "cudaErrorIllegalAddress", LAUNCH: "cudaErrorLaunchFailure", MEMORY: "cudaErrorMemoryAllocation",
         ECC: "cudaErrorECCUncorrectable", INVALIDATED: "cudaErrorStreamCaptureInvalidated"}


FEW = ("--token_budget", "4", "--max_sequences", "2")            # buckets that warm-up goes through


def in_a_step(ranks, call, nth, error, field):
    """What CUDA says in a step: the last rank tells it and ends, the job starts again, the next request is answered."""
    at = stage()
    d = serve(at, make_set(TINY, ranks), *FEW)
    expected = generate(d, PROMPT, 6)
    _, log = lost_and_back(d, lambda: tell(at, ["%d fail %s %d %d sticky" % (ranks - 1, call, nth, error)]), lambda: tell(at, []))
    said = r"code=EDEVICE field=%s text=\"CUDA device 0: %s" % (field, NAMES[error])
    for event in ("rank_report", "job_lost"):
        assert re.search(r"level=error rank=%d host=\S+ event=%s %s" % (ranks - 1, event, said), log), log
    assert generate(d, PROMPT, 6) == expected and d.info().generation == 2
    job.end_and_clean(d)
    return re.search(r"event=job_lost code=EDEVICE field=(\w+ text=\".*?\")", log)[1]


def stands_still(ranks, call):
    """A stream that never ends its work."""
    at = stage()
    d = serve(at, make_set(TINY, ranks), "--step_s", "1", *FEW)
    expected = generate(d, PROMPT, 6)
    found, log = lost_and_back(d, lambda: tell(at, ["%d stall %s" % (ranks - 1, call)]), lambda: tell(at, []))
    assert re.search(r"event=step_lost code=ETIMEOUT field=step", log), log
    assert re.search(r"event=job_lost code=ETIMEOUT field=step .*has not ended on the device", log), log
    assert 0.5 < found < 8, found
    assert generate(d, PROMPT, 6) == expected and d.info().generation == 2
    job.end_and_clean(d)
    return "found after %.2f s" % found


def at_the_start(ranks, call, nth, error, code, field, words):
    p = subprocess.run([os.path.join(stage("%d fail %s %d %d" % (ranks - 1, call, nth, error)), "bin", "phalanxd"), "--set", make_set(TINY, ranks),
                        "--listen", "127.0.0.1:0", "--device", "cuda", *SMALL, *FEW], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert p.returncode == 3 and "ready" not in p.stdout, (p.returncode, p.stderr)
    assert re.search(r"rank=%d host=\S+ event=coldstart_refused code=%s field=%s .*%s" % (ranks - 1, code, field, words), p.stderr), p.stderr
    nothing_left()


def at_a_restart():
    """A refusal is final, then as at the first start."""
    at = stage()
    d = serve(at, make_set(TINY, 2), *FEW)
    tell(at, ["1 fail cudaMalloc 3 %d" % MEMORY])
    os.kill(ranks_of(d)[0], signal.SIGKILL)
    assert job.ended(d, 30) == 3
    log = "".join(d.log)
    assert re.search(r"rank=1 host=\S+ event=coldstart_refused code=ENOMEM field=kern_buf .*on CUDA device 0, where", log), log
    nothing_left()


def part_errors():
    yield in_a_step, 1, "cudaGraphLaunch", 5, LAUNCH, "replay"
    yield in_a_step, 1, "cudaStreamSynchronize", 4, ILLEGAL, "download"
    yield in_a_step, 2, "cudaLaunchKernel", 30, ILLEGAL, "(%s)" % "|".join(OPS)
    yield in_a_step, 1, "cudaMemcpyAsync", 9, ECC, "download"
    yield stands_still, 1, "cudaGraphLaunch"
    yield stands_still, 2, "cudaLaunchKernel"
    yield at_the_start, 2, "cudaMalloc", 3, MEMORY, "ENOMEM", "kern_buf", "on CUDA device 0, where"
    yield at_the_start, 1, "cudaGraphInstantiate", 2, MEMORY, "ENOMEM", "end", "CUDA device 0: cudaErrorMemoryAllocation"
    yield at_the_start, 1, "cudaStreamEndCapture", 2, INVALIDATED, "EDEVICE", "end", "CUDA device 0: cudaErrorStreamCaptureInvalidated"
    yield at_the_start, 1, "cudaFuncSetAttribute", 1, INVALIDATED, "EDEVICE", "matmul", "CUDA device 0: "
    yield at_a_restart,


# ---- nccl ----

ALWAYS = "-1 devices 2", "-1 lazy 1", "-1 slow cudaMemcpyAsync 300"


def stage_nccl():
    """Two devices whose streams run lazily: a sum waits for the other rank, and must not keep the caller.  Copies are slow, so
    that sums over the host are not chosen."""
    d = stage(*ALWAYS)
    os.makedirs(os.path.join(d, "nccl"))
    shutil.copy(os.environ["PHALANX_PROCESS_NCCL"], os.path.join(d, "nccl"))
    return d


def tell_nccl(d, *says):
    plugged.tell_of(os.path.join(d, "nccl", "libnccl.so.2"), says)


def with_nccl(d):
    return dict(os.environ, LD_LIBRARY_PATH=os.pathsep.join([os.path.join(d, "nccl"), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep))


def serve_nccl(at, *flags):
    before = dict(os.environ)
    try:
        os.environ.update(with_nccl(at))
        return serve(at, make_set(TINY, 2), "--reduce", "nccl", *flags)
    finally:
        os.environ.clear()
        os.environ.update(before)


def sums_on_the_devices():
    """The tokens of one rank; every step a replay, sums and all; memory to the byte; the same after kill -9 of a rank."""
    one = serve(stage(), make_set(TINY, 1))
    expected = generate(one, PROMPT, 8)[0]
    job.end_and_clean(one)
    at = stage_nccl()
    d = serve_nccl(at, "--check_sequence", "true")
    log = "".join(d.log)
    assert re.search(r"event=reduce asked=nccl sums=nccl$", log, re.M) and re.search(r"event=sums chosen=nccl measured=graph", log), log
    assert sorted(re.findall(r"event=hello_device rank=(\d) gpu=host ordinal=(\d) .* nccl=2.26.5 ", log)) == [("0", "0"), ("1", "1")], log
    to_the_byte(d, 2)
    assert generate(d, PROMPT, 8)[0] == expected
    note = replays(d, at, ALWAYS, 5)
    health = Health(d)
    health.wait([SERVING], 5)
    os.kill(ranks_of(d)[1], signal.SIGKILL)
    health.wait([SERVING, NOT_SERVING, SERVING], 30)
    assert generate(d, PROMPT, 8)[0] == expected
    job.end_and_clean(d)
    assert os.listdir(os.path.join(at, "nccl")) == ["libnccl.so.2"]
    return note


def a_sum_fails(what, *said):
    """NCCL's error while a sum is under way, or a sum that never ends: the watch beside the step tells it, aborts and ends the rank."""
    at = stage_nccl()
    d = serve_nccl(at, "--step_s", "1", *FEW)
    expected = generate(d, PROMPT, 6)
    found, log = lost_and_back(d, lambda: tell_nccl(at, "1 sum " + what), lambda: tell_nccl(at))
    for event in ("step_lost", "job_lost"):
        assert re.search(r"event=%s %s" % (event, said[0]), log), log
    assert 0 < found < 8, found
    assert generate(d, PROMPT, 6) == expected and d.info().generation == 2
    job.end_and_clean(d)
    return "found after %.2f s" % found


def no_communicator(what, field, *words):
    at = stage_nccl()
    tell_nccl(at, "1 init " + what)
    p = subprocess.run([os.path.join(at, "bin", "phalanxd"), "--set", make_set(TINY, 2), "--listen", "127.0.0.1:0", "--device", "cuda", *SMALL, *FEW,
                        "--reduce", "nccl", "--coldstart_s", "2"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=with_nccl(at))
    assert p.returncode == 3 and "ready" not in p.stdout, (p.returncode, p.stderr)
    lines = [x for x in p.stderr.splitlines() if re.search(r"event=coldstart_refused .*field=%s " % field, x)]
    assert any(all(w in x for w in words) for x in lines), p.stderr
    nothing_left()
    return lines[0][lines[0].index("code="):]


def part_nccl():
    yield sums_on_the_devices,
    yield a_sum_fails, "break", r"code=EPEER field=nccl text=\"ncclCommGetAsyncError: remote process exited or there was a network error"
    yield a_sum_fails, "stall", r"code=ETIMEOUT field=step .*has not ended on the device"
    yield no_communicator, "refuse", "nccl", "rank=1 ", "ncclCommInitRankConfig"
    yield no_communicator, "hang", "nccl", "ncclCommInitRankConfig: still in progress after"


if __name__ == "__main__":
    sys.exit(job.main(globals()))
