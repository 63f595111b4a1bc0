"""Stands in for phalanx-rank in rank_faults.py: becomes the real one, or stands between it and the coordinator and
changes what it says.  twist.json beside this program says what to do for which rank."""
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER = struct.Struct("<IHHIII")         # magic, version, type, generation, zero, length


def whole(s, n):
    data = b""
    while len(data) < n:
        part = s.recv(n - len(data))
        if not part:
            raise SystemExit(0)
        data += part
    return data


def real_hello(program, args):
    """The hello of the real rank, which goes on waiting behind us."""
    at = os.path.join(HERE, "s%d" % os.getpid())
    args = list(args)
    i = args.index("--socket") + 1
    args[i] = at
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(at)
        listener.listen(1)
        child = subprocess.Popen([program] + args, stdin=subprocess.DEVNULL)
        s, _ = listener.accept()
    os.unlink(at)
    head = HEADER.unpack(whole(s, HEADER.size))
    return child, s, head, whole(s, head[5])


def main():
    with open(os.path.join(HERE, "twist.json")) as f:
        conf = json.load(f)
    args, program = sys.argv[1:], conf["real"]
    rank = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
    twist = conf["twist"].get(rank)
    if twist is None:
        os.execv(program, [program] + args)
    for name, value in twist.get("rlimit", {}).items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    if "exit" in twist:
        raise SystemExit(twist["exit"])
    if "hello" not in twist:
        os.execv(program, [program] + args + twist.get("args", []))
    t = twist["hello"]
    to = args[args.index("--socket") + 1]
    if t.get("never"):
        time.sleep(30)
        return
    sys.path.insert(0, conf["stubs"])
    from wire import rank_pb2
    child, s, head, body = real_hello(program, args)
    hello = rank_pb2.Hello.FromString(body)
    hello.pid = os.getpid()
    for field, value in t.get("set", {}).items():
        setattr(hello, field, value)
    hello.time_us += int(t.get("skew_s", 0) * 1e6)
    for f in list(hello.facts):
        if f.field in t.get("fact", {}):
            f.value = t["fact"][f.field]
        if f.field in t.get("drop", []):
            hello.facts.remove(f)
    body = hello.SerializeToString()
    if t.get("garbage"):
        body = b"\xff" * 40
    magic, version, kind, generation, zero, _ = head
    frame = HEADER.pack(magic, t.get("version", version), t.get("type", kind), t.get("generation", generation), zero,
                        len(body)) + body
    time.sleep(t.get("delay", 0))
    out = socket.socket(socket.AF_UNIX)
    out.connect(to)
    out.sendall(frame[:len(frame) // 2] if t.get("half") else frame * t.get("times", 1))
    if t.get("close"):
        out.close()
        time.sleep(30)
        return
    while out.recv(65536):
        pass
    child.kill()


main()
