#!/usr/bin/env bash
#SBATCH --job-name=fedsam
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# One run on machines that Slurm gives: sbatch slurm.sh CONFIG [OPTIONS of fedsam run]. See README.md.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this script is for sbatch}"
. "${FEDSAM_VENV:-.venv}/bin/activate"

# Ray of this job alone: a port and a folder of its own, and a token that only this user can read, on a disk that all machines share.
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
folder="/tmp/ray-$SLURM_JOB_ID"
trap 'kill $(jobs -p) 2> /dev/null || true; wait; srun --ntasks-per-node=1 rm -rf "$folder"; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{ print $1 }'):$((20000 + SLURM_JOB_ID % 10000))"
resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats --block)

srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$head" \
  ray start --head --node-ip-address="${address%:*}" --port="${address#*:}" --include-dashboard=false --temp-dir="$folder" "${resources[@]}" &
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --cpus-per-task="$SLURM_CPUS_PER_TASK" --exclude="$head" \
    bash -c 'until ray health-check --address "$0"; do sleep 1; done; exec ray start --address "$0" "$@"' "$address" "${resources[@]}" &
fi

joined='import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level="error")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))'
for attempt in {1..60}; do
  if python -c "$joined" "$address" "$SLURM_JOB_NUM_NODES" 2> /dev/null; then break; fi
  [ "$attempt" -lt 60 ] || { echo "the $SLURM_JOB_NUM_NODES machines did not join at $address" >&2; exit 1; }
  sleep 2
done
fedsam run "$@" --ray-address "$address"
