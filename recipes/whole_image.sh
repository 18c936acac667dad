#!/usr/bin/env bash
# docs/EXPERIMENTS.md, "What the whole image shows": students alone, with the tone held, and with longer blur too; the means over
# 2 and 4 orientations; what the additions cost.
# $1: the folder that recipes/validation.sh takes. Needs a quiet machine for the times.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?folder with the sets}
students=(model_checkpoints/student_pretrained.pth model_checkpoints/student_live.pth)
clips=()
for folder in "$data"/motion_* "$data"/gopro_* "$data"/reds_*; do clips+=("$(basename "$folder")=$folder"); done
measure() {
  echo "$*"
  python tools/harm_table.py "${students[@]}" "$@" --pairs "${clips[@]}" \
    --sharp "soft_photos=$data/soft_photos" "sharp_valid=$data/sharp_valid"
}
for refine in none tone all; do measure --refine "$refine"; done
for count in 2 4; do measure --self-ensemble "$count"; done
export GOMP_SPINCOUNT=10000  # as the script sets for itself
python tools/refine_cost.py standard live
