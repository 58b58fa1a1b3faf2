#!/usr/bin/env bash
# Localize actions in videos with trained weights: features, detections, and a report page that plays the videos.
#
#   bash scripts/localize.sh --model_file outputs/first/best.pt \
#       --rgb_weights rgb_imagenet.pt --flow_weights flow_imagenet.pt my_video.mp4 folder_of_videos
#
# usage: bash scripts/localize.sh --model_file FILE [flags of the extraction] VIDEO_OR_FOLDER... [-- flags of main.py]
#
# Without the weights of I3D it prints which files are needed and where to download them. Results are written to
# OUTPUT_DIR/EXP_NAME (--output_dir, --exp_name; default: outputs/localized), features to OUTPUT_DIR/EXP_NAME-features,
# where a second run finds them. `--flow dis` is a quick draft.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
. "$ROOT/scripts/_videos.sh"

show_help "$@"
read_video_args localized "$@"
[ "$MODEL_FILE" ] || fail 'give the trained weights as --model_file FILE (see --help)'
[ -f "$MODEL_FILE" ] || fail "$MODEL_FILE: no such file; give the best.pt or last.pt of a training run"
[ "${#ARGS[@]}" -gt 0 ] || fail 'give videos, or folders of videos (see --help)'
extract test "${ARGS[@]}"
run_main --inference_only --model_file "$MODEL_FILE"
exit "$EXTRACTED"
