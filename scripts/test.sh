#!/usr/bin/env bash
# Check the style and the types of the code and run the tests; missing packages are installed into .venv.
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/test_sample.py -k seed
#   bash scripts/test.sh --long      also the tests that take minutes
#
# usage: bash scripts/test.sh [--long] [arguments of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

show_help "$@"
find_python requirements-dev.txt
cd "$ROOT"
"$PYTHON" -m ruff check --quiet
"$PYTHON" -m mypy --no-error-summary
# Two processes with one thread each: small networks gain nothing from more threads.
export OMP_NUM_THREADS=1
WHICH='not long'
for ARG in "$@"; do
    shift
    if [ "$ARG" = --long ]; then WHICH='long or not long'; else set -- "$@" "$ARG"; fi
done
exec "$PYTHON" -m pytest -q -n 2 -m "$WHICH" "$@"
