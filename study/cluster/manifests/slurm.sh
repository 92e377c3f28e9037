#!/bin/bash
# A study on Slurm: starts Ray on the nodes of one allocation, runs the study on the first node, and stops Ray.
#
#   sbatch slurm.sh study.yaml       # after a time limit, run it again: the study continues from its records
#
# The study's directory, its table and $HOME must be on storage that all nodes share.
#SBATCH --job-name=study
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail

study_file=${1:?"give the study file: sbatch slurm.sh study.yaml"}
venv=${STUDY_VENV:-$HOME/venv}       # where this project is installed; the same path on every node
port=$((20000 + SLURM_JOB_ID % 10000))   # differs between jobs that share a node

# A token for this job: without it, every user of these nodes could run code as you through Ray's ports.
umask 077
secret=$(mktemp -d "$HOME/.ray-$SLURM_JOB_ID.XXXXXX")
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$secret/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$secret/token
export PATH=$venv/bin:$PATH

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')

# Ray lets every user of a node write to its folder: on each node, it lies in a new one that only its owner can enter.
private='exec "$0" "$@" --temp-dir="$(mktemp -d /tmp/ray-XXXXXX)/ray"'
ray=(bash -c "$private" "$venv/bin/ray" start --block --disable-usage-stats --num-cpus="$SLURM_CPUS_PER_TASK")
steps=()
finish() {
    trap - EXIT TERM INT
    kill "${steps[@]}" 2>/dev/null || true   # `srun` then ends Ray on its node
    wait || true
    rm -rf "$secret"
}
trap finish EXIT
trap 'exit 143' TERM INT

export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"   # since Slurm 22.05, a step has one CPU by default
srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" \
    "${ray[@]}" --head --node-ip-address="$head" --port="$port" --include-dashboard=false &
steps+=($!)
once_it_listens='until (exec 3<>"/dev/tcp/$0/$1") 2>/dev/null; do sleep 1; done; shift; exec "$@"'
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --overlap -w "$node" \
        bash -c "$once_it_listens" "$head" "$port" "${ray[@]}" --address="$head:$port" &
    steps+=($!)
done

# The driver is a separate step on the head's node.
srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" \
    bash -c "$once_it_listens" "$head" "$port" \
    env RAY_ADDRESS="$head:$port" "$venv/bin/study" run --quiet -c "$study_file" &
driver=$!
steps+=("$driver")
wait "$driver"
