#!/usr/bin/env bash
# PSNR whole, tiled and with windowed pooling. $1: real pairs of 1280 x 720 (blurred/ and sharp/);
# $2: another student than the one that ships.
set -euo pipefail
cd "$(dirname "$0")/.."
student=${2:-model_checkpoints/student_pretrained.pth}
python tools/pooling_table.py --checkpoint "$student" --pairs "${1:?real pairs}" --count 4 --windows 0 128 256 384 --tiles 0 512
