# What seeds.sh and ablation.sh share; they source it after setup.sh.

FOLDERS=() # of the runs that train_seeds has trained

is_count() {
    [[ $1 =~ ^[1-9][0-9]{0,2}$ ]]
}

# settings_of_comparison FLAG...: as train.sh does, for shorter runs on the sample.
settings_of_comparison() {
    SEED=
    read_settings '--dataset --data_path --exp_name --output_dir --seed' "$@"
    [ ! "$SEED" ] || fail "--seed is this script's own: it takes seed 1, 2, 3 and so on."
    find_python requirements.txt
    if [ "$SAMPLE" = yes ]; then
        # 400 steps and 20 evaluations; at the recipe's learning rate that would only be the beginning.
        use_sample --num_epochs 100 --detection_inf_step 20 --lr 1e-3
    fi
    if [[ " ${ARGS[*]-} " != *' --overwrite '* ]]; then
        ARGS=(--resume ${ARGS[@]+"${ARGS[@]}"})
    fi
}

# train_seeds NAME COUNT FLAG...: trains NAME-seed1 to NAME-seedCOUNT; what an earlier call has done is kept. FLAG...
# wins over the user's flags.
train_seeds() {
    local name=$1 count=$2 seed
    shift 2
    for ((seed = 1; seed <= count; seed++)); do
        printf '\n======== %s, seed %d of %d %s\n' "$name" "$seed" "$count" "$*"
        forward "$PYTHON" "$ROOT/main.py" --dataset "$DATASET" --data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" \
            --exp_name "$name-seed$seed" --seed "$seed" ${ARGS[@]+"${ARGS[@]}"} "$@"
        FOLDERS+=("$OUTPUT_DIR/$name-seed$seed")
    done
}

# forward COMMAND...: runs it and ends the script with its exit status if it fails. SIGINT and SIGTERM go on to it, so
# that a run can save itself; without that, one that outlives the script would write into the folder of the next.
forward() {
    local child status
    set -m # a group of its own, so that the terminal's Ctrl-C comes once
    "$@" &
    child=$!
    trap 'kill -INT "$child"' INT
    trap 'kill -TERM "$child"' TERM
    while true; do # a signal ends `wait` early
        status=0
        wait "$child" 2>/dev/null || status=$? # bash would print what ended the command
        kill -0 "$child" 2>/dev/null || break
    done
    trap - INT TERM
    set +m
    [ "$status" = 0 ] || exit "$status"
}

# show_table NAME: the table of all runs trained, on the screen and as OUTPUT_DIR/NAME.csv and .md
show_table() {
    printf '\n======== %d runs\n' "${#FOLDERS[@]}"
    PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -P -m eval.summary "${FOLDERS[@]}" \
        --csv "$OUTPUT_DIR/$1.csv" --markdown "$OUTPUT_DIR/$1.md"
    printf '\nThe same is in %s.csv and .md\n' "$OUTPUT_DIR/$1"
}
