#!/usr/bin/env bash
# Trains one recipe with several seeds and shows how far the results spread, by default on the small synthetic sample
# (about two minutes on two cores).
#
#   bash scripts/seeds.sh
#   bash scripts/seeds.sh 5 --lambda_contrast 0
#   DATASET=thumos14 DATA_PATH=/data/THUMOS14 EXP_NAME=first bash scripts/seeds.sh 3
#
# The first argument is the number of seeds (default 3); the others go to main.py, and DATASET, DATA_PATH and EXP_NAME
# are as for scripts/train.sh. It trains EXP_NAME-seed1, -seed2 and so on, and writes the table to
# outputs/EXP_NAME-seeds.csv and .md too. Begun again with the same flags it goes on where it stopped and keeps the runs
# that have ended; --overwrite trains all anew.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
. "$(dirname "${BASH_SOURCE[0]}")/compare.sh"

show_help "$@"
COUNT=3
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    COUNT=$1
    shift
fi
is_count "$COUNT" || fail "$COUNT seeds: give 1 to 999."
settings_of_comparison "$@"
train_seeds "$EXP_NAME" "$COUNT"
show_table "$EXP_NAME-seeds"
