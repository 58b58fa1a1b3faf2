#!/usr/bin/env bash
# From videos and a list of what happens in each to when it happens: features, training, detections, and a page on which
# the videos play.
#
#   bash scripts/own_videos.sh
#   bash scripts/own_videos.sh VIDEOS LABELS.csv --rgb_weights rgb_imagenet.pt --flow_weights flow_imagenet.pt
#
# VIDEOS is a folder; LABELS.csv has the header video,label and then a label of a video a line. --output_dir DIR and
# --exp_name NAME (default: own_videos) say where results go; features go to DIR/NAME-features. Further flags go to the
# extraction, those behind -- to main.py. Begun again it goes on where it stopped.
#
# Without arguments it shows all this on clips of moving shapes that it renders, with random weights of I3D. When
# something happens in the test clips is known, and used for scoring alone.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
. "$(dirname "${BASH_SOURCE[0]}")/videos.sh"

show_help "$@"
[ $# -gt 0 ] || exec bash "$ROOT/scripts/demonstration.sh"
settings_of_videos own_videos "$@"
[ "${#ARGS[@]}" -ge 2 ] || fail 'give a folder of videos and a labels.csv (--help tells more).'
[ -d "${ARGS[0]}" ] || fail "${ARGS[0]} is no folder of videos (--help tells more)."
[ -f "${ARGS[1]}" ] || fail "${ARGS[1]} is no file of labels (--help tells more)."
# What is wrong with the labels is said now, not after hours.
in_project scripts.choose_settings --labels "${ARGS[1]}"
extract train "${ARGS[0]}" "${ARGS[@]:2}"
cp "${ARGS[1]}" "$DATA_PATH/labels.csv"
SETTINGS=$(in_project scripts.choose_settings "$DATA_PATH")
echo "Settings from the data: $SETTINGS"
run_main --resume $SETTINGS
exit "$EXTRACTED"
