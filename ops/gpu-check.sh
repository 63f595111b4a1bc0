#!/usr/bin/env bash
# All that wants a GPU, in one command of at most ten minutes: build (preset gpu-check: compilers, CMake and the CUDA toolkit, no
# packages of Debian's), every test with the label gpu, the benchmarks beside the rates of the same run with a soak, PyTorch's
# decode of the same model where there is a PyTorch, and compute-sanitizer on the ops' tests as far as the time goes.
# usage: ops/gpu-check.sh [--build] [--only PHASES] [--soak MINUTES] [--commit NAME]
# --build: no more than that; needs no GPU.  --only: of tests,bench,peer,sanitizer those; what one run had no time for is another's.
# --commit: of what is checked, where there is no repository to ask.  libnccl and cuBLASLt may be those of Python's packages.
# What was found lies in $OUT, or else in tests/bench/results/DATE-COMMIT/: tests.log, bench.csv, bench.err, sanitizer.log, summary.txt.
# Exit status: 0 all of it passed; 1 something failed; 77 there is no GPU, and nothing was checked.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
exec </dev/null

limit=570                                   # seconds, all together
soak=1                                      # minutes
only_build=
phases=tests,bench,peer,sanitizer
commit=
while [ $# -gt 0 ]; do
  case $1 in
    --build) only_build=1 ;;
    --only) phases=${2:?--only wants phases}; shift ;;
    --soak) soak=${2:?--soak wants minutes}; shift ;;
    --commit) commit=${2:?--commit wants a name}; shift ;;
    *) sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2 ;;
  esac
  shift
done
soak_seconds=$(awk -v m="$soak" 'BEGIN { if (m !~ /^[0-9]+(\.[0-9]+)?$/) exit 1; printf "%d", m * 60 }') || { echo "gpu-check: --soak $soak is no number" >&2; exit 2; }
[ -n "$soak_seconds" ] || exit 2
for p in ${phases//,/ }; do
  case $p in tests | bench | peer | sanitizer) ;; *) echo "gpu-check: there is no phase $p" >&2; exit 2 ;; esac
done
wanted() { [[ ,$phases, == *,$1,* ]]; }
limit=$((limit + soak_seconds - 60))        # a longer soak is asked for, and takes its time
left() { local s=$((limit - SECONDS - ${1:-0})); echo $((s > 1 ? s : 1)); }

if [ -z "$only_build" ]; then
  if ! device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1); then
    echo "gpu-check: NOT CHECKED: there is no GPU here (nvidia-smi: $(head -1 <<<"$device"))"
    exit 77
  fi
fi
for tool in cmake nvcc cc c++; do
  command -v $tool >/dev/null || { [ $tool = nvcc ] && [ -x /usr/local/cuda/bin/nvcc ]; } || { echo "gpu-check: $tool is not installed" >&2; exit 1; }
done

# ---- what a machine with PyTorch may have in its packages alone ----
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
toolkit=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
in_packages() {                             # the first file of that name (a pattern) among NVIDIA's packages
  python3 -c 'import glob, sys
print(*[f for d in sys.path for f in sorted(glob.glob(f"{d}/nvidia/*/lib/{sys.argv[1]}"))][:1])' "$1" 2>/dev/null || true
}
libraries=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$toolkit/lib64:$toolkit/targets/x86_64-linux/lib    # of our programs, not of Python's
options=()
if [ ! -e "$toolkit/lib64/libcublasLt.so" ] && [ ! -e "$toolkit/targets/x86_64-linux/lib/libcublasLt.so" ]; then
  blas=$(in_packages 'libcublasLt.so.1[0-9]')
  if [ -n "$blas" ]; then
    options+=("-DCUDA_cublasLt_LIBRARY=$blas")
    libraries=$libraries:$(dirname "$blas")
    C_INCLUDE_PATH=$(dirname "$blas")/../include${C_INCLUDE_PATH:+:$C_INCLUDE_PATH}
    export C_INCLUDE_PATH
    echo "gpu-check: cuBLASLt is $blas"
  fi
