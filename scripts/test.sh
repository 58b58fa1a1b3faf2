#!/usr/bin/env bash
# Runs the tests; what they need is installed into .venv first if the active environment lacks it.
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/test_sample.py -k seed
#
# All arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

find_python requirements-dev.txt
cd "$ROOT"
# One process a core, one thread a process: small networks gain nothing from more threads.
OMP_NUM_THREADS=1 exec "$PYTHON" -m pytest -q -n 2 "$@"
