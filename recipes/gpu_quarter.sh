#!/usr/bin/env bash
# A quarter of an hour on one GPU: what CPUs cannot show, then both students trained with all the time that is left.
#   bash recipes/gpu_quarter.sh DATA [OUT] [PART...]
# DATA: a data set as in GoPro_dataset/README.md; OUT (runs/gpu_quarter) gets tables, logs and weights. Parts, in this order:
#   speed   frames a second of both students, of NAFNet and of the teacher, and what the whole image costs: 2 minutes
#   trial   all trainings side by side for 45 seconds: how many steps fit into the time
#   tests   those that need a GPU, in the background of the next part
#   train   all trainings side by side, TRAIN_SECONDS (480), in one cosine each; a step launches many small kernels, so that
#           one training alone leaves most of the GPU idle
# RUNS="standard_blur standard_leave" trains these alone.
# Rehearsal in small on a CPU: DEVICE=cpu TRAIN_SECONDS=60 bash recipes/gpu_quarter.sh ...
set -euo pipefail
cd "$(dirname "$0")/.."
data=$(realpath "${1:?a data set}") out=${2:-runs/gpu_quarter} device=${DEVICE:-cuda} for=${TRAIN_SECONDS:-480}
parts=("${@:3}")
[ ${#parts[@]} != 0 ] || parts=(speed trial tests train)
work=runs/gpu_quarter_work # last.pth and the rates of the trial
mkdir -p "$out" "$work"
SECONDS=0
if [ "$device" = cuda ]; then
  sizes=(512x512 1920x1080) precisions=(fp16 bf16) compiled=compiled rounds=20
  crop=256 workers=3 batch=64 trial=45
else
  sizes=(256x256) precisions=(bf16) compiled=pytorch rounds=2
  crop=64 workers=0 batch=4 trial=60
fi

try() { # try NAME COMMAND...: at most 100 seconds; a failure is kept and does not end the rest
  echo "== $1, second $SECONDS"
  timeout 100 "${@:2}" > "$out/$1.txt" 2>&1 || echo "failed: $out/$1.txt"
  tail -n 10 "$out/$1.txt" | cut -c 1-150
}

nafnet='{"width": 16, "enc_blk_nums": [1, 1, 1, 14], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}'
speed() {
  time_of() { try "$1" python tools/benchmark.py "${@:2}" --device "$device" --rounds $rounds; }
  time_of students standard live --network nafnet --arguments "$nafnet" --precisions "${precisions[@]}" --sizes "${sizes[@]}"
  time_of teacher standard --network restormer --precisions "${precisions[@]}" --sizes "${sizes[0]}"
  time_of compiled standard live --network nafnet --arguments "$nafnet" --backends "$compiled" \
    --precisions "${precisions[0]}" --sizes "${sizes[0]}"
  try whole_image python tools/refine_cost.py standard live --device "$device" --backend pytorch --rounds $rounds
}

# What the trainings see. blur: more real blur and camera motion. leave: more that is right and must stay.
blur=(--data.synthetic-share 0.5 --degradation.motion 0.55 --degradation.video-call 0.2 --degradation.moving-object 0.1
  --degradation.soft-chance 0.15 --degradation.response-power 2)
leave=(--data.synthetic-share 0.6 --degradation.motion 0.35 --degradation.video-call 0.2 --degradation.moving-object 0.25
  --degradation.soft-chance 0.35 --degradation.response-power 1)
declare -A begin=([standard]=student_pretrained.pth [live]=student_live.pth)
read -ra runs <<< "${RUNS:-standard_blur standard_leave live_blur live_leave}"

train() { # train NAME STEPS SECONDS: of one student; stopped by then, it saves its state and ends
  local name=$1 kind=${1#*_}
  local -n flags=$kind
  timeout --signal TERM "$3" python main_sharpening_script.py --device "$device" --overwrite --data.root "$data" \
    --train.folder "$work/$name" --train.samples "$work/$name/samples" --teacher.no-enabled \
    --loss.ssim 0 --loss.frequency 1 \
    --data.crop $crop --data.batch-size $batch --data.crops-per-image 4 --data.workers $workers --data.cache-gb 4 \
    --data.reduction-chance 0.4 --data.reduction 0.7 3 "${flags[@]}" --degradation.length 0 48 --degradation.length-power 1 \
    --degradation.lens-chance 0.6 --degradation.jpeg-chance 0.65 \
    --train.initial-weights "model_checkpoints/${begin[${name%_*}]}" --train.optimizer muon --train.learning-rate 8e-4 \
    --train.steps-per-epoch "$2" --train.epochs 1 --train.accumulation 1 --train.restart-cycles 1 \
    --train.evaluate-every 1000 --train.save-every 500 --train.log-every 10 --train.seed ${#name} \
    > "$out/$name.log" 2>&1 || echo "ended early: $out/$name.log"
}

together() { # together SECONDS STEPS_OF_RUN...: all runs side by side
  local i=1 name
  for name in "${runs[@]}"; do
    i=$((i + 1))
    train "$name" "${!i}" "$1" &
  done
  for name in $(jobs -p); do wait "$name"; done
}

for part in "${parts[@]}"; do
  echo "== $part, second $SECONDS"
  case $part in
    speed) speed ;;
    tests) try tests python -m pytest -q tests/test_gpu.py & ;;
    trial) together $trial 1000000 1000000 1000000 1000000 ;;
    train)
      read -ra steps < <(python - "$for" $batch "$work" "${runs[@]}" << 'P'
import json
import sys

seconds, batch, work, *runs = sys.argv[1:]
for run in runs:
    rows = [json.loads(line) for line in open(f"{work}/{run}/metrics.jsonl")]
    rates = [row["crops_per_second"] / int(batch) for row in rows if "crops_per_second" in row]
    later = rates[len(rates) // 2 :]  # the first steps prepare kernels
    print(round(0.92 * (int(seconds) - 35) * len(later) / sum(1 / rate for rate in later)), end=" ")
print()
P
) || steps=(1000 1000 1000 1000) # no trial was made
      echo "steps: ${steps[*]}"
      together "$for" "${steps[@]}"
      for name in "${runs[@]}"; do
        python tools/mix_weights.py "1=$work/$name/last.pth" -o "$out/$name.pth"
      done ;;
    *) echo "no such part: $part"; exit 2 ;;
  esac
done
wait
