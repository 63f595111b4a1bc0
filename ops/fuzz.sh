#!/usr/bin/env bash
# Fuzz one reader for a while: executions a second and coverage are printed, inputs that reach something new are kept in
# BUILD/fuzz/corpus/TARGET for the next time, a finding in BUILD/fuzz/corpus/TARGET-found.
# usage: ops/fuzz.sh TARGET [SECONDS [BUILD]]        600; build
# TARGET: gguf safetensors index config manifest yaml tokenizer_json tokenizer_model tokenizer_gguf
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-}
build=${3:-$here/build}
if [ -z "$target" ] || [ ! -f "$here/tests/fuzz/$target.c" ]; then
  sed -n '2,5s/^# //p' "$0" >&2
  exit 2
fi
if [ ! -x "$build/fuzz/fuzz_$target" ]; then
  echo "fuzz: $build has no fuzz_$target: configure and build it, with clang and its libFuzzer installed" >&2
  exit 1
fi
exec python3 "$here/tests/fuzz/run.py" "$target" --build "$build" --seconds "${2:-600}" --corpus "$build/fuzz/corpus/$target"
