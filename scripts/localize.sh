#!/usr/bin/env bash
# Localize actions in videos with weights trained by own_videos.sh: features, events, subtitles, and a report page that
# plays the videos.
#
#   bash scripts/localize.sh --model_file outputs/own_videos/best.pt my_video.mp4 folder_of_videos
#
# usage: bash scripts/localize.sh --model_file FILE [flags of the extraction] VIDEO_OR_FOLDER... [-- flags of main.py]
#
# Features are extracted with the flags of the training. Results are written to OUTPUT_DIR/EXP_NAME (--output_dir,
# --exp_name; default: outputs/localized), features to OUTPUT_DIR/EXP_NAME-features, which a second run reuses.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

show_help "$@"
find_python requirements-video.txt
exec "$PYTHON" -P "$ROOT/scripts/own_videos.py" localize "$@"
