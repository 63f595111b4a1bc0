"""Faults of a set's files: how each is made, and what is said about it (mutation_test.py applies them)."""
import hashlib
import json
import os
import shutil
import struct

from job import harness, shard
from refused import TINY, base, other_revision, other_rope

OTHER = os.path.join(harness.GOLDEN, "tiny", "arch", "llama3")
TOKENIZER = b'{"phalanx.tokenizer": "another"}'
M, C, N, I = "EMISMATCH", "ECORRUPT", "ENOTFOUND", "EINVAL"


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


def swap(s):
    a, b = shard(s, 0), shard(s, 1)
    os.rename(a, s + "/x"), os.rename(b, a), os.rename(s + "/x", b)


def replace(path, make):
    os.unlink(path)
    make(path)


def from_other(other, rank=1):
    return lambda s: shutil.copy(shard(other(), rank), shard(s, 1))


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
