"""Faults of one rank among good ones: a stand-in (fake_rank.py) in the place of phalanx-rank, told to go wrong in one way, and
what is said about it (mutation_test.py applies them)."""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

from job import SANITIZED, harness, nothing_left
from refused import ANY, BIN, base, check_refused, other_revision, other_rope, other_values, refusals, serve

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER = struct.Struct("<IHHIII")         # of a frame: magic, version, type, generation, zero, length
M, N = "EMISMATCH", "ENOTFOUND"

_stage = {}


def stubs():
    """A folder with wire/rank_pb2.py, made once a test program."""
    if "stubs" not in _stage:
        from grpc_tools import protoc
        _stage["stubs"] = tempfile.mkdtemp(dir=harness._tmp)
        rc = protoc.main(["protoc", "-I" + os.path.join(harness.ROOT, "proto"), "--python_out=" + _stage["stubs"],
                          "wire/rank.proto"])
        assert rc == 0
    return _stage["stubs"]


def rank_messages():
    """The module of what coordinator and ranks say to each other."""
    sys.path.insert(0, stubs())
    from wire import rank_pb2
    return rank_pb2


def stage(twist):
    """A folder with phalanxd and, in the place of phalanx-rank, one that does what `twist` says for a rank."""
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
        json.dump({"real": os.path.join(real, "phalanx-rank"), "stubs": stubs(), "twist": twist}, f)
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
