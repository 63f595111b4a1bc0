"""How long a plan takes, and a sweep of all combinations, for every model of configs/models: CSV with the machine and the commit.
Wall and CPU seconds of whole runs of the program, its start included (the last line is a run that plans nothing); least of N.
Usage: plan_bench.py PHALANX [RUNS]"""
import os
import resource
import subprocess
import sys
import time

PHALANX, RUNS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5


def run(*args):
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    p = subprocess.run([PHALANX, "plan", *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if p.returncode:
        sys.exit("plan_bench: %s: %s" % (" ".join(args), p.stderr.decode()))
    return wall * 1e3, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def least(*args):
    runs = [run(*args) for _ in range(RUNS)]
    return tuple(min(r[i] for r in runs) for i in range(2))


commit = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE,
                        universal_newlines=True).stdout.strip()
with open("/proc/cpuinfo") as f:
    cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "?")
print("# %s, %d cores, commit %s" % (cpu, os.cpu_count(), commit))
print("model,plan_ms,plan_cpu_ms,sweep_ms,sweep_cpu_ms")
for name in subprocess.run([PHALANX, "plan", "--models"], stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout.split():
    plan = least(name, "--ranks", "4", "--format", "q8_0", "--device", "80GiB", "--class", "chat:16:1000+200:1500+400")
    sweep = least(name, "--sweep", "--device", "80GiB", "--json")
    print("%s,%.1f,%.1f,%.0f,%.0f" % (name, *plan, *sweep), flush=True)
print("(the program's start),%.1f,%.1f,," % least("--models"))
