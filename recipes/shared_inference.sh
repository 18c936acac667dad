#!/usr/bin/env bash
# docs/SPEED.md: --infer shared out over 1, 2 and 4 processes of one thread each, and one process as a user starts it:
# seconds of the whole command for 48 photographs of 512 x 512, in turn. $1: rounds (3).
set -euo pipefail
cd "$(dirname "$0")/.."
work=runs/shared_inference
rm -rf $work && mkdir -p $work/in
python - $work/in <<'P'
import sys
from pathlib import Path

from PIL import Image

from sharpening.image_pairs import demo_frame

for index in range(48):
    Image.fromarray(demo_frame(512, 512)).save(Path(sys.argv[1]) / f"{index:02}.png")
P
job=(main_sharpening_script.py --infer --input $work/in --output $work/out --overwrite --inference.backend pytorch)
TIMEFORMAT=%R
for round in $(seq "${1:-3}"); do
  { time python "${job[@]}" > $work/last.txt 2>&1; } 2> $work/plain_$round.txt
  for count in 1 2 4; do
    { time OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node $count "${job[@]}" > $work/last.txt 2>&1
    } 2> $work/${count}_$round.txt
  done
done
for name in plain 1 2 4; do echo "$name: $(cat $work/${name}_*.txt | tr '\n' ' ') s"; done
