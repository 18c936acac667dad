#!/usr/bin/env bash
# What each term of the loss is worth, over three seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
python tools/ablation.py --seeds 0 1 2 --steps 300 --crop 64
