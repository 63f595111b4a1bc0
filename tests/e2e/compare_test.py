"""The plan is the allocation: `phalanx plan --compare` of running services, beside `phalanx plan --json` on paper.

Arenas differ by nothing; what is not ours lies within the bounds that the plan states, and what the system counts in all
within FACTOR of its estimate.  A service that holds something else is played by a server of our own, with true answers in
which one number was changed."""
import concurrent.futures
import json
import os
import re
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import harness  # noqa: E402
from harness import control_pb2_grpc, ctl, grpc  # noqa: E402

PHALANX = os.path.join(harness.BUILD, "bin", "phalanx")
TINY = os.path.join(harness.GOLDEN, "tiny", "arch", "llama")
FACTOR = 1.5
MIB = 1 << 20
ARENAS = ("weights", "kv", "arena", "step", "comm")
with open(os.path.join(harness.BUILD, "CMakeCache.txt")) as f:
    SANITIZED = "PHALANX_SANITIZE:BOOL=ON" in f.read()     # its shadow and its quarantine are in no estimate


def plan(*args, code=0):
    p = subprocess.run([PHALANX, "plan", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert p.returncode == code, (args, p.returncode, p.stdout, p.stderr)
    return p


def compare(address, code=0):
    return json.loads(plan("--compare", address, "--json", code=code).stdout)


def the_same_numbers(ranks, paper):
    """Of the service and of the plan on paper."""
    assert [r["rank"] for r in ranks] == list(range(len(paper)))
    for r, p in zip(ranks, paper):
        planned = {a["arena"]: a["planned"] for a in r["arenas"]}
        assert planned == {"weights": p["weights_mapped"], "kv": p["kv_pool"], "step": p["step_buffers"],
                           "arena": p["activations"] + p["rope_tables"] + p["host_tables"],
                           "comm": p["comm_shared"] + p["comm_private"]}, (planned, p)
        assert sum(planned.values()) == p["total"]
        estimates = {o["kind"]: [o[k] for k in ("estimated", "low", "high")] for o in r["others"]}
        assert estimates == {k: [v["bytes"], v["low"], v["high"]] for k, v in p["others"].items()}, (estimates, p["others"])


def documented(c):
    """Every key of the JSON, every arena and every kind, in the planner's page."""
    with open(os.path.join(harness.ROOT, "shard", "plan", "README.md")) as f:
        page = f.read()
    r = c["ranks"][0]
    words = [*c, *r, *r["arenas"][0], *r["others"][0], *r["subsystems"][0], *ARENAS, *(o["kind"] for o in r["others"])]
    missing = [w for w in words if "`%s`" % w not in page]
    assert not missing, missing


def near(r, kinds, what):
    """Sums over kinds: within the bounds, and near the estimate."""
    picked = [o for o in r["others"] if o["kind"] in kinds]
    assert len(picked) == len(kinds), r["others"]
    low, estimate, got, high = (sum(o[k] for o in picked) for k in ("low", "estimated", "measured", "high"))
    assert 0 <= low <= got <= high, (what, low, got, high)
    # what is small may be off by more: another C library, another MPI
    assert max(got, 64 * MIB) / max(estimate, 64 * MIB) < FACTOR and max(estimate, 64 * MIB) / max(got, 64 * MIB) < FACTOR, (what, estimate, got)
    return "%s %.1f of ~%.1f MiB" % (what, got / MIB, estimate / MIB)


def readings(r):
    """Pages of a set that lies in a memory file system count as shared: files and shared are judged together."""
    notes = [near(r, ["resident_anonymous"], "anonymous"), near(r, ["resident_shared", "resident_files"], "files and shared")]
    for kind in ("program", "mpi"):
        near(r, [kind], kind)
    near(r, ["program_files", "mpi_files"], "pages of libraries")
    return ", ".join(notes)


def of_the_process(r):
    """The readings are of that process: what /proc says of it later is hardly another figure."""
    with open("/proc/%d/status" % r["pid"]) as f:
        now = {k: int(v) * 1024 for k, v in re.findall(r"^(Rss\w+):\s+(\d+) kB", f.read(), re.M)}
    for kind, key in (("resident_anonymous", "RssAnon"), ("resident_shared", "RssShmem"), ("resident_files", "RssFile")):
        got = next(o["measured"] for o in r["others"] if o["kind"] == kind)
        assert abs(now[key] - got) <= 16 * MIB, (kind, now[key], got)


def running(model, world, *flags):
    shard_set = harness.make_set(model, world)
    d = harness.Daemon(shard_set, *flags)
    paper = json.loads(plan(shard_set, *flags, "--json").stdout)["per_rank"]
    c = compare(d.address)
    assert c["equal"] is True and len(c["ranks"]) == world, c
    the_same_numbers(c["ranks"], paper)
    documented(c)
    for r in c["ranks"]:
        assert [a["arena"] for a in r["arenas"]] == list(ARENAS)
        assert all(a["difference"] == 0 and a["actual"] == a["planned"] > 0 for a in r["arenas"]), r["arenas"]
        names = {s["name"]: s for s in r["subsystems"]}
        assert names["comm"]["live_bytes"] > 0 and names["step"]["live_bytes"] > 0 and names["rank"]["live_bytes"] > 0
        assert all(s["peak_bytes"] >= s["live_bytes"] for s in r["subsystems"] + c["coordinator"])
        if not SANITIZED:
            of_the_process(r)
    assert {"coordinator", "grpc", "calls"} <= {s["name"] for s in c["coordinator"]}, c["coordinator"]
    note = "" if SANITIZED else "; ".join("rank %d: %s" % (r["rank"], readings(r)) for r in c["ranks"])
    text = plan("--compare", d.address).stdout
    assert len(re.findall(r"^  sum .* \+0$", text, re.M)) == world, text
    assert re.search(r"^verdict: equal", text, re.M), text
    lines = [x for x in d.log if "event=memory_of_rank" in x]
    assert len(lines) == world and all("difference=0 " in x and "weights=" in x and "mpi=" in x for x in lines), lines
    info = d.info()
    d.stop_well()
    plan("--compare", d.address, code=4)                    # nobody is there any more
    print("ok   %s, %d ranks%s: %s" % (os.path.basename(model), world, " " + " ".join(flags) if flags else "", note), flush=True)
    return info


class Played(control_pb2_grpc.ControlServicer):
    """GetServerInfo as it was recorded."""

    def __init__(self, info):
        self.info = info

    def GetServerInfo(self, request, context):
        return self.info


def play(info, code):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    control_pb2_grpc.add_ControlServicer_to_server(Played(info), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        return plan("--compare", "127.0.0.1:%d" % port, code=code), \
            subprocess.run([PHALANX, "plan", "--compare", "127.0.0.1:%d" % port, "--json"], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True, timeout=60)
    finally:
        server.stop(0).wait()


def differences_show(info):
    play(info, 0)
    for arena in ARENAS:
        for by in (1, -1):
            other = ctl.GetServerInfoResponse()
            other.CopyFrom(info)
            r = other.ranks[1]
            setattr(r, arena + "_measured", getattr(r, arena + "_measured") + by)
            p, j = play(other, 3)
            assert re.search(r"^verdict: DIFFERENT", p.stdout, re.M) and re.search(r"^  %s .* %s$" % (arena, re.escape("%+d" % by)), p.stdout, re.M), p.stdout
            assert j.returncode == 3 and json.loads(j.stdout)["equal"] is False, j
    # two differences that cancel out in the sum
    other.CopyFrom(info)
    other.ranks[0].kv_measured += 64
    other.ranks[0].comm_measured -= 64
    play(other, 3)
    # an estimate that is wrong is told, and no difference
    other.CopyFrom(info)
    other.ranks[0].others[0].measured = other.ranks[0].others[0].high + 1
    p, j = play(other, 0)
    assert "OUTSIDE" in p.stdout and json.loads(j.stdout)["outside_bounds"] >= 1, p.stdout
    other.CopyFrom(info)
    other.state = "restarting"
    p, _ = play(other, 4)
    assert "not ready but restarting" in p.stderr and not p.stdout, p
    other.CopyFrom(info)
    del other.ranks[:]
    play(other, 3)
    print("ok   differences of a byte, estimates out of bounds, a service that is not ready", flush=True)


def bad_addresses():
    with socket.socket() as s:                              # bound, and nobody listens
        s.bind(("127.0.0.1", 0))
        p = plan("--compare", "127.0.0.1:%d" % s.getsockname()[1], code=4)
        assert "no server" in p.stderr and not p.stdout, p
    for word in ("nonsense", "127.0.0.1:", "127.0.0.1:99999", ":50051", ""):
        p = plan("--compare", word, code=2)
        assert "--compare" in p.stderr, p
    for more in (["model.gguf"], ["--ranks", "2"], ["--explain"]):
        p = plan("--compare", "127.0.0.1:1", *more, code=2)
        assert "--compare" in p.stderr, p
    assert "--compare" in plan("--help").stdout
    print("ok   addresses where nobody listens, and that are none", flush=True)


if __name__ == "__main__":
    bad_addresses()
    small = ("--kv.tokens", "4096", "--max_sequences", "8", "--token_budget", "64")
    for world in (1, 2, 3):
        info = running(TINY, world, *small)
        if world == 2:
            differences_show(info)
    running(TINY, 2, "--transport", "mpi", *small)
    if os.path.exists(harness.REAL_MODEL):
        for world in (1, 2, 3):
            running(harness.REAL_MODEL, world)
    else:
        print("SKIPPED the default model: %s is not there" % os.path.basename(harness.REAL_MODEL), flush=True)