fi
if ! LD_LIBRARY_PATH=$libraries python3 -c 'import ctypes; ctypes.CDLL("libnccl.so.2")' 2>/dev/null; then
  nccl=$(in_packages libnccl.so.2)
  if [ -n "$nccl" ]; then
    libraries=$libraries:$(dirname "$nccl")
    echo "gpu-check: NCCL is $nccl"
  fi
fi

# ---- build ----
if [ -z "$only_build" ]; then               # for the GPU that is here alone
  case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u) in
    9.0) options+=(-DCMAKE_CUDA_ARCHITECTURES=90a-real) ;;
    8.*) options+=(-DCMAKE_CUDA_ARCHITECTURES=80-real) ;;
  esac
fi
command -v ninja >/dev/null || options+=(-G "Unix Makefiles")
mkdir -p build-gpu
cmake --preset gpu-check "${options[@]}" >build-gpu/configure.log 2>&1 || { cat build-gpu/configure.log; exit 1; }
cmake --build --preset gpu-check -j "$(nproc)" >build-gpu/build.log 2>&1 || { grep -E 'error|FAILED' build-gpu/build.log | head -40; tail -20 build-gpu/build.log; exit 1; }
echo "gpu-check: built in $SECONDS s"
[ -z "$only_build" ] || exit 0

