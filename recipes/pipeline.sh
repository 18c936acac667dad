#!/usr/bin/env bash
# Files per second of --infer against its slowest stage, with both students. Needs a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=10000  # as the script sets for itself
python tools/pipeline_rate.py model_checkpoints/student_pretrained.pth --png 24 --jpeg 3 --frames 48
python tools/pipeline_rate.py model_checkpoints/student_live.pth --png 24 --jpeg 3 --frames 48
