"""Faults that are in no table: every region of every file flipped, cut and lengthened; odd folders, manifests and
configurations; runs of `phalanx shard` that are killed, meet each other, or have no room.

usage: hostile_test.py [part...]   (bytes manifest folder read shard start; all by default; PHALANX_SEED picks the bytes)

Nothing of it may be served or verified as good, and nothing may end in a signal."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import job  # noqa: E402
from file_faults import edit_manifest, flip, header  # noqa: E402
from job import TINY, harness, nothing_left, shard  # noqa: E402
from refused import BIN, base, check_refused, copy, row_of, runbook, serve, with_tmpfs  # noqa: E402

BIG = "SmolLM2-135M"                              # by name: half a GiB, without weights
SEED = int(os.environ.get("PHALANX_SEED", "1"))
PHALANX = os.path.join(BIN, "phalanx")


def run(*args, **more):
    return subprocess.run([PHALANX] + list(args), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **more)


def refused_by_verify(s, what):
    """verify says no, names a file and a field, and was not killed; the errors that it lists."""
    p = run("verify", s, "--json")
    assert p.returncode in (1, 3), (what, p.returncode, p.stdout, p.stderr)
    found = json.loads(p.stdout)["errors"]
    assert found and all(f["file"] and f["field"] and f["text"] for f in found), (what, found)
    known = runbook()
    for f in found:
        assert row_of(f["field"]) in known, "no row in ops/runbook.md: %s: %s" % (what, f)
    return found


def path_of(s, name):
    return os.path.join(s, name)


# ---- bytes ----

def regions(s):
    """(file, first, end): manifest, assets, and of each shard the length, the header, its end, every tensor's both ends."""
    for name in sorted(os.listdir(s)):
        size = os.path.getsize(path_of(s, name))
        if not name.startswith("rank-"):
            for k in range(8):
                yield name, size * k // 8, size * (k + 1) // 8
            continue
        n, text, o = header(path_of(s, name))
        yield name, 0, 8
        yield name, 8, 8 + len(text.rstrip())
        if len(text.rstrip()) < n:
            yield name, 8 + len(text.rstrip()), 8 + n
        ends = sorted(v["data_offsets"] for k, v in o.items() if k != "__metadata__")
        for a, b in ends:
            yield name, 8 + n + a, 8 + n + b
            yield name, 8 + n + b - 1, 8 + n + b          # padding, where there is some


def flips(ranks, *flags):
    """One bit anywhere: there is no byte without a digest."""
    s, rng, n = copy(base(ranks, TINY, *flags)), random.Random(SEED), 0
    for name, first, end in list(regions(s)):
        at, bit = rng.randrange(first, end), 1 << rng.randrange(8)
        flip(path_of(s, name), at, bit)
        refused_by_verify(s, "%s byte %d bit %d" % (name, at, bit))
        flip(path_of(s, name), at, bit)
        n += 1
    assert run("verify", s).returncode == 0              # every flip was taken back
    return "%d bits, seed %d" % (n, SEED)


def lengths():
    """Every file cut at random, to 0, 7 and 8 bytes, and with garbage behind it."""
    good, rng, n = base(), random.Random(SEED + 1), 0
    for name in sorted(os.listdir(good)):
        size = os.path.getsize(path_of(good, name))
        for cut in [0, 7, 8, size - 1] + [rng.randrange(size) for _ in range(6)]:
            s = copy(good)
            os.truncate(path_of(s, name), cut)
            refused_by_verify(s, "%s cut to %d" % (name, cut))
            shutil.rmtree(os.path.dirname(s))
            n += 1
        for more in (1, 63, 4096):
            s = copy(good)
            with open(path_of(s, name), "ab") as f:
                f.write(rng.randbytes(more))
            refused_by_verify(s, "%s with %d bytes more" % (name, more))
            shutil.rmtree(os.path.dirname(s))
            n += 1
    return "%d files" % n


def part_bytes():
    yield flips, 2
    yield flips, 3, "--split", "even"
    yield lengths,


