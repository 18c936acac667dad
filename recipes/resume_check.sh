#!/usr/bin/env bash
# A run killed with SIGKILL and resumed gives the weights of an unbroken one, bit for bit.
# $1: a data set as in GoPro_dataset/README.md. Full loss but VGG, taught by the demo teacher.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d) pid=""
stop() { # the training in the background and what it started
  if [ -n "$pid" ]; then
    pkill -KILL -P "$pid" || true
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  fi
  pid=""
}
trap 'stop; rm -rf "$out"' EXIT
train() {
  python main_sharpening_script.py --data.root "$data" --teacher.weights model_checkpoints/demo_teacher.pth \
    --loss.perceptual 0 --loss.frequency 0.1 --data.crop 64 --data.crops-per-image 2 --data.workers 1 \
    --train.accumulation 2 --train.steps-per-epoch 10 --train.epochs 3 --train.evaluate-every 3 --train.log-every 5 \
    --train.save-every 5 --train.folder "$1" --train.samples "$1/samples" "${@:2}"
}
data=$1
train "$out/unbroken"
train "$out/broken" & pid=$!
until grep -qs '"step": 15' "$out/broken/metrics.jsonl"; do
  kill -0 "$pid" 2>/dev/null || { echo "the training ended before its 15th step" >&2 && exit 1; }
  sleep 0.2
done
stop
python main_sharpening_script.py --resume --train.folder "$out/broken"
python - "$out" <<'P'
import sys, torch
a, b = (torch.load(f"{sys.argv[1]}/{run}/student_model_ema_final_epoch_003.pth")["params"] for run in ("unbroken", "broken"))
assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), "the weights differ"
print(f"{len(a)} tensors, {sum(v.numel() for v in a.values())} weights: equal bit for bit")
P
tail -n 1 "$out/unbroken/metrics.jsonl"
