#!/usr/bin/env bash
# Train on your own videos, with a list of what happens in each, to find when it happens: features, training, events,
# subtitles, and a report page that plays the videos.
#
#   bash scripts/own_videos.sh VIDEOS LABELS.csv
#   bash scripts/own_videos.sh
#
# usage: bash scripts/own_videos.sh [VIDEOS LABELS.csv [flags of the extraction]] [-- flags of main.py]
#
# VIDEOS is a folder; LABELS.csv has the header video,label and one label of one video per line (`video,`: none of the
# labels). Results are written to OUTPUT_DIR/EXP_NAME (--output_dir, --exp_name; default: outputs/own_videos), features
# to OUTPUT_DIR/EXP_NAME-features. The same command continues after an interruption; where videos, labels or settings
# have changed, the stages that depend on them are repeated.
#
# Without arguments it runs a demonstration on rendered clips of moving shapes (three minutes on two cores).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

show_help "$@"
find_python requirements-video.txt
exec "$PYTHON" -P "$ROOT/scripts/own_videos.py" train "$@"
