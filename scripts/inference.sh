#!/usr/bin/env bash
# Localizes the actions of the test videos with trained weights and evaluates the result.
#
#   bash scripts/inference.sh
#   DATASET=thumos14 DATA_PATH=/data/THUMOS14 EXP_NAME=first bash scripts/inference.sh --nms_thresh 0.5
#   DATASET=thumos14 DATA_PATH=/data/THUMOS14 MODEL_FILE=CAS_Only.pkl bash scripts/inference.sh
#
# DATASET, DATA_PATH, EXP_NAME as for scripts/train.sh
# MODEL_FILE  the weights (default: in outputs/EXP_NAME the authors' CAS_Only.pkl, else best.pt, the best of the training
#             run of that name, whatever its flags were)
# It writes to outputs/EXP_NAME-inference, so that the training run's own results stay. All further flags go to main.py.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

show_help "$@"
read_settings '--dataset --data_path --exp_name --output_dir --model_file' "$@"
if [ ! "${MODEL_FILE:-}" ]; then
    for NAME in CAS_Only.pkl best.pt; do
        MODEL_FILE=$OUTPUT_DIR/$EXP_NAME/$NAME
        [ ! -e "$MODEL_FILE" ] || break
    done
    [ -e "$MODEL_FILE" ] || fail "$OUTPUT_DIR/$EXP_NAME holds neither CAS_Only.pkl nor best.pt:" \
        "train first (bash scripts/train.sh with this EXP_NAME), or give MODEL_FILE."
fi
find_python requirements.txt
if [ "$SAMPLE" = yes ]; then
    use_sample
fi
exec "$PYTHON" "$ROOT/main.py" --dataset "$DATASET" --data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" \
    --exp_name "$EXP_NAME-inference" --inference_only --model_file "$MODEL_FILE" ${ARGS[@]+"${ARGS[@]}"}
