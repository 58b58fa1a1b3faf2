#!/usr/bin/env bash
# Train AICL and evaluate it, by default on a small synthetic sample (about two minutes on two cores).
#
#   bash scripts/train.sh
#   bash scripts/train.sh /data/THUMOS14 --exp_name first --seed 3
#   bash scripts/train.sh /data/ActivityNet13 --dataset activitynet1.3 --resume
#
# usage: bash scripts/train.sh [DATA_PATH] [flags of main.py]
#
# DATA_PATH is the folder of features, gt.json and split files, also taken from the variable of this name. --exp_name is
# the data set's name by default, and results go to outputs/EXP_NAME. Without DATA_PATH the sample is written and used,
# and the run `sample` is replaced. `python main.py --help` lists the flags. Missing packages are installed into .venv.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
. "$ROOT/scripts/_args.sh"

show_help "$@"
read_args "$@"
find_python requirements.txt
if [ "$SAMPLE" ]; then
    use_sample --num_epochs 200 --detection_inf_step 50  # 800 steps
    if [ "$EXP_NAME" = sample ] && [[ " $* " != *' --resume '* ]]; then
        ARGS+=(--overwrite)
    fi
fi
exec "$PYTHON" "$ROOT/main.py" "${ARGS[@]}"
