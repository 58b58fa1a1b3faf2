#!/usr/bin/env bash
# Train the baseline, the baseline with each single part of AICL, and AICL; by default on the small synthetic sample
# (about four minutes on two cores).
#
#   bash scripts/ablation.sh
#   SEEDS=3 bash scripts/ablation.sh
#   SEEDS=3 bash scripts/ablation.sh /data/THUMOS14 --precision tf32
#
# usage: [SEEDS=N] bash scripts/ablation.sh [DATA_PATH] [flags of main.py]
#
# SEEDS is the number of seeds per variant (default 1); DATA_PATH and --exp_name are as in scripts/train.sh. The runs
# are EXP_NAME-baseline-seed1 and so on; the table is also written to outputs/EXP_NAME-ablation.csv and .md. The same
# command continues an interrupted sweep and keeps finished runs; with --overwrite it replaces them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

show_help "$@"
find_python requirements.txt
exec "$PYTHON" -P "$ROOT/scripts/sweep.py" ablation "${SEEDS:-1}" "$@"
