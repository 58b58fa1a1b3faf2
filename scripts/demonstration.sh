# own_videos.sh without arguments: clips are rendered, and the features of random filters stand in for those of I3D.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
. "$(dirname "${BASH_SOURCE[0]}")/videos.sh"

CLIPS=$ROOT/data/clips
settings_of_videos clips --rgb_weights "$CLIPS/rgb.pt" --flow_weights "$CLIPS/flow.pt" --resize short64 --crop 64 --flow dis
echo 'No videos given: these are clips of moving shapes and random filters, whose numbers say nothing about real videos.'
in_project scripts.make_clips "$CLIPS"
extract train "$CLIPS/train" "${ARGS[@]}"
extract test "$CLIPS/test" "${ARGS[@]}"
in_project scripts.standardize "$DATA_PATH" "$DATA_PATH-standardized"
DATA_PATH=$DATA_PATH-standardized
cp "$CLIPS/labels.csv" "$DATA_PATH"
SETTINGS=$(in_project scripts.choose_settings "$DATA_PATH")
run_main --resume $SETTINGS --hidden_dim 128 --num_steps 200
RUN=$OUTPUT_DIR/$EXP_NAME
printf '\nScored with the times that the training did not see:\n'
in_project scripts.score_clips "$CLIPS/gt.json" "$RUN/detections.json"
in_project eval.report "$CLIPS/gt.json" "$RUN/detections.json" --curves "$RUN/curves.npz" --videos "$VIDEOS" \
    --title 'clips of moving shapes' -o "$RUN/report.html"
