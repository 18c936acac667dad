#!/usr/bin/env bash
# The students that ship. $1: a data set as in GoPro_dataset/README.md (which one: MODEL_CARD.md); $2: the same with the pairs'
# sharp frames as further folders sharp/.
# `standard` was trained in nineteen stretches, `live` in five, each going on from the one before with other settings. They
# were stopped by hand at the steps named, where this recipe ends them with the number of epochs or a time, so that
# learning rates differ a little.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?a data set} frames=${2:?the data set with sharp frames}
# proportions until Muon
standard_before=(--student.middle 5 --student.decoder 1 1 1)
run=(python main_sharpening_script.py --train.folder runs/standard)
"${run[@]}" --data.root "$data" --train.samples runs/standard/samples "${standard_before[@]}" \
  --teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0 --loss.ssim 0 --loss.frequency 1 \
  --data.crop 128 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 --data.synthetic-share 0.6 \
  --degradation.motion 0.6 --degradation.video-call 0.3 --degradation.length 0 40 --degradation.length-power 2 \
  --degradation.object-chance 0.35 --degradation.highlight-power 1 --degradation.response-power 1 \
  --train.epochs 10 --train.steps-per-epoch 500 --train.accumulation 1 --train.restart-cycles 1 \
  --train.learning-rate 6e-4 --train.clip-norm 0.3 --train.evaluate-every 2 --train.save-every 250
# to step 6,713 of a plan of 9,000: milder motion, more real pairs
timeout --signal TERM "${STRETCH_SECONDS:-1200}" "${run[@]}" --resume --train.epochs 18 --data.synthetic-share 0.5 \
  --degradation.motion 0.75 --degradation.video-call 0.2 --degradation.length 0 24 --degradation.length-power 1.3 \
  --degradation.object-chance 0.25 || [ $? = 124 ]
# to step 8,000 (planned for 8,500 until step 7,110): mostly real pairs, and SSIM
"${run[@]}" --resume --train.epochs 16 --data.synthetic-share 0.3 --loss.ssim 1
# to step 23,500: L1 and the spectrum alone (SSIM until 9,077; planned for 25,000 to 30,000 steps until 16,100)
"${run[@]}" --resume --train.epochs 47 --loss.ssim 0
# to step 31,464 of a plan of 46,000: the learning rate up again, more synthetic blur against learning the scenes by heart
timeout --signal TERM "${STRETCH_SECONDS:-2400}" "${run[@]}" --resume --train.epochs 92 --data.synthetic-share 0.4 \
  || [ $? = 124 ]
# to step 36,500 (planned for 38,500 to 41,000 until 35,600): larger crops, more video calls
"${run[@]}" --resume --train.epochs 73 --data.crop 192 --data.batch-size 4 --data.synthetic-share 0.5 \
  --degradation.motion 0.62 --degradation.video-call 0.33
# to step 40,787 of a plan of 50,500: the learning rate up again
timeout --signal TERM "${STRETCH_SECONDS:-1800}" "${run[@]}" --resume --train.epochs 101 || [ $? = 124 ]
# to step 51,000 (planned for 53,000 until 45,745): more lens blur, and more of it without anything else
defocus=(--data.synthetic-share 0.5 --degradation.motion 0.5 --degradation.video-call 0.42
  --degradation.lens-chance 0.65 --degradation.call-motion-chance 0.35 --degradation.noise-chance 0.45
  --degradation.rescale-chance 0.45 --degradation.jpeg-chance 0.55)
"${run[@]}" --resume --train.epochs 102 "${defocus[@]}"
# to step 57,875 of a plan of 68,000: what befalls a video call more often at once again
calls=("${defocus[@]}" --degradation.noise-chance 0.55 --degradation.rescale-chance 0.55 --degradation.jpeg-chance 0.65)
timeout --signal TERM "${STRETCH_SECONDS:-3000}" "${run[@]}" --resume --train.epochs 136 "${calls[@]}" || [ $? = 124 ]
# to step 65,500 (planned for 75,000 until 63,098, for 70,000 until 65,301): half the crops cut larger and made smaller,
# their factor then drawn uniformly
reduced=("${calls[@]}" --data.reduction-chance 0.5)
"${run[@]}" --resume --train.epochs 131 "${reduced[@]}"

# live: to step 20,000, with more lens blur to 29,000, with the video calls to 49,896 of a plan of 50,000, and reduced to
# 71,500 (planned for 85,000 until 64,825, for 78,000 until 71,458)
python main_sharpening_script.py --data.root "$data" --train.folder runs/live --train.samples runs/live/samples \
  --size live --teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0 --loss.ssim 0 --loss.frequency 1 \
  --data.crop 128 --data.batch-size 8 --data.crops-per-image 2 --data.workers 0 --data.synthetic-share 0.3 \
  --degradation.highlight-power 1 --degradation.response-power 1 --train.epochs 40 --train.steps-per-epoch 500 \
  --train.accumulation 1 --train.restart-cycles 1 --train.learning-rate 1e-3 --train.evaluate-every 8
live=(python main_sharpening_script.py --train.folder runs/live --resume)
"${live[@]}" --train.epochs 58 "${defocus[@]}"
timeout --signal TERM "${STRETCH_SECONDS:-3000}" "${live[@]}" --train.epochs 100 "${calls[@]}" || [ $? = 124 ]
"${live[@]}" --train.epochs 143 "${reduced[@]}"

