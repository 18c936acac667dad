#!/usr/bin/env bash
# Crops per second of the loader alone beside training, with decoded images kept and without. $1: a data set.
set -euo pipefail
cd "$(dirname "$0")/.."
common=(--data.root "$1" --data.crop 128 --train.accumulation 1 --teacher.no-enabled --loss.perceptual 0 --loss.feature 0
        --loss.kl 0)
python tools/loader_rate.py "${common[@]}" --data.crops-per-image 2
python tools/loader_rate.py "${common[@]}" --data.crops-per-image 4 --data.cache-gb 0
