#!/usr/bin/env bash
# docs/LIVE.md: rate, latency and memory of --live. Needs a quiet machine with two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=10000  # as the script sets for itself
python tools/live_rate.py --size 640 360
python tools/live_rate.py --size 1280 720
# about twice the load that full size carries, for a minute: latency and memory stay flat
python tools/live_rate.py --size 640 360 --camera-rate 60 --lowest-rate 1 --seconds 65
