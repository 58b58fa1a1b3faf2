#!/usr/bin/env bash
# Trains on all GPUs of one or more machines of a Slurm cluster; an example, to be adapted to yours.
#
#   DATA_PATH=/data/THUMOS14 EXP_NAME=first sbatch scripts/slurm.sh
#   DATA_PATH=/data/THUMOS14 EXP_NAME=first sbatch --nodes=2 scripts/slurm.sh --precision bf16
#
# Submit it from the project's folder, whose .venv (or the active environment) every machine must see, as it must see
# DATA_PATH and outputs/. DATASET, DATA_PATH and EXP_NAME are as for scripts/train.sh; all flags go to main.py.
# A job that was stopped goes on where it was (--resume) when it is submitted again.
#SBATCH --job-name=aicl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.log
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}/scripts/setup.sh" # Slurm runs a copy that lies elsewhere

show_help "$@"
[ "${SLURM_SUBMIT_DIR:-}" ] || fail 'submit this with sbatch, from the folder of the project.'
cd "$SLURM_SUBMIT_DIR"
read_settings '--dataset --data_path --exp_name --output_dir' "$@"
[ "$SAMPLE" = no ] || fail 'give DATA_PATH: the synthetic sample is too small for a cluster.'
export TORCH_INDEX=${TORCH_INDEX-} # the machine that installs may see no GPU
find_python requirements.txt
# One torchrun a machine; they meet at the first machine of the job. Two jobs on one machine need different ports.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun "$PYTHON" -m torch.distributed.run --nnodes="$SLURM_NNODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" --rdzv_endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))" \
    "$ROOT/main.py" --dataset "$DATASET" --data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" --exp_name "$EXP_NAME" \
    --device cuda --resume ${ARGS[@]+"${ARGS[@]}"}
