#!/usr/bin/env bash
# Install what is missing, build twice (release in build/, ASan and UBSan in build-san/) and run every test on both.
# usage: ops/test.sh [CTEST ARGUMENTS]      e.g. ops/test.sh -R kernels
# The exit status is 0 only if every test passed.  What could not be tested is said in the summary, never passed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
exec </dev/null

ops/install.sh
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"      # for ccache, where the environment is bare
export HOME
unset OMP_NUM_THREADS
jobs=$(nproc)

# A Python of its own (Debian's refuses packages), made again when the list of packages has changed.
venv=$root/build/venv
mkdir -p build
if ! cmp -s ops/requirements.txt "$venv/requirements.txt"; then
  echo "test: making the tests' Python"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r ops/requirements.txt
  cp ops/requirements.txt "$venv/requirements.txt"
fi
export PHALANX_PYTHON=$venv/bin/python

build() {  # FOLDER OPTIONS...
  local dir=$1
  shift
  cmake -S . -B "$dir" -G Ninja "$@" >"$dir.configure.log" 2>&1 || { cat "$dir.configure.log"; rm -f "$dir.configure.log"; return 1; }
  rm -f "$dir.configure.log"
  ninja -C "$dir" -j "$jobs"
}

failed=0
summary=()
suite() {  # NAME FOLDER
  local name=$1 dir=$2 xml=$2/ctest.xml began=$SECONDS total bad skipped disabled
  shift 2
  echo "test: $name"
  rm -f "$xml"
  ctest --test-dir "$dir" -j "$jobs" --output-on-failure --no-tests=error --output-junit "$root/$xml" \
    --test-output-size-passed 4000000 "$@" || failed=1
  number() { sed -n "s/.*[[:space:]]$1=\"\([0-9]*\)\".*/\1/p" "$xml" | head -1; }
  # In the file's head: <testsuite name tests failures disabled skipped ...>, an attribute a line.
  total=$(number tests) bad=$(number failures) skipped=$(number skipped) disabled=$(number disabled)
  if [ -z "$total" ]; then
    failed=1
    summary+=("$name: no result")
    return
  fi
  summary+=("$name: $((total - bad - skipped - disabled)) passed, $bad failed, $((skipped + disabled)) skipped ($((SECONDS - began)) s)")
  # What a test left out within itself: cmocka, unittest and our own programs each say it in their way.
  while read -r line; do summary+=("  left out: $line"); done < <(grep -hE '^(<system-out>)?(\[  SKIPPED \]|SKIPPED|.*\.\.\. skipped )' "$xml" | grep -vE '[0-9]+ test\(s\)' | sed 's/^<system-out>//' | sort -u)
  while read -r test; do summary+=("  skipped: $test"); done < <(sed -n 's/.*<testcase name="\([^"]*\)".*status="\(notrun\|disabled\)".*/\1/p' "$xml")
}

build build -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPHALANX_SANITIZE=OFF -DPHALANX_TESTS=ON
build build-san -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPHALANX_SANITIZE=ON -DPHALANX_TESTS=ON
suite release build "$@"

# Leaks are looked for in every process but ranks under mpirun: Open MPI leaks at finalize, from components that are
# unloaded by then and cannot be named in a suppression.  mpirun hands this variable to its ranks only.
export OMPI_MCA_mca_base_env_list='ASAN_OPTIONS=detect_leaks=0'
export UBSAN_OPTIONS=print_stacktrace=1
export PHALANX_READY_WAIT=180
# Minutes each on the default model; the same code runs under sanitizers on the tiny ones.  What an idle service takes is no
# question to a sanitizer.
long='^(shard_run_model_test|e2e_golden|e2e_lifecycle_idle)$'
suite sanitizers build-san -E "$long" "$@"
summary+=("  left out under sanitizers, run in release: shard_run_model_test, e2e_golden, e2e_lifecycle_idle")

echo
echo "test: summary"
printf '  %s\n' "${summary[@]}"
if [ ! -e ../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf ]; then
  echo "  NOT TESTED: the default model against its reference: ../shared is absent (the tiny models of tests/golden were)"
fi
grep -qw avx512_vnni /proc/cpuinfo || echo "  NOT TESTED: the AVX-512 path: this processor has none"
grep -qw avx2 /proc/cpuinfo || echo "  NOT TESTED: the AVX2 path: this processor has none"
if [ $failed -ne 0 ]; then echo "test: FAILED"; else echo "test: passed"; fi
exit $failed
