#!/usr/bin/env bash
# Quality against time, docs/pareto.png, from what recipes/benchmarks.sh, nafnet.sh and validation.sh left in runs/.
# $1: where nafnet.sh left it (runs/nafnet).
set -euo pipefail
cd "$(dirname "$0")/.."
python - "${1:-runs/nafnet}" <<'P' > runs/measured.jsonl
import json
import sys
from pathlib import Path


def last(path):
    return json.loads(Path(path).read_text().splitlines()[-1])


alike = last(f"{sys.argv[1]}/table.txt")["pairs"]
shipped = last("runs/validation.txt")["reds_small_valid"]
names = {"student_pretrained.pth": "standard", "student_live.pth": "live", "NAFNet": "NAFNet-w16"}
quality = [
    ("student_pretrained.pth", "shipped", shipped["psnr_model_checkpoints/student_pretrained.pth"]),
    ("student_live.pth", "shipped", shipped["psnr_model_checkpoints/student_live.pth"]),
    ("NAFNet", "1,000 steps", alike["psnr_other"]),
]
quality += [
    ("student_pretrained.pth", "1,000 steps", value)
    for name, value in alike.items()
    if name.startswith("psnr_") and name.endswith(".pth")
]
for row in last("runs/benchmarks/nafnet.json")["rows"]:
    for model, group, psnr in quality:
        if row["model"].endswith(model) and (row["backend"], row["way"]) == ("openvino", "net"):
            times = {name: row[name] for name in ("ms", "ms_p10", "ms_p90")}
            print(json.dumps({"name": names[model], "group": group, "psnr": psnr, **times}))
P
mkdir -p docs
python tools/pareto.py runs/measured.jsonl -o docs/pareto.png --title "reds_small_valid; 512 x 512, OpenVINO bf16, two cores"
