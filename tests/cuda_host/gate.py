#!/usr/bin/env python3
"""Compile every kernel file for sm_80, sm_90a and PTX, and hold each kernel to the line that its file says about it:

    /* gate: NAME regs=N shared=N stack=N must=A,B some=C */

regs a thread's registers, shared the static bytes, stack the bytes of local memory, all at most; must: instructions that
have to be in the PTX of every template instance, some: of at least one (mma ldmatrix cp.async ld128 st128).  A kernel without a line is refused, and so are spills and
local loads and stores.  usage: gate.py FOLDER [FILE.cu ...]; --selftest plants a kernel against each rule.
Exit status 77: no nvcc or no file, nothing was checked."""
import concurrent.futures, os, re, shutil, subprocess, sys, tempfile

TARGETS = ["-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90a,code=sm_90a",
           "-gencode", "arch=compute_90,code=compute_90"]
FLAGS = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-Wall"]
INSTRUCTIONS = {
    "mma": r"\bmma\.sync\.", "ldmatrix": r"\bldmatrix\.sync\.", "cp.async": r"\bcp\.async\.c[ag]\.",
    "ld128": r"\bld\.(?:volatile\.)?(?:global|shared)\.\S*?(?:v4\.[bfu]32|v2\.[bfu]64)\b|\bld\.v4\.[bfu]32\b",
    "st128": r"\bst\.(?:global|shared)\.\S*?(?:v4\.[bfu]32|v2\.[bfu]64)\b|\bst\.v4\.[bfu]32\b",
}
LOCAL = r"\b(?:ld|st)\.local\b"


