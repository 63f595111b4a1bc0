#!/usr/bin/env python3
"""Hold every kernel of the built plugin to the line that its file says about it:

    /* gate: NAME regs=N shared=N stack=N must=A,B some=C */

regs a thread's registers, shared the static bytes, stack the bytes of local memory, all at most and on every GPU that the
plugin is compiled for; must: instructions that have to be in the PTX of every template instance, some: of at least one
(mma ldmatrix cp.async ld128 st128).  A kernel without a line is refused, and so are a line without a kernel, local loads
and stores, and an architecture that lacks a kernel.  (A spill is an error of the compiler: kernels/cuda/CMakeLists.txt.)
Nothing is compiled for it: the plugin's own machine code and PTX are read, which the build leaves uncompressed.

usage: gate.py PLUGIN FOLDER ARCHITECTURE...     FOLDER has the .cu files; 80-real 90a-real 90-virtual
       gate.py --selftest NVCC                   plants a kernel against each rule
Exit status 77: no nvcc, nothing was checked."""
import os, re, struct, subprocess, sys, tempfile

FLAGS = ["-O2", "-std=c++17", "--fmad=false", "-no-compress", "-Xptxas", "-Werror,-warn-spills"]      # as the build
PLANT_TARGETS = ["-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_80,code=compute_80"]
INSTRUCTIONS = {
    "mma": r"\bmma\.sync\.", "ldmatrix": r"\bldmatrix\.sync\.", "cp.async": r"\bcp\.async\.cg\.shared\.global \[[^]]*\], \[[^]]*\], 16\b",
    "ld128": r"\bld\.(?:volatile\.)?(?:global|shared)\.\S*?(?:v4\.[bfu]32|v2\.[bfu]64)\b|\bld\.v4\.[bfu]32\b",
    "st128": r"\bst\.(?:global|shared)\.\S*?(?:v4\.[bfu]32|v2\.[bfu]64)\b|\bst\.v4\.[bfu]32\b",
}
LOCAL = r"\b(?:ld|st)\.local\b"
FATBIN = b"\x50\xed\x55\xba"                   # of a container: u32 magic, u16 version, u16 size of this head, u64 size of its images
PTX_KIND, ELF_KIND = 1, 2                      # of an image: u16 kind, u16 version, u32 size of this head, u64 size; u32 architecture at 28
REGISTERS, STACK = 0x2F, 0x12                  # of .nv.info: EIATTR_REGCOUNT, EIATTR_MIN_STACK_SIZE, each (symbol, number)


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


def read_lines(paths):
    """All gate lines: name -> limits."""
    rows = {}
    for path in paths:
        for name, rest in re.findall(r"gate:[ \t]+(\w+)[ \t]+([^\n*]*)", open(path).read()):
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
            if name in rows:
                raise SystemExit(f"{path}: two kernels are called {name}: one gate line cannot be for both")
            rows[name] = row
    return rows


def images(data):
    """(kind, architecture, bytes) of all device code in a library or object file."""
    at = 0
    while (at := data.find(FATBIN, at)) >= 0:
        version, head, size = struct.unpack_from("<HHQ", data, at + 4)
        if version != 1 or head != 16 or at + head + size > len(data):      # four bytes that only look like it
            at += 4
            continue
        p, at = at + head, at + head + size
        while p < at:
            kind, _, head, size = struct.unpack_from("<HHIQ", data, p)
            yield kind, struct.unpack_from("<I", data, p + 28)[0], data[p + head:p + head + size]
            p += head + size


