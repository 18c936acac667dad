#!/usr/bin/env bash
# What limits training: its crops per second beside the same steps on a batch in memory (never waiting for data: at least
# 0.95 of it), its peak memory, and the teacher's share of a distillation step. Needs a quiet machine. $1: a data set;
# further flags go to loader_rate.py: --steps, --repeats and those of the script.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=10000  # as the script sets for itself
python tools/loader_rate.py --data.root "$1" --data.crop 128 --data.crops-per-image 2 --train.accumulation 1 \
  --teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0 "${@:2}"
python tools/teacher_pass.py --crop 128 --batch 1
