#!/usr/bin/env bash
# docs/EXPERIMENTS.md: Adam and Muon from the same weights (recipes/ingredients.sh: half_nearly_linear), 3,000 steps of a small student, at two
# learning rates each. $1: a data set with photographs and real pairs of one scene; $2: those weights; $3 and further: real
# pairs to measure on (blurred/ and sharp/), none of them in $1.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} begin=${2:?weights} first=${3:?real pairs to measure on} out=runs/optimizers
train() { # train NAME RATE FLAGS...
  python main_sharpening_script.py --data.root "$data" --train.folder "$out/$1" --train.samples "$out/$1/samples" \
    --train.initial-weights "$begin" --teacher.no-enabled --loss.ssim 0 \
    --loss.frequency 1 --data.crop 128 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 \
    --data.synthetic-share 0.5 --data.reduction-chance 0.4 --degradation.motion 0.65 --degradation.video-call 0.3 \
    --degradation.length 0 32 --degradation.length-power 1 --degradation.lens-chance 0.6 \
    --degradation.call-motion-chance 0.35 --degradation.noise-chance 0.55 --degradation.rescale-chance 0.55 \
    --degradation.jpeg-chance 0.65 --train.epochs 6 --train.steps-per-epoch 500 --train.accumulation 1 \
    --train.restart-cycles 1 --train.learning-rate "$2" --train.clip-norm 0.3 --train.evaluate-every 6 "${@:3}"
}
for rate in 6e-4 2e-3; do
  for optimizer in adam muon; do
    train "${optimizer}_$rate" "$rate" --train.optimizer "$optimizer"
  done
done
pairs=("$first=$first")
for folder in "${@:4}"; do pairs+=("$folder=$folder"); done
python tools/validation_table.py "$begin" $out/*/student_model_ema_final_epoch_006.pth --pairs "${pairs[@]}"
