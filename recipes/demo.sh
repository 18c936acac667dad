#!/usr/bin/env bash
# The demo's figures in README: time, PSNR, SSIM and frames per second.
set -euo pipefail
cd "$(dirname "$0")/.."
time python main_sharpening_script.py --demo
