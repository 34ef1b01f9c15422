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
dist=$(cache_dir)/elasticsearch
mkdir -p "$dist"
exec 9> "$dist/.lock"
flock 9
if [ ! -f "$dist/$version/.complete" ]; then
  need mvn "to fetch Elasticsearch (Maven 3)"
  echo "fetching Elasticsearch $version (about 0.9 GB the first time)" >&2
  rm -rf "$dist/$version" "$dist/new"
  mvn -q -B -f "$here/pom.xml" "-Ddist.dir=$dist/new" package >&2
  home=$(echo "$dist/new/$version"/*/elasticsearch)
  [ -f "$home/lib/elasticsearch-$version.jar" ] || die "no server $version in what Maven unpacked into $dist/new"
  mkdir -p "$home/plugins"
  chmod -R u+rwX,go+rX "$dist/new"
  touch "$dist/new/$version/.complete"
  mv "$dist/new/$version" "$dist/$version"
  rm -rf "$dist/new"
fi
echo "$dist/$version"/*/elasticsearch
