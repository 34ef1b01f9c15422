#!/usr/bin/env bash
# Usage: start.sh PORT DATA_DIR [kube-apiserver flags]
#
# Runs one real kube-apiserver, with etcd inside, in the foreground on
# 127.0.0.1:PORT and prints "READY URL" on stdout once it serves. Port 0 takes
# any free one. DATA_DIR/kubeconfig is the admin's. The log goes to stderr.
# SIGTERM stops it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 2 ] || { echo "usage: start.sh PORT DATA_DIR [kube-apiserver flags]" >&2; exit 2; }
port=$1 data=$2
shift 2
program=$("$here/build.sh" kube-local)
exec "$program" -port "$port" -data-dir "$data" -- "$@"
