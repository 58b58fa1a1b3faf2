#!/usr/bin/env bash
# Finds in videos the actions that trained weights know: features, detections, and a page on which the videos play.
#
#   bash scripts/localize.sh --model_file outputs/first/best.pt \
#       --rgb_weights rgb_imagenet.pt --flow_weights flow_imagenet.pt my_video.mp4 folder_of_videos
#
# Without the weights of I3D it says which files are needed and where they are. --output_dir DIR and --exp_name NAME
# (default: localized) say where results go; features go to DIR/NAME-features, and are kept when it is run again.
# Further flags go to the extraction (--flow dis is a quick draft), those behind -- to main.py.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
. "$(dirname "${BASH_SOURCE[0]}")/videos.sh"

show_help "$@"
settings_of_videos localized "$@"
[ "${MODEL_FILE:-}" ] || fail 'give the trained weights as --model_file FILE (--help tells more).'
[ -f "$MODEL_FILE" ] || fail "$MODEL_FILE: no such file of trained weights."
[ "${#ARGS[@]}" -gt 0 ] || fail 'give videos, or folders of videos (--help tells more).'
extract test "${ARGS[@]}"
run_main --inference_only --model_file "$MODEL_FILE"
exit "$EXTRACTED"
