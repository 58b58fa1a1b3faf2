#!/usr/bin/env bash
# Measures what benchmarks/README.md lists and writes the tables to benchmarks/results.
#
#   bash scripts/bench.sh
#   bash scripts/bench.sh cpu step loading --rounds 9
#   bash scripts/bench.sh cuda
#
# It writes 3.3 GB of synthetic features into data/bench, once; --data says another place. All arguments go to
# benchmarks/bench.py (see --help). Other work on the machine makes the times worse and the ratios wider.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

find_python requirements.txt
cd "$ROOT"
PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" -P -m benchmarks.bench "$@"
