#!/bin/bash
# Two machines under SLURM, for any audiorl command: sbatch examples/slurm.sh dpo --dataset_name pairs.jsonl ...
#
# SLURM sends SIGTERM five minutes before the time is over or the machines are taken away. The run then writes a
# checkpoint, and this script puts the job back into the queue; it goes on from there. A machine that fails on the way
# makes torchrun start all processes again, from the last checkpoint. A run that ends, or fails by itself, is not queued
# again. All machines see the data and --output_dir.
#SBATCH --job-name=audiorl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# else a machine that stays does not tell one that comes new where to meet (torch 2.13)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "$processes" --max_restarts 3 \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$head:${RENDEZVOUS_PORT:-29500}" \
    -m audiorl "$@" --resume_from_checkpoint auto &
run=$!

told=
trap 'told=yes; kill -TERM "$run"' TERM
wait "$run"
while kill -0 "$run" 2>/dev/null; do # a signal ends the waiting, not the run
    wait "$run"
done
wait "$run"
code=$?
if [ -n "$told" ] && [ "$code" -ne 0 ]; then
    echo "stopped by SIGTERM (exit code $code): job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
