#!/usr/bin/env bash
# The validation table of MODEL_CARD.md. $1: real pairs (blurred/ and sharp/); $2: sharp photographs (sharp/).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p runs
python tools/validation_table.py model_checkpoints/student_pretrained.pth model_checkpoints/student_live.pth \
  --teacher model_checkpoints/demo_teacher.pth --pairs "reds_small_valid=$1" --sharp "sharp_valid=$2" | tee runs/validation.txt
