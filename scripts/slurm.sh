#!/usr/bin/env bash
# Train on all GPUs of one or more machines of a Slurm cluster; an example to adapt to your cluster.
#
#   sbatch scripts/slurm.sh /data/THUMOS14 --exp_name first
#   sbatch --nodes=2 scripts/slurm.sh /data/THUMOS14 --exp_name first --precision bf16
#
# usage: sbatch [options of sbatch] scripts/slurm.sh DATA_PATH [flags of main.py]
#
# Submit it from the project's folder. Every machine needs access to this folder with its .venv (or the active
# environment), to DATA_PATH and to outputs/. Arguments are as in scripts/train.sh. A job that was stopped is resumed
# (--resume) when it is submitted again.
#SBATCH --job-name=aicl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.log
set -euo pipefail
. "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}/scripts/_env.sh"  # Slurm runs a copy in another folder
. "$ROOT/scripts/_args.sh"

show_help "$@"
[ "${SLURM_SUBMIT_DIR:-}" ] || fail 'submit this with sbatch, from the folder of the project'
cd "$SLURM_SUBMIT_DIR"
read_args "$@"
[ ! "$SAMPLE" ] || fail 'give a data folder: the synthetic sample is too small for a cluster'
export TORCH_INDEX=${TORCH_INDEX-}  # the machine that installs may have no GPU
find_python requirements.txt
# One torchrun per machine; they meet at the first machine of the job. Two jobs on one machine need different ports.
machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${machines%%$'\n'*}
exec srun "$PYTHON" -m torch.distributed.run --nnodes="$SLURM_NNODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" --rdzv_endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))" \
    "$ROOT/main.py" --device cuda --resume "${ARGS[@]}"