# ---- manifests ----

def manifests():
    with open(path_of(base(), "manifest.json")) as f:
        text = f.read()
    o = json.loads(text)

    def edited(**more):
        return json.dumps(dict(o, **more), indent=1, sort_keys=True) + "\n"
    yield "empty", ""
    yield "a byte order mark", "\ufeff" + text
    yield "a NUL at its end", text + "\0"
    yield "a NUL inside", text.replace('"model"', '"mo\\u0000del"', 1)
    yield "a duplicate key", text.replace("{", '{"world": 2, "world": 2,', 1)
    yield "deep nesting", "[" * 100000 + "]" * 100000
    yield "deep nesting in an object", text.replace("{", '{"x": ' + "[" * 5000 + "]" * 5000 + ",", 1)
    yield "two documents", text + text
    yield "a list", "[%s]" % text
    yield "a number of 400 digits", text.replace('"world": 2', '"world": ' + "9" * 400)
    for value in (0, -1, 2 ** 31, 2 ** 32 + 2, 2 ** 63 - 1, 2 ** 64, 1e308, 2.0, "2", None, True, [], {}):
        yield "world %r" % (value,), edited(world=value)
    for value in (-1, 2 ** 62, 2 ** 63 - 1, "x"):
        ranks = [dict(o["ranks"][0], bytes=value)] + o["ranks"][1:]
        yield "bytes of a rank %r" % (value,), edited(ranks=ranks)
        for key in ("n_layer", "n_embd", "n_vocab", "n_head", "head_dim"):
            if key in o["arch"]:
                yield "%s %r" % (key, value), edited(arch=dict(o["arch"], **{key: value}))
    for key, values in (("family", ("", "gemma", 3)), ("rms_eps", (0, -1e-5, 1e300, "x")), ("rope_theta", (0, -1.0, 1e300, None))):
        for value in values:
            yield "%s %r" % (key, value), edited(arch=dict(o["arch"], **{key: value}))
    for name in ("../rank", "/etc/passwd", "a/b", "", ".", "x" * 300):
        ranks = [dict(o["ranks"][0], file=name)] + o["ranks"][1:]
        yield "a rank's file %.20r" % name, edited(ranks=ranks)
        assets = [dict(o["assets"][0], name=name)] + o["assets"][1:]
        yield "an asset's name %.20r" % name, edited(assets=assets)
    for part in ("arch", "types"):
        for key in o[part]:
            yield "without %s.%s" % (part, key), edited(**{part: {k: v for k, v in o[part].items() if k != key}})
    for key in o:
        yield "without " + key, json.dumps({k: v for k, v in o.items() if k != key}, indent=1, sort_keys=True) + "\n"


def odd_manifest(what, text):
    """As it is, and with its own digest made right: neither may be taken."""
    s = copy(base())
    path = path_of(s, "manifest.json")
    with open(path, "w") as f:
        f.write(text)
    refused_by_verify(s, what)
    try:
        if what in ("a duplicate key", "without manifest"):      # forging would mend it
            return "refused"
        edit_manifest(s, lambda o: None, forge=True)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return "refused"
    refused_by_verify(s, what + ", digest forged")
    shutil.rmtree(os.path.dirname(s))
    return "refused, forged too"


def part_manifest():
    for what, text in manifests():
        yield odd_manifest, what, text


# ---- folders ----

