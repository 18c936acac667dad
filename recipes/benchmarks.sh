#!/usr/bin/env bash
# The commands behind every published speed figure, one each. Run on a quiet machine:
#   bash recipes/benchmarks.sh PAIRS [FOLDER]
# PAIRS holds blurred/ and sharp/, on which the loss of quality is measured; results go to FOLDER
# (runs/benchmarks).
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=${1:?folder with blurred/ and sharp/} out=${2:-runs/benchmarks}
standard=model_checkpoints/student_pretrained.pth live=model_checkpoints/student_live.pth
export GOMP_SPINCOUNT=10000  # as the script sets for itself
mkdir -p "$out"

run() { # run NAME COMMAND...: keeps the whole output as NAME.txt and its last line as NAME.json
  local name=$1
  shift
  echo "== $name"
  "$@" | tee "$out/$name.txt"
  tail -n 1 "$out/$name.txt" > "$out/$name.json"
}

# Net alone on this CPU: every back end and precision in turn, one call after the other and two side by side.
run cpu_512 python tools/benchmark.py "$live" "$standard" --sizes 512x512 --streams 1 2 \
  --backends pytorch openvino --precisions fp32 bf16 int8 --rounds 9
run cpu_512_onnxruntime python tools/benchmark.py "$live" "$standard" --sizes 512x512 \
  --backends pytorch onnxruntime --precisions fp32 --rounds 9
run cpu_1080 python tools/benchmark.py "$live" --sizes 1920x1080 --streams 1 2 \
  --backends pytorch openvino --precisions bf16 int8 --rounds 9
run cpu_compiled python tools/benchmark.py "$live" --sizes 512x512 --streams 1 2 \
  --backends pytorch compiled openvino --precisions bf16 --rounds 9

# In tiles (which compute 1.10 times the pixels) against whole, and from PNG file to PNG file.
run cpu_1080_tiled python tools/benchmark.py "$live" "$standard" --sizes 1920x1080 --tile 1024 --streams 1 2 \
  --backends pytorch openvino --precisions bf16 --rounds 5 --files 2
run cpu_512_files python tools/benchmark.py "$live" "$standard" --sizes 512x512 --files 3 \
  --backends openvino --precisions bf16 int8 --rounds 5

# Frames per call.
run cpu_batches python tools/benchmark.py "$live" --sizes 512x512 --batches 1 2 4 8 \
  --backends pytorch openvino --precisions bf16 --rounds 9

# A peer by the same ruler: NAFNet of width 16, which the standard student must match at half its time.
run peer_nafnet python tools/benchmark.py "$standard" "$live" --sizes 512x512 --rounds 9 \
  --backends pytorch openvino --precisions bf16 \
  --module spandrel.architectures.NAFNet.__arch.NAFNet_arch:NAFNet \
  --arguments '{"width": 16, "enc_blk_nums": [1, 1, 1, 14], "middle_blk_num": 1,
                "dec_blk_nums": [1, 1, 1, 1]}'

# OpenMP threads that spin while they wait: alone, and beside a busy process. The script sets 10000.
neighbour=""
trap 'kill $neighbour 2>/dev/null || true' EXIT
for spin in default 10000; do
  setting=(env); [ $spin = 10000 ] || setting=(env -u GOMP_SPINCOUNT)
  run "spin_$spin" "${setting[@]}" python tools/benchmark.py "$standard" --sizes 512x512 --precisions bf16
  python -c "while True: pass" &
  neighbour=$!
  run "spin_${spin}_busy" "${setting[@]}" python tools/benchmark.py "$standard" --sizes 512x512 --precisions bf16
  kill $neighbour
  wait $neighbour || true
  neighbour=""
done
# Memory that malloc keeps for the script instead of handing it back; a MALLOC_ variable, here one that changes
# nothing, keeps the script from asking for it.
for turn in 1 2 3; do
  run malloc_default_$turn env MALLOC_PERTURB_=0 python tools/benchmark.py "$standard" "$live" --sizes 512x512 \
    --precisions bf16 --streams 1 2 --rounds 21
  run malloc_kept_$turn python tools/benchmark.py "$standard" "$live" --sizes 512x512 --precisions bf16 --streams 1 2 \
    --rounds 21
done

# What fewer bits cost in quality.
run loss_standard python tools/quantisation_loss.py "$standard" --pairs "$pairs" --images 60
run loss_live python tools/quantisation_loss.py "$live" --pairs "$pairs" --images 60

# Deployment: one ONNX file for every size.
run export python tools/export_onnx.py "$standard" -o "$out/student.onnx"

# GPU, where there is one.
if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  run gpu python tools/benchmark.py "$live" "$standard" --device cuda --batches 1 4 \
    --backends pytorch compiled --precisions fp32 bf16 fp16 --tile 960 --rounds 51 --warm-up 10
fi
