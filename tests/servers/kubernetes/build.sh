#!/usr/bin/env bash
# Usage: build.sh [kube-local]
#
# Makes sure that the command is built and prints its path in the cache. The
# first build compiles etcd and kube-apiserver from their published modules,
# several minutes on two cores; what is built is kept by the contents of this
# folder, so it is built again only after a change. Two at a time build once.
#
#   BUILD_JOBS  compilers that run at once, default 2
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

# Another command of the release (kubectl, kube-scheduler) is one more case
# here, with its package as a `tool` in go.mod.
what=${1:-kube-local}
case $what in
kube-local) package=. ;;
*) die "unknown command: $what" ;;
esac

cd "$here"
contents=$(cat go.mod go.sum ./*.go | sha256sum)
bin=$(cache_dir)/kubernetes/${contents:0:16}
mkdir -p "$bin"
exec 9> "$bin/.lock"
flock 9
if [ ! -x "$bin/$what" ]; then
  need go "to build kube-apiserver (Go 1.24 or newer)"
  # Without these the server would call itself v0.0.0-master.
  release=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes v/v/p' go.mod)
  stamp=k8s.io/component-base/version
  echo "building $what (Kubernetes $release, several minutes the first time)" >&2
  nice go build -mod=readonly -trimpath -p "${BUILD_JOBS:-2}" -o "$bin/$what.new" -ldflags "-s -w \
    -X $stamp.gitVersion=$release -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(echo "$release" | cut -d. -f2) \
    -X $stamp.gitTreeState=clean" "$package" >&2
  mv "$bin/$what.new" "$bin/$what"
fi
echo "$bin/$what"
