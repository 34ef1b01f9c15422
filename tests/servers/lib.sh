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
