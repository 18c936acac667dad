#!/usr/bin/env bash
# Every figure of docs/LIVE.md that is about the page, its model files and its picture. Needs a quiet machine with two
# cores, chromium, node, and the packages of requirements-dev.txt. $1: real pairs to validate on (blurred/ and sharp/);
# $2: a clip for the picture: that of README is demo/data/gallery/01_dog.mp4 of facebookresearch/sam2 (Apache-2.0).
set -euo pipefail
cd "$(dirname "$0")/.."  # `web` is absent where a test only reads the commands
pairs=${1:?real pairs} clip=${2:?a clip}
if [ -d web ]; then npm ci --prefix web --ignore-scripts; fi
python tools/export_web.py --pairs "$pairs" --images 60     # web/models: sizes, PSNR, distance from fp32
if [ -d web ]; then npm run --prefix web build; fi           # web/dist: what a first visit loads
for work in half full off; do python tools/page_rate.py --work "$work"; done
python tools/page_rate.py --no-isolation                    # headers missing: one thread
python tools/page_rate.py --work full --seconds 60          # more load than it can carry: latency stays flat
python tools/page_rate.py --work auto --busy 4 --seconds 60 # busy cores: it steps down
python tools/page_film.py --clip "$clip" -o docs/live_page.webp
python -m pytest tests/test_web_page.py tests/test_web_parts.py tests/test_temporal_filter.py --durations 5
