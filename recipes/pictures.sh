#!/usr/bin/env bash
# The pictures of README.md and MODEL_CARD.md. $1: a real pair (blurred/ and sharp/); MODEL_CARD.md says which one it shows.
set -euo pipefail
cd "$(dirname "$0")/.."
pair=${1:?a real pair}
student=model_checkpoints/student_pretrained.pth
python tools/pictures.py --checkpoint $student -o docs/before_after.png --blurs short medium call --rows 1 --pairs "$pair"
python tools/pictures.py --checkpoint $student -o docs/failures.png --blurs long --rows 2
python tools/scenes.py $student -o docs/scenes.png --show scenes --pair "$pair"
python tools/scenes.py $student -o docs/limits.png --show limits