# Both once more, from their averaged weights (rounded to half precision as they had shipped): longer motion without lights,
# half the responses nearly GoPro's
transfer() { # transfer NAME WEIGHTS FLAGS...
  python main_sharpening_script.py --data.root "$data" --train.folder "runs/$1" --train.samples "runs/$1/samples" \
    --train.initial-weights "$2" --teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0 --loss.ssim 0 \
    --loss.frequency 1 --data.crops-per-image 2 --data.workers 0 --data.synthetic-share 0.5 \
    --data.reduction-chance 0.4 --degradation.motion 0.65 --degradation.video-call 0.3 --degradation.length 0 32 \
    --degradation.length-power 1 --degradation.lens-chance 0.6 --degradation.call-motion-chance 0.35 \
    --degradation.noise-chance 0.55 --degradation.rescale-chance 0.55 --degradation.jpeg-chance 0.65 \
    --train.steps-per-epoch 500 --train.accumulation 1 --train.restart-cycles 1 --train.learning-rate 3e-4 \
    --train.clip-norm 0.3 --train.evaluate-every 4 "${@:3}"
}
transfer standard_on runs/standard/student_model_ema_final_epoch_131.pth --data.crop 192 --data.batch-size 4 \
  --train.epochs 56
transfer live_on runs/live/student_model_ema_final_epoch_143.pth --data.crop 128 --data.batch-size 8 --train.epochs 40

mix() { # mix TARGET STEPS SHARE=CHECKPOINT...: the average of weights, which is better than any of them (arXiv 2109.01903)
  python - "$@" <<'P' # rounded to half precision; pooling over windows (recipes/pooling.sh)
import sys
from pathlib import Path

import main_sharpening_script as script

target, steps, *parts = sys.argv[1:]
shares = [float(part.split("=")[0]) for part in parts]
payloads = [script.load_checkpoint(Path(part.split("=")[1])) for part in parts]
mixed = payloads[-1]
mixed["params"] = {
    name: sum(share * each["params"][name].float() for share, each in zip(shares, payloads)).half()
    for name in mixed["params"]
}
mixed["student"]["pool_window"] = 256
mixed["step"] = int(steps)
script.save_checkpoint(Path(target), mixed)
P
}
mix runs/standard_mixed.pth 93500 0.3=runs/standard/student_model_ema_final_epoch_131.pth \
  0.7=runs/standard_on/student_model_ema_final_epoch_056.pth
mix model_checkpoints/student_live.pth 91500 0.3=runs/live/student_model_ema_final_epoch_143.pth \
  0.7=runs/live_on/student_model_ema_final_epoch_040.pth

# standard: of five blocks at the bottom the last two stay, and one at 1/8 is new (recipes/left_out.sh)
python - <<'P'
from pathlib import Path

import torch

import main_sharpening_script as script

old = script.load_checkpoint(Path("runs/standard_mixed.pth"))
torch.manual_seed(0)
net = script.SEUNet()
weights = net.state_dict()
weights["decoder.2.1.merge.weight"] *= 0.05  # begins with hardly any effect
for name, value in old["params"].items():
    group, index, *rest = name.split(".")
    if group != "middle":
        weights[name] = value.float()
    elif int(index) >= 3:
        weights[".".join([group, str(int(index) - 3), *rest])] = value.float()
net.load_state_dict(weights)
script.save_checkpoint(Path("runs/standard_changed.pth"), script.network_payload(net, step=old["step"]))
P
# twice from there with Muon, the second time with responses drawn alike, more synthetic blur, and the pairs' sharp frames
# among the photographs
last() { # last NAME DATA WEIGHTS FLAGS...
  data=$2 transfer "$1" "$3" --train.optimizer muon --train.learning-rate 4e-4 --train.evaluate-every 8 "${@:4}"
}
small=(--data.crop 192 --data.batch-size 4)
alike=(--data.synthetic-share 0.6 --degradation.response-power 1)
last standard_a "$data" runs/standard_changed.pth "${small[@]}" --train.epochs 44
# planned for 18,000 steps until step 555
last standard_b "$frames" runs/standard_changed.pth "${small[@]}" "${alike[@]}" --train.seed 1 --train.epochs 28
mix runs/standard_ab.pth 115500 0.3=runs/standard_b/student_model_ema_final_epoch_028.pth \
  0.7=runs/standard_a/student_model_ema_final_epoch_044.pth
# and twice again, the second time with larger crops as well (planned for 30,000 steps until 19,198 and 19,778)
last standard_c "$data" runs/standard_ab.pth "${small[@]}" --train.seed 2 --train.epochs 74
last standard_d "$frames" runs/standard_ab.pth --data.crop 256 --data.batch-size 2 "${alike[@]}" --train.seed 3 \
  --train.epochs 74
mix runs/standard_cd.pth 152500 0.5=runs/standard_d/student_model_ema_final_epoch_074.pth \
  0.5=runs/standard_c/student_model_ema_final_epoch_074.pth
# and two rounds of two more, with more synthetic blur against learning the scenes by heart; each ends with half of both
round() { # round NAME WEIGHTS SEED TARGET STEPS
  last "$1_a" "$data" "$2" "${small[@]}" --data.synthetic-share 0.65 --train.seed "$3" --train.epochs 30
  last "$1_b" "$frames" "$2" --data.crop 256 --data.batch-size 2 "${alike[@]}" --data.synthetic-share 0.75 \
    --train.seed $(($3 + 1)) --train.epochs 30
  mix "$4" "$5" 0.5="runs/$1_a/student_model_ema_final_epoch_030.pth" 0.5="runs/$1_b/student_model_ema_final_epoch_030.pth"
}
round standard_e runs/standard_cd.pth 4 runs/standard_e.pth 167500
round standard_f runs/standard_e.pth 6 model_checkpoints/student_pretrained.pth 182500
