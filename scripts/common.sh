# shellcheck shell=bash
# Sourced by the project's scripts: paths, messages, the run of a preset's tests. Works with the bash 3.2 of macOS.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# rustup puts cargo here and tells only new login shells; it comes before an older one of the system.
find_cargo() {
  local folder="${CARGO_HOME:-$HOME/.cargo}/bin"
  case ":$PATH:" in
    *":$folder:"*) ;;
    *) if [ -x "$folder/cargo" ]; then PATH="$folder:$PATH"; fi ;;
  esac
}
find_cargo

install_missing() {
  scripts/install_dependencies || return 1
  find_cargo
}

fail() {
  echo "error: $*" >&2
  exit 1
}

jobs_count() {
  nproc 2>/dev/null || sysctl -n hw.ncpu
}

# version_at_least HAVE WANTED: compares dotted numbers; what follows a dash ("1.97.0-nightly") does not count.
version_at_least() {
  local have wanted i
  IFS=. read -r -a have <<<"${1%%-*}"
  IFS=. read -r -a wanted <<<"$2"
  for i in 0 1 2; do
    if [ "$((10#${have[i]:-0}))" -ne "$((10#${wanted[i]:-0}))" ]; then
      [ "$((10#${have[i]:-0}))" -gt "$((10#${wanted[i]:-0}))" ]
      return
    fi
  done
}

# configure PRESET [OPTION...]; build PRESET [TARGET...]
configure() {
  local preset=$1
  shift
  # The Python module, if its environment was made (scripts/python_environment.py).
  local python=$root/build/python-env/bin/python
  if [ "$preset" = release ] && [ -f "$root/build/python-env/packages" ]; then
    set -- -DTURBOQUANT_BUILD_PYTHON=ON "-DPython_EXECUTABLE=$python" "$@"
  else
    set -- -DTURBOQUANT_BUILD_PYTHON=OFF "$@"
  fi
  cmake --preset "$preset" -DTURBOQUANT_BUILD_TESTS=ON "$@"
}

build() {
  local preset=$1
  shift
  if [ $# -gt 0 ]; then set -- --target "$@"; fi
  cmake --build --preset "$preset" --parallel "$(jobs_count)" "$@"
}

# run_tests PRESET: runs ctest and sets tests_passed, tests_failed and tests_skipped; returns ctest's own exit status.
run_tests() {
  local report="$root/build/$1/tests.xml" status=0 total missing
  rm -f "$report"
  ctest --preset "$1" -j2 --output-on-failure --output-junit "$report" || status=$?
  [ -f "$report" ] || fail "ctest wrote no report for preset $1 (no tests registered?)"
  junit_count() { sed -n "s/^.*[[:space:]]$1=\"\([0-9]*\)\".*$/\1/p" "$report" | head -n 1; }
  total=$(junit_count tests)
  # A program that could not be started is a failure, though the report calls it skipped.
  missing=$(grep -c '<skipped message="Unable to find executable' "$report" || true)
  tests_failed=$(($(junit_count failures) + missing))
  tests_skipped=$(($(junit_count skipped) + $(junit_count disabled) - missing))
  # shellcheck disable=SC2034  # read by the scripts that source this one
  tests_passed=$((total - tests_failed - tests_skipped))
  return "$status"
}

# The closing line that people and CI read.
print_counts() {
  if [ "$3" -gt 0 ]; then
    echo "$1 passed, $2 failed, $3 skipped"
  else
    echo "$1 passed, $2 failed"
  fi
}
