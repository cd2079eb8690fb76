#!/usr/bin/env bash
# The fast suite on the oldest and on the newest versions that pyproject.toml admits, each in an environment of its own.
#
#   tests/compat.sh oldest | newest | both      (default: both)
#   tests/compat.sh 3.12 3.13                   the tested versions under other Pythons, those that are installed
#
# Environments go to .compat/ and are kept: a second run only updates them.
# TORCH_OLDEST, TORCH_NEWEST, TORCH_TESTED: what to install as torch, e.g. "torch==2.13.0 --index-url ..." for a CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."

python=python3
run() { # name, torch, pip's other arguments
  local name=$1 torch=$2
  shift 2
  "$python" -m venv ".compat/$name"
  # shellcheck disable=SC2086 # several words are several arguments
  ".compat/$name/bin/pip" install --quiet $torch
  ".compat/$name/bin/pip" install --quiet "$@" -e ".[dev]"
  echo "== $name: $(".compat/$name/bin/pip" list --format=freeze | grep -E '^(torch|transformers|trl|accelerate|peft|datasets|bitsandbytes)==' | tr '\n' ' ')"
  OMP_NUM_THREADS=1 ".compat/$name/bin/python" -m pytest -n 2 --dist loadfile -q || failed+=("$name")
}

failed=()
mkdir -p .compat
which=${1:-both}
for number in "$@"; do
  case $number in 3.*) ;; *) continue ;; esac
  python=python$number
  if "$python" --version >/dev/null 2>&1; then
    run "$number" "${TORCH_TESTED:-$(grep '^torch==' constraints.txt)}" -c constraints.txt
  else
    echo "== $number: not installed here, skipped"
  fi
done
if [ "$which" = oldest ] || [ "$which" = both ]; then
  python3 -m tests.versions oldest >.compat/oldest.txt
  if [ -n "${TORCH_OLDEST:-}" ]; then sed -i '/^torch==/d' .compat/oldest.txt; fi
  run oldest "${TORCH_OLDEST:-$(grep '^torch==' .compat/oldest.txt)}" -c .compat/oldest.txt
fi
if [ "$which" = newest ] || [ "$which" = both ]; then
  run newest "${TORCH_NEWEST:-torch}" --upgrade --upgrade-strategy eager
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed with: ${failed[*]}"
  exit 1
fi
echo "passed"
