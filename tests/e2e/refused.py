"""Good sets to spoil, and the one way in which whatever was spoilt has to be refused.

Within 5 s by phalanxd (exit code 3), with the code, rank and field that are expected, every field found in the table of
refusable fields (ops/runbook.md), and no process, folder or segment left; faults of files by `phalanx verify`, too."""
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time

from job import TINY, Skip, harness, nothing_left    # whose mark is in the environment of all that is started

BIN = os.path.join(harness.BUILD, "bin")
LIMIT = 5 * float(os.environ.get("PHALANX_SLOWER", "1"))      # for a machine that is slow or busy
ANY = object()                                   # a rank that the fault does not determine


# ---- good sets ----

_sets = {}


def base(ranks=2, model=TINY, *flags):
    """A good set with SHA-256 digests, which this test can forge."""
    key = (ranks, model) + flags
    if key not in _sets:
        out = os.path.join(harness._tmp, "base%d" % len(_sets))
        subprocess.run([os.path.join(BIN, "phalanx"), "shard"] + ([] if "--synthetic" in flags else [model]) + ["--ranks", str(ranks), "--out", out, "--digest",
                        "sha256"] + list(flags), check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _sets[key] = out
    return _sets[key]


def copy(s):
    out = os.path.join(tempfile.mkdtemp(dir=harness._tmp), "set")
    shutil.copytree(s, out)
    return out


def other_revision():
    return base(2, TINY, "--revision", "other")


def other_rope():
    """The same model with another rope base: the checkpoint's number is changed in its bytes."""
    model = os.path.join(harness._tmp, "rope.gguf")
    if not os.path.exists(model):
        with open(TINY, "rb") as f:
            data = f.read()
        key = b"rope.freq_base"
        at = data.index(key) + len(key) + 4
        with open(model, "wb") as f:
            f.write(data[:at] + struct.pack("<f", 50000.0) + data[at + 4:])
    return base(2, model)


# ---- one refusal ----

def other_values(scope):
    """(key, a value that is not its default) for every key of this scope in the table of configuration fields."""
    with open(os.path.join(harness.ROOT, "configs", "README.md")) as f:
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| (?:`([^`]*)`)? \| (global|host) \|", f.read(), re.M)
    assert len(rows) > 20 and {"global", "host"} == {r[3] for r in rows}
    for key, values, default, where in rows:
        span = re.match(r"(\d+) to (\d+)$", values)
        if where != scope:
            continue
        if span:
            yield key, str(min(int(span[2]), 2 * max(1, int(default))))
        elif not values.startswith("text"):
            yield key, [v for v in values.split(", ") if v != default][-1]
        else:
            yield key, {"set": None, "listen": "127.0.0.1:1", "chat_template": "chatml", "devices": "0,1"}[key]


KEYS = {k for k, _ in other_values("global")}                                     # rows <key>
FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


def refusals(log):
    """The refused lines of a log as dictionaries."""
    out = []
    for line in log.splitlines():
        if "event=coldstart_refused" in line or "event=start_failed" in line or "event=rank_report" in line:
            out.append({k: v.strip('"') for k, v in FIELD.findall(line)})
    return out


def runbook():
    with open(os.path.join(harness.ROOT, "ops", "runbook.md")) as f:
        return set(re.findall(r"^\| `([^`]+)` \|", f.read(), re.M))


def row_of(field):
    for pattern, name in ((r"^plan\..*", "plan.<number>"), (r"^shard\..*", "shard.<fact>"), (r"^frame\..*", "frame.<part>"), (r"^ranks\..*", "ranks.<n>.<key>"),
                          (r"^assets\..*", "assets.<n>.<key>"), (r"^arch\..*", "arch.<key>"),
                          (r"^types\..*", "types.<tensor>"), (r"^generation\..*", "generation.<key>"),
                          (r"^(blk|token_embd|output_norm|output)\b.*\.(bytes|offset|shape|dtype|type)$", r"<tensor>.\2"),
                          (r"^(blk|token_embd|output_norm|output)\..*", "<tensor>")):
        if re.match(pattern, field):
            return re.sub(pattern, name, field)
    return field


def matches(found, code, rank, field):
    return any(f.get("code") == code and f.get("field") == field and
               (rank is ANY or f.get("rank") == (None if rank is None else str(rank))) for f in found)


def check_refused(cmd, code, rank, field, env=None, exit_code=3):
    began = time.monotonic()
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=env)
    took = time.monotonic() - began
    assert p.returncode == exit_code, (p.returncode, p.stderr)
    assert "ready address" not in p.stdout
    found = refusals(p.stderr)
    assert matches(found, code, rank, field), ((code, rank, field), p.stderr)
    known = runbook()
    for f in found:
        assert row_of(f.get("field", "")) in known or f["field"] in KEYS, "no row in ops/runbook.md: %s" % f
    nothing_left(2)
    assert took < LIMIT, "refused after %.1f s" % took
    return "%s rank=%s field=%s after %.2f s" % (code, "any" if rank is ANY else rank, field, took)


def serve(s, *flags, program=None):
    return [program or os.path.join(BIN, "phalanxd"), "--listen", "127.0.0.1:0", "--set", s] + list(flags)


def verify_finds(s, code, rank, field, before=()):
    p = subprocess.run(list(before) + [os.path.join(BIN, "phalanx"), "verify", s, "--json"], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=60)
    # Where the manifest cannot be read at all it is a failure, not a refusal.
    assert p.returncode == 3 or p.returncode == 1 and field == "manifest.json", (p.returncode, p.stdout, p.stderr)
    found = json.loads(p.stdout)["errors"]
    assert any(f["code"] == code and f["field"] == field and f["rank"] == (-1 if rank is None else rank)
               for f in found), ((code, rank, field), found)


# ---- what a machine allows ----

def as_another(s):
    """Root may read all: (a command that goes before, an environment) to meet this set as nobody does."""
    if os.geteuid():
        return [], None
    before = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    for d in (harness._tmp, os.path.dirname(s)):
        os.chmod(d, 0o755)
    p = subprocess.run(before + [os.path.join(BIN, "phalanx"), "verify", s], capture_output=True, text=True)
    if p.returncode:
        raise Skip("root may read all, and another user does not reach the build or the set: " + p.stderr.strip())
    runtime = tempfile.mkdtemp(dir=harness._tmp)
    os.chown(runtime, 65534, 65534)
    return before, dict(os.environ, XDG_RUNTIME_DIR=runtime)


def with_tmpfs(where, size):
    """What goes before a command so that it finds a small file system there, in a mount namespace of its own."""
    inside = 'mount -t tmpfs -o size=%s tmpfs "$0" && exec "$@"' % size
    for how in (["unshare", "-m"], ["unshare", "-rm"]):
        before = how + ["sh", "-c", inside, where]
        if not subprocess.run(before + ["true"], capture_output=True).returncode:
            return before
    raise Skip("mounting is not allowed here")
