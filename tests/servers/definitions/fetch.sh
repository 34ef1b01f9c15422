#!/usr/bin/env bash
# Usage: fetch.sh
#
# Makes sure that the resource definitions (CRDs) of the Flink Kubernetes
# operator of pom.xml are unpacked in the cache and prints their folder. Two at
# a time download once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

# The files that are used, as they were published.
sums="\
5f2b489140be56a972195971b8331f22f2c46d7f0de68cbd11ddf919cbc073a9  flinkdeployments.flink.apache.org-v1.yml
09f43b086b946e5c6144a2907af8808b04e96c7f2088d1585d6501f1a10ae044  flinksessionjobs.flink.apache.org-v1.yml"

version=$(sed -n 's/.*<operator\.version>\(.*\)<\/operator\.version>.*/\1/p' "$here/pom.xml")
folder=$(fetched flink-operator "$version" "the definitions of Flink's operator $version")/META-INF/fabric8
(cd "$folder" && sha256sum --quiet --check <<< "$sums") >&2 || die "other definitions than expected in $folder"
echo "$folder"
