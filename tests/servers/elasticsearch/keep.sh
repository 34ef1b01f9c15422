#!/usr/bin/env bash
# Usage: keep.sh PORT DATA_DIR
#
# Runs start.sh, and again on the same port and data when the node was killed
# with SIGKILL, as Kubernetes does with a container: a test may kill the node's
# process and wait until it is back. Any other end is an end, SIGTERM is passed
# on. The port should not be one of those that the kernel gives away, or
# somebody else may have it by then; 0 takes a free one below those.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

[ $# -eq 2 ] || die "usage: keep.sh PORT DATA_DIR"
port=$1
if [ "$port" = 0 ]; then
  # with nothing but the shell: a connection that is refused means that nobody listens
  read -r lowest _ < /proc/sys/net/ipv4/ip_local_port_range
  [ "$lowest" -ge 20000 ] || die "no port below those that the kernel gives away ($lowest)"
  until
    port=$((10000 + RANDOM % 10000))
    ! (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null
  do :; done
fi

node=
stopped=
trap 'stopped=1; [ -z "$node" ] || kill -TERM "$node" 2> /dev/null || true' TERM INT HUP
rc=137
while [ -z "$stopped" ] && [ "$rc" = 137 ]; do
  setpriv --pdeathsig TERM "$here/start.sh" "$port" "$2" < /dev/null &
  node=$!
  # A trapped signal ends a wait early, so wait until it has really gone.
  while kill -0 "$node" 2> /dev/null; do
    rc=0
    wait "$node" || rc=$?
  done
done
exit "$rc"
