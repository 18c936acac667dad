#!/usr/bin/env bash
# Every figure and picture of MODEL_CARD.md and docs/EXPERIMENTS.md, but not the training of what ships (ship_student.sh,
# demo_teacher.sh) nor teacher_results.sh. Needs a quiet machine and a day. $1: the sets that validation.sh measures on; $2: a
# data set whose train/ holds sharp photographs alone; $3: the same and the street's pairs; $4: the same and all real
# pairs; $5: real pairs of a GoPro scene.
set -euo pipefail
cd "$(dirname "$0")/.."
valid=${1:?sets to validate on} photographs=${2:?photographs} street=${3:?with the street} all=${4:?with all pairs}
gopro=${5:?GoPro pairs} pairs=$valid/reds_small_valid sharp=$valid/sharp_valid
bash recipes/validation.sh "$valid"
bash recipes/pictures.sh "$valid/moving_person"
bash recipes/ablation.sh
bash recipes/ingredients.sh "$photographs" "$street" "$all" "$gopro" "$pairs"
bash recipes/optimizers.sh "$all" runs/ingredients/half_nearly_linear/student_model_ema_final_epoch_004.pth "$gopro" "$pairs"
for seed in 1 2; do bash recipes/nafnet.sh "$all" "$pairs" "$gopro" "$sharp" $seed; done
bash recipes/synthetic_trials.sh "$all" "$valid"
bash recipes/idea_trials.sh "$all" "$valid"
for student in student_pretrained student_live; do
  bash recipes/variants.sh model_checkpoints/$student.pth "$pairs" "$gopro"
done
