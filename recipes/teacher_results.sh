#!/usr/bin/env bash
# docs/EXPERIMENTS.md: what a program's results teach. From the shipped live student, 1,000 steps of 4 crops of 192, two
# seeds: without them, with them, and with the sharp images where the loss would take them. $1: a data set of real pairs; $2:
# the program's results on the blurred images below its train/, under their names; $3 and further: real pairs to measure on.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set of real pairs} results=${2:?results on its blurred training images}
: "${3:?real pairs to measure on}"
out=runs/teacher_results
python - "$data" "$results" <<'PYTHON'
# How near the results and the student come to the sharp images, and where the loss takes the results
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import main_sharpening_script as script
from sharpening.image_pairs import add_teacher_results, find_pairs, read_pair

data, results = map(Path, sys.argv[1:])
names = script.DataConfig().blurred_names, script.DataConfig().sharp_names
students, sets = [script.Sharpener.load(name) for name in script.SHIPPED_STUDENTS], {}
for pair in add_teacher_results(find_pairs(data / "train", *names), results, 0):
    blurry, sharp, taught = read_pair(pair)
    images = blurry, taught, *(sharpen(blurry) for sharpen in students)
    scores = [script.psnr(image, sharp) for image in images]
    theirs, *own = (torch.from_numpy(abs(i - sharp.astype("f"))).mean(2)[None] for i in images[1:])
    taken = [(F.avg_pool2d(error - theirs, 15, 1, 7) > 0).float().mean().item() for error in own]
    rows = sets.setdefault(pair.name.split("/")[0], [])
    rows.append([*scores, *(score > scores[1] for score in scores), *taken])
print("means: PSNR of blurred, results, standard, live; share of images where each of these is nearer than the results; "
      "share of pixels where the loss of standard and of live takes the results")
for name, rows in sets.items():
    print(name, len(rows), *(round(value, 3) for value in torch.tensor(rows).mean(0).tolist()))
PYTHON
students=(model_checkpoints/student_live.pth)
train() { # train NAME FLAGS...
  python "${program[@]}" --data.root "$data" --train.folder "$out/$1" --train.samples "$out/$1/samples" \
    --train.initial-weights model_checkpoints/student_live.pth --loss.ssim 0 --loss.frequency 1 \
    --data.synthetic-share 0 --data.reduction-chance 0 --data.crop 192 --data.batch-size 4 --data.crops-per-image 2 \
    --data.workers 0 --train.epochs 1 --train.steps-per-epoch 1000 --train.accumulation 1 \
    --train.restart-cycles 1 --train.optimizer muon --train.learning-rate 3e-4 --train.precision bf16 \
    --train.evaluate-every 1 "${@:2}"
  students+=("$out/$1/student_model_ema_final_epoch_001.pth")
}
script=(main_sharpening_script.py)
sharp=(-c 'import sys, torch, torch.nn.functional as F, main_sharpening_script as script
def loss(restored, taught, sharp):
    own = restored.detach()
    lead = ((own - sharp).abs() - (taught - sharp).abs()).mean(1, keepdim=True)
    aim = torch.where(F.avg_pool2d(lead, 15, 1, 7) > 0, sharp, own)
    return F.l1_loss(restored, aim) + script.frequency_loss(restored, aim)
script.taught_loss = loss
sys.exit(script.main(sys.argv[1:]))')
taught=(--teacher.results "$results" --loss.taught 1 --loss.perceptual 0 --loss.feature 0 --loss.kl 0)
for seed in 0 1; do
  program=("${script[@]}")
  train without_$seed --train.seed $seed --teacher.no-enabled
  train with_$seed --train.seed $seed "${taught[@]}"
  program=("${sharp[@]}")
  train sharp_$seed --train.seed $seed "${taught[@]}"
done
clips=()
for folder in "${@:3}"; do clips+=("$(basename "$folder")=$folder"); done
python tools/harm_table.py "${students[@]}" --pairs "${clips[@]}"
