#!/usr/bin/env bash
# docs/SPEED.md: what the automatic choice of the back end costs and saves: seconds of the whole command for 3 and 20
# photographs of at most 800 pixels and videos (720p) of 2 and 10 seconds, by PyTorch, OpenVINO and auto in turn. $1: rounds (3).
set -euo pipefail
cd "$(dirname "$0")/.."
work=runs/automatic
rm -rf $work && mkdir -p $work/in/3 $work/in/20
python - $work/in <<'P'
import sys
from pathlib import Path

from PIL import Image

from sharpening.image_pairs import demo_pairs, read_rgb
from tools.pipeline_rate import write_video

folder = Path(sys.argv[1])
photos = [read_rgb(pair.sharp) for pair in demo_pairs("train") + demo_pairs("test")]
for index in range(20):
    photo = Image.fromarray(photos[index % len(photos)])
    photo.thumbnail((800, 800))
    for count in (3, 20):
        if index < count:
            photo.save(folder / str(count) / f"{index:02}.png")
write_video(folder / "video" / "a.mp4", 60)
write_video(folder / "long" / "a.mp4", 300)
P
TIMEFORMAT=%R
for round in $(seq "${1:-3}"); do
  for job in 3 20 video long; do
    for backend in pytorch openvino auto; do
      seconds=$({ time python main_sharpening_script.py --infer --input $work/in/$job --output $work/out --overwrite \
        --inference.backend $backend > $work/last.txt 2>&1; } 2>&1)
      echo "$job $backend $seconds $(grep -o 'threads, .*' $work/last.txt)" | tee -a $work/times.txt
    done
  done
done
echo "median seconds:"
for job in 3 20 video long; do
  for backend in pytorch openvino auto; do
    echo "$job $backend $(grep "^$job $backend " $work/times.txt | cut -d' ' -f3 | sort -n | awk '{a[NR]=$1} END {print a[int((NR + 1) / 2)]}')"
  done
done
