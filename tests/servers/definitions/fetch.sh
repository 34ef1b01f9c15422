#!/usr/bin/env bash
# Usage: fetch.sh
#
# Makes sure that the resource definitions (CRDs) that the manifests, their
# examples and the agent's requests are checked against are in the cache, as
# their owners published them, and prints their folder: those of Flink's operator
# (pom.xml), of the elastic operator (ECK), of OpenShift and of the Prometheus
# operator. Two at a time download once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

# What the file is called here, the Go module that it is in, and where.
modules="\
elastic.yaml github.com/elastic/cloud-on-k8s/v3@v3.5.0 config/crds/v1/all-crds.yaml
openshift.yaml github.com/openshift/api@v0.0.0-20251020135558-286504b695bc payload-manifests/crds/0000_03_config-operator_01_securitycontextconstraints.crd.yaml
prometheus.yaml github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"

sums="\
3f65a218451a97f126ebd8531205bd5e7dacbe05c10d90344f976f00fdcdbc3d  elastic.yaml
5f2b489140be56a972195971b8331f22f2c46d7f0de68cbd11ddf919cbc073a9  flinkdeployments.yaml
09f43b086b946e5c6144a2907af8808b04e96c7f2088d1585d6501f1a10ae044  flinksessionjobs.yaml
4194732f477a0a113da682ee3685f9edc6fc9df506ec4802575455db51a133c2  openshift.yaml
8ce88c52c51209993511cae093089c9525f5552def88119e3f559123ee9d454b  prometheus.yaml"

# finish FOLDER: renames what Maven unpacked, and brings what is in Go modules.
finish() {
  local kind file module path source
  for kind in flinkdeployments flinksessionjobs; do
    mv "$1/META-INF/fabric8/$kind.flink.apache.org-v1.yml" "$1/$kind.yaml"
  done
  need go "to fetch definitions that are in Go modules (Go 1.24 or newer)"
  while read -r file module path; do
    # In a folder without a module of its own; -json says where it is now. What is taken from it has
    # a checksum above.
    source=$(cd "$1" && GOSUMDB=off go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    [ -n "$source" ] || die "no $module"
    install -m 644 "$source/$path" "$1/$file"
  done <<< "$modules"
}

version=$(sed -n 's/.*<operator\.version>\(.*\)<\/operator\.version>.*/\1/p' "$here/pom.xml")
contents=$(cat "$here/pom.xml" "$here/fetch.sh" | sha256sum)
folder=$(fetched "definitions-${contents:0:16}" "$version" "the definitions of operators" finish)
(cd "$folder" && sha256sum --quiet --check <<< "$sums") >&2 || die "other definitions than expected in $folder"
echo "$folder"
