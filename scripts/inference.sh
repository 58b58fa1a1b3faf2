#!/usr/bin/env bash
# Localize the actions of the test videos with trained weights and evaluate the detections.
#
#   bash scripts/inference.sh
#   bash scripts/inference.sh /data/THUMOS14 --exp_name first --nms_thresh 0.5
#   bash scripts/inference.sh /data/THUMOS14 --model_file CAS_Only.pkl
#
# usage: bash scripts/inference.sh [DATA_PATH] [flags of main.py]
#
# DATA_PATH and --exp_name are as in scripts/train.sh. Without --model_file the weights are those in outputs/EXP_NAME:
# the authors' CAS_Only.pkl, else best.pt, the best of the training. Results go to outputs/EXP_NAME-inference.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
. "$ROOT/scripts/_args.sh"

show_help "$@"
read_args "$@"
WEIGHTS=$(value_of --model_file '')
if [ ! "$WEIGHTS" ]; then
    for NAME in CAS_Only.pkl best.pt; do
        WEIGHTS=$OUTPUT_DIR/$EXP_NAME/$NAME
        [ ! -e "$WEIGHTS" ] || break
    done
    [ -e "$WEIGHTS" ] || fail "$OUTPUT_DIR/$EXP_NAME contains neither CAS_Only.pkl nor best.pt: train this --exp_name" \
        "first (bash scripts/train.sh), or give --model_file"
fi
find_python requirements.txt
if [ "$SAMPLE" ]; then
    use_sample
fi
exec "$PYTHON" "$ROOT/main.py" "${ARGS[@]}" --inference_only "--model_file=$WEIGHTS" "--exp_name=$EXP_NAME-inference"
