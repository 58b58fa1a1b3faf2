# Sourced after _env.sh by localize.sh, own_videos.sh and examples/demo.sh: extraction, then main.py.

# read_video_args NAME "$@": set OUTPUT_DIR, EXP_NAME (NAME by default), MODEL_FILE, DATA_PATH and VIDEOS, a folder of
# links to the videos. ARGS are the remaining arguments, for the extraction, MAIN_ARGS those after --, for main.py.
read_video_args() {
    EXP_NAME=$1 OUTPUT_DIR=$ROOT/outputs MODEL_FILE=
    shift
    ARGS=() MAIN_ARGS=()
    while [ $# -gt 0 ]; do
        case $1 in
            --) MAIN_ARGS=("${@:2}"); break ;;
            --exp_name=* | --output_dir=* | --model_file=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
            --exp_name | --output_dir | --model_file)
                [ "${2:-}" ] || fail "$1 needs a value"
                case $1 in --exp_name) EXP_NAME=$2 ;; --output_dir) OUTPUT_DIR=$2 ;; *) MODEL_FILE=$2 ;; esac
                shift ;;
            *) ARGS+=("$1") ;;
        esac
        shift
    done
    DATA_PATH=$OUTPUT_DIR/$EXP_NAME-features
    VIDEOS=$DATA_PATH/videos
    find_python requirements-video.txt
}

# run_module MODULE ARGUMENT...: run a module of the project in the caller's folder.
run_module() {
    PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -P -m "$@"
}

# extract SPLIT VIDEO_OR_FLAG...: write features into DATA_PATH and links to the videos into VIDEOS, for the report.
# Videos that cannot be read are reported and left out; EXTRACTED is then not 0.
extract() {
    local split=$1 argument before=
    shift
    EXTRACTED=0
    run_module extraction "$@" --split "$split" --output "$DATA_PATH" || EXTRACTED=$?
    [ "$EXTRACTED" = 0 ] || [ -e "$DATA_PATH/features/$split" ] || exit "$EXTRACTED"
    mkdir -p "$VIDEOS"
    for argument in "$@"; do
        if [ -d "$argument" ]; then
            ln -sf "$(realpath "$argument")"/* "$VIDEOS/"
        elif [ -f "$argument" ] && [[ $before != --*_weights ]]; then
            ln -sf "$(realpath "$argument")" "$VIDEOS/"
        fi
        before=$argument
    done
}

# run_main FLAG...: run main.py on the features; the flags after -- win.
run_main() {
    "$PYTHON" "$ROOT/main.py" --data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" --exp_name "$EXP_NAME" \
        --videos "$VIDEOS" "$@" ${MAIN_ARGS[@]+"${MAIN_ARGS[@]}"}
}
