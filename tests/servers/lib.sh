# Sourced by the scripts of this folder and by tests/all: where caches live, and how to fail.

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# need COMMAND WHAT-IT-IS-FOR: fails loudly when a tool is missing.
need() {
  command -v "$1" > /dev/null || die "$1 is not on the PATH; it is needed $2"
}

# The folder that holds what is slow to make: the unpacked Elasticsearch, the
# built control plane, cargo's tools. It is outside the checkout, so that fresh
# clones share it. Elasticsearch does not run as root: started by root it runs
# as nobody, who must be able to read this folder, hence not /root.
cache_dir() {
  local dir
  if [ -n "${TEST_CACHE:-}" ]; then
    dir=$TEST_CACHE
  elif [ "$(id -u)" = 0 ]; then
    dir=/var/cache/splashdam-tests
  else
    dir=${XDG_CACHE_HOME:-$HOME/.cache}/splashdam-tests
  fi
  mkdir -p "$dir"
  (cd "$dir" && pwd)
}

# fetched NAME VERSION WHAT [FINISH…]: makes sure that what the caller's pom.xml
# unpacks is in the cache, and prints its folder. FINISH is a command that gets
# the new folder before it counts. Two at a time download once.
fetched() (
  # A command substitution forgets that of its caller.
  set -e
  name=$1 version=$2 what=$3
  shift 3
  dist=$(cache_dir)/$name
  mkdir -p "$dist"
  exec 9> "$dist/.lock"
  flock 9
  if [ ! -f "$dist/$version/.complete" ]; then
    need mvn "to fetch $what (Maven 3)"
    echo "fetching $what" >&2
    rm -rf "$dist/$version" "$dist/new"
    mvn -q -B -f "$here/pom.xml" "-Ddist.dir=$dist/new" package >&2
    if [ $# -gt 0 ]; then "$@" "$dist/new/$version"; fi
    touch "$dist/new/$version/.complete"
    mv "$dist/new/$version" "$dist/$version"
    rm -rf "$dist/new"
  fi
  echo "$dist/$version"
)
