#!/usr/bin/env bash
# The student that ships, in the three stretches in which it was trained. $1: a data set as in GoPro_dataset/README.md
# (which one: MODEL_CARD.md). Stretches two and three go on from the one before with other settings; each was stopped by
# hand at the step named, where this recipe ends it with the number of epochs, so that the rate of the last steps differs.
set -euo pipefail
cd "$(dirname "$0")/.."
run=(python main_sharpening_script.py --train.folder runs/standard)
"${run[@]}" --data.root "$1" --train.samples runs/standard/samples \
  --teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0 --loss.ssim 0 --loss.frequency 1 \
  --data.crop 128 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 --data.synthetic-share 0.6 \
  --train.epochs 10 --train.steps-per-epoch 500 --train.accumulation 1 --train.restart-cycles 1 \
  --train.learning-rate 6e-4 --train.clip-norm 0.3 --train.evaluate-every 2 --train.save-every 250
# to step 6,713 of a plan of 9,000: milder motion, more real pairs
timeout --signal TERM "${STRETCH_SECONDS:-1200}" "${run[@]}" --resume --train.epochs 18 --data.synthetic-share 0.5 \
  --degradation.motion 0.75 --degradation.video-call 0.2 --degradation.length 0 24 --degradation.length-power 1.3 \
  --degradation.object-chance 0.25 || [ $? = 124 ]
# to step 8,000 (planned for 8,500 until step 7,110): mostly real pairs, and SSIM
"${run[@]}" --resume --train.epochs 16 --data.synthetic-share 0.3 --loss.ssim 1
# what ships: the averaged weights, rounded to half precision
python - <<'P'
import main_sharpening_script as script
from pathlib import Path

payload = script.load_checkpoint(Path("runs/standard/student_model_ema_final_epoch_016.pth"))
payload["params"] = {name: value.half() for name, value in payload["params"].items()}
script.save_checkpoint(Path("model_checkpoints/student_pretrained.pth"), payload)
P
