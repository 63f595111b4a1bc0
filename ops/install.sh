#!/usr/bin/env bash
# Install what building and testing Phalanx needs, on Debian 12: only what is missing, as root or through sudo.
# usage: ops/install.sh
set -euo pipefail

packages=(
  # tools
  build-essential cmake ninja-build ccache pkg-config git ca-certificates unzip procps
  # Python for the tests, and for the model where it is taken from a package
  python3 python3-venv
  # gRPC's C core and protobuf.  grpc.pc names its parts' .pc files, which come with the packages that it depends on.
  libgrpc-dev protobuf-compiler libprotobuf-dev protobuf-c-compiler libprotobuf-c-dev libssl-dev
  # formats and text
  libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev
  # ranks
  libopenmpi-dev openmpi-bin libgomp1
  # tests; clang, its runtime and symbolizer for MemorySanitizer, which gcc has not
  libcmocka-dev clang libclang-rt-dev llvm
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install: this is no Debian; needed are the counterparts of: ${packages[*]}" >&2
  exit 1
fi

missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "install: all ${#packages[@]} packages are there"
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "install: root or sudo is needed to install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "install: ${#missing[@]} of ${#packages[@]} packages are missing: ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null
echo "install: done"
