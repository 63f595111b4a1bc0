"""Starts phalanxd on a shard set and talks to it with stubs made from our .proto files.

Everything that a test starts is ended when the test program ends, also when it fails: phalanxd gets SIGTERM, then
SIGKILL (its ranks follow it by themselves)."""
import atexit
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("PHALANX_BUILD", os.path.join(ROOT, "build"))
GOLDEN = os.path.join(ROOT, "tests", "golden")
SHARED = os.path.join(os.path.dirname(ROOT), "shared")
REAL_MODEL = os.path.join(SHARED, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
READY_WAIT = float(os.environ.get("PHALANX_READY_WAIT", "60"))

_tmp = tempfile.mkdtemp(prefix="phalanx-e2e-")
_running = []


def _clean():
    for d in list(_running):
        d.kill()
    shutil.rmtree(_tmp, ignore_errors=True)


atexit.register(_clean)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the test's time limit: still clean up


def _stubs():
    from grpc_tools import protoc
    import grpc_tools
    out = os.path.join(_tmp, "stubs")
    os.makedirs(out)
    files = ["phalanx/v1/inference.proto", "phalanx/v1/control.proto"]
    include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    rc = protoc.main(["protoc", "-I" + os.path.join(ROOT, "proto"), "-I" + include,
                      "--python_out=" + out, "--grpc_python_out=" + out] + files)
    if rc:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, out)


_stubs()

import grpc  # noqa: E402
from phalanx.v1 import control_pb2, control_pb2_grpc, inference_pb2, inference_pb2_grpc  # noqa: E402

pb = inference_pb2
ctl = control_pb2


def make_set(model, ranks, policy=None, more=()):
    """A shard set of `model` (a path), made once a test program.  more: further options of phalanx shard."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", os.path.relpath(model, os.path.dirname(ROOT)))
    out = os.path.join(_tmp, "%s-%d-%s%s" % (name, ranks, policy or "as_file", "-more" if more else ""))
    if not os.path.exists(out):
        cmd = [os.path.join(BUILD, "bin", "phalanx"), "shard", model, "--ranks", str(ranks), "--out", out]
        subprocess.run(cmd + (["--format", policy] if policy else []) + list(more), check=True, timeout=300,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return out


class Daemon:
    """phalanxd; address and stubs once it is ready (wait=False: once it listens).  build: a folder with other programs in bin."""

    def __init__(self, shard_set, *flags, wait=True, build=None):
        cmd = [os.path.join(build or BUILD, "bin", "phalanxd"), "--set", shard_set, "--listen", "127.0.0.1:0"] + list(flags)
        self.log = []
        self._lines = queue.Queue()
        self.process = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _running.append(self)
        self._readers = [threading.Thread(target=self._read, args=x, daemon=True)
                         for x in ((self.process.stdout, "out"), (self.process.stderr, "log"))]
        for t in self._readers:
            t.start()
        self.address = self._find("log", r"event=listening port=(\d+)", lambda m: "127.0.0.1:" + m.group(1))
        if wait:
            self.address = self._find("out", r"^ready address=(\S+)", lambda m: m.group(1))
        self.channels = []
        self.channel = self.connect()
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.control = control_pb2_grpc.ControlStub(self.channel)

    def _read(self, stream, sort):
        with stream:
            for line in stream:
                if sort == "log":
                    self.log.append(line)
                self._lines.put((sort, line))
        self._lines.put((sort, None))

    def _find(self, sort, pattern, take):
        end = time.monotonic() + READY_WAIT
        while True:
            try:
                s, line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                self.kill()
                raise RuntimeError("phalanxd did not say %r in time:\n%s" % (pattern, "".join(self.log)))
            if s != sort:
                continue
            if line is None:
                raise RuntimeError("phalanxd ended with %s:\n%s" % (self.process.wait(10), "".join(self.log)))
            m = re.search(pattern, line)
            if m:
                return take(m)

    def connect(self, *options):
        """A connection of its own (gRPC shares connections between channels with the same options)."""
        channel = grpc.insecure_channel(self.address, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0)] + list(options))
        self.channels.append(channel)
        return channel

    def info(self):
        return self.control.GetServerInfo(ctl.GetServerInfoRequest(), timeout=10)

    def wait_free(self, seconds=5):
        """Waits until nothing runs and every KV block is free; returns the last status."""
        end = time.monotonic() + seconds
        while True:
            i = self.info()
            if (i.kv_blocks_free == i.kv_blocks_total and not i.running and not i.waiting) or time.monotonic() > end:
                return i
            time.sleep(0.02)

    def stop(self, seconds=15):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        finally:
            self.kill()
        return code

    def stop_well(self):
        """stop(), which has to end with 0: under a sanitizer a leak is another code."""
        code = self.stop(30)
        if code:
            raise AssertionError("phalanxd ended with %s:\n%s" % (code, "".join(self.log[-60:])))

    def kill(self):
        for c in getattr(self, "channels", []):
            c.close()
        self.channels = []
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for t in self._readers:              # they end with the pipes, so with the last process that holds them
            t.join(5)
        if self in _running:
            _running.remove(self)


def ids_of(stream):
    """All token ids of a stream, and its messages."""
    messages = list(stream)
    return [i for m in messages for o in m.outputs for i in o.token_ids], messages


def text_of(messages):
    return "".join(o.text for m in messages for o in m.outputs)


def greedy(prompt, n, **more):
    return pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), temperature=0,
                              stopping=pb.Stopping(max_new_tokens=n, ignore_eos=True), **more)
