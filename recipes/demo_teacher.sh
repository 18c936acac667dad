#!/usr/bin/env bash
# The Restormer that ships as model_checkpoints/demo_teacher.pth. $1: a data set as in GoPro_dataset/README.md.
# 0.75 M parameters, 2,000 steps of 8 crops of 64 pixels; its data are listed in MODEL_CARD.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python main_sharpening_script.py --data.root "$1" --train.network restormer \
  --teacher.dim 12 --teacher.blocks 1 1 2 3 --teacher.refinement-blocks 1 \
  --loss.perceptual 0 --loss.feature 0 --loss.kl 0 --loss.ssim 0 --loss.frequency 1 \
  --data.crop 64 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 --data.synthetic-share 0.6 \
  --train.epochs 4 --train.steps-per-epoch 500 --train.accumulation 1 --train.restart-cycles 1 \
  --train.learning-rate 6e-4 --train.clip-norm 1 --train.folder runs/demo_teacher --train.samples runs/demo_teacher/samples
