#!/usr/bin/env bash
# Show the way from videos to detections on rendered clips of moving shapes, with the random filters of an untrained I3D
# (some minutes on two cores). The times of the actions in the test clips are used only for scoring.
#
#   bash examples/demo.sh
#
# Clips are written to data/clips, results to outputs/clips. The same command continues after an interruption.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/_env.sh"
. "$ROOT/scripts/_videos.sh"

show_help "$@"
CLIPS=$ROOT/data/clips
read_video_args clips "$@"
echo 'Clips of moving shapes and random filters: these numbers do not predict those of real videos.'
run_module examples.make_clips "$CLIPS"
for SPLIT in train test; do
    extract "$SPLIT" "$CLIPS/$SPLIT" --rgb_weights "$CLIPS/rgb.pt" --flow_weights "$CLIPS/flow.pt" \
        --resize short64 --crop 64 --flow dis ${ARGS[@]+"${ARGS[@]}"}
done
run_module scripts.standardize "$DATA_PATH" "$DATA_PATH-standardized"
DATA_PATH=$DATA_PATH-standardized
cp "$CLIPS/labels.csv" "$DATA_PATH"
FLAGS=$(run_module scripts.auto_config "$DATA_PATH")
run_main --resume $FLAGS --hidden_dim 128 --num_steps 200
RUN=$OUTPUT_DIR/$EXP_NAME
printf '\nScored with the times that were not used for training:\n'
run_module examples.score_clips "$CLIPS/gt.json" "$RUN/detections.json"
run_module eval.report "$CLIPS/gt.json" "$RUN/detections.json" --curves "$RUN/curves.npz" --videos "$VIDEOS" \
    --title 'clips of moving shapes' -o "$RUN/report.html"
