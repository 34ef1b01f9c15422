#!/usr/bin/env bash
# Usage: cluster.sh DATA_DIR
#
# Runs a control plane in the foreground and prints "READY URL" on stdout once
# its API server serves: kube-apiserver with etcd inside, on any free loopback
# port, kube-scheduler, and the controllers of kube-controller-manager that make
# a DaemonSet one pod for each node, taint nodes, count quotas and take away
# what was deleted. There is no kubelet: pods are bound, but nothing runs them,
# and one that was deleted stays until it is deleted by force.
#
# It is as strict as clusters get: a namespace that doesn't ask for another
# level admits pods of the Pod Security level `restricted` only, and critical
# pods need a quota outside of kube-system, as on GKE.
#
# DATA_DIR/kubeconfig is the admin's. Logs go to stderr. SIGTERM stops all.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"
[ $# = 1 ] || { echo "usage: cluster.sh DATA_DIR" >&2; exit 2; }
need setpriv "to start the servers (util-linux)"
mkdir -p "$1"
data=$(cd "$1" && pwd)
server=$("$here/build.sh" kube-local)
scheduler=$("$here/build.sh" kube-scheduler)
manager=$("$here/build.sh" kube-controller-manager)

cat > "$data/admission.yaml" << 'END'
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: PodSecurity
    configuration:
      apiVersion: pod-security.admission.config.k8s.io/v1
      kind: PodSecurityConfiguration
      defaults: {enforce: restricted, audit: restricted, warn: restricted}
  - name: ResourceQuota
    configuration:
      apiVersion: apiserver.config.k8s.io/v1
      kind: ResourceQuotaConfiguration
      limitedResources:
        - resource: pods
          matchScopes:
            - scopeName: PriorityClass
              operator: In
              values: [system-node-critical, system-cluster-critical]
END

pids=()
stop() {
  trap - EXIT INT TERM
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2> /dev/null || true
  wait
}
trap stop EXIT
trap 'exit 0' INT TERM

exec 3< <(exec setpriv --pdeathsig TERM "$server" -port 0 -data-dir "$data" -controlled -- \
  --admission-control-config-file="$data/admission.yaml")
pids+=($!)
ready=
read -r ready <&3 || die "the API server stopped while starting"

# No kubelet renews its lease here, and a node that was said to be ready stays so.
common=(--kubeconfig="$data/kubeconfig" --secure-port=0 --leader-elect=false --authentication-skip-lookup=true)
setpriv --pdeathsig TERM "$scheduler" "${common[@]}" >&2 &
pids+=($!)
setpriv --pdeathsig TERM "$manager" "${common[@]}" --node-monitor-grace-period=24h --node-monitor-period=1s \
  --controllers=daemonset-controller,garbage-collector-controller,namespace-controller \
  --controllers=node-lifecycle-controller,resourcequota-controller,serviceaccount-controller >&2 &
pids+=($!)
echo "$ready"
wait -n "${pids[@]}" || true
die "a server has stopped"
