#!/usr/bin/env bash
# The validation table of MODEL_CARD.md. $1: real pairs (blurred/ and sharp/); $2: sharp photographs (sharp/); further
# arguments: students to measure instead of those that ship, whose figures are kept in runs/validation.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=${1:?folder with blurred/ and sharp/} sharp=${2:?folder with sharp/}
shift 2
kept=/dev/null
if [ $# = 0 ]; then
  set -- model_checkpoints/student_pretrained.pth model_checkpoints/student_live.pth
  mkdir -p runs && kept=runs/validation.txt
fi
python tools/validation_table.py "$@" --teacher model_checkpoints/demo_teacher.pth --pairs "reds_small_valid=$pairs" \
  --sharp "sharp_valid=$sharp" | tee "$kept"
