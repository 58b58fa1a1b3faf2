#!/usr/bin/env bash
# Trains the baseline, the baseline with each part of AICL alone, and AICL; by default on the small synthetic sample
# (about four minutes on two cores).
#
#   bash scripts/ablation.sh
#   SEEDS=3 bash scripts/ablation.sh
#   DATASET=thumos14 DATA_PATH=/data/THUMOS14 SEEDS=3 bash scripts/ablation.sh --precision tf32
#
# SEEDS is the number of seeds of each (default 1); DATASET, DATA_PATH and EXP_NAME are as for scripts/train.sh, and all
# flags go to main.py. It trains EXP_NAME-baseline-seed1 and so on, and writes the table to
# outputs/EXP_NAME-ablation.csv and .md too. Begun again with the same flags it goes on where it stopped and keeps the
# runs that have ended; --overwrite trains all anew.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
. "$(dirname "${BASH_SOURCE[0]}")/compare.sh"

show_help "$@"
SEEDS=${SEEDS:-1}
is_count "$SEEDS" || fail "SEEDS=$SEEDS: give 1 to 999."
settings_of_comparison "$@"
# The classification and the generalized cross entropy terms always count; a weight of 0 takes a term out of the rest.
train_seeds "$EXP_NAME-baseline" "$SEEDS" --lambda_action 0 --lambda_contrast 0 --lambda_modality 0
train_seeds "$EXP_NAME-action" "$SEEDS" --lambda_contrast 0 --lambda_modality 0
train_seeds "$EXP_NAME-contrast" "$SEEDS" --lambda_action 0 --lambda_modality 0
train_seeds "$EXP_NAME-modality" "$SEEDS" --lambda_action 0 --lambda_contrast 0
train_seeds "$EXP_NAME-full" "$SEEDS"
show_table "$EXP_NAME-ablation"
