#!/usr/bin/env bash
# The validation tables of MODEL_CARD.md: what is gained, and what is changed that was right.
# $1: a folder with one folder for each set:
#   reds_small_valid/ and each motion_*/, gopro_*/ and reds_*/ hold blurred/ and sharp/;
#   sharp_valid/ and soft_photos/ hold sharp/, the second photographs with a soft background.
# Which clips and photographs these are: MODEL_CARD.md. Further arguments: students to measure instead of those that ship,
# whose figures are kept in runs/validation.txt and runs/harm.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?folder with the sets}
shift
kept=/dev/null harm=/dev/null
if [ $# = 0 ]; then
  set -- model_checkpoints/student_pretrained.pth model_checkpoints/student_live.pth
  mkdir -p runs && kept=runs/validation.txt harm=runs/harm.txt
fi
python tools/validation_table.py "$@" --teacher model_checkpoints/demo_teacher.pth \
  --pairs "reds_small_valid=$data/reds_small_valid" --sharp "sharp_valid=$data/sharp_valid" | tee "$kept"
clips=()
for folder in "$data"/motion_* "$data"/gopro_* "$data"/reds_*; do clips+=("$(basename "$folder")=$folder"); done
python tools/harm_table.py "$@" --pairs "${clips[@]}" \
  --sharp "soft_photos=$data/soft_photos" "sharp_valid=$data/sharp_valid" | tee "$harm"
