#!/usr/bin/env bash
# docs/SPEED.md: what limits training, and what stored results of the teacher save. Needs a quiet machine.
# $1: a data set of real pairs; $2: weights of a Restormer; further flags go to training_rate.py: --steps, --repeats.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} weights=${2:?weights of a Restormer} out=runs/training_rate
export GOMP_SPINCOUNT=10000  # as the script sets for itself
# crops per second beside the same steps on a batch in memory (at least 0.95 of it), and of the loader alone
rate=(python tools/training_rate.py --data.root "$data" --data.crop 128 --train.accumulation 1 --teacher.no-enabled)
"${rate[@]}" --data.crops-per-image 2 "${@:3}"
"${rate[@]}" --data.crops-per-image 4 --data.cache-gb 0 "${@:3}"
# the teacher's pass, and its share of a distillation step
python tools/training_rate.py --measure teacher --data.crop 128 --data.batch-size 1 --data.crops-per-image 1

# twelve steps with the teacher in each of them, and with its stored results
rm -rf $out
run() { # run NAME FLAGS...
  local begin=$SECONDS
  python main_sharpening_script.py --data.root "$data" --teacher.weights "$weights" --train.folder "$out/$1" \
    --train.samples "$out/$1/samples" --loss.perceptual 0 --loss.feature 0 --data.crop 128 --data.batch-size 8 \
    --data.synthetic-share 0 --train.accumulation 1 --train.epochs 1 --train.steps-per-epoch 12 "${@:2}"
  echo "$1: $((SECONDS - begin)) s in all"
}
run every_step
begin=$SECONDS
python tools/teacher_cache.py $out/taught --data.root "$data" --weights "$weights"
echo "teacher_cache: $((SECONDS - begin)) s in all"
run stored --teacher.results $out/taught
