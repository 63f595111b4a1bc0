"""The mutation table: one fault at a time in an otherwise good set, job or host, and the refusal that must follow.

usage: mutation_test.py [--table | part...]   (table files ranks host auto; all by default)

Each fault has to be refused within 5 s by phalanxd (exit code 3) with the code, rank and field that stand beside it,
with every field found in the table of refusable fields (ops/runbook.md), and with no process, folder or segment left.
Faults that live in files are found by `phalanx verify`, too, with the same field.  `auto` repeats those that only a
digest can tell with nothing but a sample read before serving: what the sample misses, the background pass finds."""
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import lifecycle_test as life  # noqa: E402   (its mark is in the environment of all that is started)
from lifecycle_test import harness, nothing_left, shard  # noqa: E402

TINY = life.TINY
OTHER = os.path.join(harness.GOLDEN, "tiny", "arch", "llama3")
BIG = "SmolLM2-135M"                              # by name: half a GiB to read beside serving, as holes
BIN = os.path.join(harness.BUILD, "bin")
LIMIT = 5 * float(os.environ.get("PHALANX_SLOWER", "1"))      # for a machine that is slow or busy
TOKENIZER = b'{"phalanx.tokenizer": "another"}'

with open(os.path.join(harness.BUILD, "CMakeCache.txt")) as _f:
    SANITIZED = "PHALANX_SANITIZE:BOOL=ON" in _f.read()

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


# ---- how files are spoilt ----

def flip(path, at, bit=4):
    with open(path, "r+b") as f:
        f.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ bit]))


