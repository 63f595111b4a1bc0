#!/usr/bin/env python3
"""Are the tests of the CUDA backend strong enough?  Each row of mutants.py is a fault in its sources; the test that is
named there has to fail with it.

usage: mutate.py BUILD [NAME...]     all rows, or those; the tests are built first and have to pass without a fault
       mutate.py BUILD --sample      what a run of ctest does: every row's text still stands in its file exactly once, and a few
                                     cheap rows are found (tests are built and pass: other ctests say that)
BUILD is a build folder of Ninja.  A fault goes into a copy of its file in a folder that comes first among the folders of
headers; what is made from the file is compiled again and linked before the libraries that have it without the fault.
Exit status: 0 all found, 1 not, 77 nothing was looked at."""
import json, os, re, resource, shlex, subprocess, sys, tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from mutants import MUTANTS, SAMPLE  # noqa: E402

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
TIMEOUT_S = 600


def faults_in_table():
    """A row whose text is gone, or stands twice, plants nothing."""
    bad = []
    for m in MUTANTS:
        n = open(os.path.join(ROOT, m.file)).read().count(m.old)
        if n != 1:
            bad.append(f"{m.name}: its text stands {n} times in {m.file}")
        if m.old == m.new:
            bad.append(f"{m.name}: it changes nothing")
    names = [m.name for m in MUTANTS]
    return bad + [f"{n}: two rows have this name" for n in sorted({n for n in names if names.count(n) > 1})]


class Build:
    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.commands = {c["output"]: c["command"] for c in json.loads(self.ninja("-t", "compdb"))}

    def ninja(self, *args):
        return subprocess.run(["ninja", "-C", self.folder, "--quiet", *args] if args[0] != "-t" else ["ninja", *args], cwd=self.folder,
                              check=True, stdout=subprocess.PIPE, text=True).stdout

    def program(self, test):
        found = [o for o in self.commands if os.path.basename(o) == test and "EXECUTABLE" not in o and " -o " + o + " " in self.commands[o]]
        return found[0] if len(found) == 1 else None

    def objects(self, program, path):
        """Objects of the program, or of the libraries of its variant, that are made from `path`."""
        link = self.commands[program]
        made = [w for w in shlex.split(link) if w.endswith(".o")]
        for library in re.findall(r"\S+\.a\b", link):
            made += [w for w in shlex.split(self.commands.get(library, "")) if w.endswith(".o")]
        of = {}                                              # what a variant has of its own comes before the project's
        for o in made:
            if o in self.commands and os.path.basename(o) not in of and path in self.sources(o):
                of[os.path.basename(o)] = o
        return list(of.values())

    def sources(self, an_object):
        if os.path.exists(depfile := os.path.join(self.folder, an_object + ".d")):
            words = open(depfile).read().replace("\\\n", " ").split()[1:]
            return {os.path.normpath(os.path.join(self.folder, w)) for w in words}
        return {os.path.normpath(w) for w in shlex.split(self.commands[an_object]) if w.endswith((".c", ".cu", ".cpp"))}


def run(program, folder):
    """(exit status, seconds of CPU, last words)."""
    env = dict(os.environ, CMOCKA_TEST_ABORT="1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        p = subprocess.run([program], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, errors="replace", timeout=TIMEOUT_S)
        rc, out = p.returncode, p.stdout
    except subprocess.TimeoutExpired:
        rc, out = "timeout", ""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [line for line in out.splitlines() if line and not re.match(r"\[ |\[=|#|ok |1\.\.|=+$", line)]
    return rc, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, words[0].strip() if words else ""


def compile_mutant(build, m, variant, tmp):
    """The test's program with the fault in it."""
    program = build.program(f"{m.test}_{variant}")
    copy = os.path.join(tmp, m.file)
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    with open(os.path.join(ROOT, m.file)) as f, open(copy, "w") as to:
        to.write(f.read().replace(m.old, m.new))
    objects = [o for o in build.objects(program, os.path.join(ROOT, m.file)) if not m.only or os.path.basename(o) == m.only + ".o"]
    if not objects:
        raise SystemExit(f"mutate: nothing of {program} is made from {m.file}")
    made = []
    for o in objects:
        (command,) = [c for c in build.commands[o].split(" && ") if " -c " in c]
        words = shlex.split(command)
        made.append(os.path.join(tmp, os.path.basename(o)))
        words[words.index("-o") + 1] = made[-1]
        words[words.index("-c") + 1] = copy if words[words.index("-c") + 1].endswith(m.file) else words[words.index("-c") + 1]
        for flag, n in (("-MD", 1), ("-MT", 2), ("-MF", 2)):  # no list of headers
            if flag in words:
                del words[words.index(flag):words.index(flag) + n]
        at = next(i for i, w in enumerate(words) if w.startswith("-I"))
        words.insert(at, "-I" + tmp)
        p = subprocess.run(words, cwd=build.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if p.returncode:
            raise SystemExit(f"mutate: {m.name} does not compile: {p.stdout}")
    out = os.path.join(tmp, os.path.basename(program))
    p = subprocess.run(build.commands[program].replace(f" -o {program} ", f" {' '.join(map(shlex.quote, made))} -o {shlex.quote(out)} "), shell=True,
                       cwd=build.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode:
        raise SystemExit(f"mutate: {m.name} does not link: {p.stdout}")
    return out


def main():
    folder, *names = sys.argv[1:]
    bad = faults_in_table()
    for line in bad:
        print("mutate:", line)
    if bad:
        return 1
    print(f"mutate: {len(MUTANTS)} rows, each text stands once in its file")
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        print("SKIPPED: mutants are built with Ninja, and this is no build of it")
        return 77
    sample = names == ["--sample"]
    rows = [m for m in MUTANTS if m.name in (SAMPLE if sample else names or [m.name])]
    if not rows or set(names) - {"--sample"} - {m.name for m in MUTANTS}:
        raise SystemExit(f"mutate: no such row among {' '.join(names)}")
    build = Build(folder)
    wanted = sorted({f"{m.test}_{v}" for m in rows for v in m.variants})
    lacking = [t for t in wanted if not build.program(t)]
    if lacking:
        print(f"SKIPPED: this build has no {' '.join(lacking)}: a variant of the host build needs the toolkit's headers and its compiler")
        return 77
    if sample and not all(os.path.exists(os.path.join(build.folder, build.program(t))) for t in wanted):
        print("SKIPPED: the tests' programs are not built")
        return 77
    if not sample:
        build.ninja(*[build.program(t) for t in wanted])
        for t in wanted:
            rc, seconds, words = run(os.path.join(build.folder, build.program(t)), build.folder)
            print(f"without a fault: {t} {'passes' if rc == 0 else 'FAILS: ' + words} ({seconds:.1f} s)", flush=True)
            if rc:
                return 1
    missed = 0
    for m in rows:
        for variant in m.variants:
            with tempfile.TemporaryDirectory() as tmp:
                rc, seconds, words = run(compile_mutant(build, m, variant, tmp), tmp)
            missed += rc == 0
            print(f"{'NOT FOUND' if rc == 0 else 'found'} {m.name} by {m.test}_{variant} ({seconds:.1f} s) {words[:160]}", flush=True)
    print(f"mutate: {len(rows)} faults, {missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
