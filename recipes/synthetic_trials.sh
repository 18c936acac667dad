#!/usr/bin/env bash
# docs/EXPERIMENTS.md: images that stay as they are, moving objects, the camera's response and noise after averaging, each
# changed by itself. From the shipped live student, 400 steps of 4 crops of 192 with synthetic blur alone; two seeds of
# the settings that the others depart from. $1: a data set with sharp photographs; $2: a folder with the sets of
# validation.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} sets=${2:?folder with the sets to measure on}
out=runs/synthetic_trials students=(model_checkpoints/student_live.pth) program=(main_sharpening_script.py)
trial() { # trial NAME FLAGS...
  python "${program[@]}" --data.root "$data" --train.folder "$out/$1" --train.samples "$out/$1/samples" \
    --train.initial-weights model_checkpoints/student_live.pth --teacher.no-enabled --loss.ssim 0 --loss.frequency 1 \
    --data.synthetic-share 1 --data.reduction-chance 0.4 --data.reduction 0.7 3 --data.crop 192 --data.batch-size 4 \
    --data.crops-per-image 2 --data.workers 0 --train.epochs 1 --train.steps-per-epoch 400 \
    --train.accumulation 1 --train.restart-cycles 1 --train.optimizer muon --train.learning-rate 3e-4 \
    --train.precision bf16 --train.evaluate-every 1 --degradation.motion 0.6 --degradation.video-call 0.2 \
    --degradation.length 0 32 --degradation.length-power 1 --degradation.response-power 1 "${@:2}"
  students+=("$out/$1/student_model_ema_final_epoch_001.pth")
}
for seed in 0 1; do trial "base_$seed" --train.seed $seed; done
trial unchanged_10 --degradation.motion 0.675 --degradation.video-call 0.225
trial unchanged_30 --degradation.motion 0.525 --degradation.video-call 0.175
trial objects --degradation.motion 0.45 --degradation.video-call 0.15 --degradation.moving-object 0.2
trial response_linear --degradation.response 0 0
program=(-c "import sys, main_sharpening_script as script, sharpening.synthetic_blur as blur
blur.FAINT_NOISE = (0.0, 0.0)  # after motion alone
sys.exit(script.main(sys.argv[1:]))")
trial no_noise
clips=()
for folder in "$sets"/motion_* "$sets"/gopro_* "$sets"/reds_small_valid; do clips+=("$(basename "$folder")=$folder"); done
python tools/harm_table.py "${students[@]}" --pairs "${clips[@]}" \
  --sharp "soft_photos=$sets/soft_photos" "sharp_valid=$sets/sharp_valid"
