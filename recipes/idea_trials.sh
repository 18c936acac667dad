#!/usr/bin/env bash
# docs/EXPERIMENTS.md, "Ideas against harm and for long blur": from the shipped students, each idea by itself. live: 800
# steps, standard: 500, of 4 crops of 192, real pairs and synthetic blur alike. $1: a data set with both; $2: a folder with
# the sets of validation.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} sets=${2:?folder with the sets to measure on} out=runs/idea_trials
standard=model_checkpoints/student_pretrained.pth
clips=()
for folder in "$sets"/motion_* "$sets"/gopro_* "$sets"/reds_small_valid; do clips+=("$(basename "$folder")=$folder"); done
trial() { # trial NAME STEPS FLAGS...
  echo "== $1"
  python tools/trials.py --pairs "${clips[@]}" --sharp "soft_photos=$sets/soft_photos" "sharp_valid=$sets/sharp_valid" \
    --data.root "$data" --train.folder "$out/$1" --train.samples "$out/$1/samples" --loss.ssim 0 --data.crop 192 \
    --data.batch-size 4 --data.crops-per-image 2 --data.workers 0 --data.reduction-chance 0.4 --data.reduction 0.8 3 \
    --degradation.motion 0.55 --degradation.video-call 0.15 --degradation.moving-object 0.15 \
    --degradation.soft-chance 0.3 --degradation.length 0 40 --degradation.length-power 1.1 --degradation.lens-chance 0.6 \
    --degradation.jpeg-chance 0.65 --degradation.response-power 1.5 --train.epochs 1 --train.steps-per-epoch "$2" \
    --train.accumulation 1 --train.restart-cycles 1 --train.optimizer muon --train.learning-rate 3e-4 \
    --train.ema-decay 0.99 --train.evaluate-every 1 "${@:3}"
}
for seed in 0 1; do trial "live_$seed" 800 --train.seed $seed; done
trial live_tone 800 --tone 1
trial live_composites 800 --composites 0.4
for seed in 0 1; do trial "live_blurred_$seed" 800 --train.seed $seed --blurred-of 4; done
trial live_gate 800 --composites 0.4 --gate 0.02
trial live_strong_gate 800 --composites 0.4 --gate 0.2
trial live_taught 800 --teacher $standard
trial live_lens 800 --degradation.lens-chance 0.25
trial live_unchanged 800 --degradation.motion 0.4 --degradation.video-call 0.1 --degradation.moving-object 0.2
trial standard 500 --student $standard
trial standard_wide 500 --student $standard --wide 7
trial standard_taught 500 --student $standard --teacher $standard --orientations 4
