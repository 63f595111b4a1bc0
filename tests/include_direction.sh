#!/usr/bin/env bash
# Includes go only downward: daemon -> shard -> {kernels, comm} -> proto; nothing includes tests.
# usage: include_direction.sh ROOT
set -euo pipefail
cd "$1"
bad=0
check() { # folder, forbidden rooms as an expression
  local hits
  hits=$(grep -rnE "^[[:space:]]*#[[:space:]]*include[[:space:]]+\"($2)/" "$1" --include='*.c' --include='*.h' --include='*.cu' --include='*.cuh' || true)
  if [ -n "$hits" ]; then
    printf '%s may not include from (%s):\n%s\n' "$1" "$2" "$hits"
    bad=1
  fi
}
check proto 'kernels|comm|shard|daemon|tests'
check kernels 'comm|shard|daemon|tests'
check comm 'kernels|shard|daemon|tests'
check shard 'daemon|tests'
check daemon 'tests'
hits=$(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"\.\.?/' proto kernels comm shard daemon --include='*.c' --include='*.h' --include='*.cu' || true)
if [ -n "$hits" ]; then printf 'includes are written from the root of the project:\n%s\n' "$hits"; bad=1; fi
# A test that cannot see a wrong include proves nothing: plant one and look.
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/kernels"; echo '#include "shard/run/forward.h"' > "$tmp/kernels/x.c"
if ! grep -rqE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"(comm|shard|daemon|tests)/' "$tmp/kernels" --include='*.c'; then
  echo 'the search itself is broken'; bad=1
fi
exit $bad
