#!/usr/bin/env bash
# The table of candidates in MODEL_CARD.md: eight networks of about the live student's time, three seeds, 400 steps.
# Needs a quiet machine for the milliseconds; finished runs are not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=10000  # as the script sets for itself
python tools/blocks.py --seeds 0 1 2 --steps 400