def usage_of(elf):
    """Machine code: mangled name -> registers, static shared bytes, stack.  From 9.0 on 1024 of the shared ones are the driver's."""
    at, = struct.unpack_from("<Q", elf, 40)
    each, count, names = struct.unpack_from("<HHH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, at + i * each) for i in range(count)]

    def text(table, offset):
        begin = sections[table][4] + offset
        return elf[begin:elf.index(b"\0", begin)].decode()

    named = {text(names, s[0]): s for s in sections}
    reserved = 1024 if ".nv.shared.reserved.0" in named else 0
    symbols, out = named[".symtab"], {}
    for name, s in named.items():
        if name.startswith(".text."):
            shared = named.get(".nv.shared." + name[6:])
            out[name[6:]] = {"regs": None, "shared": shared[5] - reserved if shared else 0, "stack": None}
    info = named[".nv.info"]
    p, end = info[4], info[4] + info[5]
    while p < end:
        form, what, size = struct.unpack_from("<BBH", elf, p)
        if form == 4 and what in (REGISTERS, STACK):
            symbol, number = struct.unpack_from("<II", elf, p + 4)
            name = text(symbols[6], struct.unpack_from("<I", elf, symbols[4] + 24 * symbol)[0])
            if name in out:
                out[name]["regs" if what == REGISTERS else "stack"] = number
        p += 4 + (size if form == 4 else 0)
    return out


def ptx_bodies(ptx):
    """Up to the next function: a brace in the first column may end a block of inline assembly."""
    return {m.group(1): m.group(2) for m in re.finditer(r"\.entry (\w+)\s*\((.*?)(?=\.entry |\.func |\Z)", ptx, re.S)}


def check(data, rows, architectures):
    """(lines to print, faults)."""
    machine, bodies, said, faults = {}, {}, [], []          # machine: architecture -> mangled -> usage
    for kind, arch, image in images(data):
        if kind == ELF_KIND and image.startswith(b"\x7fELF"):
            machine.setdefault(arch, {}).update(usage_of(image))
        elif kind == PTX_KIND and b".version" in image[:4096]:
            bodies.update(ptx_bodies(image.rstrip(b"\0").decode()))
        else:
            return said, [f"an image of kind {kind} for {arch} that cannot be read: is it compressed?"]
    for a in architectures:                                 # "90a-real": the a is a flag of the image
        number = int(re.match(r"\d+", a).group())
        if not (bodies if a.endswith("virtual") else machine.get(number)):
            faults.append(f"nothing for {a} is in the plugin")
    for arch in machine:
        for missing in bodies.keys() ^ machine[arch].keys():
            faults.append(f"{base_name(missing)}: not both in PTX and for sm_{arch} ({missing})")
    for mangled, body in sorted(bodies.items()):
        name = base_name(mangled)
        if name not in rows:
            faults.append(f"kernel {name} has no gate line ({mangled})")
            continue
        row = rows[name]
        counts = {w: len(re.findall(r, body)) for w, r in INSTRUCTIONS.items()}
        for word in row["must"]:
            if not counts[word]:
                faults.append(f"{name}: no {word} in its PTX ({mangled})")
        if (n := len(re.findall(LOCAL, body))) and not row["stack"]:
            faults.append(f"{name}: {n} local loads and stores ({mangled})")
        for arch in sorted(machine):
            used = machine[arch].get(mangled)
            if not used:
                continue                                    # told above
            said.append(f"sm_{arch} {name} regs={used['regs']} shared={used['shared']} stack={used['stack']} "
                        + " ".join(f"{w}={c}" for w, c in counts.items() if c) + f" ({mangled})")
            for what in ("regs", "shared", "stack"):
                if used[what] is None or used[what] > row[what]:
                    faults.append(f"{name} on sm_{arch}: {what} {used[what]}, at most {row[what]} ({mangled})")
    for name, row in rows.items():
        mine = [b for m, b in bodies.items() if base_name(m) == name]
        if not mine:
            faults.append(f"gate line of {name}: no such kernel was compiled")
        for word in row["some"]:
            if mine and not any(re.search(INSTRUCTIONS[word], b) for b in mine):
                faults.append(f"{name}: no {word} in any instance's PTX")
    return said, faults


# Kernels that each break one rule, in one file, and what must be said about them.
PLANTED = {
    "kernel bare has no gate line": "static __global__ void bare(float *o) { o[threadIdx.x] = 1.0f; }",
    "many on sm_80: regs [0-9]+, at most 2": "/* gate: many regs=2 */ static __global__ void many(float *o) { o[threadIdx.x * 3 + blockIdx.x] = o[threadIdx.x]; }",
    "wide on sm_80: shared 512, at most 4": "/* gate: wide regs=64 shared=4 */ static __global__ void wide(float *o) { CU_SHARED(float, s, 128); s[threadIdx.x] = o[threadIdx.x];"
                                            " __syncthreads(); o[threadIdx.x] = s[127 - threadIdx.x]; }",
    "plain: no mma in its PTX": "/* gate: plain regs=64 must=mma */ static __global__ void plain(float *o) { o[threadIdx.x] = 1.0f; }",
    "narrow: no ld128 in any": "/* gate: narrow regs=64 some=ld128 */ static __global__ void narrow(float *o) { o[threadIdx.x] += 1.0f; }",
    "indexed: [0-9]+ local loads and stores": "/* gate: indexed regs=64 */ static __global__ void indexed(float *o) { float a[32] = {};"
                                              " for (int i = 0; i < 9; i++) a[(int)o[i] & 31] += o[i * 7]; o[threadIdx.x] = a[(int)o[99] & 31]; }",
    "indexed on sm_80: stack [1-9][0-9]*, at most 0": "",
    "gate line of gone: no such kernel": "/* gate: gone regs=9 */",
    "nothing for 90a-real is in the plugin": "",
}
GOOD = ("/* gate: good regs=64 shared=512 must=ld128,st128,cp.async,mma,ldmatrix */ static __global__ void good(float *o) { CU_SHARED(float, s, 128); unsigned a[4] = {}, b[2] = {};"
        " float d[4] = {}; cu_cp_async16(s, o); cu_cp_async_commit(); cu_cp_async_wait<0>(); cu_ldmatrix_x4(a, s); cu_mma_f16(d, a, b); o[9] = d[0] + d[3];"
        " cu_store16(o + 4 * threadIdx.x, cu_load16(o)); }")
SPILLS = ("static __global__ void __launch_bounds__(1024) spills(float *o) { float a[128]; CU_UNROLL for (int i = 0; i < 128; i++) a[i] = o[i * 1024 + threadIdx.x];"
          " __syncthreads(); CU_UNROLL for (int i = 0; i < 128; i++) o[i * 1024 + threadIdx.x] = a[127 - i] * a[(i * 7) % 128]; }")


def selftest(nvcc, root):
    bad = 0

    def compiled(tmp, name, kernels):
        path = os.path.join(tmp, name + ".cu")
        launches = "".join(f"CU_LAUNCH({k}, 1, 128, 0, nullptr, o); " for k in re.findall(r"(\w+)\(float \*o\)", kernels))
        with open(path, "w") as f:
            f.write(f'#include "kernels/cuda/ptx.h"\n{kernels}\nCU_API void go(float *o);\nCU_API void go(float *o) {{ {launches}}}\n')
        p = subprocess.run([nvcc, *FLAGS, *PLANT_TARGETS, "-I", root, "-c", "-o", path + ".o", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return p.returncode, p.stdout, path

    def verdict(what, seen, got):
        nonlocal bad
        bad += not seen
        print(f"planted: {what}: {'refused' if seen else 'NOT SEEN: ' + repr(got)}", flush=True)

    with tempfile.TemporaryDirectory() as tmp:
        rc, out, path = compiled(tmp, "planted", "\n".join([*PLANTED.values(), GOOD]))
        if rc:
            print(out)
            return 1
        _, faults = check(open(path + ".o", "rb").read(), read_lines([path]), ["80-real", "90a-real", "80-virtual"])
        for want in PLANTED:
            verdict(want, any(re.search(want, f) for f in faults), faults)
        for f in faults:
            if re.match("good", f) or not any(re.search(want, f) for want in PLANTED):
                print("planted: a fault that nobody planted:", f)
                bad += 1
        rc, out, _ = compiled(tmp, "spills", SPILLS)
        verdict("a spill, by the compiler", rc and "spill" in out, out)
    return bad


def main():
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
    if sys.argv[1] == "--selftest":
        if len(sys.argv) < 3:
            print("SKIPPED: no nvcc: whether the gates of the CUDA kernels see faults was not checked")
            return 77
        return 1 if selftest(sys.argv[2], root) else 0
    plugin, folder, *architectures = sys.argv[1:]
    files = sorted(os.path.join(folder, f) for f in os.listdir(folder) if f.endswith((".cu", ".cuh")))
    said, faults = check(open(plugin, "rb").read(), read_lines(files), architectures)
    print("\n".join(said))
    for f in faults:
        print("gate:", f)
    print(f"gate: {len(said)} kernels in machine code, {len(faults)} faults")
    return 1 if faults or not said else 0


if __name__ == "__main__":
    sys.exit(main())
