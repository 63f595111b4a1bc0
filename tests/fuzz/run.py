"""A fuzz target, for some seconds.

usage: run.py TARGET --build DIR [--seconds N] [--corpus DIR]
Seeds are made anew; with --corpus what is new to the coverage is kept in DIR, and a finding, too (else its bytes are printed).
Prints executions, executions a second and edges covered.  The target "planted" must be found, all others must not."""
import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile

import seeds

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("target")
    a.add_argument("--build", required=True)
    a.add_argument("--seconds", type=int, default=60)
    a.add_argument("--corpus")
    a = a.parse_args()
    program = os.path.join(a.build, "fuzz", "fuzz_" + a.target)
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None            # thousands of files a second: memory, where it can be
    work = tempfile.mkdtemp(prefix="fuzz-", dir=shm)
    try:
        return run(a, program, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(a, program, work):
    def shard(*args):
        p = subprocess.run([os.path.join(a.build, "bin", "phalanx"), "shard", *args], capture_output=True, text=True)
        if p.returncode:
            sys.exit("fuzz: phalanx shard: " + p.stderr)

    for name in ("seeds", "corpus", "found", "tmp", "work"):
        os.mkdir(os.path.join(work, name))
    corpus = os.path.abspath(a.corpus) if a.corpus else os.path.join(work, "corpus")
    found = corpus + "-found" if a.corpus else os.path.join(work, "found")
    os.makedirs(corpus, exist_ok=True)
    os.makedirs(found, exist_ok=True)
    seeds.make(a.target, ROOT, os.path.join(work, "seeds"), os.path.join(work, "work"), shard)
    with open(os.path.join(work, "words"), "w") as f:
        f.writelines('"%s"\n' % w for w in seeds.words(ROOT))
    args = [program, "-max_total_time=%d" % a.seconds, "-print_final_stats=1", "-rss_limit_mb=1024", "-malloc_limit_mb=128", "-timeout=10", "-max_len=65536",
            "-artifact_prefix=" + found + "/", "-dict=" + os.path.join(work, "words"), corpus, os.path.join(work, "seeds")]
    known = os.path.join(ROOT, "tests", "fuzz", "found", a.target)          # what was found before, and has to stay repaired
    if os.path.isdir(known):
        args.append(known)
    if not a.corpus:
        args.insert(1, "-seed=1")
    env = dict(os.environ, TMPDIR=os.path.join(work, "tmp"), UBSAN_OPTIONS="print_stacktrace=1", ASAN_OPTIONS="detect_leaks=1")
    p = subprocess.run(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = p.stdout.splitlines()
    edges = [int(m.group(1)) for m in re.finditer(r"\bcov: (\d+)", p.stdout)]
    count = re.search(r"number_of_executed_units: *(\d+)", p.stdout)
    rate = re.search(r"average_exec_per_sec: *(\d+)", p.stdout)
    if a.target == "planted":
        good = p.returncode and "AddressSanitizer" in p.stdout
        print("the planted fault was %s" % ("found" if good else "NOT found"))
        return 0 if good else 1
    if not p.returncode and count and edges:
        print("%s: %s executions, %s a second, %d edges covered, %d files in the corpus" % (a.target, count.group(1), rate.group(1), max(edges),
              len(os.listdir(corpus))))
        return 0
    print("\n".join(lines[-80:]))
    for name in sorted(os.listdir(found)):
        with open(os.path.join(found, name), "rb") as f:
            data = f.read()
        print("finding %s, %d bytes%s" % (os.path.join(found, name) if a.corpus else name, len(data),
              "" if a.corpus else ":\n" + base64.b64encode(data[:65536]).decode()))
    return 1


if __name__ == "__main__":
    sys.exit(main())
