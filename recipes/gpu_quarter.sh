#!/usr/bin/env bash
# A quarter of an hour on one GPU: what CPUs cannot show, then training of both students with all the time that is left.
#   bash recipes/gpu_quarter.sh DATA [OUT]
# DATA: a data set as in GoPro_dataset/README.md; OUT (runs/gpu_quarter) gets tables, logs and, every minute, the weights.
# ALL_SECONDS: the time for everything (840). Rehearsal in small: DEVICE=cpu ALL_SECONDS=240 bash recipes/gpu_quarter.sh ...
set -euo pipefail
cd "$(dirname "$0")/.."
data=$(realpath "${1:?a data set}") out=${2:-runs/gpu_quarter} device=${DEVICE:-cuda} all=${ALL_SECONDS:-840}
mkdir -p "$out"
SECONDS=0
if [ "$device" = cuda ]; then
  sizes=(512x512 1920x1080) precisions=(fp16 bf16) backends=(pytorch compiled) rounds=15 crop=256 workers=12
  batch_standard=32 batch_live=64 more=(--train.compile)
else
  sizes=(256x256) precisions=(bf16) backends=(pytorch) rounds=2 crop=64 workers=0 batch_standard=4 batch_live=4 more=()
fi

try() { # try NAME COMMAND...: at most 100 seconds; a failure is kept and does not end the rest
  echo "== $1, second $SECONDS"
  timeout 100 "${@:2}" > "$out/$1.txt" 2>&1 || echo "failed: $out/$1.txt"
  tail -n 12 "$out/$1.txt" | cut -c 1-160
}

try tests python -m pytest -q tests/test_gpu.py
try students python tools/benchmark.py standard live --device "$device" --backends "${backends[@]}" \
  --precisions "${precisions[@]}" --sizes "${sizes[@]}" --rounds $rounds
try nafnet python tools/benchmark.py nafnet --network nafnet --arguments '{"width": 16}' --device "$device" \
  --backends "${backends[@]}" --precisions "${precisions[@]}" --sizes "${sizes[@]}" --rounds $rounds

train() { # train NAME WEIGHTS BATCH UNTIL: until that second, in one cosine as long as its first steps suggest
  local folder=$out/$1 batch=$3 until=$4 steps=40 epochs save
  run() { # run FLAGS...
    timeout --signal TERM $((until - SECONDS)) python main_sharpening_script.py --device "$device" --data.root "$data" \
      --train.folder "$folder" --train.samples "$folder/samples" --teacher.no-enabled \
      --loss.ssim 0 --loss.frequency 1 --data.crop $crop --data.batch-size "$batch" --data.crops-per-image 4 \
      --data.workers $workers --data.synthetic-share 0.5 --data.reduction-chance 0.4 --data.reduction 0.7 3 \
      --degradation.motion 0.45 --degradation.video-call 0.2 --degradation.moving-object 0.2 \
      --degradation.soft-chance 0.25 --degradation.length 0 40 --degradation.length-power 1 \
      --degradation.response-power 1 --train.steps-per-epoch $steps --train.accumulation 1 --train.restart-cycles 1 \
      --train.optimizer muon --train.learning-rate 6e-4 --train.clip-norm 0.3 --train.evaluate-every 1000 \
      --train.log-every 10 "${more[@]}" "$@" >> "$folder.log" 2>&1 || [ $? = 124 ]
  }
  echo "== $1, second $SECONDS"
  rm -rf "$folder" "$folder.log"
  run --train.epochs 1 --train.initial-weights "$2"
  read -r epochs save < <(python - "$folder/metrics.jsonl" "$batch" $steps $((until - SECONDS)) << 'P'
import json
import sys

rows = [json.loads(line) for line in open(sys.argv[1])]
rate = [row["crops_per_second"] for row in rows if "crops_per_second" in row][-1] / int(sys.argv[2])
steps = max(0, 0.85 * int(sys.argv[4]) - 20) * rate  # starting, compiling and evaluating take their part
print(1 + int(steps / int(sys.argv[3])), max(1, round(60 * rate)))
P
  ) || { epochs=10 save=100; }
  run --train.epochs "$epochs" --train.save-every "$save" --train.initial-weights "$2" --overwrite
  tail -c 300 "$folder.log"
}
left=$((all - SECONDS))
train standard model_checkpoints/student_pretrained.pth $batch_standard $((SECONDS + left * 2 / 3))
train live model_checkpoints/student_live.pth $batch_live "$all"
ls -R "$out"