def header(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        text = f.read(n)
    return n, text, json.loads(text)


def write_header(path, n, text):
    assert len(text) <= n, (len(text), n)
    with open(path, "r+b") as f:
        f.write(struct.pack("<Q", n))
        f.write(text.ljust(n))


def edit_header(path, change):
    """The header changed and written in place; a value may have to keep its length."""
    n, _, o = header(path)
    change(o)
    text = json.dumps(o, separators=(",", ":")).encode()
    write_header(path, n, text)


def meta(key, value):
    return lambda s: edit_header(shard(s, 1), lambda o: o["__metadata__"].__setitem__(key, value))


def tensor_at(path, name):
    n, _, o = header(path)
    return 8 + n + o[name]["data_offsets"][0]


def edit_manifest(s, change, forge=False):
    """forge: with its own digest made right again, so that only a deeper look finds it."""
    path = os.path.join(s, "manifest.json")
    with open(path) as f:
        text = f.read()
    o = json.loads(text)
    change(o)
    if not forge:
        with open(path, "w") as f:
            f.write(json.dumps(o, indent=1, sort_keys=True) + "\n")
        return
    o["manifest"] = "0" * 64
    text = json.dumps(o, indent=1, sort_keys=True) + "\n"
    own = hashlib.sha256(text.encode()).hexdigest()
    with open(path, "w") as f:
        f.write(text.replace('"manifest": "%s"' % ("0" * 64), '"manifest": "%s"' % own))


class Skip(Exception):
    """What this machine does not allow: said aloud, never passed."""


ANY = object()                                   # a rank that the fault does not determine


def swap(s):
    a, b = shard(s, 0), shard(s, 1)
    os.rename(a, s + "/x"), os.rename(b, a), os.rename(s + "/x", b)


def replace(path, make):
    os.unlink(path)
    make(path)


def from_other(other, rank=1):
    return lambda s: shutil.copy(shard(other(), rank), shard(s, 1))


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


def duplicate_key(s):
    n, text, _ = header(shard(s, 1))
    key = b'"output_norm.weight":{"dtype":"F32"'
    assert key in text
    text = text.rstrip().replace(key, b'"output_norm.weight":{"dtype":"F32","dtype":"F32"', 1)
    drop = b'"builder":"phalanx 0.1.0"'              # make room: the header keeps its length
    assert drop in text
    write_header(shard(s, 1), n, text if len(text) <= n else text.replace(drop, b'"builder":""', 1))


def rename_tensor(o):
    o["blk.0.ffn_uq.weight"] = o.pop("blk.0.ffn_up.weight")


def spoil(name, key, value):
    def change(o):
        o[name][key] = value(o[name][key])
    return lambda s: edit_header(shard(s, 1), change)


def past_the_end(s):
    def beyond(v):
        last = 10 ** len(str(v[1])) - 1                              # the header keeps its length
        assert last > os.path.getsize(shard(s, 1)) and len(str(v[0])) == len(str(last - v[1] + v[0]))
        return [last - v[1] + v[0], last]
    spoil("blk.2.ffn_down.weight", "data_offsets", beyond)(s)


def absurd(s):
    with open(shard(s, 1), "r+b") as f:
        f.write(struct.pack("<Q", 1 << 60))


def extend(s, n):
    with open(shard(s, 1), "ab") as f:
        f.write(b"\0" * n)


def manifest_version(o):
    o["format"] = 2


def manifest_rope(o):
    o["arch"]["rope_theta"] = 50000.0


def manifest_bytes(o):
    o["ranks"][1]["bytes"] += 64


def other_tokenizer(s):
    with open(os.path.join(s, "tokenizer.json"), "wb") as f:
        f.write(TOKENIZER)


def loop(path):
    os.symlink(path, path)


E, M, C, N, I = "ECORRUPT", "EMISMATCH", "ECORRUPT", "ENOTFOUND", "EINVAL"
TENSOR_CLASSES = ["token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.1.attn_q.weight",
                  "blk.1.attn_k.weight", "blk.1.attn_v.weight", "blk.2.attn_output.weight", "blk.2.ffn_norm.weight",
                  "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.2.ffn_down.weight"]


def file_faults():
    """(name, what it does to a copy of the set, code, rank or None, field)"""
    one = 1
    yield "1 byte cut off", lambda s: os.truncate(shard(s, 1), os.path.getsize(shard(s, 1)) - 1), M, one, "bytes"
    yield "1 byte added", lambda s: extend(s, 1), M, one, "bytes"
    yield "64 bytes added", lambda s: extend(s, 64), M, one, "bytes"
    yield "half a file", lambda s: os.truncate(shard(s, 1), os.path.getsize(shard(s, 1)) // 2), M, one, "bytes"
    yield "bit flip in the header's length", lambda s: flip(shard(s, 1), 0), C, one, "header"
    yield "bit flip in the header's JSON", lambda s: flip(shard(s, 1), 8, 1), C, one, "header"
    yield "bit flip in the metadata", meta("revision", "x"), M, one, "revision"
    yield "bit flip in the header's padding", lambda s: flip(shard(s, 1), 7 + header(shard(s, 1))[0], 2), C, one, "header"
    for t in TENSOR_CLASSES:
        yield ("bit flip in " + t, lambda s, t=t: flip(shard(s, 1), tensor_at(shard(s, 1), t) + 5), C, one, t)
    yield "bit flip in the last tensor's padding", lambda s: flip(shard(s, 1), -1), C, one, "blk.2.ffn_down.weight"
    yield "swapped ranks", swap, M, one, "rank"
    yield "duplicated rank", lambda s: shutil.copy(shard(s, 0), shard(s, 1)), M, one, "rank"
    yield "missing rank", lambda s: os.unlink(shard(s, 1)), N, one, "file"
    yield "shard of another world size", from_other(lambda: base(3)), M, one, "world"
    yield "shard of another revision", from_other(other_revision), M, one, "revision"
    yield "shard of another quantization", from_other(lambda: base(2, TINY, "--format", "BF16")), M, one, "policy"
    yield "shard with other rope settings", from_other(other_rope), M, one, "source"
    yield "shard of another model and vocabulary", from_other(lambda: base(2, OTHER)), M, one, "model"
    yield "shard of another split", from_other(lambda: base(2, TINY, "--split", "even")), M, one, "plan"
    yield "other tokenizer", other_tokenizer, M, None, "tokenizer.json"
    yield "missing tokenizer", lambda s: os.unlink(os.path.join(s, "tokenizer.json")), N, None, "tokenizer.json"
    yield "shard with another tokenizer", meta("tokenizer", "0" * 64), M, one, "tokenizer"
    yield "other layout", meta("layout", "cpu-panel08-v1"), M, one, "layout"
    yield "other layout in the manifest", lambda s: edit_manifest(s, lambda o: o.__setitem__("layout", "x"), True), M, None, "layout"
    yield "other arithmetic id in the header", meta("arithmetic", "f32-f16-tree-2"), M, one, "arithmetic"
    yield "other format version", meta("format", "2"), M, one, "format"
    yield "other format version of the manifest", lambda s: edit_manifest(s, manifest_version, True), M, None, "format"
    yield "manifest edited", lambda s: edit_manifest(s, lambda o: o.__setitem__("revision", "x")), C, None, "manifest"
    yield "manifest edited, digest forged", lambda s: edit_manifest(s, manifest_rope, True), M, None, "plan"
    yield "manifest with another size, digest forged", lambda s: edit_manifest(s, manifest_bytes, True), M, one, "bytes"
    yield ("manifest of another set", lambda s: shutil.copy(os.path.join(other_revision(), "manifest.json"), s), M, one,
           "revision")
    yield "manifest cut off", lambda s: os.truncate(os.path.join(s, "manifest.json"), 900), C, None, "manifest.json"
    yield "no manifest", lambda s: os.unlink(os.path.join(s, "manifest.json")), N, None, "manifest.json"
    yield "a FIFO as manifest", lambda s: replace(os.path.join(s, "manifest.json"), os.mkfifo), "EIO", None, "manifest.json"
    yield "zero-length file", lambda s: os.truncate(shard(s, 1), 0), M, one, "bytes"
    yield "a folder in place of a file", lambda s: replace(shard(s, 1), os.mkdir), I, one, "file"
    yield "a FIFO in place of a file", lambda s: replace(shard(s, 1), os.mkfifo), I, one, "file"
    yield "symlink loop", lambda s: replace(shard(s, 1), loop), "EIO", one, "file"
    yield ("tensor renamed", lambda s: edit_header(shard(s, 1), rename_tensor), N, one, "blk.0.ffn_up.weight")
    yield ("tensor missing", lambda s: edit_header(shard(s, 1), lambda o: o.pop("blk.1.attn_k.weight")), N, one,
           "blk.1.attn_k.weight")
    yield ("tensor with another shape", spoil("blk.1.attn_q.weight", "shape", lambda v: [v[0] - 64]), M, one,
           "blk.1.attn_q.weight.shape")
    yield ("tensor with another type of numbers", spoil("output_norm.weight", "dtype", lambda v: "F16"), M, one,
           "output_norm.weight.dtype")
    yield ("overlapping extents", spoil("blk.1.attn_q.weight", "data_offsets", lambda v: [v[0] - 64, v[1] - 64]), M, one,
           "blk.1.attn_q.weight.offset")
    yield ("extents shorter than the shape", spoil("blk.1.attn_q.weight", "data_offsets", lambda v: [v[0], v[1] - 64]), M,
           one, "blk.1.attn_q.weight.bytes")
    yield "extents past the end", past_the_end, M, one, "blk.2.ffn_down.weight.offset"
    yield "header length absurd (2^60)", absurd, C, one, "header"
    yield "duplicate JSON keys", duplicate_key, C, one, "header"
    yield "unreadable file", lambda s: os.chmod(shard(s, 1), 0), "EIO", one, "file"
    yield "unreadable manifest", lambda s: os.chmod(os.path.join(s, "manifest.json"), 0), "EIO", None, "manifest.json"


# ---- one refusal ----

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
_stage = {}


def stage(twist):
    """A folder with phalanxd and, in the place of phalanx-rank, one that does what `twist` says for a rank."""
    if "stubs" not in _stage:
        from grpc_tools import protoc
        _stage["stubs"] = tempfile.mkdtemp(dir=harness._tmp)
        rc = protoc.main(["protoc", "-I" + os.path.join(harness.ROOT, "proto"), "--python_out=" + _stage["stubs"],
                          "wire/rank.proto"])
        assert rc == 0
    d = tempfile.mkdtemp(dir=harness._tmp)
    shutil.copy(os.path.join(BIN, "phalanxd"), d)
    with open(os.path.join(HERE, "fake_rank.py")) as f:
        text = f.read()
    with open(os.path.join(d, "phalanx-rank"), "w") as f:
        f.write("#!%s\n" % sys.executable)
        f.write(text)
    os.chmod(os.path.join(d, "phalanx-rank"), 0o755)
    real = os.path.join(d, "real")                                 # beside a plugin that needs no GPU
    os.mkdir(real)
    shutil.copy(os.path.join(BIN, "phalanx-rank"), real)
    shutil.copy(os.environ["PHALANX_APART_PLUGIN"], os.path.join(real, "libphalanx-cuda.so"))
    with open(os.path.join(d, "twist.json"), "w") as f:
        json.dump({"real": os.path.join(real, "phalanx-rank"), "stubs": _stage["stubs"], "twist": twist}, f)
    return d


def hello(**t):
    return {"1": {"hello": t}}


def args(*a):
    return {"1": {"args": list(a)}}


def rank_fault(name, twist, code, rank, field, *flags):
    d = stage(twist() if callable(twist) else twist)
    note = check_refused(serve(base(), "--verify", "full", *flags, program=os.path.join(d, "phalanxd")), code, rank, field)
    shutil.rmtree(d, ignore_errors=True)
    return note


def no_room_for_kv():
    """As much as a refusal for want of memory asks for, and a little: all but the KV cache fits."""
    d = stage(hello(set={"free_bytes": 1 << 20}))
    p = subprocess.run(serve(base(), program=os.path.join(d, "phalanxd")), capture_output=True, text=True, timeout=60)
    (least,) = [int(f["expected"].split()[2]) for f in refusals(p.stderr) if f["field"] == "memory"]
    nothing_left(2)
    return hello(set={"free_bytes": least + (1 << 20)})


def rank_faults():
    soon = ("--hello_s", "2")
    for key, value in other_values("global"):
        yield "config that differs on one host: " + key, args("--" + key, value), M, 1, key
    yield "arenas of another size", args("--max_sequences", "3"), M, 1, "plan.activations"
    yield "another set on one host", lambda: args("--set", other_revision()), M, 1, "manifest"
    yield "another revision's shard on one host", lambda: args("--set", other_revision()), M, 1, "shard.revision"
    yield "other rope settings on one host", lambda: args("--set", other_rope()), M, 1, "rope"
    yield "another world's set on one host", lambda: args("--set", base(3)), M, 1, "ranks"
    yield "no set on one host", args("--set", "/nowhere"), N, 1, "manifest.json"
    yield "another build on one rank", hello(fact={"build": "0.0.9-000000000000"}), M, 1, "build"
    yield "another MPI version", hello(fact={"mpi.version": "Open MPI v4.0.0"}), M, 1, "mpi.version"
    yield "another arithmetic id", hello(fact={"arithmetic": "f32-f16-tree-2/f16"}), M, 1, "arithmetic"
    yield "other rope tables", hello(fact={"rope": "0123456789abcdef"}), M, 1, "rope"
    yield "another protocol version as a fact", hello(fact={"wire": "9"}), M, 1, "wire"
    yield "another tokenizer on one host", hello(fact={"tokenizer": "00"}), M, 1, "tokenizer"
    yield "another arena on one rank", hello(fact={"plan.activations": "1"}), M, 1, "plan.activations"
    yield "another dtype policy on one rank", hello(fact={"shard.policy": "BF16"}), M, 1, "shard.policy"
    yield "a fact left out", hello(drop=["manifest"]), M, 1, "manifest"
    yield "less memory than the KV cache needs", no_room_for_kv, "ERANGE", 1, "kv.tokens"
    yield "less memory than weights and buffers need", hello(set={"free_bytes": 1 << 20}), "ERANGE", 1, "memory"
    yield "clock an hour ahead", hello(skew_s=3600), M, 1, "clock"
    yield "clock 6 s behind", hello(skew_s=-6), M, 1, "clock"
    yield "clock within a lower bound only", hello(skew_s=-3), M, 1, "clock", "--max_clock_skew_s", "1"
    yield "never says hello", hello(never=True), "ETIMEOUT", 1, "hello", *soon
    yield "says hello twice", hello(times=2), "EEXIST", 1, "hello"
    yield "says hello late", hello(delay=3), "ETIMEOUT", 1, "hello", *soon
    yield "half a hello, and waits", hello(half=True), "ETIMEOUT", 1, "hello", *soon
    yield "half a hello, and closes", hello(half=True, close=True), "ETIMEOUT", 1, "hello", *soon
    yield "a hello that cannot be read", hello(garbage=True), "ETIMEOUT", 1, "hello", *soon
    yield "another frame than a hello", hello(type=4), "ETIMEOUT", 1, "hello", *soon
    yield "a stale rank of a former generation", hello(generation=77), M, ANY, "generation", *soon
    yield "a frame of another protocol version", hello(version=9), "ETIMEOUT", 1, "hello", *soon
    yield "duplicated rank number", hello(set={"rank": 0}), "EEXIST", 0, "hello.rank"
    yield "rank number out of range", hello(set={"rank": 7}), "ERANGE", 7, "hello.rank"
    yield "another world in the hello", hello(set={"world": 3}), M, 1, "hello.world"
    yield "another process's number", hello(set={"pid": 1}), M, 1, "hello.pid"
    yield "a rank that ends at once", {"1": {"exit": 1}}, "EPEER", 1, "hello"
    yield "too few files (ulimit -n)", {"1": {"rlimit": {"NOFILE": 16}}}, "ERANGE", 1, "ulimit.files"
    if not SANITIZED:                                   # whose shadow alone takes terabytes of address space
        yield "too little address space (ulimit -v)", {"1": {"rlimit": {"AS": 200 << 20}}}, "ERANGE", 1, "ulimit.address_space"


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


def part_ranks():
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


def with_tmpfs(where, size):
    """What goes before a command so that it finds a small file system there, in a mount namespace of its own."""
    inside = 'mount -t tmpfs -o size=%s tmpfs "$0" && exec "$@"' % size
    for how in (["unshare", "-m"], ["unshare", "-rm"]):
        before = how + ["sh", "-c", inside, where]
        if not subprocess.run(before + ["true"], capture_output=True).returncode:
            return before
    raise Skip("mounting is not allowed here")


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
    yield small_shm,
    for size in ("64k", "8500k", "12m", "17m"):
        yield small_job_folder, size, "ERANGE"
    yield small_job_folder, "17600k", None


# ---- depth auto ----

def watched(s):
    """Starts with a sample only; (exit code, log, health as a watch from before the fault told it)."""
    d = harness.Daemon(s, "--verify", "auto", "--verify_full_mib", "0", wait=False)
    health = life.Health(d)
    life.wait(lambda: health.seen or d.process.poll() is not None, 10, "health is told, or the end")
    code = life.ended(d)
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
        assert matches(refusals(log), C, 1, tensor), log
        if "event=ready" not in log:
            assert life.SERVING not in health, health
            seen["start"] += 1
            continue
        seen["background"] += 1
        assert re.search(r"event=state state=ready.*event=state state=failed", log, re.S), log
        assert not health or health[-1] == life.NOT_SERVING, health
        seen["watched"] += life.SERVING in health
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


def table():
    """Rows of the runbook's second table: what was done, and what the refusal says."""
    for name, _, code, rank, field in file_faults():
        yield name, code, "-" if rank is None else "of the file", field
    for name, _, code, rank, field, *_ in rank_faults():
        yield name, code, "-" if rank is ANY else "of the rank", field
    yield "port in use", "EBUSY", "-", "listen"
    yield "no room for MPI's shared memory files", "ERANGE", "-", "tmpdir"
    yield "a KV cache larger than the memory", "ERANGE", "least free", "kv.tokens"


def runbook_has_all():
    with open(os.path.join(harness.ROOT, "ops", "runbook.md")) as f:
        text = f.read()
    rows = ["| %s | %s | %s | `%s` |" % r for r in table()]
    missing = [r for r in rows if r not in text]
    assert not missing, "ops/runbook.md lacks (mutation_test.py --table prints them):\n" + "\n".join(missing)
    return "%d faults" % len(rows)


def part_table():
    yield runbook_has_all,


def main():
    if sys.argv[1:] == ["--table"]:
        for r in table():
            print("| %s | %s | %s | `%s` |" % r)
        return 0
    parts = {n[5:]: f for n, f in globals().items() if n.startswith("part_")}
    failed = n = 0
    for part in sys.argv[1:] or list(parts):
        for run, *a in parts[part]():
            n += 1
            began = time.monotonic()
            name = "%s %s" % (part, a[0] if a else run.__name__)
            try:
                note = run(*a)
                print("ok   %4.1f s  %s: %s" % (time.monotonic() - began, name, note), flush=True)
            except Skip as e:
                print("SKIPPED %s: %s" % (name, e), flush=True)
            except Exception as e:  # noqa: BLE001: the next one shall run
                failed += 1
                print("FAIL %4.1f s  %s: %s: %s" % (time.monotonic() - began, name, type(e).__name__, e), flush=True)
                for d in list(harness._running):
                    d.kill()
                for pid in life.processes():
                    with contextlib.suppress(OSError):
                        os.kill(pid, 9)
                time.sleep(0.3)
                for f in os.listdir(life.RUNTIME):
                    shutil.rmtree(os.path.join(life.RUNTIME, f), ignore_errors=True)
    shutil.rmtree(life.RUNTIME, ignore_errors=True)
    print("%d faults, %d failed" % (n, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
