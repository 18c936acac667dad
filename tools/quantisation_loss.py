"""What reduced precision costs in quality, on real pairs:

    python tools/quantisation_loss.py CHECKPOINT --pairs DIR

`--pairs` holds `blurred/` and `sharp/`. The ranges of INT8 are those of `--infer`, taken from the
demo's photographs. Needs openvino and nncf.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from main_sharpening_script import (
    DataConfig,
    OpenVinoNet,
    calibration_crops,
    find_pairs,
    load_student,
    openvino_model,
    psnr,
    quantised,
    read_pair,
)
from tools.export_onnx import run_tool


@dataclass(frozen=True)
class LossInQualityConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Student checkpoint."""
    pairs: Path
    """Folder with `blurred/` and `sharp/` to measure on."""
    images: int = 30
    """Pairs measured, spread evenly."""
    threads: int | None = None
    """Threads of OpenVINO; None: one per core."""


def main(config: LossInQualityConfig) -> None:
    model = openvino_model(load_student(config.checkpoint))
    crops = calibration_crops()
    eight, plain = quantised(model, crops), quantised(model, crops, keep_ends=False)
    full, half = torch.float32, torch.bfloat16
    kinds = {"fp32": (model, full), "bf16": (model, half), "int8": (eight, half)}
    kinds |= {"int8 fp32 rest": (eight, full), "int8 everywhere": (plain, full)}
    ways = {n: OpenVinoNet(*v, threads=config.threads) for n, v in kinds.items()}
    values: dict[str, list[float]] = {name: [] for name in ("blurry", *ways)}
    nearness: dict[str, list[float]] = {name: [] for name in ways}
    pairs = find_pairs(config.pairs, DataConfig())
    for index in np.linspace(0, len(pairs) - 1, min(config.images, len(pairs))).astype(int):
        blurry, sharp = read_pair(pairs[index])
        values["blurry"].append(psnr(blurry, sharp))
        restored = {name: way.on_images([blurry])[0] for name, way in ways.items()}
        for name, image in restored.items():
            values[name].append(psnr(image, sharp))
            nearness[name].append(psnr(image, restored["fp32"]))
    means = {name: statistics.mean(found) for name, found in values.items()}
    print(f"{len(values['blurry'])} pairs      PSNR dB   loss against fp32   PSNR to fp32's image")
    near = {name: statistics.mean(found) for name, found in nearness.items()}
    for name, value in means.items():
        shown = f"{near[name]:22.2f}" if name in near else ""
        print(f"{name:<16} {value:7.3f}  {means['fp32'] - value:17.3f} {shown}")
    settings = {k: str(v) for k, v in dataclasses.asdict(config).items()}
    print(json.dumps({**settings, "psnr": means, "psnr_to_fp32": near}))


if __name__ == "__main__":
    sys.exit(run_tool(main, LossInQualityConfig, __doc__))