date=$(date -u +%Y-%m-%d)
if [ -z "$commit" ]; then
  commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
  [ "$commit" = unknown ] || [ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit=$commit-changed
fi
to=${OUT:-$root/tests/bench/results/$date-$commit}
mkdir -p "$to"
failed=0
say() { echo "gpu-check: $*" | tee -a "$to/summary.txt"; }
: >"$to/summary.txt"
say "date=$date commit=$commit device=$(head -1 <<<"$device") devices=$(wc -l <<<"$device")"

within() {                                  # seconds, a command: ended at its time, and killed where that does not end it
  local seconds=$1
  shift
  timeout -k 5 "$seconds" env LD_LIBRARY_PATH="$libraries" "$@"
}

sweep() {                                   # tests that outlived their time would share the GPU with what is measured next
  local p
  for p in /proc/[0-9]*; do
    if [[ $(readlink "$p/exe") == "$root"/build-gpu/tests/* ]]; then kill -KILL "${p#/proc/}" || true; fi
  done 2>/dev/null
}

# ---- tests ----
if wanted tests; then
  began=$SECONDS
  status=0
  : >"$to/tests.log"
  test_with() {                             # seconds, ctest's options
    local seconds=$1
    shift
    # Threads of several tests at a time that spin where they wait would take each other's cores.
    OMP_WAIT_POLICY=passive within "$seconds" ctest --test-dir build-gpu -L gpu --output-on-failure --no-tests=error --test-output-size-passed 100000 -V "$@" >>"$to/tests.log" 2>&1 || status=$?
  }
  test_with 60 -R nccl                      # alone: it prints what NCCL takes of the device
  test_with "$(left 300)" -E nccl -j 4      # one that hangs leaves the others their time
  passed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$to/tests.log" || true)
  skipped=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*Skipped' "$to/tests.log" || true)
  all=$(ctest --test-dir build-gpu -L gpu -N | sed -n 's/^Total Tests: //p')
  if [ $status -ne 0 ] || [ "$passed" -ne "$all" ]; then
    failed=1
    grep -E '\*\*\*|SKIPPED|ERROR' "$to/tests.log" | head -40 || true
  fi
  say "tests: $passed of $all passed, $skipped skipped, ctest's status $status$([ $status -ne 124 ] || echo ' (the time was up)') ($((SECONDS - began)) s)"
  sweep
fi

# ---- benchmarks and the soak, while there is time for them: what is aimed at comes first ----
if wanted bench; then
  began=$SECONDS
  {
    echo "# date=$date commit=$commit"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit --format=csv,noheader | sed 's/^/# /'
    { timeout 60 python3 tests/bench/gpu_peer.py --rates 2>&1 || echo "torch measured nothing"; } | tail -2 | sed 's/^/# /'
  } >"$to/bench.csv"
  status=0
  within "$(left 90)" build-gpu/tests/gpu/cuda_bench soak "$soak_seconds" >>"$to/bench.csv" 2>"$to/bench.err" || status=$?
  cat "$to/bench.csv"
  if [ $status -ne 0 ]; then
    failed=1
    cat "$to/bench.err"
  fi
  say "benchmarks: status $status$([ $status -ne 124 ] || echo ' (the time was up)') ($((SECONDS - began)) s)"
  say "$(grep '^# soak' "$to/bench.csv" || echo 'soak: none')"
  grep '^# target,' "$to/bench.csv" | awk -F, '{ printf "%s: %s %% of the limit, aim %s: %s\n", $2, $3, $4, $5 }' | while read -r line; do say "$line"; done || true
fi

# ---- the same model's decode by PyTorch: a stand-in for gpt-fast, whose sources are not here ----
if wanted peer; then
  began=$SECONDS
  status=0
  share=$(left 15)
  timeout -k 5 $((share < 150 ? share : 150)) python3 tests/bench/gpu_peer.py >"$to/peer.csv" 2>"$to/peer.err" || status=$?
  cat "$to/peer.csv"
  [ $status -eq 0 ] || tail -3 "$to/peer.err"
  [ ! -e "$to/bench.csv" ] || cat "$to/peer.csv" >>"$to/bench.csv"
  say "peer: status $status$([ $status -ne 124 ] || echo ' (the time was up)') ($((SECONDS - began)) s)"
  for batch in 1 16; do                     # tokens a second
    ours=$(awk -F, -v b="bf16 batch $batch context 2048" '$1 == "decode" && $2 == b { print $4 }' "$to/bench.csv" 2>/dev/null || true)
    theirs=$(awk -F, -v b="bf16 batch $batch context 2048" '$1 == "peer decode" && $2 == b { print $4 }' "$to/peer.csv")
    if [ -z "$ours" ] || [ -z "$theirs" ]; then say "beside PyTorch's decode, bf16 batch $batch: NOT MEASURED"; continue; fi
    say "beside PyTorch's decode, bf16 batch $batch: $(awk -v o="$ours" -v t="$theirs" 'BEGIN { printf "%.1f to %.1f tokens/s, %.0f %%, aim 100: %s", o, t, 100 * o / t, (o >= t ? "reached" : "missed") }')"
  done
fi

# ---- compute-sanitizer ----
if wanted sanitizer; then
  sanitizer=$(command -v compute-sanitizer || { [ ! -x /usr/local/cuda/bin/compute-sanitizer ] || echo /usr/local/cuda/bin/compute-sanitizer; })
  : >"$to/sanitizer.log"
  if [ -z "$sanitizer" ]; then
    say "compute-sanitizer: NOT CHECKED: it is not installed"
  else
    clean=0 bad=0 late=0
    for tool in memcheck synccheck racecheck initcheck; do
      for test in rope_append attention quant matmul w8a8 embed norm candidates; do
        if [ "$(left)" -le 5 ]; then
          late=$((late + 1))
          continue
        fi
        share=$(left)
        echo "== $tool gpu_${test}_test" >>"$to/sanitizer.log"
        status=0
        within $((share < 40 ? share : 40)) "$sanitizer" --tool $tool --error-exitcode 9 "build-gpu/tests/gpu/kernels_cuda/gpu_${test}_test" >>"$to/sanitizer.log" 2>&1 || status=$?
        case $status in
          0) clean=$((clean + 1)) ;;
          124 | 137) late=$((late + 1)) ;;           # nothing was found as far as it came; the count says so
          *) if grep -q 'Device not supported' "$to/sanitizer.log"; then break 2; fi
            bad=$((bad + 1)); echo "gpu-check: $tool on gpu_${test}_test: status $status" ;;
        esac
      done
    done
    [ $bad -eq 0 ] || failed=1
    if grep -q 'Device not supported' "$to/sanitizer.log"; then say "compute-sanitizer: NOT CHECKED: it does not support this device here"
    else say "compute-sanitizer: $clean clean, $bad with findings, $late not finished in time (of 4 tools x 8 tests)"; fi
  fi
fi

echo "gpu-check: all of it once more:"
cat "$to/summary.txt"
say "result: $([ $failed -eq 0 ] && echo passed || echo FAILED) in $SECONDS s"
exit $failed
