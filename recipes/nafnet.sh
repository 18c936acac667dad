#!/usr/bin/env bash
# docs/EXPERIMENTS.md: NAFNet of width 16 and the standard student trained alike, with the same crops, steps, seed and
# losses. $1: a data set; $2 and $3: real pairs (reds_small_valid; a GoPro scene), $4: sharp photographs, all to measure
# on; $5: another seed; further flags are for the student alone.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} pairs=${2:?real pairs} gopro=${3:?real pairs of a GoPro scene} sharp=${4:?sharp photographs}
out=runs/nafnet${5:+_seed_$5}
nafnet=(--network nafnet --arguments
  '{"width": 16, "enc_blk_nums": [1, 1, 1, 14], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}')
flags=(--data.root "$data" --train.seed "${5:-0}" --teacher.no-enabled --loss.ssim 0 --loss.frequency 1
  --data.crop 128 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0
  --data.synthetic-share 0.3 --train.epochs 2 --train.steps-per-epoch 500 --train.accumulation 1
  --degradation.response-power 1 --train.restart-cycles 1 --train.evaluate-every 1 --train.samples "$out/samples")
mkdir -p "$out"
python main_sharpening_script.py "${flags[@]}" --train.folder "$out/student" "${@:6}"
python tools/train_other.py "${nafnet[@]}" "${flags[@]}" --train.folder "$out/other"
python tools/validation_table.py "$out/student/student_model_ema_final_epoch_002.pth" \
  --other "$out/other/student_model_ema_final_epoch_002.pth" "${nafnet[@]}" \
  --pairs "pairs=$pairs" "gopro=$gopro" --sharp "photographs=$sharp" | tee "$out/table.txt"
