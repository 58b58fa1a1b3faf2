# What localize.sh and own_videos.sh share; they source it after setup.sh.

# settings_of_videos NAME "$@": completes the settings of a run that is called NAME by default. It leaves in ARGS what
# goes to the extraction, in MORE what goes to main.py (all behind --), and makes sure of a Python for both.
settings_of_videos() {
    EXP_NAME=${EXP_NAME:-$1}
    DATA_PATH=features # of OUTPUT_DIR/EXP_NAME, which is known only below
    shift
    read_settings '--dataset --exp_name --output_dir --model_file --rgb_weights --flow_weights' "$@"
    DATA_PATH=$OUTPUT_DIR/$EXP_NAME-features
    VIDEOS=$DATA_PATH/videos
    MORE=()
    local i
    for i in "${!ARGS[@]}"; do
        if [ "${ARGS[i]}" = -- ]; then
            MORE=("${ARGS[@]:i+1}")
            ARGS=("${ARGS[@]:0:i}")
            break
        fi
    done
    find_python requirements-video.txt
}

# in_project MODULE ARGUMENT...: runs a module of the project, in the user's folder.
in_project() {
    PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -P -m "$@"
}

# extract SPLIT VIDEO_OR_FLAG...: writes features into DATA_PATH, and links beside them to the videos, for the page.
# A video that cannot be read has been named; then the others go on, and EXTRACTED is not 0.
extract() {
    local split=$1 place
    shift
    EXTRACTED=0
    in_project extraction "$@" --split "$split" --output "$DATA_PATH" \
        ${RGB_WEIGHTS:+--rgb_weights "$RGB_WEIGHTS"} ${FLOW_WEIGHTS:+--flow_weights "$FLOW_WEIGHTS"} || EXTRACTED=$?
    [ "$EXTRACTED" = 0 ] || [ -e "$DATA_PATH/features/$split" ] || exit "$EXTRACTED"
    mkdir -p "$VIDEOS"
    for place in "$@"; do
        if [ -d "$place" ]; then
            ln -sf "$(realpath "$place")"/* "$VIDEOS/"
        elif [ -f "$place" ]; then
            ln -sf "$(realpath "$place")" "$VIDEOS/"
        fi
    done
}

# run_main FLAG...: main.py with the settings, and the user's flags last.
run_main() {
    "$PYTHON" "$ROOT/main.py" --dataset "$DATASET" --data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" \
        --exp_name "$EXP_NAME" --videos "$VIDEOS" "$@" ${MORE[@]+"${MORE[@]}"}
}
