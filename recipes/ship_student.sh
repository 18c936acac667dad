#!/usr/bin/env bash
# The students that ship. $1: a data set as in GoPro_dataset/README.md (which one: MODEL_CARD.md); $2: standard or live.
# Interrupted, go on with: python main_sharpening_script.py --resume --train.folder runs/$2
set -euo pipefail
cd "$(dirname "$0")/.."
size=()
[ "$2" = live ] && size=(--student.width 16 --student.max-width 96 --student.encoder 0 1 1 --student.middle 3
                         --student.decoder 1 1 0)
python main_sharpening_script.py --data.root "$1" "${size[@]}" \
  --teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0 --loss.ssim 0 --loss.frequency 1 \
  --data.crop 128 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 --data.synthetic-share 0.6 \
  --train.epochs 10 --train.steps-per-epoch 500 --train.accumulation 1 --train.restart-cycles 1 \
  --train.learning-rate 6e-4 --train.evaluate-every 2 --train.save-every 250 \
  --train.folder "runs/$2" --train.samples "runs/$2/samples"
