"""How fast checkpoints of every readable type become sets, beside the disk's rates, as CSV.

usage: shard_bench.py PHALANX [--layers N] [--ranks N] [--types A,B] [--formats A,B] [--folder DIR]
A GGUF of TinyLlama-1.1B's shape (22 layers unless told) and one type is written to DIR, of blocks that the reference files have, its
pages dropped, read once by dd, dropped again, and sharded: as it is, and F32, F16 and BF16 in every format that quantises.  The set is
on the disk at the end, so that no set is written faster than write_MB_s, what dd writes and syncs of the same size.  source_MB_s is what of the source was sharded in a second, source_MB_cpu_s
in a second of one core, which says more on a machine that does other things too; anonymous_MiB the most memory of the process that
is no file's page; added what the set's types add in bytes, rounding the largest of a class."""
import argparse
import json
import os
import platform
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
QUANTS = os.path.join(ROOT, "tests", "golden", "tiny", "quants")
FLAT = ("F32", "F16", "BF16")
HIDDEN, FFN, HEADS, KV, VOCAB, LAYERS = 2048, 5632, 32, 4, 32000, 22


def blocks(kind):
    """Some hundred KiB of good blocks and what they are: GGML's number, elements and bytes of one."""
    if kind == "F32":
        with open(os.path.join(QUANTS, "Q8_0.f32"), "rb") as f:
            return f.read() * 16, 0, 1, 4
    with open(os.path.join(QUANTS, "index.json")) as f:
        info = json.load(f)[kind]
    with open(os.path.join(QUANTS, kind + ".bin"), "rb") as f:
        data = f.read()
    if kind in ("F16", "BF16"):                 # its last rows hold edge values
        data = data[:5 * info["row_bytes"]]
    return data * 64, info["ggml_type"], info["block_elements"], info["block_bytes"]


def write(path, kind, layers):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def key(name, v):
        if isinstance(v, str):
            return text(name) + struct.pack("<I", 8) + text(v)
        return text(name) + (struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v))

    tile, number, each, size = blocks(kind)
    width = HIDDEN * KV // HEADS
    tensors = [("token_embd", VOCAB, HIDDEN), ("output_norm", 0, HIDDEN), ("output", VOCAB, HIDDEN)]
    for i in range(layers):
        tensors += [("blk.%d.%s" % (i, n), r, c) for n, r, c in (
            ("attn_norm", 0, HIDDEN), ("ffn_norm", 0, HIDDEN), ("attn_q", HIDDEN, HIDDEN), ("attn_k", width, HIDDEN), ("attn_v", width, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN), ("ffn_gate", FFN, HIDDEN), ("ffn_up", FFN, HIDDEN), ("ffn_down", HIDDEN, FFN))]
    keys = {"general.architecture": "llama", "llama.block_count": layers, "llama.context_length": 2048, "llama.embedding_length": HIDDEN,
            "llama.feed_forward_length": FFN, "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV,
            "llama.rope.dimension_count": HIDDEN // HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5}
    out, at = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(key(k, v) for k, v in keys.items()), 0
    places = []
    for name, rows, cols in tensors:
        n = rows * cols // each * size if rows else cols * 4
        dims = (cols, rows) if rows else (cols,)
        out += text(name + ".weight") + struct.pack("<I%dQ" % len(dims), len(dims), *dims) + struct.pack("<IQ", number if rows else 0, at)
        places.append((rows, n))
        at += n + -n % 32
    with open(path, "wb") as f:
        f.write(out + b"\0" * (-len(out) % 32))
        for rows, n in places:
            if not rows:
                f.write(struct.pack("<f", 1.0) * (n // 4))
            else:
                for _ in range(n // len(tile)):
                    f.write(tile)
                f.write(tile[:n % len(tile)])
            f.write(b"\0" * (-n % 32))
        f.flush()
        os.fsync(f.fileno())


def drop(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_rate(path):
    drop(path)
    began = time.monotonic()
    subprocess.run(["dd", "if=" + path, "of=/dev/null", "bs=4M"], check=True, stderr=subprocess.DEVNULL)
    rate = os.path.getsize(path) / (time.monotonic() - began)
    drop(path)
    return rate


def write_rate(path, size):
    began = time.monotonic()
    subprocess.run(["dd", "if=/dev/zero", "of=" + path, "bs=4M", "count=%d" % (size // 2**22 + 1), "conv=fsync"], check=True, stderr=subprocess.DEVNULL)
    took = time.monotonic() - began
    os.unlink(path)
    return size / took


def watched(args):
    """(seconds, CPU seconds, output, most anonymous bytes): asked of the kernel while it runs."""
    def spent():
        r = resource.getrusage(resource.RUSAGE_CHILDREN)
        return r.ru_utime + r.ru_stime

    began, cpu, most = time.monotonic(), spent(), 0
    with tempfile.TemporaryFile() as f:
        p = subprocess.Popen(args, stdout=f, stderr=subprocess.DEVNULL)
        while p.poll() is None:
            try:
                with open("/proc/%d/status" % p.pid) as s:
                    most = max([most] + [int(line.split()[1]) * 1024 for line in s if line.startswith("RssAnon")])
            except OSError:
                pass
            time.sleep(0.02)
        took = time.monotonic() - began
        f.seek(0)
        if p.returncode:
            sys.exit("%s: exit code %d" % (args, p.returncode))
        return took, spent() - cpu, json.loads(f.read()), most


def main():
    a = argparse.ArgumentParser()
    a.add_argument("phalanx")
    a.add_argument("--layers", type=int, default=LAYERS)
    a.add_argument("--ranks", type=int, default=2)
    a.add_argument("--types", default="F32,F16,BF16,Q8_0,Q4_0,Q4_1,Q5_0,Q5_1,Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,IQ4_NL,IQ4_XS,IQ2_XS")
    a.add_argument("--formats", default="as_file,FP8,Q8_0,Q4_0,Q4_1,w8a16,w4a16")
    a.add_argument("--folder")
    a = a.parse_args()
    folder = tempfile.mkdtemp(prefix="shard-bench-", dir=a.folder)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print("# %s, %d cores, load %.1f, commit %s, %d layers, %d ranks" % (platform.machine(), os.cpu_count(), os.getloadavg()[0], commit, a.layers, a.ranks))
    print("type,format,source_MB,disk_MB_s,write_MB_s,seconds,source_MB_s,set_MB_s,cpu_seconds,source_MB_cpu_s,anonymous_MiB,added_MB,rounding", flush=True)
    try:
        for kind in a.types.split(","):
            path, out = os.path.join(folder, "model.gguf"), os.path.join(folder, "set")
            write(path, kind, a.layers)
            for how in a.formats.split(","):
                if how != "as_file" and kind not in FLAT:
                    continue
                rate = read_rate(path)
                took, cpu, made, most = watched([a.phalanx, "shard", path, "--ranks", str(a.ranks), "--out", out, "--format", how, "--json"])
                shutil.rmtree(out)
                changed, source = made["converted"].values(), made["source_bytes"]
                print("%s,%s,%.0f,%.0f,%.0f,%.2f,%.0f,%.0f,%.2f,%.0f,%.0f,%.0f,%.3g" % (
                    kind, how, source / 1e6, rate / 1e6, write_rate(out, made["mapped_bytes"]) / 1e6, took, source / took / 1e6,
                    made["mapped_bytes"] / took / 1e6, cpu, source / cpu / 1e6, most / 2**20,
                    sum(c["stored_bytes"] - c["source_bytes"] for c in changed) / 1e6, max([0] + [c["rounding"] for c in changed])), flush=True)
            os.unlink(path)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
