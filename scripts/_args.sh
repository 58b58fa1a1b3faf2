# Sourced after _env.sh by train.sh, inference.sh and slurm.sh: from their arguments to those of main.py.

# read_args "$@": set ARGS to the flags of main.py with defaults in front, and OUTPUT_DIR, EXP_NAME, and SAMPLE where
# there is no DATA_PATH: neither a first argument without a dash, nor a variable, nor a flag.
read_args() {
    if [[ ${1:--} != -* ]]; then
        DATA_PATH=$1
        shift
    fi
    ARGS=("$@")
    local dataset
    dataset=$(value_of --dataset thumos14)
    DATA_PATH=$(value_of --data_path "${DATA_PATH:-}")
    SAMPLE=
    if [ ! "$DATA_PATH" ]; then
        [ "$dataset" = thumos14 ] || fail "--dataset $dataset needs a data folder: the sample is for thumos14"
        SAMPLE=yes DATA_PATH=$ROOT/data/sample
    fi
    OUTPUT_DIR=$(value_of --output_dir "$ROOT/outputs")
    EXP_NAME=$(value_of --exp_name "${SAMPLE:+sample}")
    EXP_NAME=${EXP_NAME:-$dataset}
    ARGS=("--data_path=$DATA_PATH" "--output_dir=$OUTPUT_DIR" "--exp_name=$EXP_NAME" "$@")  # = for names like -x
}

# value_of FLAG DEFAULT: print the value of a flag in ARGS.
value_of() {
    local i value=$2
    for i in "${!ARGS[@]}"; do
        case ${ARGS[i]} in
            "$1") value=${ARGS[i + 1]:-} ;;
            "$1"=*) value=${ARGS[i]#*=} ;;
        esac
    done
    printf %s "$value"
}

# use_sample FLAG...: write the sample where it is missing, and put the flags that suit it in front.
use_sample() {
    echo 'No data folder given: using the synthetic sample, whose numbers do not predict those of real videos.'
    "$PYTHON" "$ROOT/scripts/make_sample.py" "$DATA_PATH"
    ARGS=(--num_segments 100 "$@" "${ARGS[@]}")
}
