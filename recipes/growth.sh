#!/usr/bin/env bash
# Time and peak memory against image area, 0.25 to 100 megapixels, and against 10 to 100,000 training images: table,
# exponents and plot. Needs a quiet machine, 4 GB and some minutes. $1: a student checkpoint (live);
# $2: the plot (runs/growth.png).
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=10000  # as the script sets for itself
python tools/growth.py "${1:-model_checkpoints/student_live.pth}" --out "${2:-runs/growth.png}"
