#!/usr/bin/env bash
# The Restormer that ships as model_checkpoints/demo_teacher.pth: 3.68 M parameters, 3,600 steps of 8 crops of 64 pixels
# under the blur of --demo. $1: a data set as in GoPro_dataset/README.md (which photographs: MODEL_CARD.md).
set -euo pipefail
cd "$(dirname "$0")/.."
python tools/train_other.py --network restormer \
  --arguments '{"dim": 24, "blocks": [1, 2, 3, 4], "refinement_blocks": 1}' \
  --data.root "${1:?a data set}" --loss.ssim 0 --loss.frequency 1 \
  --degradation.motion 0 --degradation.video-call 1 --degradation.response 0 2.2 --degradation.response-power 1 \
  --degradation.highlight 0 0 \
  --degradation.lens-chance 1 --degradation.lens-radius 1.2 2.8 --degradation.call-motion-chance 0.4 \
  --degradation.call-length 0 8 --degradation.noise-chance 0.3 --degradation.noise 0.001 0.006 \
  --degradation.rescale-chance 0.2 --degradation.rescale 1.2 1.8 --degradation.jpeg-chance 0.3 \
  --degradation.jpeg-quality 80 95 \
  --data.crop 64 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 \
  --train.epochs 9 --train.steps-per-epoch 400 --train.accumulation 1 --train.restart-cycles 1 \
  --train.learning-rate 8e-4 --train.clip-norm 1 --train.evaluate-every 9 \
  --train.folder runs/demo_teacher --train.samples runs/demo_teacher/samples
# what ships: the averaged weights, rounded to half precision
python tools/mix_weights.py 1=runs/demo_teacher/student_model_ema_final_epoch_009.pth -o model_checkpoints/demo_teacher.pth