def served_as_it_is(s, *flags):
    p = subprocess.run(serve(s, "--dry-run", *flags), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stderr
    assert run("verify", s).returncode == 0
    nothing_left(2)


def link_to_a_set():
    link = os.path.join(tempfile.mkdtemp(dir=harness._tmp), "link")
    os.symlink(base(), link)
    served_as_it_is(link)
    return "served"


def extra_files():
    """What the manifest does not name is not read."""
    s = copy(base())
    for name in ("notes.txt", "rank-002-of-003.safetensors", "manifest.json.bak"):
        with open(path_of(s, name), "w") as f:
            f.write("{")
    os.mkdir(path_of(s, "sub"))
    served_as_it_is(s)
    return "served"


def one_inode():
    """Both ranks' names mean one file."""
    s = copy(base())
    os.unlink(shard(s, 1))
    os.link(shard(s, 0), os.path.join(s, os.path.basename(shard(base(), 1))))
    note = check_refused(serve(s), "EMISMATCH", 1, "rank")
    assert any(f["field"] == "rank" and f["rank"] == 1 for f in refused_by_verify(s, "one inode"))
    return note


def other_case():
    s = copy(base())
    os.rename(shard(s, 1), os.path.join(s, os.path.basename(shard(s, 1)).upper()))
    p = run("verify", s, "--json")
    assert p.returncode == 3 and json.loads(p.stdout)["errors"][0]["field"] == "file", p.stdout
    return check_refused(serve(s), "ENOTFOUND", 1, "file")


def text_assets():
    """Tokenizer and chat template: edited, emptied, a folder in their place."""
    n = 0
    for name in ("tokenizer.json", "chat_template.txt"):
        good = base(2, TINY) if os.path.exists(path_of(base(), name)) else None
        if not good:
            continue
        s = copy(good)
        flip(path_of(s, name), 10)
        check_refused(serve(s), "ECORRUPT", None, name)
        os.truncate(path_of(s, name), 0)
        check_refused(serve(s), "EMISMATCH", None, name)
        os.unlink(path_of(s, name))
        os.mkdir(path_of(s, name))
        check_refused(serve(s), "EIO", None, name)
        n += 3
    assert n
    return "%d refused" % n


def gone_after_verify():
    s = copy(base())
    assert run("verify", s).returncode == 0
    os.unlink(path_of(s, "manifest.json"))
    note = check_refused(serve(s), "ENOTFOUND", None, "manifest.json")
    shutil.rmtree(s)
    p = subprocess.run(serve(s), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert p.returncode == 3 and s in p.stderr and "set: " in p.stderr, (p.returncode, p.stderr)
    return note


def part_folder():
    for f in (link_to_a_set, extra_files, one_inode, other_case, text_assets, gone_after_verify):
        yield f,


# ---- files that shrink while they are read ----

def shrinks(command, victim, *args):
    """Stopped while the file is mapped, then cut off: named, exit code 3, whoever reads."""
    for _ in range(20):
        size = os.path.getsize(victim)
        p = subprocess.Popen([PHALANX, command] + list(args), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
        try:
            while p.poll() is None:
                with open("/proc/%d/maps" % p.pid) as f:
                    if victim in f.read():
                        p.send_signal(signal.SIGSTOP)
                        break
            os.truncate(victim, 4096)
            p.send_signal(signal.SIGCONT)
            _, err = p.communicate(timeout=60)
        finally:
            p.kill()
        os.truncate(victim, size)                         # holes: what is read again are zeros
        if "was truncated while it was read" in err:
            assert p.returncode == 3 and victim in err and "size" in err and "phalanx " + command in err, (p.returncode, err)
            return err.strip()
        assert p.returncode in (0, 1, 3), (p.returncode, err)      # before or after the reading: by other names, or none
    raise AssertionError("never cut off while it was read")


def verify_of_a_shrinking_set():
    s = copy(base(2, BIG, "--synthetic", BIG, "--sparse"))
    return shrinks("verify", shard(s, 1), s)


def part_read():
    yield verify_of_a_shrinking_set,


# ---- phalanx shard ----

def synthetic(out, *before):
    return list(before) + [PHALANX, "shard", "--synthetic", BIG, "--ranks", "2", "--out", out]


def until(there, p):
    end = time.monotonic() + 30
    while not os.path.exists(there) and p.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


def killed():
    d = tempfile.mkdtemp(dir=harness._tmp)
    p = subprocess.Popen(synthetic(d + "/set"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(d + "/set.partial", p)
    p.kill()
    p.wait(10)
    assert os.listdir(d) == ["set.partial"], os.listdir(d)
    q = run("shard", TINY, "--ranks", "2", "--out", d + "/set")
    assert q.returncode == 0 and os.listdir(d) == ["set"], (q.stderr, os.listdir(d))
    assert run("verify", d + "/set").returncode == 0


def two_at_once():
    """One makes it, the other says who does."""
    d = tempfile.mkdtemp(dir=harness._tmp)
    p = subprocess.Popen(synthetic(d + "/set"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(d + "/set.partial", p)
    p.send_signal(signal.SIGSTOP)
    try:
        q = run("shard", TINY, "--ranks", "2", "--out", d + "/set")
    finally:
        p.send_signal(signal.SIGCONT)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 0, err
    assert q.returncode == 1 and "another run is writing it" in q.stderr, (q.returncode, q.stderr)
    assert os.listdir(d) == ["set"], os.listdir(d)
    shutil.rmtree(d)


def no_room():
    """Less room than the set needs, and room that ends on the way: a failure that says so, and nothing left."""
    d = tempfile.mkdtemp(dir=harness._tmp)
    before = with_tmpfs(d, "8m")
    show = ["sh", "-c", '"$@"; rc=$?; ls -A "$0"; exit $rc', d]
    p = subprocess.run(synthetic(d + "/set", *before, *show), capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and "No space left" in p.stderr and not p.stdout.strip(), (p.returncode, p.stdout, p.stderr)
    return p.stderr.strip().splitlines()[-1]


def part_shard():
    yield killed,
    yield two_at_once,
    yield no_room,


# ---- starts ----

def long_runtime_path():
    """A path too long for a socket is passed over; where all are, the start is refused by name."""
    long = os.path.join(tempfile.mkdtemp(dir=harness._tmp), "x" * 90)
    os.mkdir(long)
    env = dict(os.environ, XDG_RUNTIME_DIR=long, TMPDIR=job.RUNTIME)
    p = subprocess.run(serve(base(), "--dry-run"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=env)
    assert p.returncode == 0, p.stderr
    assert not os.listdir(long)
    nothing_left(2)


CONFIG = ["threads: many", "threads: 1.5", "threads: -1", "threads: 99999999999999999999", "threads: 0x10", "threads: [1]",
          "threads: {a: 1}", "threads:", "threads: true", "insecure: 1", "insecure: yes", "kv.dtype: f8", "kv.dtype: 16",
          "kv.block: 17", "kv.tokens: 0", "listen: 5", "listen: nowhere", "listen: 127.0.0.1:99999", "set: 5",
          "set: [a]", "transport: tcp", "cpu: sse", "log.level: loud", "verify: deep", "chat_template: [x]", "kv: 5",
          "kv: {tokens: 5, tokens: 6}", "queue: 1\nqueue: 2", "a: &x 1", "threads: *x", "threads: !!int 5", "---\n---\n",
          "\tthreads: 1", "colour: 5", "- 1", "x" * 5000 + ": 1", "threads: 1\0", "restart: {max: {x: 1}}"]


def config(text):
    d = tempfile.mkdtemp(dir=harness._tmp)
    path = os.path.join(d, "c.yaml")
    with open(path, "w") as f:
        f.write("set: %s\n" % base() + text + "\n" if not text.startswith("set") else text + "\n")
    cmd = [os.path.join(BIN, "phalanxd"), "-c", path]
    if "listen" not in text:
        cmd += ["--listen", "127.0.0.1:0"]
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    where = "listen: " if text.startswith("listen: ") else "c.yaml:"      # flags win over the file: looked at last
    assert p.returncode == 2 and where in p.stderr, (p.returncode, p.stderr)
    nothing_left(2)
    return p.stderr.strip().splitlines()[0][-100:]


def part_start():
    yield long_runtime_path,
    for text in CONFIG:
        yield config, text


if __name__ == "__main__":
    sys.exit(job.main(globals()))
