#!/usr/bin/env bash
# Training on several GPUs. One node of 8, with the global batch of one process (8 crops, 4 accumulated):
#   bash recipes/several_gpus.sh node
# Several nodes of 8, on each of them, with the first one's address: bash recipes/several_gpus.sh nodes COUNT ADDRESS
# On paper, from the step time of this machine: bash recipes/several_gpus.sh paper DATA
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:?node, nodes or paper} in
node) torchrun --nproc-per-node 8 main_sharpening_script.py --data.batch-size 4 --train.accumulation 1 ;;
nodes)
  torchrun --nnodes "${2:?number of nodes}" --nproc-per-node 8 --rdzv-backend c10d --rdzv-id sharpening \
    --rdzv-endpoint "${3:?address of the first node}:29500" main_sharpening_script.py \
    --data.batch-size 4 --train.accumulation 1
  ;;
paper)
  python tools/scaling.py --data.root "${2:?data set}" --data.crop 128 --data.workers 0 --train.accumulation 1 \
    --teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0 --loss.ssim 0
  ;;
*) echo "node, nodes or paper" >&2 && exit 2 ;;
esac
