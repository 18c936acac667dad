#!/usr/bin/env bash
# Every speed figure of README and docs/SPEED.md that needs no data: bash recipes/benchmarks.sh [FOLDER]
# Run it on a quiet machine with 4 GB. Results go to FOLDER (runs/benchmarks).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/benchmarks}
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

# The network alone on this CPU: every back end and precision in turn, one call after the other and two side by side
run cpu_512 python tools/benchmark.py "$live" "$standard" --sizes 512x512 --side-by-side 1 2 \
  --backends pytorch openvino --precisions fp32 bf16 int8 --rounds 9
run cpu_512_onnxruntime python tools/benchmark.py "$live" "$standard" --sizes 512x512 \
  --backends pytorch onnxruntime --precisions fp32 --rounds 9
run cpu_1080 python tools/benchmark.py "$live" --sizes 1920x1080 --side-by-side 1 2 \
  --backends pytorch openvino --precisions bf16 int8 --rounds 9
run cpu_compiled python tools/benchmark.py "$live" --sizes 512x512 --side-by-side 1 2 \
  --backends pytorch compiled openvino --precisions bf16 --rounds 9

# In tiles, which compute 1.10 times the pixels, against whole
run cpu_1080_tiled python tools/benchmark.py "$live" "$standard" --sizes 1920x1080 --tile 1024 --side-by-side 1 2 \
  --backends pytorch openvino --precisions bf16 --rounds 5

# Frames per call
run cpu_batches python tools/benchmark.py "$live" --sizes 512x512 --batches 1 2 4 8 \
  --backends pytorch openvino --precisions bf16 --rounds 9

# NAFNet of width 16, which the standard student must match at half its time
run nafnet python tools/benchmark.py "$standard" "$live" --sizes 512x512 --rounds 9 \
  --backends pytorch openvino --precisions bf16 --network nafnet \
  --arguments '{"width": 16, "enc_blk_nums": [1, 1, 1, 14], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}'

# Unsharp masking beside the standard student
run unsharp python tools/benchmark.py "$standard" --sizes 512x512 --rounds 9 --backends pytorch --precisions fp32 \
  --side-by-side 2 --network tools.validation_table:UnsharpMask

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

# Memory that malloc keeps for the script. Any MALLOC_ variable, here one that changes nothing, switches that off.
for turn in 1 2 3; do
  run malloc_default_$turn env MALLOC_PERTURB_=0 python tools/benchmark.py "$standard" "$live" --sizes 512x512 \
    --precisions bf16 --side-by-side 1 2 --rounds 21
  run malloc_kept_$turn python tools/benchmark.py "$standard" "$live" --sizes 512x512 --precisions bf16 \
    --side-by-side 1 2 --rounds 21
done

# Files per second of --infer against its slowest stage
run pipeline_standard python tools/pipeline_rate.py "$standard" --png 24 --jpeg 3 --frames 48
run pipeline_live python tools/pipeline_rate.py "$live" --png 24 --jpeg 3 --frames 48

# Time and memory against the image's area, 0.25 to 100 megapixels, and against 10 to 100,000 training images
run growth python tools/growth.py "$live" --out docs/growth.png

# One ONNX file for every size
run export python tools/export_onnx.py "$standard" -o "$out/student.onnx"

# A GPU, where there is one
if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  run gpu python tools/benchmark.py "$live" "$standard" --device cuda --batches 1 4 \
    --backends pytorch compiled --precisions fp32 bf16 fp16 --tile 960 --rounds 51 --warm-up 10
fi
