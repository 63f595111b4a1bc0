"""phalanx-rank alone with a coordinator that is none of ours: what comes before it serves is taken in one order, or refused.

usage: rank_test.py [part...]   (frames)"""
import os
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import job  # noqa: E402
from job import TINY, harness, nothing_left  # noqa: E402
from rank_faults import HEADER, rank_messages  # noqa: E402

GENERATION = 7
HELLO, SETUP, GO, REPORT, STEP, RESULT, BYE = range(1, 8)
MAP, MPI, CARVE, WARM_UP, SERVE, VERIFY = range(1, 7)


class Coordinator:
    """Has started a rank, and its hello: says what it is told to."""

    def __init__(self):
        self.wire = rank_messages()
        at = os.path.join(tempfile.mkdtemp(dir=harness._tmp), "s")
        shard_set = harness.make_set(TINY, 1)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(at)
            listener.listen(1)
            listener.settimeout(20)
            self.rank = subprocess.Popen([os.path.join(harness.BUILD, "bin", "phalanx-rank"), "--socket", at, "--generation", str(GENERATION),
                                          "--set", shard_set, "--kv.tokens", "64"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                self.s, _ = listener.accept()
            except socket.timeout:
                self.rank.kill()
                raise
        self.s.settimeout(20)
        self.head, kind, _ = self.next()
        assert kind == HELLO, kind

    def whole(self, n):
        data = b""
        while len(data) < n:
            part = self.s.recv(n - len(data))
            assert part, "the rank has closed"
            data += part
        return data

    def next(self):
        head = HEADER.unpack(self.whole(HEADER.size))
        return head, head[2], self.whole(head[5])

    def send(self, kind, body=b"", generation=GENERATION):
        magic, version, _, _, zero, _ = self.head
        self.s.sendall(HEADER.pack(magic, version, kind, generation, zero, len(body)) + body)

    def go(self, stage):
        self.send(GO, self.wire.Go(stage=stage).SerializeToString())

    def done(self, stage):
        """Reads reports until the stage has ended well."""
        while True:
            _, kind, body = self.next()
            r = self.wire.Report.FromString(body)
            assert kind == REPORT and r.stage == stage and not r.errors, (kind, r)
            if r.percent == 100:
                return

    def end(self):
        """The rank's exit code and what it said."""
        try:
            _, err = self.rank.communicate(timeout=20)
        finally:
            self.rank.kill()
            self.s.close()
        nothing_left()
        return self.rank.returncode, err


def refused(field, *frames):
    """frames: each a name of what is said; the last of them is one too many."""
    c = Coordinator()
    for f in frames:
        if f == "setup":
            c.send(SETUP)
        elif f == "stale":
            c.send(99, generation=GENERATION - 1)          # of a former job: passed over
        elif f.startswith("frame "):
            c.send(int(f.split()[1]))
        else:
            stage = {"none": 0, "map": MAP, "mpi": MPI, "carve": CARVE, "warm_up": WARM_UP, "serve": SERVE, "verify": VERIFY, "99": 99}[f]
            c.go(stage)
            if f is not frames[-1]:
                c.done(stage)
    code, err = c.end()
    assert code == 1, (code, err)
    lines = [x for x in err.splitlines() if "event=rank_failed" in x]
    assert len(lines) == 1 and "code=EINVAL" in lines[0] and "field=" + field + " " in lines[0], err


def leaves(*stages):
    """BYE, whenever it comes: an orderly end."""
    c = Coordinator()
    c.send(SETUP)
    for s in stages:
        c.go(s)
        c.done(s)
    c.send(BYE)
    code, err = c.end()
    assert code == 0, (code, err)


def part_frames():
    yield leaves,
    yield leaves, MAP, MPI
    for frames in (("map",), ("setup", "setup"), ("frame 3",), ("setup", "frame 5"), ("setup", "frame 1"), ("stale", "frame 99")):
        yield (refused, "frame.type") + frames
    for frames in (("mpi",), ("carve",), ("warm_up",), ("serve",), ("verify",), ("99",), ("none",), ("map", "map"), ("map", "carve"),
                   ("map", "serve"), ("map", "mpi", "warm_up"), ("map", "mpi", "serve"), ("map", "mpi", "mpi")):
        yield (refused, "go.stage", "setup") + frames


if __name__ == "__main__":
    sys.exit(job.main(globals()))
