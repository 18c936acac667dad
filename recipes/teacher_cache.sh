#!/usr/bin/env bash
# What keeping the teacher's results saves: the same distillation with the teacher in every step, with its results kept
# in a first run, and in a second one. $1: a data set of real pairs; $2: weights of a Restormer; further flags follow.
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/teacher_cache
rm -rf $out
run() { # run NAME FLAGS...
  local begin=$SECONDS
  python main_sharpening_script.py --data.root "$data" --teacher.weights "$weights" --train.folder "$out/$1" \
    --train.samples "$out/$1/samples" --loss.perceptual 0 --loss.feature 0 --data.crop 128 --data.batch-size 8 \
    --data.synthetic-share 0 --train.accumulation 1 --train.epochs 1 --train.steps-per-epoch 12 "${@:2}"
  echo "$1: $((SECONDS - begin)) s in all"
}
data=${1:?data set} weights=${2:?weights of the teacher}
run every_step "${@:3}"
run kept --teacher.cache $out/taught "${@:3}"
run kept_before --teacher.cache $out/taught "${@:3}"
