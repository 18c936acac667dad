#!/usr/bin/env bash
# docs/EXPERIMENTS.md: what each loss term is worth, and which blocks, stem and proportions; three seeds each.
# Needs a quiet machine for the milliseconds of the blocks. Finished runs are not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=10000  # as the script sets for itself
python tools/ablation.py --compare losses --steps 300 --crop 64
python tools/ablation.py --compare blocks --steps 400
python tools/benchmark.py live "foldable 3x3" depthwise "gated (NAFNet)" "full-resolution stem" "stem of 4" \
  "deep and narrow" "shallow and wide" --sizes 512x512 --backends pytorch openvino --precisions bf16
