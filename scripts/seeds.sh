#!/usr/bin/env bash
# Train one recipe with several seeds and print how far the results spread, by default on the small synthetic sample
# (about two minutes on two cores).
#
#   bash scripts/seeds.sh
#   bash scripts/seeds.sh 5 --lambda_contrast 0
#   bash scripts/seeds.sh 3 /data/THUMOS14 --exp_name first
#
# usage: bash scripts/seeds.sh [N] [DATA_PATH] [flags of main.py]
#
# N is the number of seeds (default 3); DATA_PATH and --exp_name are as in scripts/train.sh. The runs are
# EXP_NAME-seed1, EXP_NAME-seed2 and so on; the table is also written to outputs/EXP_NAME-seeds.csv and .md. The same
# command continues an interrupted sweep and keeps finished runs; with --overwrite it replaces them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

show_help "$@"
[[ ${1:-} =~ ^[0-9]+$ ]] || set -- 3 "$@"
find_python requirements.txt
exec "$PYTHON" -P "$ROOT/scripts/sweep.py" seeds "$@"
