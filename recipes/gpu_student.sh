#!/usr/bin/env bash
# Both students for longer, on one GPU of 80 GB: from the weights that ship, large crops and batches, bf16, compiled.
# Not run on a GPU yet: what ships was trained on CPUs (ship_student.sh). $1: a data set as in GoPro_dataset/README.md;
# $2: the sets that validation.sh measures on; $3: steps of each; further flags go to the script.
# Stopped, a training goes on with: python main_sharpening_script.py --resume --train.folder runs/gpu_standard
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} valid=${2:?the sets of validation.sh} steps=${3:-20000}
train() { # train NAME WEIGHTS BATCH FLAGS...
  python main_sharpening_script.py --data.root "$data" --train.folder "runs/gpu_$1" --train.samples "runs/gpu_$1/samples" \
    --train.initial-weights "model_checkpoints/$2" --teacher.no-enabled \
    --loss.ssim 0 --loss.frequency 1 --data.crop 256 --data.batch-size "$3" --data.crops-per-image 4 --data.workers 12 \
    --data.cache-gb 6 --data.synthetic-share 0.5 --data.reduction-chance 0.4 --degradation.motion 0.65 \
    --degradation.video-call 0.3 --degradation.length 0 40 --degradation.length-power 1 --degradation.lens-chance 0.6 \
    --degradation.call-motion-chance 0.35 --degradation.noise-chance 0.55 --degradation.rescale-chance 0.55 \
    --degradation.jpeg-chance 0.65 --train.epochs 10 --train.steps-per-epoch $((steps / 10)) --train.accumulation 1 \
    --train.restart-cycles 1 --train.optimizer muon --train.learning-rate 6e-4 --train.clip-norm 0.3 \
    --train.evaluate-every 1 --train.compile --train.precision bf16 "${@:4}"
}
train standard student_pretrained.pth 32 "${@:4}"
train live student_live.pth 64 "${@:4}"
bash recipes/validation.sh "$valid" \
  runs/gpu_standard/student_model_ema_final_epoch_010.pth runs/gpu_live/student_model_ema_final_epoch_010.pth
