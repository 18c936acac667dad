#!/usr/bin/env bash
# Every figure and picture of MODEL_CARD.md and docs/EXPERIMENTS.md, but not the training of what ships
# (ship_student.sh, demo_teacher.sh). Needs a quiet machine and a day. $1: real pairs to validate on (blurred/ and
# sharp/); $2: sharp photographs (sharp/); $3: a data set whose train/ holds sharp photographs alone; $4: the same and
# the street's pairs; $5: the same and all real pairs; $6: real pairs of a GoPro scene.
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=${1:?real pairs} sharp=${2:?sharp photographs} photographs=${3:?photographs} street=${4:?with the street}
all=${5:?with all pairs} gopro=${6:?GoPro pairs}
bash recipes/validation.sh "$pairs" "$sharp"
bash recipes/pictures.sh
bash recipes/ablation.sh
bash recipes/ingredients.sh "$photographs" "$street" "$all" "$gopro" "$pairs"
bash recipes/optimizers.sh "$all" runs/ingredients/half_nearly_linear/student_model_ema_final_epoch_004.pth "$gopro" "$pairs"
for seed in 1 2; do bash recipes/nafnet.sh "$all" "$pairs" "$gopro" "$sharp" $seed; done
for student in student_pretrained student_live; do
  bash recipes/variants.sh model_checkpoints/$student.pth "$pairs" "$gopro"
done
