#!/usr/bin/env bash
# Run a program under mpirun as the daemon does: private job folder, removed afterwards, and an end in any case.
# usage: mpirun.sh SECONDS RANKS PROGRAM [ARGS...]; the exit status is mpirun's, 124 or 137 after SECONDS.
set -uo pipefail
seconds=$1 ranks=$2
shift 2
command -v mpirun >/dev/null || { echo "mpirun.sh: there is no mpirun" >&2; exit 127; }

job=$(mktemp -d "${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}/phalanx-mpi.XXXXXX") || exit 1
child=
cleanup() {
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; wait "$child" 2>/dev/null; fi
  rm -rf "$job"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

flags=(-n "$ranks" --oversubscribe
  --mca pml ob1 --mca btl self,vader --mca odls_base_sigkill_timeout 0
  --mca orte_tmpdir_base "$job" --mca btl_vader_backing_directory "$job")
# Bound ranks that share a core would wait for each other's time slices.
if [ "$ranks" -gt "$(nproc)" ]; then flags+=(--bind-to none); else flags+=(--bind-to core); fi
if [ "$(id -u)" = 0 ]; then flags+=(--allow-run-as-root); fi

# Open MPI leaks at finalize, from components that are unloaded by then and cannot be named in a suppression.  Our own
# leaks are found by the counts of our allocators.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"
timeout --kill-after=3 "$seconds" mpirun "${flags[@]}" "$@" </dev/null &
child=$!
wait "$child"
status=$?
child=
exit "$status"
