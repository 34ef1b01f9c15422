#!/usr/bin/env bash
# Usage: fetch.sh
#
# Makes sure that the Elasticsearch server of pom.xml is unpacked in the cache
# and prints its home folder. The first time, Maven downloads about 0.9 GB, of
# which 115 MB are kept in the cache; afterwards this returns at once. Two at a
# time download once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

version=$(sed -n 's/.*<es\.version>\(.*\)<\/es\.version>.*/\1/p' "$here/pom.xml")

# The server must be there, and readable for whom it runs as.
finish() {
  local home
  home=$(echo "$1"/*/elasticsearch)
  [ -f "$home/lib/elasticsearch-$version.jar" ] || die "no server $version in what Maven unpacked into $1"
  mkdir -p "$home/plugins"
  chmod -R u+rwX,go+rX "$1"
}

folder=$(fetched elasticsearch "$version" "Elasticsearch $version (about 0.9 GB the first time)" finish)
echo "$folder"/*/elasticsearch
