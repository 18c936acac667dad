#!/usr/bin/env bash
# docs/SPEED.md: what the automatic choice of the back end costs and saves: the whole command for 3 and 20 photographs of at
# most 800 pixels and a video (720p) of 60 frames, by PyTorch, OpenVINO and auto in turn. Prints seconds, then those of both
# cores together, which other programs disturb less. $1: rounds (3).
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
P
TIMEFORMAT='%R %U %S'
for round in $(seq "${1:-3}"); do
  for job in 3 20 video; do
    for backend in pytorch openvino auto; do
      read -r seconds user system < <({ time python main_sharpening_script.py --infer --input $work/in/$job --output $work/out --overwrite \
        --inference.backend $backend > $work/last.txt 2>&1; } 2>&1)
      cores=$(awk "BEGIN {print $user + $system}")
      echo "$job $backend $seconds $cores $(grep -o 'threads, .*' $work/last.txt)" | tee -a $work/times.txt
    done
  done
done
middle() { grep "^$1 $2 " $work/times.txt | cut -d' ' -f"$3" | sort -n | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'; }
echo "medians, seconds and seconds of both cores:"
for job in 3 20 video; do
  for backend in pytorch openvino auto; do echo "$job $backend $(middle $job $backend 3) $(middle $job $backend 4)"; done
done
