#!/usr/bin/env bash
# Train on your own videos, with a list of what happens in each, to find when it happens: features, training,
# detections, and a report page that plays the videos.
#
#   bash scripts/own_videos.sh
#   bash scripts/own_videos.sh VIDEOS LABELS.csv --rgb_weights rgb_imagenet.pt --flow_weights flow_imagenet.pt
#
# usage: bash scripts/own_videos.sh [VIDEOS LABELS.csv [flags of the extraction] [-- flags of main.py]]
#
# VIDEOS is a folder; LABELS.csv has the header video,label and one label of one video per line. Results are written to
# OUTPUT_DIR/EXP_NAME (--output_dir, --exp_name; default: outputs/own_videos), features to OUTPUT_DIR/EXP_NAME-features.
# The same command continues after an interruption.
#
# Without arguments it runs examples/demo.sh: rendered clips of moving shapes, and I3D with random weights.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
. "$ROOT/scripts/_videos.sh"

show_help "$@"
[ $# -gt 0 ] || exec bash "$ROOT/examples/demo.sh"
read_video_args own_videos "$@"
[ "${#ARGS[@]}" -ge 2 ] || fail 'give a folder of videos and a labels.csv (see --help)'
run_module scripts.auto_config "${ARGS[0]}" --labels "${ARGS[1]}"
extract train "${ARGS[0]}" "${ARGS[@]:2}"
cp "${ARGS[1]}" "$DATA_PATH/labels.csv"
FLAGS=$(run_module scripts.auto_config "$DATA_PATH")
run_main --resume --known_labels $FLAGS
exit "$EXTRACTED"
