#!/usr/bin/env bash
# docs/EXPERIMENTS.md: what each ingredient of the training data is worth. A student of 0.53 GMACs, 2,000 steps of 8 crops
# of 128 (the last row 1,500). $1: a data set whose train/ holds sharp photographs alone; $2: the same and real pairs of
# another scene than those of $4; $3: photographs and all real pairs; $4 and further: real pairs to measure on
# (blurred/ and sharp/). The published figures are from when highlights were drawn evenly, which is no setting any more.
set -euo pipefail
cd "$(dirname "$0")/.."
photographs=${1:?sharp photographs} street=${2:?the same and real pairs} all=${3:?the same and all real pairs}
: "${4:?real pairs to measure on}"
out=runs/ingredients
common=(--teacher.no-enabled --loss.ssim 0 --loss.frequency 1 --data.crop 128 --data.batch-size 8
  --data.crops-per-image 2 --data.workers 0 --train.epochs 4 --train.accumulation 1 --train.restart-cycles 1
  --train.learning-rate 1e-3 --train.evaluate-every 4)
train() { # train NAME DATA FLAGS...
  python main_sharpening_script.py --data.root "$2" --train.folder "$out/$1" --train.samples "$out/$1/samples" \
    --student.width 16 --student.max-width 96 --student.encoder 0 1 1 --student.middle 3 --student.decoder 1 1 0 \
    "${common[@]}" --data.synthetic-share 0.5 --train.steps-per-epoch 500 --degradation.response-power 1 "${@:3}"
}
train mild "$photographs"
train wide "$photographs" --degradation.motion 0.6 --degradation.video-call 0.3 --degradation.length 0 40 \
  --degradation.length-power 2 --degradation.object-chance 0.35
train motion_alone "$photographs" --degradation.motion 1 --degradation.video-call 0 --degradation.length 4 30 \
  --degradation.length-power 1
train with_pairs "$street"
train mostly_pairs "$all" --data.synthetic-share 0.3 --train.epochs 3 --train.evaluate-every 3

# What the camera's response is worth: a live student on photographs alone, 6,000 steps
responses() { # responses NAME FLAGS...
  python main_sharpening_script.py --size live --data.root "$photographs" --train.folder "$out/$1" \
    --train.samples "$out/$1/samples" "${common[@]}" --data.reduction-chance 0.5 --degradation.length 0 32 \
    --degradation.length-power 1 --degradation.lens-chance 0.65 --degradation.call-motion-chance 0.35 \
    --degradation.noise-chance 0.55 --degradation.rescale-chance 0.55 --degradation.jpeg-chance 0.65 \
    --degradation.motion 0.6 --degradation.video-call 0.35 --train.steps-per-epoch 1500 --train.clip-norm 0.3 "${@:2}"
}
responses responses_alike --degradation.response-power 1
responses half_nearly_linear --degradation.response-power 3
responses linear_motion --degradation.response-power 1 --degradation.response 0 1 --degradation.highlight 0 0 \
  --degradation.motion 0.97 --degradation.video-call 0

pairs=()
for folder in "${@:4}"; do pairs+=("$folder=$folder"); done
python tools/validation_table.py $out/*/student_model_ema_final*.pth --pairs "${pairs[@]}"
