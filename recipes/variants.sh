#!/usr/bin/env bash
# docs/EXPERIMENTS.md and docs/INFERENCE.md: the PSNR of a student with other pooling windows and tiles, with each block
# left out, and in fewer bits. $1: a student; $2: 60 real pairs (REDS) for the bits; $3 and further: real pairs of
# 1280 x 720 (blurred/ and sharp/). The blocks were judged on runs/standard_mixed.pth, with five blocks at the bottom.
set -euo pipefail
cd "$(dirname "$0")/.."
student=${1:?a student} reds=${2:?real pairs}
python tools/variants.py "$student" --pairs "$reds" --vary precisions --count 60 --device cpu
for pairs in "$reds" "${@:3}"; do
  python tools/variants.py "$student" --pairs "$pairs" --vary blocks --count 8
done
for pairs in "${@:3}"; do
  python tools/variants.py "$student" --pairs "$pairs" --vary windows --count 4 --windows 0 128 256 384 --tiles 0 512
done
