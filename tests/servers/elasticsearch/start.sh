#!/usr/bin/env bash
# Usage: start.sh PORT DATA_DIR
#
# Runs one real Elasticsearch node in the foreground on 127.0.0.1:PORT and
# prints "READY URL" on stdout once it can be read and written. Port 0 takes any
# free one. SIGTERM stops it. The node's own output is in DATA_DIR/logs/console.log.
#
#   ES_PASSWORD   turns security and HTTPS on: basic authentication as "elastic",
#                 a certificate for localhost and 127.0.0.1 that the authority
#                 in DATA_DIR/config/certs/ca.crt has signed
#   ES_SETTINGS   further lines for elasticsearch.yml
#   ES_HEAP       heap size, default 512m
#   ES_TIER       highest tier of compilation: 1 (default), or 4 as in a server that runs for long
#   ES_JAVA_HOME  the JDK, 17 or newer (default: JAVA_HOME, then java on the PATH)
#   ES_USER       account to run as when started by root, default nobody
#   ES_WAIT       seconds until it gives up waiting, default 300
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

[ $# -eq 2 ] || die "usage: start.sh PORT DATA_DIR"
port=$1
[[ $port =~ ^[0-9]+$ ]] || die "not a port: $port"
mkdir -p "$2"
data=$(cd "$2" && pwd)
conf=$data/config

# --- Java ---------------------------------------------------------------------
java_home=${ES_JAVA_HOME:-${JAVA_HOME:-}}
if [ -z "$java_home" ]; then
  need java "to run Elasticsearch (a JDK, 17 or newer)"
  java_home=$(readlink -f "$(command -v java)")
  java_home=${java_home%/bin/java}
fi
java=$java_home/bin/java
found=$("$java" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
[ "${found%%.*}" -ge 17 ] || die "Elasticsearch needs Java 17 or newer, $java_home is $found (set ES_JAVA_HOME)"
modules=$("$java" --list-modules)
[[ $modules == *jdk.jdi@* ]] || die "$java_home lacks the module jdk.jdi; use a JDK, not a trimmed runtime"
need curl "to ask Elasticsearch whether it is ready"

home=$("$here/fetch.sh")

# --- Node folder --------------------------------------------------------------
mkdir -p "$conf" "$data/data" "$data/logs" "$data/tmp"
rm -f "$data/logs/http.ports"
grep -vE 'Xlog:gc|HeapDump' "$home/config/jvm.options" > "$conf/jvm.options"
cp "$home/config/log4j2.properties" "$conf/"
{
  echo "cluster.name: splashdam-tests"
  echo "node.name: node"
  echo "path.data: $data/data"
  echo "path.logs: $data/logs"
  echo "network.host: 127.0.0.1"
  echo "http.port: $port"
  echo "transport.port: 0"
  # says in logs/http.ports which port it got
  echo "node.portsfile: true"
  echo "discovery.type: single-node"
  echo "cluster.routing.allocation.disk.threshold_enabled: false"
  [ -z "${ES_SETTINGS:-}" ] || echo "$ES_SETTINGS"
  if [ -n "${ES_PASSWORD:-}" ]; then
    echo "xpack.security.enabled: true"
    echo "xpack.security.enrollment.enabled: false"
    echo "xpack.security.transport.ssl.enabled: false"
    echo "xpack.security.http.ssl.enabled: true"
    echo "xpack.security.http.ssl.key: certs/http.key"
    echo "xpack.security.http.ssl.certificate: certs/http.crt"
  else
    echo "xpack.security.enabled: false"
  fi
} > "$conf/elasticsearch.yml"

# An authority and a certificate that it signed: clients that take a chain
# seriously refuse a certificate that is its own authority.
make_certificates() {
  need openssl "to make the certificate of Elasticsearch"
  mkdir -p "$conf/certs"
  (
    cd "$conf/certs"
    exec 2> openssl.log
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=splashdam tests" -keyout ca.key -out ca.crt
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout http.key -out http.csr
    printf 'basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n' > http.ext
    openssl x509 -req -in http.csr -days 3650 -CA ca.crt -CAkey ca.key -CAcreateserial -extfile http.ext -out http.crt
  ) || die "openssl failed, see $conf/certs/openssl.log"
}
curl_options=(-sf -m 5 --noproxy '*')
if [ -n "${ES_PASSWORD:-}" ]; then
  [ -f "$conf/certs/http.crt" ] || make_certificates
  curl_options+=(--cacert "$conf/certs/ca.crt" -u "elastic:$ES_PASSWORD")
fi

# --- Elasticsearch refuses to run as root: drop to another account then --------
as=()
if [ "$(id -u)" = 0 ]; then
  user=${ES_USER:-nobody}
  chown -R "$user:$(id -gn "$user")" "$data"
  as=(setpriv "--reuid=$user" "--regid=$(id -gn "$user")" --clear-groups)
  "${as[@]}" test -r "$home/lib" || die "user $user cannot read $home; set TEST_CACHE to a folder it can reach"
  "${as[@]}" test -w "$data/data" || die "user $user cannot write $data; choose a folder it can reach"
fi

export ES_HOME=$home ES_PATH_CONF=$conf ES_TMPDIR=$data/tmp HOME=$data
export ES_JAVA_HOME=$java_home JAVA=$java JAVA_TYPE=ES_JAVA_HOME ES_DISTRIBUTION_TYPE=tar
heap=${ES_HEAP:-512m}
# without the second compiler a start takes half the processor time, and tests are over before it pays
export ES_JAVA_OPTS="-Xms$heap -Xmx$heap -XX:TieredStopAtLevel=${ES_TIER:-1}"
unset JAVA_TOOL_OPTIONS _JAVA_OPTIONS JAVA_HOME
cd "$home"

# cli NAME LIBRARY ARGUMENTS…: one of the tools that come with the server, as its own scripts run them.
cli() {
  local name=$1 library=$2
  shift 2
  exec "${as[@]}" "$java" -Xms4m -Xmx64m -XX:+UseSerialGC \
    "-Dcli.name=$name" "-Dcli.script=$home/bin/elasticsearch" "-Dcli.libs=lib/tools/$library" \
    "-Des.path.home=$home" "-Des.path.conf=$conf" -Des.distribution.type=tar -Des.java.type=ES_JAVA_HOME \
    -cp "$home/lib/*:$home/lib/cli-launcher/*" org.elasticsearch.launcher.CliToolLauncher "$@"
}
if [ -n "${ES_PASSWORD:-}" ]; then
  # --force makes the keystore where there is none
  (printf '%s' "$ES_PASSWORD" | cli keystore keystore-cli add --silent --force --stdin bootstrap.password) >&2
fi

# --- Run ----------------------------------------------------------------------
log=$data/logs/console.log
(cli server server-cli) > "$log" 2>&1 < /dev/null &
node=$!
trap 'kill -TERM $node 2> /dev/null || true' TERM INT HUP

scheme=http
[ -z "${ES_PASSWORD:-}" ] || scheme=https
began=$SECONDS
until
  # It answers before it has found its indices again, and until then is red.
  address=$(head -n 1 "$data/logs/http.ports" 2> /dev/null) &&
    curl "${curl_options[@]}" "$scheme://$address/_cluster/health?wait_for_status=yellow&timeout=3s" > /dev/null
do
  kill -0 $node 2> /dev/null || { tail -n 30 "$log" >&2; die "the node stopped while starting, see $log"; }
  if [ $((SECONDS - began)) -ge "${ES_WAIT:-300}" ]; then
    kill $node
    tail -n 30 "$log" >&2
    die "not ready after ${ES_WAIT:-300} s, see $log"
  fi
  sleep 0.3
done
echo "READY $scheme://$address"

# A trapped signal ends a wait early, so wait until the node has really gone.
rc=0
while kill -0 $node 2> /dev/null; do
  rc=0
  wait $node || rc=$?
done
exit $rc
