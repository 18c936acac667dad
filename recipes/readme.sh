#!/usr/bin/env bash
# Every figure, table and picture of README, docs/SPEED.md and docs/INFERENCE.md. Needs a quiet machine, 4 GB and hours.
# $1: the sets that validation.sh measures on; $2: a data set of real pairs to train on; $3: weights of a Restormer of the
# released size; $4: real pairs of a GoPro scene.
set -euo pipefail
cd "$(dirname "$0")/.."
valid=${1:?sets to validate on} data=${2:?a data set} weights=${3:?a Restormer} gopro=${4:?GoPro pairs}
pairs=$valid/reds_small_valid sharp=$valid/sharp_valid
time python main_sharpening_script.py --demo
bash recipes/automatic.sh
bash recipes/shared_inference.sh
bash recipes/validation.sh "$valid"
bash recipes/pictures.sh "$valid/moving_person"
bash recipes/benchmarks.sh
bash recipes/training_rate.sh "$data" "$weights" --steps 20
bash recipes/variants.sh model_checkpoints/student_pretrained.pth "$pairs" "$gopro"
bash recipes/nafnet.sh "$data" "$pairs" "$gopro" "$sharp" 1
bash recipes/pareto.sh runs/nafnet_seed_1
# peak memory of --infer on 100 megapixels, and the published Restormer's time against ours
python -m pytest -m slow -s  # memory of 100 megapixels, speed of the teacher, and checks too slow for CI
