#!/usr/bin/env bash
# Trains AICL and evaluates it, by default on a small synthetic sample (about two minutes on two cores).
#
#   bash scripts/train.sh
#   DATASET=thumos14 DATA_PATH=/data/THUMOS14 EXP_NAME=first bash scripts/train.sh --seed 3
#
# DATASET    thumos14 (default), activitynet1.2 or activitynet1.3: the recipe
# DATA_PATH  folder of features, gt.json and split files; without it the sample is made and used
# EXP_NAME   the run's name; it writes to outputs/EXP_NAME (default: sample, or DATASET)
# RESUME=1   goes on with the run of that name where it stopped (--resume)
# All further flags go to main.py (see python main.py --help). What is missing is installed into .venv first.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

show_help "$@"
read_settings '--dataset --data_path --exp_name --output_dir' "$@"
find_python requirements.txt
if [ "$SAMPLE" = yes ]; then
    use_sample --num_epochs 200 --detection_inf_step 50    # 800 steps
fi
if [ "${RESUME:-0}" != 0 ]; then
    ARGS+=(--resume)
elif [ "$SAMPLE" = yes ] && [ "$EXP_NAME" = sample ] && [[ " ${ARGS[*]} " != *" --resume "* ]]; then
    ARGS+=(--overwrite)    # the run that shows how it goes may be shown again
fi
exec "$PYTHON" "$ROOT/main.py" --dataset "$DATASET" --data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" \
    --exp_name "$EXP_NAME" ${ARGS[@]+"${ARGS[@]}"}
