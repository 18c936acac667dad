#!/usr/bin/env bash
# What each block of a student is worth. $1: its checkpoint (MODEL_CARD: runs/standard_mixed.pth of ship_student.sh); $2 and
# further: real pairs (blurred/ and sharp/).
set -euo pipefail
cd "$(dirname "$0")/.."
student=${1:?a student}
: "${2:?real pairs}"
for pairs in "${@:2}"; do
  python tools/left_out.py --checkpoint "$student" --pairs "$pairs" --count 8
done