def find_nvcc():
    for c in (os.path.join(os.environ.get("CUDA_PATH", ""), "bin/nvcc"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if c and os.path.exists(c):
            return c
    return None


def base_name(mangled):
    """The kernel's own name: the last length-prefixed name of the mangled one's path (templates and namespaces aside)."""
    m = re.match(r"_Z(N?)L?(.*)", mangled)
    if not m:
        return mangled
    nested, rest, name = bool(m.group(1)), m.group(2), mangled
    while (n := re.match(r"L?(\d+)", rest)):
        size = int(n.group(1))
        name, rest = rest[n.end():n.end() + size], rest[n.end() + size:]
        if not nested:                      # what follows are template arguments or parameters
            break
    return name


def read_lines(path):
    """Gate lines of the file and of the project's kernel headers that it includes beside it."""
    rows, text = {}, open(path).read()
    for inc in re.findall(r'#include "kernels/cuda/(\w+\.cuh)"', text):
        side = os.path.join(os.path.dirname(path), inc)
        if os.path.exists(side):
            rows.update(read_lines(side))
    for name, rest in re.findall(r"gate:[ \t]+(\w+)[ \t]+([^\n*]*)", text):
        row = {"regs": None, "shared": 0, "stack": 0, "must": [], "some": []}
        for item in rest.split():
            key, eq, value = item.partition("=")
            if not eq or key not in row:
                raise SystemExit(f"{path}: gate line of {name}: what is '{item}'?")
            row[key] = value.split(",") if key in ("must", "some") else int(value)
        if row["regs"] is None:
            raise SystemExit(f"{path}: gate line of {name}: regs= is missing")
        for word in row["must"] + row["some"]:
            if word not in INSTRUCTIONS:
                raise SystemExit(f"{path}: gate line of {name}: no instruction '{word}' ({' '.join(INSTRUCTIONS)})")
        rows[name] = row
    return rows


def usage_of(log):
    """ptxas -v: (mangled name, architecture) -> registers, static shared bytes, stack, spilled bytes."""
    out, name, frame = {}, None, (0, 0)
    for line in log.splitlines():
        if m := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            name, frame = m.groups(), (0, 0)
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            frame = (int(m.group(1)), int(m.group(2)) + int(m.group(3)))
        elif (m := re.search(r"Used (\d+) registers", line)) and name:
            smem = re.search(r"(\d+) bytes smem", line)
            out[name] = {"regs": int(m.group(1)), "shared": int(smem.group(1)) if smem else 0, "stack": frame[0], "spills": frame[1]}
            name = None
    return out


def ptx_bodies(ptx):
    """Up to the next function: a brace in the first column may end a block of inline assembly."""
    return {m.group(1): m.group(2) for m in re.finditer(r"\.entry (\w+)\s*\((.*?)(?=\.entry |\.func |\Z)", ptx, re.S)}


def check_file(nvcc, root, path, tmp):
    """(lines to print, faults)."""
    rows, said, faults, seen = read_lines(path), [], [], set()
    stem, short = os.path.basename(path), os.path.relpath(path, root)

    def run(*args):
        return subprocess.run([nvcc, *FLAGS, "-I", root, *args, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    ptx_path = os.path.join(tmp, stem + ".ptx")
    p = run("-ptx", "-arch=compute_80", "-o", ptx_path)
    if p.returncode:
        return said, [f"{short}: PTX: {p.stdout}"]
    bodies = ptx_bodies(open(ptx_path).read())
    for mangled, body in bodies.items():
        name = base_name(mangled)
        if name not in rows:
            faults.append(f"{short}: kernel {name} has no gate line")
            continue
        seen.add(name)
        for word in rows[name]["must"]:
            if not re.search(INSTRUCTIONS[word], body):
                faults.append(f"{short}: {name}: no {word} in its PTX ({mangled})")
        if n := len(re.findall(LOCAL, body)):
            if not rows[name]["stack"]:
                faults.append(f"{short}: {name}: {n} local loads and stores ({mangled})")
    for name in seen:
        for word in rows[name]["some"]:
            if not any(base_name(m) == name and re.search(INSTRUCTIONS[word], b) for m, b in bodies.items()):
                faults.append(f"{short}: {name}: no {word} in any instance's PTX")
    for name in rows.keys() - seen:
        if re.search(r"\b" + name + r"\b\s*\(", open(path).read()):
            faults.append(f"{short}: gate line of {name}: no such kernel was compiled")
    p = run(*TARGETS, "-Xptxas", "-v,-Werror,-warn-spills", "-c", "-o", os.path.join(tmp, stem + ".o"))
    if p.returncode:
        faults.append(f"{short}: {p.stdout}")
    for (mangled, arch), used in usage_of(p.stdout).items():
        name = base_name(mangled)
        counts = {w: len(re.findall(r, bodies.get(mangled, ""))) for w, r in INSTRUCTIONS.items()}
        said.append(f"{short} {arch} {name} regs={used['regs']} shared={used['shared']} stack={used['stack']} "
                    + " ".join(f"{w}={c}" for w, c in counts.items() if c) + f" ({mangled})")
        row = rows.get(name, {"regs": 255, "shared": 0, "stack": 0})
        for what in ("regs", "shared", "stack"):
            if used[what] > row[what]:
                faults.append(f"{short}: {name} on {arch}: {what} {used[what]}, at most {row[what]} ({mangled})")
        if used["spills"]:
            faults.append(f"{short}: {name} on {arch}: {used['spills']} bytes spilled ({mangled})")
    return said, faults


def check(nvcc, root, files):
    faults = []
    with tempfile.TemporaryDirectory() as tmp, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for said, bad in pool.map(lambda f: check_file(nvcc, root, f, tmp), files):
            print("\n".join(said), flush=True)
            faults += bad
    return faults


PLANTED = {
    "has no gate line": "static __global__ void k(float *o) { o[threadIdx.x] = 1.0f; }",
    "regs [0-9]+, at most 2": "/* gate: k regs=2 */ static __global__ void k(float *o) { o[threadIdx.x * 3 + blockIdx.x] = o[threadIdx.x]; }",
    "shared 512, at most 4": "/* gate: k regs=64 shared=4 */ static __global__ void k(float *o) { CU_SHARED(float, s, 128); s[threadIdx.x] = o[threadIdx.x];"
                             " __syncthreads(); o[threadIdx.x] = s[127 - threadIdx.x]; }",
    "no mma in its PTX": "/* gate: k regs=64 must=mma */ static __global__ void k(float *o) { o[threadIdx.x] = 1.0f; }",
    "local loads and stores": "/* gate: k regs=64 */ static __global__ void k(float *o) { float a[32]; for (int i = 0; i < 32; i++) a[i] = o[i * 7];"
                              " o[threadIdx.x] = a[(int)o[99] & 31]; }",
    "spill": "/* gate: k regs=255 stack=100000 */ static __global__ void __launch_bounds__(1024) k(float *o) { float a[128]; CU_UNROLL"
             " for (int i = 0; i < 128; i++) a[i] = o[i * 1024 + threadIdx.x]; __syncthreads(); CU_UNROLL for (int i = 0; i < 128; i++)"
             " o[i * 1024 + threadIdx.x] = a[127 - i] * a[(i * 7) % 128]; }",
    "no such kernel": "/* gate: gone regs=9 */ static void gone(void); static void gone(void) {} void use(void); void use(void) { gone(); }",
}


def selftest(nvcc, root):
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        for want, text in PLANTED.items():
            path = os.path.join(tmp, "planted.cu")
            launch = "CU_API cu_status go(float *o) { return CU_LAUNCH(k, 1, 128, 0, nullptr, o); }\n" if " k(float" in text else ""
            open(path, "w").write(f'#include "kernels/cuda/ptx.h"\n{text}\n{launch}')
            faults = check_file(nvcc, root, path, tmp)[1]
            found = any(re.search(want, f) for f in faults)
            print(f"planted: {want}: {'refused' if found else 'NOT SEEN: ' + repr(faults)}", flush=True)
            bad += not found
    return bad


def main():
    nvcc = find_nvcc()
    if not nvcc:
        print("SKIPPED: no nvcc: registers, spills and instructions of the CUDA kernels were not checked")
        return 77
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
    if sys.argv[1:] == ["--selftest"]:
        return 1 if selftest(nvcc, root) else 0
    folder = sys.argv[1]
    files = sys.argv[2:] or sorted(os.path.join(folder, f) for f in os.listdir(folder) if f.endswith(".cu"))
    if not files:
        print("SKIPPED: no kernel files")
        return 77
    faults = check(nvcc, root, files)
    for f in faults:
        print("gate:", f)
    print(f"gate: {len(files)} files, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
