#!/usr/bin/env bash
# Checks the style and the types of the code and runs the tests; what they need is installed into .venv first if the
# active environment lacks it.
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/test_sample.py -k seed
#
#   bash scripts/test.sh --long      also the tests that take minutes: kills, fuzzing, two ranks
#
# All other arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

show_help "$@"
find_python requirements-dev.txt
cd "$ROOT"
"$PYTHON" -m ruff check --quiet
"$PYTHON" -m mypy --no-error-summary
# One process a core, one thread a process: small networks gain nothing from more threads.
export OMP_NUM_THREADS=1
WHICH='not long'
for ARG in "$@"; do
    shift
    if [ "$ARG" = --long ]; then WHICH='long or not long'; else set -- "$@" "$ARG"; fi
done
exec "$PYTHON" -m pytest -q -n 2 -m "$WHICH" "$@"
