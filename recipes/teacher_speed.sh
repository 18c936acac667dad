#!/usr/bin/env bash
# Ratio of the published Restormer's time to ours: fp32, CPU, 128 x 128, in turn in one run. Needs a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pytest -m slow -s -k 1_7_times tests/test_teacher.py
