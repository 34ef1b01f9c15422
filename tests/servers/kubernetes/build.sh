#!/usr/bin/env bash
# Usage: build.sh [kube-local | kube-scheduler | kube-controller-manager | kubectl]…
#
# Makes sure that the commands, all of them if none is named, are built, and
# prints their paths in the cache. The first build compiles etcd and
# kube-apiserver from their published modules, several minutes on two cores,
# and the others in a minute each; what is built is kept by the contents that it
# was made from, so it is built again only after a change. Two at a time build
# once.
#
#   BUILD_JOBS  compilers that run at once, default 2
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

cd "$here"
# Without these the server would call itself v0.0.0-master.
release=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes v/v/p' go.mod)
stamp=k8s.io/component-base/version
stamps="-s -w -X $stamp.gitVersion=$release -X $stamp.gitTreeState=clean \
  -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(echo "$release" | cut -d. -f2)"

# build COMMAND PACKAGE FILE…: the files are what makes another command of it.
build() {
  local what=$1 package=$2 contents bin
  shift 2
  contents=$(cat "$@" | sha256sum)
  bin=$(cache_dir)/kubernetes/${contents:0:16}
  mkdir -p "$bin"
  exec 9> "$bin/.lock"
  flock 9
  if [ ! -x "$bin/$what" ]; then
    need go "to build a Kubernetes control plane (Go 1.24 or newer)"
    echo "building $what (Kubernetes $release, several minutes the first time)" >&2
    nice go build -mod=readonly -trimpath -p "${BUILD_JOBS:-2}" -ldflags "$stamps" \
      -o "$bin/$what.new" "$package" >&2
    mv "$bin/$what.new" "$bin/$what"
  fi
  echo "$bin/$what"
}

[ $# -gt 0 ] || set -- kube-local kube-scheduler kube-controller-manager kubectl
for what in "$@"; do
  case $what in
  kube-local) build "$what" . go.mod go.sum ./*.go ;;
  kube-scheduler | kube-controller-manager | kubectl) build "$what" "k8s.io/kubernetes/cmd/$what" go.mod go.sum ;;
  *) die "unknown command: $what" ;;
  esac
done
