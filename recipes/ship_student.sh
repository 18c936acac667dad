#!/usr/bin/env bash
# How the students that ship are trained further (how they began: docs/EXPERIMENTS.md). From the weights that ship, with
# Muon, and then the average of old and new weights. $1: a data set as in GoPro_dataset/README.md (which one:
# MODEL_CARD.md); $2: steps of each; further flags go to the script.
# Stopped, a training goes on with: python main_sharpening_script.py --resume --train.folder runs/ship_standard
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} steps=${2:-780}
train() { # train NAME WEIGHTS NEW_SHARE OLD_SHARE FLAGS...
  python main_sharpening_script.py --data.root "$data" --train.folder "runs/ship_$1" \
    --train.samples "runs/ship_$1/samples" --train.initial-weights "model_checkpoints/$2" --teacher.no-enabled \
    --loss.ssim 0 --loss.frequency 1 --data.crop 192 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 \
    --data.synthetic-share 0.5 --data.reduction-chance 0.4 --data.reduction 0.8 3 --degradation.motion 0.55 \
    --degradation.video-call 0.12 --degradation.moving-object 0.18 --degradation.soft-chance 0.35 \
    --degradation.length 0 48 --degradation.length-power 1 --degradation.lens-chance 0.45 \
    --degradation.jpeg-chance 0.65 --degradation.response-power 2 --train.epochs 10 \
    --train.steps-per-epoch $((steps / 10)) --train.accumulation 8 --train.restart-cycles 1 --train.optimizer muon \
    --train.learning-rate 8e-4 --train.clip-norm 0.3 --train.evaluate-every 10 "${@:5}"
  python tools/mix_weights.py "$3=runs/ship_$1/student_model_ema_final_epoch_010.pth" \
    "$4=model_checkpoints/$2" \
    -o "runs/ship_$1/$2"
}
train standard student_pretrained.pth 0.6 0.4 "${@:3}"
train live student_live.pth 0.6 0.4 "${@:3}"
echo "validate runs/ship_standard/student_pretrained.pth and runs/ship_live/student_live.pth, then copy them"
